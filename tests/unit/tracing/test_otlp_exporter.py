"""The exporter over HTTP: in all things the SDK's, but for the encoder."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext
from requests.adapters import BaseAdapter

from tracekit.tracing import otlp_exporter
from tracekit.tracing.encoding import SpanEncoder
from tracekit.tracing.otlp_exporter import EncodingSpanExporter

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
    exporter: type[OTLPSpanExporter], *statuses: int, **settings: Any
) -> tuple[SpanExportResult, list[tuple[str | None, dict[str, str], bytes]]]:
    """What `export` of 39 spans gave, and the requests that reached the collector."""
    collector = Collector(*statuses)
    session = requests.Session()
    session.mount("http://", collector)
    sender = exporter(ENDPOINT, session=session, headers={"api-key": "k"}, **settings)
    result = sender.export(SPANS)
    sender.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
    return result, collector.requests


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("settings", [{}, {"max_request_size": 100}], ids=["any size", "too large"])
def test_it_sends_and_answers_as_the_sdks_exporter_does(status: int, settings: dict[str, Any]) -> None:
    assert exported(EncodingSpanExporter, status, **settings) == exported(
        OTLPSpanExporter, status, **settings
    )


def test_it_compresses_as_the_sdks_exporter_does() -> None:
    ours = exported(EncodingSpanExporter, compression=Compression.Gzip)
    theirs = exported(OTLPSpanExporter, compression=Compression.Gzip)

    assert [gzip.decompress(body) for _, _, body in ours[1]] == [
        gzip.decompress(body) for _, _, body in theirs[1]
    ]
    assert ours[1][0][1]["Content-Encoding"] == "gzip"


def test_it_uses_our_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Marked(SpanEncoder):
        def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
            return b"ours"

    monkeypatch.setattr(otlp_exporter, "SpanEncoder", Marked)

    _, [(_, _, body)] = exported(EncodingSpanExporter)

    assert body == b"ours"


def test_once_shut_down_it_refuses() -> None:
    sender = EncodingSpanExporter(ENDPOINT, session=requests.Session())
    sender.shutdown()  # type: ignore[no-untyped-call]  # the SDK's

    assert sender.export(SPANS) is SpanExportResult.FAILURE


def test_an_export_that_somebody_patched_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patched:
        def __call__(self, exporter: object, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    monkeypatch.setattr(OTLPSpanExporter, "export", Patched())

    assert exported(EncodingSpanExporter) == (SpanExportResult.SUCCESS, [])
