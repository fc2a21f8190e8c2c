"""A rig for HTTP: real servers on loopback, requests written by hand, and what was exported."""

from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tracekit import _settings
from tracekit._configure import start
from tracekit.tracing.signals import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
FLOW = "11112222333344445555666677778888"
HEADER = f"1;{FLOW};0123456789abcdef;1700000000000;1700000000500;2;web"


class Telemetry:
    """This process configured, and what it exported so far."""

    def __init__(self, trust: Mapping[str, str] | None = None) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        outputs = Outputs([SimpleSpanProcessor(self._spans)], [self._metrics])
        self.handle = start(_settings.read(service="orders", trust=trust, quiet=True), outputs)

    def spans(self, kind: SpanKind | None = None) -> list[ReadableSpan]:
        """The spans that ended, in the order in which they began."""
        found = [one for one in self._spans.get_finished_spans() if kind in (None, one.kind)]
        return sorted(found, key=lambda one: one.start_time or 0)

    def server_span(self) -> ReadableSpan:
        (span,) = self.spans(SpanKind.SERVER)
        return span

    def points(self, metric: str) -> list[Any]:
        """The metric's data points."""
        data = self._metrics.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == metric
            for point in one.data.data_points
        ]


@contextmanager
def telemetry(trust: Mapping[str, str] | None = None) -> Iterator[Telemetry]:
    """This process configured, until the end of the block."""
    found = Telemetry(trust)
    try:
        yield found
    finally:
        found.handle.undo()


class _Server(uvicorn.Server):
    def __init__(self, app: Any) -> None:
        super().__init__(uvicorn.Config(app, port=0, log_config=None, ws="none", timeout_keep_alive=1))
        self.ready = threading.Event()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The application behind a real server, by its URL; at the end all of its spans have ended."""
    server = _Server(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.ready.wait(10)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def ask(url: str, *headers: tuple[str, str | bytes], method: str = "GET") -> tuple[int, str]:
    """A request written by hand, outside of every instrumentation: status and body of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.putrequest(method, parts.path or "/")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def flow_ids(spans: Sequence[ReadableSpan]) -> set[object]:
    return {attributes(span).get("tracekit.flow.id") for span in spans}


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def trace_id(span: ReadableSpan) -> str:
    return f"{context_of(span).trace_id:032x}"


def parent_of(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> ReadableSpan | None:
    """The span's parent, where it is among these."""
    wanted = span.parent.span_id if span.parent else 0
    return next((one for one in spans if context_of(one).span_id == wanted), None)
