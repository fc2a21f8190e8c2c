"""What a collector accepts goes on to another one, and nobody waits for that."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tracekit.collector import forward as forwarding
from tracekit.collector.forward import Forwarder
from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import CollectorError, CollectorServer
from tracekit.model import LogLine, Metric, Point, Span
from tracekit.otlp import encode_logs, encode_metrics, encode_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPAN = Span("1" * 32, "2" * 16, "send orders", 1, 2)
BODIES = {
    "traces": encode_spans([SPAN]),
    "logs": encode_logs([LogLine(1, "paid")]),
    "metrics": encode_metrics([Metric("depth", "gauge", (Point(1, 5),))]),
}
PROTOBUF = "application/x-protobuf"


class Upstream(ThreadingHTTPServer):
    """A collector elsewhere that answers as told; 200 and nothing once that is used up."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, dict[str, str], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), UpstreamHandler)
        self.answers = list(answers)
        self.heard: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class UpstreamHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append((self.path, self.headers["content-type"], body))
        self.server.headers.append(dict(self.headers))
        status, headers, answer = self.server.answers.pop(0) if self.server.answers else (200, {}, b"")
        self.send_response(status)
        for name, value in {"content-length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def upstream(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Upstream]:
    with Upstream(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def forwarding_to(url: str, **settings: Any) -> Iterator[Forwarder]:
    forwarder = Forwarder(url, **settings)
    forwarder.start()
    try:
        yield forwarder
    finally:
        forwarder.stop(0)


def post(port: int, signal: str, body: bytes, content_type: str = PROTOBUF, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    said = {"content-type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", f"/v1/{signal}", body, said)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def until(is_met: Callable[[], object], timeout_s: float = 30) -> None:
    by = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < by
        time.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds where they are seconds."""
    monkeypatch.setattr(forwarding, "_FIRST_PAUSE_S", 0.01)


def test_what_is_accepted_goes_on_as_it_came() -> None:
    with (
        upstream() as other,
        CollectorServer(forward=Forwarder(other.url, headers={"api-key": "k"})) as collector,
    ):
        for signal, body in BODIES.items():
            assert post(collector.http_port, signal, body) == 200
        assert (
            post(collector.http_port, "traces", gzip.compress(BODIES["traces"]), content_encoding="gzip")
            == 200
        )
        in_json = encode_spans([SPAN], "json")
        assert post(collector.http_port, "traces", in_json, "application/json") == 200
        assert post(collector.http_port, "traces", b"\xff") == 400
        collector.stop()

        assert other.heard == [
            *((f"/v1/{signal}", PROTOBUF, body) for signal, body in BODIES.items()),
            ("/v1/traces", PROTOBUF, BODIES["traces"]),
            ("/v1/traces", "application/json", in_json),
        ]
        assert {headers["api-key"] for headers in other.headers} == {"k"}
        assert other.connections == 1
        assert collector.status() == {
            "refused": {"400": 1},
            "connections": {"http": 0},
            "forward": {
                "endpoint": other.url,
                "protocol": "http/protobuf",
                "forwarded": 5,
                "refused": 0,
                "refused_records": 0,
                "dropped": {},
                "waiting": 0,
                "waiting_bytes": 0,
                "trouble": "",
            },
        }


def test_it_goes_on_over_grpc_too_from_json_as_well() -> None:
    store = MemoryStore()
    with (
        CollectorServer(store) as other,
        CollectorServer(forward=Forwarder(other.grpc_endpoint, protocol="grpc")) as collector,
    ):
        for signal, body in BODIES.items():
            assert post(collector.http_port, signal, body) == 200
        another = encode_spans([Span("a" * 32, "b" * 16, "other", 1, 2)], "json")
        assert post(collector.http_port, "traces", another, "application/json") == 200
        with grpc.insecure_channel(f"127.0.0.1:{collector.grpc_port}") as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            export(encode_spans([Span("c" * 32, "d" * 16, "third", 1, 2)]))
        collector.stop()

        assert (*store.spans(),) == (*collector.store.spans(),)
        assert [span.name for span in store.spans()] == ["send orders", "other", "third"]
        assert (*store.logs(),) == (*collector.store.logs(),)
        assert (*store.metrics(),) == (*collector.store.metrics(),)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_be_sent_again_is_sent_again(status: int) -> None:
    with upstream((status, {"retry-after": "0"}, b"")) as other, forwarding_to(other.url) as forwarder:
        forwarder.add("traces", b"1", "protobuf")
        until(lambda: forwarder.status()["forwarded"])

        assert [body for _, _, body in other.heard] == [b"1", b"1"]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 413, 500])
def test_what_is_refused_there_is_counted_and_not_sent_again(status: int) -> None:
    with upstream((status, {"location": "/elsewhere"}, b"")) as other, forwarding_to(other.url) as forwarder:
        for body in (b"1", b"2"):
            forwarder.add("traces", body, "protobuf")
        until(lambda: forwarder.status()["forwarded"])

        assert [body for _, _, body in other.heard] == [b"1", b"2"]
        assert forwarder.status()["refused"] == 1


def test_what_goes_wrong_is_told_with_what_follows_and_the_cure() -> None:
    meaning = "What is refused is kept here, and not sent on. Look at OTEL_EXPORTER_OTLP_HEADERS"
    with upstream((401, {}, b"")) as other, forwarding_to(other.url) as forwarder:
        assert forwarder.troubles() == ()
        forwarder.add("traces", b"1", "protobuf")
        until(forwarder.loss)

        assert forwarder.troubles() == (
            f"forwarding to {other.url} fails: 401 Unauthorized. {meaning}",
            f"1 request was not forwarded to {other.url}; it is all kept here",
        )
        forwarder.add("traces", b"2", "protobuf")
        until(lambda: forwarder.status()["forwarded"])

        assert forwarder.troubles() == (f"1 request was not forwarded to {other.url}; it is all kept here",)


def test_what_speaks_no_http_is_told_as_such() -> None:
    with CollectorServer() as other, forwarding_to(other.grpc_endpoint) as forwarder:
        forwarder.add("traces", BODIES["traces"], "protobuf")
        until(forwarder.troubles)

        (trouble,) = forwarder.troubles()
    assert "fails: what listens there speaks no HTTP. " in trouble
    assert trouble.endswith("If it speaks gRPC: --forward-protocol grpc")


def test_records_that_are_refused_there_are_counted() -> None:
    with CollectorServer() as other, forwarding_to(other.http_endpoint) as forwarder:
        for encoding in ("protobuf", "json"):
            in_part = encode_spans([SPAN, Span("1" * 32, "2" * 16, "x", 1, 2)], encoding)
            no_id = {
                "protobuf": (b"\x0a\x10" + b"\x11" * 16, b"\x0a\x10" + bytes(16)),
                "json": (b"1" * 32, b"0" * 32),
            }
            forwarder.add("traces", in_part.replace(*no_id[encoding], 1), encoding)
        until(lambda: forwarder.status()["forwarded"] == 2)

        assert forwarder.status()["refused_records"] == 2


@pytest.mark.usefixtures("quick")
def test_it_goes_on_where_the_other_side_comes_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with forwarding_to(f"http://127.0.0.1:{port}") as forwarder:
        forwarder.add("traces", BODIES["traces"], "protobuf")
        until(lambda: "refused" in str(forwarder.status()["trouble"]))
        with CollectorServer(http_port=port) as other:
            until(other.store.spans)
            until(lambda: forwarder.status()["forwarded"])

        assert forwarder.status()["trouble"] == ""


def test_a_connection_that_was_closed_meanwhile_is_opened_again_at_once() -> None:
    with upstream((200, {"connection": "close"}, b"")) as other, forwarding_to(other.url) as forwarder:
        for body in (b"1", b"2"):
            forwarder.add("traces", body, "protobuf")
        until(lambda: forwarder.status()["forwarded"] == 2)

        assert other.connections == 2


@contextmanager
def silent() -> Iterator[str]:
    """An address where connections are taken and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_other_side_that_says_nothing_holds_up_nobody(protocol: forwarding.Way) -> None:
    with silent() as url:
        forwarder = Forwarder(url, protocol=protocol, max_bytes=3 * len(BODIES["traces"]))
        with CollectorServer(forward=forwarder) as collector:
            began = time.monotonic()
            for _ in range(5):
                assert post(collector.http_port, "traces", BODIES["traces"]) == 200
            assert time.monotonic() - began < 5
            assert forwarder.status()["dropped"] == {"queue_full": 2}
            assert forwarder.status()["waiting_bytes"] == 3 * len(BODIES["traces"])
            forwarder.stop(0.1)

    assert forwarder.status()["dropped"] == {"queue_full": 2, "stopped": 3}
    assert forwarder.status()["waiting_bytes"] == 0


def test_at_the_end_what_cannot_be_sent_is_dropped_without_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    forwarder = Forwarder(f"http://127.0.0.1:{port}")
    for _ in range(3):
        forwarder.add("traces", b"1", "protobuf")
    forwarder.start()
    until(lambda: forwarder.status()["trouble"])
    began = time.monotonic()
    forwarder.stop(60)

    assert time.monotonic() - began < 30
    assert forwarder.status()["dropped"] == {"stopped": 3}


def test_what_can_never_be_sent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "MAX_AGE_S", 0.0)
    with upstream(*[(503, {}, b"")] * 2) as other, forwarding_to(other.url) as forwarder:
        for body in (b"1", b"2", b"3"):
            forwarder.add("traces", body, "protobuf")
        until(lambda: forwarder.status()["forwarded"])

        assert forwarder.status()["dropped"] == {"given_up": 2}


def test_an_answer_without_end_is_read_in_part() -> None:
    with upstream((200, {"content-length": "999999999"}, bytes(10_000_000))) as other:
        with forwarding_to(other.url) as forwarder:
            for body in (b"1", b"2"):
                forwarder.add("traces", body, "protobuf")
            until(lambda: forwarder.status()["forwarded"] == 2)

        assert other.connections == 2


@pytest.mark.parametrize(
    ("asked", "pause_s"),
    [(None, None), ("3600", 3600.0), ("soon", None), ("Mon, 01 Jan 1990 00:00:00 GMT", -1)],
)
def test_what_retry_after_may_say(asked: str | None, pause_s: float | None) -> None:
    found = forwarding._seconds(asked)

    assert found == pause_s or (pause_s == -1 and found is not None and found < 0)


def test_case_10_a_pause_that_is_asked_for_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "_MAX_RETRY_AFTER_S", 0.05)
    with upstream((503, {"retry-after": "3600"}, b"")) as other, forwarding_to(other.url) as forwarder:
        forwarder.add("traces", b"1", "protobuf")
        until(lambda: forwarder.status()["forwarded"])

        assert len(other.heard) == 2


@pytest.mark.parametrize(
    ("endpoint", "protocol", "word"),
    [
        ("collector:4318", "http/protobuf", "must begin with http://"),
        ("http://", "http/protobuf", "name a host"),
        ("ftp://collector", "http/protobuf", "must begin with http://"),
        ("http://me:secret@collector:4318", "http/protobuf", "secrets go into headers"),
        ("http://collector:99999", "http/protobuf", "99999"),
        ("http://collector:4317/v1/traces", "grpc", "has no path"),
    ],
)
def test_an_endpoint_that_cannot_be_is_an_error(endpoint: str, protocol: forwarding.Way, word: str) -> None:
    with pytest.raises(ValueError, match=word) as error:
        Forwarder(endpoint, protocol=protocol)

    assert "me:secret" not in str(error.value)


def test_a_header_that_cannot_be_sent_is_an_error_without_its_value() -> None:
    with pytest.raises(ValueError, match="'api-key' cannot be sent") as error:
        Forwarder("http://collector:4318", headers={"api-key": "secret\r\nx: y"})

    assert "secret" not in str(error.value)


@pytest.mark.parametrize("which", ["http_endpoint", "grpc_endpoint"])
def test_a_collector_does_not_forward_to_itself(which: str) -> None:
    with CollectorServer() as first:
        url = getattr(first, which)

    again = CollectorServer(http_port=first.http_port, grpc_port=first.grpc_port, forward=Forwarder(url))
    with pytest.raises(CollectorError, match="forward to itself"):
        again.start()
