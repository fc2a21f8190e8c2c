"""What a collector accepts goes on to another one, and nobody waits for that."""

from __future__ import annotations

import gzip
import http.client
import logging
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tracekit.collector import export
from tracekit.collector import forward as forwarding
from tracekit.collector.forward import Forwarder
from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import CollectorError, CollectorServer
from tracekit.model import LogLine, Metric, Point, Span
from tracekit.otlp import encode_logs, encode_metrics, encode_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
                "returned": 0,
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
def test_an_other_side_that_says_nothing_holds_up_nobody(protocol: export.Way) -> None:
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
    found = export._seconds(asked)

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
def test_an_endpoint_that_cannot_be_is_an_error(endpoint: str, protocol: export.Way, word: str) -> None:
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


CIRCLE = (
    "what was sent on came back, and is not sent on again. "
    "Name a collector with --forward that does not forward to this one"
)
"""What is said of a circle."""
OTHER_NAMES = ["127.0.0.2", "[::ffff:127.0.0.1]", socket.gethostname()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def forwarded(collector: CollectorServer) -> Mapping[str, object]:
    found = collector.status()["forward"]
    assert isinstance(found, dict)
    return {name: found[name] for name in ("forwarded", "refused", "returned", "dropped", "waiting")}


ONCE = {"forwarded": 1, "refused": 0, "returned": 1, "dropped": {}, "waiting": 0}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("name", OTHER_NAMES)
def test_what_comes_back_is_neither_kept_nor_sent_on_again(
    name: str, protocol: export.Way, caplog: pytest.LogCaptureFixture
) -> None:
    ports = {"http/protobuf": free_port(), "grpc": free_port()}
    forwarder = Forwarder(f"http://{name}:{ports[protocol]}", protocol=protocol)
    with (
        caplog.at_level(logging.ERROR, "tracekit"),
        CollectorServer(
            host="0.0.0.0",
            http_port=ports["http/protobuf"],
            grpc_port=ports["grpc"],
            forward=forwarder,
        ) as collector,
    ):
        assert post(collector.http_port, "logs", BODIES["logs"]) == 200
        until(lambda: forwarded(collector) == ONCE)
        collector.stop()

        assert forwarded(collector) == ONCE
        assert [line.body for line in collector.store.logs()] == ["paid"]
    told = f"forwarding to {forwarder.endpoint} goes in a circle"
    assert forwarder.troubles() == (f"{told}: {CIRCLE}",)
    assert caplog.messages == [f"tracekit: {told} (1 in all): {CIRCLE}"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_circle_of_three_ends_where_it_began(protocol: export.Way) -> None:
    ports = [free_port() for _ in range(3)]
    first, second, third = (
        CollectorServer(
            http_port=port if protocol == "http/protobuf" else 0,
            grpc_port=port if protocol == "grpc" else 0,
            forward=Forwarder(f"http://127.0.0.1:{following}", protocol=protocol),
        )
        for port, following in zip(ports, (*ports[1:], ports[0]), strict=True)
    )
    with first, second, third:
        post(first.http_port, "logs", BODIES["logs"])
        until(lambda: forwarded(first) == ONCE)

        until(lambda: forwarded(second) == forwarded(third) == {**ONCE, "returned": 0})
        assert [len([*each.store.logs()]) for each in (first, second, third)] == [1, 1, 1]


def test_whom_a_request_has_passed_goes_on_with_it() -> None:
    with upstream() as other, CollectorServer(forward=Forwarder(other.url)) as collector:
        post(
            collector.http_port, "logs", BODIES["logs"], via="1.0 fred (an, old one), HTTP/2 p.example:80, x"
        )
        post(collector.http_port, "logs", BODIES["logs"], via=", ".join(["1.1 p"] * 16))
        collector.stop()

        (headers,) = other.headers
        assert re.fullmatch(
            "1.0 fred, HTTP/2 p.example:80, 1.1 tracekit-[0-9a-f]{16}", headers.get("via", "")
        )
        assert forwarded(collector)["dropped"] == {"too_many_hops": 1}
        assert len([*collector.store.logs()]) == 2


@contextmanager
def going_on(first: bytes, piece: bytes, pause_s: float) -> Iterator[str]:
    """The address of a collector whose answers have no end, as long as somebody reads them."""
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.close_connection = True
            with suppress(OSError):
                self.wfile.write(first)
                while not is_over.wait(pause_s):
                    self.wfile.write(piece)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            is_over.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("first", "piece", "pause_s", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nx-a: ", b"b", 0.02, "no end within 0.3 s"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n", b"x", 0.02, "no end within 0.3 s"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, "no end within 0.3 s"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0.0, "more came than an answer may have"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            b"x: y\r\n" * 1000,
            0.0,
            "more came than an answer may have",
        ),
    ],
)
def test_an_answer_that_never_ends_is_given_up_and_told(
    first: bytes, piece: bytes, pause_s: float, said: str
) -> None:
    with going_on(first, piece, pause_s) as url, forwarding_to(url, timeout_s=0.3) as forwarder:
        forwarder.add("traces", BODIES["traces"], "protobuf")
        until(forwarder.troubles, 5)

        (trouble,) = forwarder.troubles()
    assert trouble.startswith(f"forwarding to {url} fails: {said}. All is kept here")
    assert trouble.endswith("too slow, or no OTLP receiver: look at its log, or name another with --forward")


def test_an_other_side_that_reads_slowly_is_given_up_and_told() -> None:
    is_over = threading.Event()

    def drink(listening: socket.socket) -> None:
        with suppress(OSError):
            there, _ = listening.accept()
            with there:
                while not is_over.wait(0.05):
                    there.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=drink, args=(listening,))
        thread.start()
        with forwarding_to(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3) as forwarder:
            forwarder.add("traces", bytes(19_000_000), "protobuf")
            until(forwarder.troubles, 5)
        is_over.set()
        thread.join()
