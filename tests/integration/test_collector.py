"""The collector as its senders see it: real exporters, and raw requests of every kind, on loopback."""

from __future__ import annotations

import ast
import gzip
import http.client
import json
import logging
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind

import tracekit
from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import MAX_CONNECTIONS, CollectorError, CollectorServer
from tracekit.collector.store import Counts
from tracekit.model import Kind, Link, LogLine, Service, Span
from tracekit.otlp import encode_logs, encode_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOOD = Span("1" * 32, "2" * 16, "send orders", 1, 2, kind=Kind.PRODUCER)
PROTOBUF = "application/x-protobuf"
MIB = 1024 * 1024
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SHOP = Resource({"service.name": "shop", "service.namespace": "demo"})


@pytest.fixture
def collector() -> Iterator[CollectorServer]:
    with CollectorServer() as running:
        yield running


def post(
    collector: CollectorServer,
    body: bytes,
    path: str = "/v1/traces",
    method: str = "POST",
    **headers: str,
) -> tuple[int, str, bytes]:
    """Status, content type and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=30)
    said = {"content-type": PROTOBUF} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, said)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type", ""), answer.read()
    finally:
        connection.close()


def status(answer: tuple[int, str, bytes]) -> tuple[int, int, str]:
    """HTTP status, gRPC code and message of an answer in JSON."""
    http_status, content_type, body = answer
    assert content_type == "application/json"
    said = json.loads(body)
    return http_status, said["code"], said["message"]


# Real exporters


@pytest.mark.parametrize(
    "exporter",
    [
        pytest.param(lambda c: OTLPSpanExporter(f"{c.http_endpoint}/v1/traces"), id="http"),
        pytest.param(
            lambda c: OTLPSpanExporter(f"{c.http_endpoint}/v1/traces", compression=Compression.Gzip),
            id="http, gzip",
        ),
        pytest.param(lambda c: GrpcSpanExporter(c.grpc_endpoint, insecure=True), id="grpc"),
        pytest.param(
            lambda c: GrpcSpanExporter(c.grpc_endpoint, insecure=True, compression=grpc.Compression.Gzip),
            id="grpc, gzip",
        ),
    ],
)
def test_spans_of_the_sdk_arrive(
    collector: CollectorServer, exporter: Callable[[CollectorServer], SpanExporter]
) -> None:
    provider = TracerProvider(resource=SHOP)
    provider.add_span_processor(SimpleSpanProcessor(exporter(collector)))
    tracer = provider.get_tracer("tests")

    with tracer.start_as_current_span("send orders", kind=SpanKind.PRODUCER, attributes={"n": 1}) as sent:
        sent.add_event("stored", {"rows": [1, 2]})
    provider.shutdown()

    (arrived,) = collector.store.trace(f"{sent.get_span_context().trace_id:032x}")
    assert (arrived.name, arrived.kind, arrived.attributes) == ("send orders", Kind.PRODUCER, {"n": 1})
    assert [(event.name, event.attributes) for event in arrived.events] == [("stored", {"rows": (1, 2)})]
    assert (arrived.service, arrived.scope) == (Service("shop", "demo"), "tests")


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_log_lines_of_the_sdk_arrive(collector: CollectorServer, over: str) -> None:
    provider = LoggerProvider(resource=SHOP)
    exporter = (
        OTLPLogExporter(f"{collector.http_endpoint}/v1/logs")
        if over == "http"
        else GrpcLogExporter(collector.grpc_endpoint, insecure=True)
    )
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))

    provider.get_logger("tests").emit(
        LogRecord(timestamp=7, body="paid", severity_number=SeverityNumber.INFO, attributes={"n": 1})
    )
    provider.shutdown()

    line = LogLine(7, "paid", 9, attributes={"n": 1}, service=Service("shop", "demo"))
    assert (*collector.store.logs(),) == (line,)


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_metrics_of_the_sdk_arrive(collector: CollectorServer, over: str) -> None:
    exporter = (
        OTLPMetricExporter(f"{collector.http_endpoint}/v1/metrics")
        if over == "http"
        else GrpcMetricExporter(collector.grpc_endpoint, insecure=True)
    )
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], resource=SHOP)
    meter = provider.get_meter("tests")

    meter.create_counter("sent", unit="{message}").add(3, {"to": "orders"})
    meter.create_histogram("took", unit="s", explicit_bucket_boundaries_advisory=[1, 2]).record(1.5)
    provider.shutdown()

    sent, took = sorted(collector.store.metrics(), key=lambda metric: metric.name)
    assert (sent.kind, sent.unit, sent.is_monotonic, sent.points[0].value) == ("sum", "{message}", True, 3)
    assert (sent.points[0].attributes, sent.service.name) == ({"to": "orders"}, "shop")
    (point,) = took.points
    assert (point.value, point.count, point.bounds, point.buckets) == (1.5, 1, (1, 2), (0, 1, 0))


# Answers


def test_protobuf_is_answered_in_protobuf(collector: CollectorServer) -> None:
    assert post(collector, encode_spans([GOOD])) == (200, PROTOBUF, b"")
    assert (*collector.store.spans(),) == (GOOD,)


def test_json_is_answered_in_json(collector: CollectorServer) -> None:
    json_type = "application/json; charset=utf-8"

    answer = post(collector, encode_spans([GOOD], "json"), content_type=json_type)

    assert answer == (200, "application/json", b"{}")
    assert (*collector.store.spans(),) == (GOOD,)


def with_a_bad_id(*spans: Span) -> bytes:
    request = ExportTraceServiceRequest.FromString(encode_spans(spans))
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"abc"
    return request.SerializeToString()


def test_what_is_refused_in_part_is_a_partial_success(collector: CollectorServer) -> None:
    http_status, _, body = post(collector, with_a_bad_id(GOOD, GOOD))

    refused = ExportTraceServiceResponse.FromString(body).partial_success
    assert (http_status, refused.rejected_spans) == (200, 1)
    assert refused.error_message == "a trace_id must be 16 bytes, not all zero"
    assert collector.store.counts()["traces"] == Counts(kept=1, refused=1)


def test_a_request_of_which_nothing_can_be_kept_is_an_error(collector: CollectorServer) -> None:
    document = json.loads(encode_spans([GOOD], "json"))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] = "abcdef"

    answer = post(collector, json.dumps(document).encode(), content_type="application/json")

    assert status(answer) == (400, 3, "a trace_id must be 16 bytes, not all zero")


@pytest.mark.parametrize(
    ("body", "path"),
    [(b"no json", "/v1/traces"), (encode_logs([LogLine(1, "a")]), "/v1/logs"), (b"[]", "/v1/metrics")],
)
def test_an_unreadable_body_is_an_error(collector: CollectorServer, body: bytes, path: str) -> None:
    assert status(post(collector, body, path, content_type="application/json"))[:2] == (400, 3)


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-protobuf2", "text/plain; application/json", "application/*"],
)
def test_other_content_types_are_refused(collector: CollectorServer, content_type: str) -> None:
    answer = post(collector, encode_spans([GOOD]), content_type=content_type)

    assert status(answer)[:2] == (415, 3)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "deflate", "br", "gzip;q=1", "GZIP2"])
def test_other_content_encodings_are_refused(collector: CollectorServer, encoding: str) -> None:
    body = gzip.compress(gzip.compress(encode_spans([GOOD])))

    assert post(collector, body, content_encoding=encoding)[0] == 415


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(encode_spans([GOOD]), id="no gzip"),
        pytest.param(gzip.compress(encode_spans([GOOD]))[:-1], id="cut off"),
        pytest.param(gzip.compress(encode_spans([GOOD])) + b"x", id="something after it"),
        pytest.param(gzip.compress(b"") + gzip.compress(b""), id="twice"),
    ],
)
def test_a_body_that_is_no_gzip_is_refused(collector: CollectorServer, body: bytes) -> None:
    assert post(collector, body, content_encoding="gzip")[0] == 400
    assert not collector.store.spans()


def test_pages_in_a_browser_get_nothing(collector: CollectorServer) -> None:
    preflight = post(collector, b"", method="OPTIONS", origin="http://evil.test")
    rebound = post(collector, encode_spans([GOOD]), host="evil.test:4318")

    assert (preflight[0], rebound[0]) == (405, 403)
    assert not collector.store.spans()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:4318", "[::1]:4318"])
def test_loopback_has_several_names(collector: CollectorServer, host: str) -> None:
    assert post(collector, encode_spans([GOOD]), host=host)[0] == 200


def test_there_is_nothing_else(collector: CollectorServer) -> None:
    assert post(collector, b"", path="/v1/profiles")[0] == 404
    assert post(collector, b"", method="GET")[0] == 405


# Hostile senders


@contextmanager
def memory_grows_less_than(limit: int) -> Iterator[None]:
    """The peak within the block, over what was taken before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = psutil.Process().memory_info().rss
    yield
    said = Path("/proc/self/status").read_text().split()
    peak = int(said[said.index("VmHWM:") + 1]) * 1024
    assert peak - before < limit


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, left = b"", len(content)
    while left > 127:
        size, left = size + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + size + bytes([left]) + content


def test_case_19_a_gzip_bomb_is_refused(collector: CollectorServer) -> None:
    bomb = gzip.compress(bytes(100 * MIB))
    assert len(bomb) < 110_000

    with memory_grows_less_than(30 * MIB):
        assert post(collector, bomb, content_encoding="gzip")[0] == 413


def test_case_19_a_body_of_21_mib_is_refused(collector: CollectorServer) -> None:
    body = bytes(21 * MIB)

    with memory_grows_less_than(30 * MIB):
        assert post(collector, body)[0] == 413


def test_case_19_a_body_of_21_mib_that_names_no_length_is_refused(collector: CollectorServer) -> None:
    chunk = bytes(MIB)
    connection = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=30)

    with memory_grows_less_than(30 * MIB):
        connection.request("POST", "/v1/traces", (chunk for _ in range(21)), {"content-type": PROTOBUF})
        answer = connection.getresponse()
    connection.close()

    assert answer.status == 413


def test_case_19_a_trace_id_of_3_bytes_is_refused(collector: CollectorServer) -> None:
    assert post(collector, with_a_bad_id(GOOD))[0] == 400
    assert collector.store.counts()["traces"] == Counts(refused=1)


def test_case_19_nesting_200_deep_is_refused(collector: CollectorServer) -> None:
    value = b""
    for _ in range(200):
        value = field(5, field(1, value))
    spans = field(1, field(2, field(2, field(9, field(2, value)))))
    document = json.loads(encode_spans([GOOD], "json"))
    attribute: dict[str, Any] = {"stringValue": "x"}
    for _ in range(200):
        attribute = {"arrayValue": {"values": [attribute]}}
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"] = [
        {"key": "n", "value": attribute}
    ]

    assert post(collector, spans)[0] == 400
    assert post(collector, json.dumps(document).encode(), content_type="application/json")[0] == 400


def test_millions_of_empty_spans_are_refused(collector: CollectorServer) -> None:
    bomb = gzip.compress(field(1, field(2, b"\x12\x00" * (9 * MIB))))

    with memory_grows_less_than(100 * MIB):  # decoded as one message they would take 1.8 GiB
        assert post(collector, bomb, content_encoding="gzip")[0] == 400


def test_links_take_no_more_memory_than_the_bound_of_the_store() -> None:
    store = MemoryStore(max_bytes=32 * MIB)

    with memory_grows_less_than(45 * MIB):
        for number in range(20):
            trace_ids = (f"{10_000 * number + each:032x}" for each in range(1, 10_001))
            store.add_spans([replace(GOOD, trace_id=f"{number + 1:032x}", links=(*map(linked, trace_ids),))])

    assert store.counts()["traces"].dropped


def linked(trace_id: str) -> Link:
    return Link(trace_id, "".join(["2" * 8, trace_id[-8:]]))


def test_grpc_refuses_the_same(collector: CollectorServer) -> None:
    with grpc.insecure_channel(
        f"127.0.0.1:{collector.grpc_port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        export = channel.unary_unary(EXPORT)
        codes = []
        for body, compression in (
            (bytes(21 * MIB), None),
            (bytes(100 * MIB), grpc.Compression.Gzip),
            (with_a_bad_id(GOOD), None),
            (b"\xff", None),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                export(body, compression=compression)
            codes.append(refused.value.code())
        partly = ExportTraceServiceResponse.FromString(export(with_a_bad_id(GOOD, GOOD)))

    exhausted, invalid = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
    assert codes == [exhausted, exhausted, invalid, invalid]
    assert partly.partial_success.rejected_spans == 1


# Slow senders, and many at once


def half_a_request(collector: CollectorServer, size: int = 1000) -> socket.socket:
    """A sender of a body that lacks its last byte."""
    sender = socket.create_connection(("127.0.0.1", collector.http_port), timeout=30)
    sender.sendall(
        b"POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-protobuf\r\n"
        b"content-length: %d\r\n\r\n" % size
    )
    sender.sendall(bytes(size - 1))
    return sender


def ends(sender: socket.socket) -> bool:
    """Wait for the other side to close it."""
    with sender:
        try:
            while sender.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
    return True


def test_a_sender_over_http_that_does_not_go_on_is_cut_off() -> None:
    with CollectorServer(request_timeout_s=1) as collector:
        silent, in_headers = (
            socket.create_connection(("127.0.0.1", collector.http_port), timeout=30) for _ in range(2)
        )
        in_headers.sendall(b"POST /v1/traces HTTP/1.1\r\nhost: localhost\r\n")

        assert [ends(sender) for sender in (silent, in_headers, half_a_request(collector))] == [True] * 3


def test_a_sender_over_http_of_one_byte_at_a_time_is_cut_off() -> None:
    with CollectorServer(request_timeout_s=1) as collector, half_a_request(collector, size=1) as sender:
        sender.sendall(b"\xffPOST /v1/traces HTTP/1.1\r\nx: ")  # the last of one; and half of another
        assert sender.recv(65536).startswith(b"HTTP/1.1 400")
        sender.settimeout(0.05)
        until = time.monotonic() + 30
        is_open = True
        while is_open and time.monotonic() < until:
            with suppress(TimeoutError):
                is_open = drips(sender)
    assert not is_open


def drips(sender: socket.socket) -> bool:
    """Send one byte more; whether that is still read, after a moment."""
    try:
        sender.sendall(b"a")
        return bool(sender.recv(65536))
    except ConnectionError:
        return False


def test_a_sender_that_keeps_up_is_not_cut_off() -> None:
    with CollectorServer(request_timeout_s=1) as collector:
        connection = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=30)
        connection.connect()
        first, began = connection.sock, time.monotonic()
        while time.monotonic() < began + 1.5:
            connection.request("POST", "/v1/traces", encode_spans([GOOD]), {"content-type": PROTOBUF})
            assert connection.getresponse().read() == b""
        assert connection.sock is first
        connection.close()


def test_headers_without_end_are_refused(collector: CollectorServer) -> None:
    with socket.create_connection(("127.0.0.1", collector.http_port), timeout=30) as sender:
        sender.sendall(b"POST /v1/traces HTTP/1.1\r\nx: " + b"a" * 100_000)

        assert sender.recv(100).startswith(b"HTTP/1.1 431")


def test_unfinished_bodies_are_bounded_together(collector: CollectorServer) -> None:
    with memory_grows_less_than(150 * MIB), ExitStack() as opened:
        senders = [opened.enter_context(half_a_request(collector, 15 * MIB)) for _ in range(24)]
        for sender in senders:
            sender.sendall(b"\0")
        answers = Counter(sender.recv(65536).partition(b"\r\n")[0] for sender in senders)

    # Four of these bodies fit into 64 MiB; what they hold is no OTLP.
    assert answers == {b"HTTP/1.1 400 Bad Request": 4, b"HTTP/1.1 503 Service Unavailable": 20}
    assert collector.store.counts()["traces"] == Counts(refused=24)
    assert post(collector, bytes(15 * MIB))[0] == 400  # there is room again


def test_connections_over_http_are_bounded(collector: CollectorServer) -> None:
    with ExitStack() as opened:
        senders = [
            opened.enter_context(socket.create_connection(("127.0.0.1", collector.http_port), timeout=30))
            for _ in range(MAX_CONNECTIONS + 1)
        ]
        assert ends(senders[0])  # who has kept it waiting longest makes room
        assert not select.select(senders[1:], [], [], 0)[0]


def http2(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame. Source: RFC 9113, 4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def half_a_call(collector: CollectorServer, calls: int = 1) -> socket.socket:
    """A sender of messages of 10 bytes over gRPC, of which none comes."""
    said = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": EXPORT.encode(),
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    headers = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in said.items()
    )
    sender = socket.create_connection(("127.0.0.1", collector.grpc_port), timeout=30)
    sender.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2(4, 0, 0) + http2(4, 1, 0))
    for number in range(calls):
        stream = 2 * number + 1
        sender.sendall(http2(1, 4, stream, headers) + http2(0, 0, stream, b"\0\0\0\0\x0a"))
    return sender


def test_a_sender_over_grpc_that_does_not_go_on_is_cut_off() -> None:
    with CollectorServer(request_timeout_s=1) as collector:
        silent = socket.create_connection(("127.0.0.1", collector.grpc_port), timeout=30)
        in_a_call = half_a_call(collector, calls=8)  # more than there are threads

        assert [ends(in_a_call), ends(silent)] == [True, True]
        with grpc.insecure_channel(f"127.0.0.1:{collector.grpc_port}") as channel:
            assert channel.unary_unary(EXPORT)(encode_spans([GOOD]), timeout=30) == b""


# Start and stop


def test_it_stops_and_leaves_nothing() -> None:
    before = set(threading.enumerate())

    with CollectorServer() as collector:
        post(collector, encode_spans([GOOD]))
        ports = collector.http_port, collector.grpc_port

    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(30)  # gRPC's own ends a moment after it said so
    assert not any(thread.is_alive() for thread in left)
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_it_stops_while_a_sender_is_in_the_middle() -> None:
    with CollectorServer() as collector:
        sender = socket.create_connection(("127.0.0.1", collector.http_port))
        sender.sendall(
            b"POST /v1/traces HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
            b"content-type: application/json\r\ncontent-length: 10\r\n\r\n"
        )
        assert sender.recv(100).startswith(b"HTTP/1.1 100")

    assert not sender.recv(100).startswith(b"HTTP/1.1 200")
    sender.close()


def test_it_stops_in_silence_while_senders_are_in_the_middle(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with CollectorServer() as collector, half_a_request(collector), half_a_call(collector):
        assert post(collector, encode_spans([GOOD]))[0] == 200
        began = time.monotonic()
        collector.stop()
        took = time.monotonic() - began

    assert (*capfd.readouterr(), [found for found in caplog.records if found.levelno > logging.INFO]) == (
        "",
        "",
        [],
    )
    assert took < 10


def test_it_starts_again_on_the_same_ports() -> None:
    collector = CollectorServer()
    collector.start()
    post(collector, encode_spans([GOOD]))
    ports = collector.http_port, collector.grpc_port
    collector.stop()

    with collector:
        assert post(collector, encode_spans([GOOD]))[0] == 200
        assert (collector.http_port, collector.grpc_port) == ports


@pytest.mark.parametrize("which", ["http_port", "grpc_port"])
def test_a_port_that_is_taken_is_an_error_with_its_cure(which: str) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(CollectorError, match=rf"127\.0\.0\.1 port {port}.*in use.*0 takes a free one"):
            CollectorServer(**{which: port}).start()

    assert not set(threading.enumerate()) - before


def test_a_port_that_cannot_be_is_an_error_too() -> None:
    with pytest.raises(CollectorError, match="70000"):
        CollectorServer(http_port=70_000).start()


def test_two_collectors_do_not_share_ports(collector: CollectorServer) -> None:
    with pytest.raises(CollectorError):
        CollectorServer(grpc_port=collector.grpc_port).start()
    with pytest.raises(CollectorError):
        CollectorServer(http_port=collector.http_port).start()
    with pytest.raises(CollectorError, match="running already"):
        collector.start()


def test_logging_and_signals_of_the_process_stay_as_they_are() -> None:
    handler = logging.NullHandler()
    access = logging.getLogger("uvicorn.access")
    access.addHandler(handler)

    def state() -> object:
        loggers = [logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.access", "uvicorn.error")]
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [(found.level, found.propagate, list(found.handlers)) for found in loggers], signals

    try:
        before = state()
        with CollectorServer() as collector:
            post(collector, encode_spans([GOOD]))
            assert state() == before
        assert state() == before
    finally:
        access.removeHandler(handler)


# It traces nothing, itself least of all


def test_it_emits_no_span_where_everything_is_instrumented() -> None:
    script = Path(__file__).with_name("collector_among_instrumentation.py")

    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(run.stdout) == {"collector": [], "others": ["GET /", "Export"]}


def test_nothing_of_opentelemetry_but_its_messages_is_imported() -> None:
    # The import linter sees external packages as a whole; this looks into them.
    root = Path(str(tracekit.__file__)).parent
    files = [path for package in ("collector", "otlp", "flow") for path in (root / package).rglob("*.py")]
    imported = {
        name
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
        if name.partition(".")[0] == "opentelemetry"
    }

    assert imported
    assert {name for name in imported if not name.startswith("opentelemetry.proto.")} == set()


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}."] if isinstance(node, ast.ImportFrom) and node.module else []
