"""The tiers of a large estate on one machine: agents, a buffer of Kafka, gateways, Jaeger on badger."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlencode

from tests.integration.servers.collector import CONFIGURATIONS, collector
from tests.integration.servers.jaeger import jaeger
from tests.integration.servers.process import Server, fetched, free_ports
from tracekit.model import Kind, Service, Span
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.integration.servers.jaeger import Jaeger

DECISION_WAIT_S: Final = 2
SPANS: Final = 3
SERVICE: Final = Service("load")
_EVERY_S: Final = 0.01
_REST_S: Final = 0.1
_PATIENCE_S: Final = 60


class Tiers:
    """All of them, running until the end of the block; each can be killed, and started again as it was.

    `settings` are variables of the gateways, or of all Collectors. Agents share the buffers in turn.
    """

    def __init__(
        self,
        folder: Path,
        brokers: str,
        *,
        agents: int = 1,
        buffers: int = 1,
        gateways: int = 2,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.servers: dict[str, Server] = {}
        self.gateways = _numbered("gateway", gateways)
        self.buffers = _numbered("buffer", buffers)
        self.agents = _numbered("agent", agents)
        wanted = _ports(self.gateways, self.buffers, self.agents)
        self.ports = dict(zip(wanted, free_ports(len(wanted)), strict=True))
        port = self.ports
        balanced = ", ".join(f"127.0.0.1:{port[f'{name} balanced']}" for name in self.gateways)
        shared = {
            "OTLP_HOST": "127.0.0.1",
            "HEALTH_HOST": "127.0.0.1",
            "GATEWAYS": f"[{balanced}]",
            "KAFKA_BROKERS": brokers,
            "PROMETHEUS_ENDPOINT": "http://127.0.0.1:1",  # nobody: what they say is not looked at
            "LOGS_ENDPOINT": "http://127.0.0.1:1",
            "JAEGER_ENDPOINT": f"127.0.0.1:{port['jaeger grpc']}",
            "DECISION_WAIT_S": str(DECISION_WAIT_S),
            "SAMPLING_PERCENTAGE": "100",
            **(settings or {}),
        }
        self._environments = {name: self._own(name, shared) for name in self.gateways}
        for number, name in enumerate(self.buffers):
            gateway = self.gateways[number % gateways]
            self._environments[name] = self._own(name, shared, port[f"{gateway} grpc"])
        for number, name in enumerate(self.agents):
            buffer = self.buffers[number % buffers]
            self._environments[name] = self._own(name, shared, port[f"{buffer} grpc"])
        self.otlp = self.otlp_of(self.agents[0])
        self.query = f"http://127.0.0.1:{port['jaeger query']}"

    def otlp_of(self, agent: str) -> str:
        """Where one of the agents takes OTLP over HTTP."""
        return f"http://127.0.0.1:{self.ports[f'{agent} http']}"

    def _own(self, name: str, shared: Mapping[str, str], next_port: int = 0) -> Mapping[str, str]:
        return {
            **shared,
            "OTLP_GRPC_PORT": str(self.ports[f"{name} grpc"]),
            "OTLP_HTTP_PORT": str(self.ports[f"{name} http"]),
            "HEALTH_PORT": str(self.ports[f"{name} health"]),
            "BALANCED_PORT": str(self.ports.get(f"{name} balanced", 0)),
            "GATEWAY_ENDPOINT": f"127.0.0.1:{next_port}",
            "QUEUE_DIRECTORY": str(self._folder / name / "queue"),
        }

    def __enter__(self) -> Self:
        try:
            for name in ("jaeger", *self._environments):
                self.start(name)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.servers["jaeger"].kill()  # it takes ten seconds to end, and nobody asks it any more
        self._stack.close()

    def start(self, name: str) -> None:
        """Start it, again where it was killed, with what it left on disk."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        if name == "jaeger":
            self.servers[name] = self._stack.enter_context(self._jaeger(folder)).server
            return
        kind = name.split()[0]
        configuration = "kafka-buffer" if kind == "buffer" else kind
        self.servers[name] = self._stack.enter_context(
            collector(
                folder,
                CONFIGURATIONS / f"{configuration}.yaml",
                self._environments[name],
                health_port=self.ports[f"{name} health"],
            )
        )

    def _jaeger(self, folder: Path) -> AbstractContextManager[Jaeger]:
        names = ("jaeger grpc", "jaeger http", "jaeger query", "jaeger query grpc")
        return jaeger(folder, "badger", ports=tuple(self.ports[name] for name in names))

    def stored(self, since_ns: int) -> set[str]:
        """The ids of the spans that Jaeger has of the load."""
        asked = {
            "query.service_name": SERVICE.name,
            "query.start_time_min": _moment(since_ns - 1_000_000_000),
            "query.start_time_max": _moment(time.time_ns() + 1_000_000_000),
            "query.num_traces": "100000",
        }
        status, said = fetched(f"{self.query}/api/v3/traces?{urlencode(asked)}")
        if status == 404:
            return set()
        assert status == 200, said[:500]
        parts = json.loads(said)["result"]["resourceSpans"]
        return {span["spanId"] for part in parts for scope in part["scopeSpans"] for span in scope["spans"]}

    def await_stored(self, wanted: set[str], since_ns: int) -> set[str]:
        """What is missing once nothing more comes: nothing, as soon as all of them are there."""
        until, found = time.monotonic() + _PATIENCE_S, set[str]()
        while time.monotonic() < until:
            now = self.stored(since_ns)
            if wanted <= now:
                return set()
            if len(now) > len(found):
                until = time.monotonic() + 4 * DECISION_WAIT_S + 6
            found = now
            time.sleep(0.5)
        return wanted - found


def _numbered(kind: str, number: int) -> tuple[str, ...]:
    return tuple(f"{kind} {place}" for place in range(1, number + 1))


def _ports(gateways: Sequence[str], buffers: Sequence[str], agents: Sequence[str]) -> list[str]:
    return [
        *(f"{name} {port}" for name in (*gateways, *buffers, *agents) for port in ("grpc", "http", "health")),
        *(f"{name} balanced" for name in gateways),
        "jaeger grpc",
        "jaeger http",
        "jaeger query",
        "jaeger query grpc",
    ]


class Load:
    """Traces of three spans, one export after another, as an exporter sends them: again until acknowledged.

    `acknowledged` says when, by span id (seconds of the monotonic clock).
    """

    def __init__(self, otlp: str) -> None:
        self._url = f"{otlp}/v1/traces"
        self._random = random.Random(7)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.began_ns = time.time_ns()
        self.acknowledged: dict[str, float] = {}
        self.refusals = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def await_acknowledged(self, number: int) -> None:
        """Return once so many more spans are."""
        wanted, until = len(self.acknowledged) + number, time.monotonic() + _PATIENCE_S
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < until, f"{len(self.acknowledged)} of {wanted} spans were acknowledged"
            time.sleep(0.02)

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            spans = self._trace()
            body = encode_spans(spans)
            while not self._is_taken(body) and not self._stopping.wait(_REST_S):
                self.refusals += 1
            else:
                if self._stopping.is_set():
                    return
            now = time.monotonic()
            self.acknowledged.update(dict.fromkeys((span.span_id for span in spans), now))

    def _is_taken(self, body: bytes) -> bool:
        try:
            return fetched(self._url, body, {"content-type": "application/x-protobuf"})[0] == 200
        except OSError:
            return False

    def _trace(self) -> list[Span]:
        now, trace = time.time_ns(), self._random.randbytes(16).hex()
        ids = [self._random.randbytes(8).hex() for _ in range(SPANS)]
        return [
            Span(
                trace,
                id_,
                f"work {number}",
                now,
                now + 1_000_000,
                parent_id=ids[0] if number else None,
                kind=Kind.INTERNAL if number else Kind.SERVER,
                service=SERVICE,
            )
            for number, id_ in enumerate(ids)
        ]


def _moment(ns: int) -> str:
    whole, rest = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{rest:09d}Z"
