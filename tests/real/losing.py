"""Collectors and a service that lose telemetry, each in its way, and say so to a Prometheus."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from tests.integration.servers.collector import CONFIGURATIONS, collector
from tests.integration.servers.process import fetched, free_ports
from tests.real.stack import eventually
from tracekit.model import LogLine, Service, Span
from tracekit.otlp import encode_logs, encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_NOBODY: Final = "127.0.0.1:1"
_MORE_THAN_A_QUEUE: Final = 1100
"""Exports; the queue of an exporter takes 1000 by default."""
_DECISION_WAIT_S: Final = 1
_KEPT: Final = 20
"""Traces; more than the shortest queue and those who take from it have room for."""
_SHORT_QUEUE: Final = "exporters: {otlp_grpc/jaeger: {sending_queue: {queue_size: 1}}}"
_SILENT_S: Final = 20 * 60
_TOO_OLD_S: Final = 24 * 3600
"""Prometheus takes what is late by half of that."""
_SERVICE: Final = Service("load")

_UNHEARD: Final = """
import sys, tracekit
from opentelemetry import trace
handle = tracekit.configure("unheard")
trace.get_tracer("unheard").start_span("work").end()
handle.flush()
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class _Running:
    """A Collector that runs: where it takes OTLP over HTTP."""

    otlp: str

    def export_span(self, trace_id: str) -> int:
        now = time.time_ns()
        span = Span(trace_id, secrets.token_hex(8), "work", now, now + 1_000_000, service=_SERVICE)
        return self._export("traces", encode_spans([span]))

    def export_line(self) -> int:
        return self._export("logs", encode_logs([LogLine(time.time_ns(), "a line", service=_SERVICE)]))

    def _export(self, signal: str, body: bytes) -> int:
        return fetched(f"{self.otlp}/v1/{signal}", body, {"content-type": "application/x-protobuf"})[0]


def export_point(otlp: str, metric: str, age_s: float, **attributes: str) -> int:
    """Export a point of a metric, as old as that, of an instance of its own."""
    own = {"service.name": _SERVICE.name, "service.instance.id": secrets.token_hex(8)}
    point = {
        "asInt": "1",
        "timeUnixNano": str(time.time_ns() - int(age_s * 1e9)),
        "attributes": _attributes(attributes),
    }
    scope = {"metrics": [{"name": metric, "gauge": {"dataPoints": [point]}}]}
    body = {"resourceMetrics": [{"resource": {"attributes": _attributes(own)}, "scopeMetrics": [scope]}]}
    status, _ = fetched(f"{otlp}/v1/metrics", json.dumps(body).encode(), {"content-type": "application/json"})
    return status


def _attributes(pairs: Mapping[str, str]) -> list[object]:
    return [{"key": name, "value": {"stringValue": value}} for name, value in pairs.items()]


@contextmanager
def losing(folder: Path, prometheus: str, otlp: str) -> Iterator[None]:
    """All of them, until the end of the block; what they lose, they have lost or will lose in seconds."""
    with ExitStack() as started:
        started.enter_context(_unheard(otlp))
        cut_off = started.enter_context(
            _local(folder / "cut-off", prometheus, jaeger=_NOBODY, logs=f"http://{_NOBODY}")
        )
        misled = started.enter_context(
            # A gRPC server that knows no traces, an HTTP server that knows no logs: both refuse for good.
            _local(folder / "misled", prometheus, jaeger=started.enter_context(_no_jaeger()), logs=prometheus)
        )
        gateway = started.enter_context(_gateway(folder / "gateway", prometheus))
        late = secrets.token_hex(16)
        # It takes some once it has found itself among the gateways.
        assert eventually(lambda: gateway.export_span(late) == 200)
        decided = time.monotonic() + 3 * _DECISION_WAIT_S
        assert misled.export_span(secrets.token_hex(16)) == 200
        assert misled.export_line() == 200
        silent = export_point(
            f"{prometheus}/api/v1/otlp", "otelcol_exporter_queue_size", _SILENT_S, exporter="otlp_grpc/gone"
        )
        assert silent == 200
        # Of a Prometheus that has nothing newer yet, nothing is too old.
        assert export_point(misled.otlp, "late", _TOO_OLD_S) == 200
        for _ in range(_MORE_THAN_A_QUEUE):
            cut_off.export_span(secrets.token_hex(16))
            cut_off.export_line()
        time.sleep(max(0, decided - time.monotonic()))  # the Collector's own clock
        assert gateway.export_span(late) == 200
        for _ in range(_KEPT):
            assert gateway.export_span(secrets.token_hex(16)) == 200
        yield


@contextmanager
def _unheard(otlp: str) -> Iterator[None]:
    """A service whose metrics arrive, and whose spans do not."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{_NOBODY}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }
    with subprocess.Popen(
        [sys.executable, "-c", _UNHEARD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ):  # at the end of the block its input ends, and so does it
        yield


@contextmanager
def _no_jaeger() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def _local(folder: Path, prometheus: str, *, jaeger: str, logs: str) -> Iterator[_Running]:
    with _collector(folder, "local", prometheus, {"JAEGER_ENDPOINT": jaeger, "LOGS_ENDPOINT": logs}) as ran:
        yield ran


@contextmanager
def _gateway(folder: Path, prometheus: str) -> Iterator[_Running]:
    """A gateway that is the only one, soon decides, and then has hardly room for what it kept."""
    (balanced,) = free_ports(1)
    environment = {
        "JAEGER_ENDPOINT": _NOBODY,
        "LOGS_ENDPOINT": f"http://{_NOBODY}",
        "GATEWAYS": f"[127.0.0.1:{balanced}]",
        "BALANCED_PORT": str(balanced),
        "DECISION_WAIT_S": str(_DECISION_WAIT_S),
        "SAMPLING_PERCENTAGE": "100",  # what comes late to a trace that was not kept is not counted
        "QUEUE_DIRECTORY": str(folder / "queue"),
    }
    with _collector(folder, "gateway", prometheus, environment, _SHORT_QUEUE) as running:
        yield running


@contextmanager
def _collector(
    folder: Path,
    configuration: str,
    prometheus: str,
    environment: dict[str, str],
    changes: str = "{}",
) -> Iterator[_Running]:
    folder.mkdir()
    grpc_port, http_port, health_port = free_ports(3)
    shared = {
        "OTLP_HOST": "127.0.0.1",
        "OTLP_GRPC_PORT": str(grpc_port),
        "OTLP_HTTP_PORT": str(http_port),
        "HEALTH_HOST": "127.0.0.1",
        "HEALTH_PORT": str(health_port),
        "PROMETHEUS_ENDPOINT": prometheus,
    }
    path = CONFIGURATIONS / f"{configuration}.yaml"
    changed = folder / "changes.yaml"
    changed.write_text(changes)
    with collector(folder, path, {**shared, **environment}, health_port=health_port, changes=changed):
        yield _Running(f"http://127.0.0.1:{http_port}")
