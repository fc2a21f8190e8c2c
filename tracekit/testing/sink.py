"""FlowSink: a real OTLP receiver on loopback, for the flows of other processes."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from tracekit import semconv
from tracekit.collector.memory import MemoryStore
from tracekit.flow import Knowledge
from tracekit.testing.flows import Flows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

_QUIET_S: Final = 0.3  # a few times the delay with which the processes export
_LOST: Final = frozenset({"export", "queue_full", "late"})
_SETTINGS: Final = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    "OTEL_SDK_DISABLED": "false",
    # Milliseconds: soon enough for a test, and still in batches.
    "OTEL_BSP_SCHEDULE_DELAY": "50",
    "OTEL_BLRP_SCHEDULE_DELAY": "50",
    "OTEL_METRIC_EXPORT_INTERVAL": "200",
}


class FlowSink(Flows):
    """Receives OTLP over HTTP and gRPC, on free ports of 127.0.0.1, within its `with` block.

    with FlowSink() as sink:
        subprocess.run([sys.executable, "shop.py"], env={**os.environ, **sink.env}, check=True)
        sink.wait_for_flow("POST /orders", "send orders", "process orders")

    A process finds it by `env` (or `grpc_env`), or by `http_endpoint` and `grpc_endpoint`. There are
    `spans`, `logs`, `metrics`, `flows`, `flow()` and `dropped`; `wait_for`, `wait_for_flow` and
    `wait_for_flows`, each with an `…_async`; `report()` and `save()`.
    """

    def __init__(self, *, quiet_s: float = _QUIET_S) -> None:
        super().__init__(MemoryStore(), quiet_s=quiet_s)
        self._running = ExitStack()
        self.http_endpoint = ""
        self.grpc_endpoint = ""

    def __enter__(self) -> Self:
        from tracekit.collector.server import CollectorServer  # brings the web server with it

        server = self._running.enter_context(CollectorServer(self.store))
        self.http_endpoint, self.grpc_endpoint = server.http_endpoint, server.grpc_endpoint
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    @property
    def env(self) -> Mapping[str, str]:
        """Variables for a process that is to export here over HTTP, without delay."""
        return {
            **_SETTINGS,
            **_unproxied(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }

    @property
    def grpc_env(self) -> Mapping[str, str]:
        """The same over gRPC."""
        return {
            **self.env,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.grpc_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }

    @property
    def dropped(self) -> Mapping[str, int]:
        """What tracekit left out in the processes, by reason, as far as they have reported it."""
        found: defaultdict[str, int] = defaultdict(int)
        for _, reason, number in self._drops():
            found[reason] += number
        return dict(found)

    def _hint(self) -> str:
        came = any(counts.kept or counts.refused for counts in self.store.counts().values())
        if came:
            return "but log lines or metrics did: is tracing switched off or sampled away there?"
        return (
            f"nothing else did either: was the process started with `env={{**os.environ, **flow_sink.env}}`, "
            f"under `tracekit run` or with `configure()`? It must export to {self.http_endpoint}"
        )

    def _known(self, *, is_quiet: bool = True) -> Knowledge:
        lost: defaultdict[str, int] = defaultdict(int)
        if not is_quiet:  # looked at whenever something arrives: the drops can wait
            return Knowledge()
        for service, reason, number in self._drops():
            if reason in _LOST:
                lost[service] += number
        return Knowledge(is_quiet=is_quiet, dropped=lost)

    def _drops(self) -> Iterator[tuple[str, str, int]]:
        for point in self.metrics.get(semconv.DROPPED, ()):
            yield point.service, str(point.attributes.get(semconv.DROP_REASON, "")), int(point.value or 0)


def _unproxied() -> dict[str, str]:
    """Lets exporters reach loopback where the process has a proxy for everything else."""
    proxied = [name for name in ("http_proxy", "HTTP_PROXY") if os.environ.get(name)]
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    value = ",".join(filter(None, ["127.0.0.1", before]))
    return {"NO_PROXY": value, "no_proxy": value} if proxied else {}
