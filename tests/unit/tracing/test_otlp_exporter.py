"""The exporter over HTTP: in all things the SDK's, but for the encoder."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext
from requests.adapters import BaseAdapter

from tracekit._exporters import CountedSpans, QueuedSpans
from tracekit.otlp import decode_spans
from tracekit.tracing import otlp_exporter
from tracekit.tracing.encoding import Ready, SpanEncoder
from tracekit.tracing.otlp_exporter import EncodingSpanExporter
from tracekit.tracing.processors import FlowProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence

ENDPOINT = "http://collector:4318/v1/traces"
SPANS = [
    ReadableSpan(
        f"send {number}",
        SpanContext(1, number, is_remote=False),
        resource=Resource({"service.name": "orders"}),
        attributes={"messaging.system": "kafka", "server.port": 9092},
    )
    for number in range(1, 40)
]


class Collector(BaseAdapter):
    """Answers each request with the next status, and keeps what came."""

    def __init__(self, *statuses: int) -> None:
        super().__init__()
        self._statuses = list(statuses)
        self.requests: list[tuple[str | None, dict[str, str], bytes]] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        body = request.body
        assert isinstance(body, bytes)
        self.requests.append((request.url, dict(request.headers), body))
        response = requests.Response()
        response.status_code = self._statuses.pop(0) if self._statuses else 200
        response._content = b""
        response.request = request
        return response

    def close(self) -> None:
        pass


def exported(
    exporter: type[OTLPSpanExporter], *statuses: int, is_ready: bool = False, **settings: Any
) -> tuple[SpanExportResult, list[tuple[str | None, dict[str, str], bytes]]]:
    """What `export` of 39 spans gave, and the requests that reached the collector.

    `is_ready`: they were encoded before.
    """
    collector = Collector(*statuses)
    session = requests.Session()
    session.mount("http://", collector)
    sender = exporter(ENDPOINT, session=session, headers={"api-key": "k"}, **settings)
    spans: Any = SPANS
    if is_ready:
        assert isinstance(sender, EncodingSpanExporter)
        assert sender.encoder is not None
        spans = [sender.encoder.ready(span) for span in SPANS]
    result = sender.export(spans)
    sender.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
    return result, collector.requests


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("settings", [{}, {"max_request_size": 100}], ids=["any size", "too large"])
def test_it_sends_and_answers_as_the_sdks_exporter_does(status: int, settings: dict[str, Any]) -> None:
    theirs = exported(OTLPSpanExporter, status, **settings)

    assert exported(EncodingSpanExporter, status, **settings) == theirs
    assert exported(EncodingSpanExporter, status, is_ready=True, **settings) == theirs


def test_it_compresses_as_the_sdks_exporter_does() -> None:
    ours = exported(EncodingSpanExporter, compression=Compression.Gzip)
    theirs = exported(OTLPSpanExporter, compression=Compression.Gzip)

    assert [gzip.decompress(body) for _, _, body in ours[1]] == [
        gzip.decompress(body) for _, _, body in theirs[1]
    ]
    assert ours[1][0][1]["Content-Encoding"] == "gzip"


def test_it_uses_our_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Marked(SpanEncoder):
        def encode(self, spans: Sequence[ReadableSpan | Ready]) -> bytes:
            return b"ours"

    monkeypatch.setattr(otlp_exporter, "SpanEncoder", Marked)

    _, [(_, _, body)] = exported(EncodingSpanExporter)

    assert body == b"ours"


def test_once_shut_down_it_refuses() -> None:
    sender = EncodingSpanExporter(ENDPOINT, session=requests.Session())
    sender.shutdown()  # type: ignore[no-untyped-call]  # the SDK's

    assert sender.export(SPANS) is SpanExportResult.FAILURE


def test_where_the_sdk_encodes_elsewhere_it_does_so_for_us_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = OTLPSpanExporter.export

    def elsewhere(self: OTLPSpanExporter, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return stock(self, spans)

    monkeypatch.setattr(OTLPSpanExporter, "export", elsewhere)

    assert EncodingSpanExporter(ENDPOINT, session=requests.Session()).encoder is None
    assert exported(EncodingSpanExporter) == exported(OTLPSpanExporter)


def test_what_waits_to_be_sent_is_encoded() -> None:
    collector = Collector()
    session = requests.Session()
    session.mount("http://", collector)
    processor = QueuedSpans(CountedSpans(EncodingSpanExporter(ENDPOINT, session=session)))
    provider = TracerProvider(resource=Resource({"service.name": "orders"}), shutdown_on_exit=False)
    provider.add_span_processor(FlowProcessor("orders", [processor]))
    tracer = provider.get_tracer("program")
    with processor._batch_processor._export_lock:
        for number in range(3):
            tracer.start_span(f"order {number}").end()
        waiting = [*processor._batch_processor._queue]
    processor.force_flush()
    processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
    (sent,) = [decode_spans(body, "protobuf").records for _, _, body in collector.requests]

    assert [type(one) for one in waiting] == [Ready] * 3
    assert [span.name for span in sent] == ["order 0", "order 1", "order 2"]


def test_an_export_that_somebody_patched_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patched:
        def __call__(self, exporter: object, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    monkeypatch.setattr(OTLPSpanExporter, "export", Patched())

    assert EncodingSpanExporter(ENDPOINT, session=requests.Session()).encoder is None
    assert exported(EncodingSpanExporter) == (SpanExportResult.SUCCESS, [])


def test_a_processor_that_came_later_may_change_what_is_sent() -> None:
    class Redact(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            attributes: Any = span._attributes
            attributes._dict["card"] = "***"

    collector = Collector()
    session = requests.Session()
    session.mount("http://", collector)
    processor = QueuedSpans(CountedSpans(EncodingSpanExporter(ENDPOINT, session=session)))
    flow = FlowProcessor("orders", [processor])
    flow.add(Redact())
    provider = TracerProvider(resource=Resource({"service.name": "orders"}), shutdown_on_exit=False)
    provider.add_span_processor(flow)
    with processor._batch_processor._export_lock:
        provider.get_tracer("program").start_span("pay", attributes={"card": "4111"}).end()
    processor.force_flush()
    processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
    ((_, _, body),) = collector.requests
    (span,) = decode_spans(body, "protobuf").records

    assert span.attributes["card"] == "***"
