"""The receiver under senders that are slow, many, odd or hostile, and above a disk that does not go on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import json
import re
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn

import grpc
import psutil
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # its stubs lack py.typed
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # as above

from tracekit.collector import rpc
from tracekit.collector.intake import Intake
from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import MAX_CONNECTIONS, CollectorError, CollectorServer, _not_to_be_had
from tracekit.model import Span
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.types import Receive, Scope, Send

    from tracekit.otlp import Encoding

SPANS = [Span("1" * 32, "2" * 16, "send orders", 1, 2)]
GOOD = encode_spans(SPANS)
HEAD = b"POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-protobuf\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sender:
        yield sender


def statuses(sender: socket.socket, number: int) -> list[int]:
    """The statuses of the next answers."""
    heard = b""
    while len(found := re.findall(rb"HTTP/1\.1 (\d+) ", heard)) < number:
        piece = sender.recv(65536)
        assert piece, f"closed after {heard!r}"
        heard += piece
    return [int(status) for status in found]


def is_cut(sender: socket.socket) -> bool:
    try:
        while sender.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


# What HTTP/1.1 allows


def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(WHOLE + WHOLE.replace(b"/v1/traces", b"/v1/nothin") + WHOLE)

        assert statuses(sender, 3) == [200, 404, 200]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/", 404, "there is nothing here; send to /v1/traces, /v1/logs, /v1/metrics. To read what came: "),
        ("/v1/traces", 405, "programs send traces here, by POST. To read what came: `tracekit flows`, or "),
    ],
)
def test_who_looks_with_a_browser_is_told_where_to_read(path: str, status: int, said: str) -> None:
    with CollectorServer() as collector:
        asked = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=30)
        with closing(asked):
            asked.request("GET", path)
            answer = asked.getresponse()
            told = json.loads(answer.read())["message"]

    assert answer.status == status
    assert told.startswith(said)


def test_a_sender_that_is_too_far_ahead_is_cut_off() -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(b"GET / HTTP/1.1\r\n\r\n" * 5000)

        assert is_cut(sender)


def test_nonsense_behind_a_request_is_no_answer_to_it() -> None:
    with CollectorServer(BlockedStore()) as collector, connected(collector.http_port) as sender:
        sender.sendall(WHOLE)
        blocked(collector).entered.wait(30)
        sender.sendall(b"\xff\xff\xff")

        assert is_cut(sender)  # and never a 400
        blocked(collector).go_on.set()


def test_a_body_in_chunks_is_taken_in() -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for byte in GOOD:
            sender.sendall(b"1;x=y\r\n%c\r\n" % byte)
        sender.sendall(b"0\r\nx-checksum: 7\r\n\r\n" + WHOLE)

        assert statuses(sender, 2) == [200, 200]


def test_a_sender_that_asks_first_is_told_to_go_on() -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(GOOD))
        assert sender.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sender.sendall(GOOD)

        assert statuses(sender, 1) == [200]


def test_a_sender_that_asks_first_need_not_send_what_is_too_large() -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 999999999\r\n\r\n")

        assert statuses(sender, 1) == [413]
        assert is_cut(sender)  # else what it sends next would be taken for the body


@pytest.mark.parametrize(
    ("codings", "status"), [(b"chunked", 200), (b"Chunked ", 200), (b"gzip, chunked", 501), (b"gzip", 501)]
)
def test_of_transfer_codings_there_is_one(codings: bytes, status: int) -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(HEAD + b"transfer-encoding: %s\r\n\r\n" % codings)
        sender.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD))

        assert statuses(sender, 1) == [status]


@pytest.mark.parametrize("ahead", [1, 5])
def test_a_sender_that_closes_its_side_is_answered_and_then_closed(ahead: int) -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(WHOLE * ahead)
        sender.shutdown(socket.SHUT_WR)

        assert statuses(sender, ahead) == [200] * ahead
        assert is_cut(sender)


@pytest.mark.parametrize("part", [WHOLE[:20], WHOLE[:-1]], ids=["headers", "body"])
def test_a_sender_that_closes_its_side_in_the_middle_is_answered_what_was_whole(part: bytes) -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(WHOLE * 3 + part)
        sender.shutdown(socket.SHUT_WR)

        assert statuses(sender, 3) == [200] * 3
        assert sender.recv(100) == b""


def test_a_sender_that_closes_its_side_in_the_middle_is_cut_off() -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sender.sendall(WHOLE[:-1])
        sender.shutdown(socket.SHUT_WR)

        assert sender.recv(100) == b""


def test_a_sender_that_offers_another_protocol_is_served_in_this_one() -> None:
    # As Java's client does where it may use HTTP/2.
    offer = HEAD + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        for _ in range(2):
            sender.sendall(offer + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD)
            assert statuses(sender, 1) == [200]


# Bounds of a connection


@pytest.mark.parametrize(
    ("begin", "further"),
    [
        (b"POST /", b"x" * 1000),
        (HEAD, b"a: b\r\n" * 100),
        (HEAD + b"x: ", b"x" * 1000),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"x" * 1000),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1;" + b"x" * 1000),
    ],
    ids=["path", "headers", "header", "trailer", "chunk extension"],
)
def test_what_is_no_body_is_bounded(begin: bytes, further: bytes) -> None:
    with CollectorServer() as collector, connected(collector.http_port) as sender:
        sent = 0
        try:
            sender.sendall(begin)
            while sent < 4_000_000:
                sender.sendall(further)
                sent += len(further)
        except ConnectionError:
            pass
        # What loopback holds, and what is read at once, is on its way when it closes.
        assert sent < 4_000_000


def test_a_sender_that_behaves_gets_through_among_a_crowd_that_does_not() -> None:
    with CollectorServer(max_connections=20) as collector, ExitStack() as opened:
        for number in range(60):
            idle = opened.enter_context(connected(collector.http_port))
            idle.sendall(HEAD[: number % len(HEAD)])

        with connected(collector.http_port) as sender:
            sender.sendall(WHOLE)
            assert statuses(sender, 1) == [200]


def test_a_connection_that_is_being_served_makes_no_room() -> None:
    with CollectorServer(BlockedStore(), max_connections=2) as collector, ExitStack() as opened:
        served = [opened.enter_context(connected(collector.http_port)) for _ in range(2)]
        for sender in served:
            sender.sendall(WHOLE)
        blocked(collector).entered.wait(30)
        with connected(collector.http_port) as late:
            assert statuses(late, 1) == [503]
        blocked(collector).go_on.set()

        assert [statuses(sender, 1) for sender in served] == [[200], [200]]


# A store that does not go on


class BlockedStore(MemoryStore):
    """A store whose disk does not answer, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def add_spans(self, spans: Sequence[Span]) -> None:
        self.entered.set()
        assert self.go_on.wait(60)
        super().add_spans(spans)


def blocked(collector: CollectorServer) -> BlockedStore:
    assert isinstance(collector.store, BlockedStore)
    return collector.store


def test_a_disk_that_does_not_answer_holds_up_no_connection() -> None:
    with CollectorServer(BlockedStore()) as collector, connected(collector.http_port) as waits:
        waits.sendall(WHOLE)
        blocked(collector).entered.wait(30)
        with connected(collector.http_port) as other:
            other.sendall(WHOLE.replace(b"/v1/traces", b"/v1/nothin"))
            assert statuses(other, 1) == [404]
        blocked(collector).go_on.set()

        assert statuses(waits, 1) == [200]


def test_it_stops_though_the_disk_does_not_answer() -> None:
    store = BlockedStore()
    with CollectorServer(store) as collector, connected(collector.http_port) as waits:
        waits.sendall(WHOLE)
        store.entered.wait(30)
        collector.stop()

        answer = http.client.HTTPResponse(waits)
        answer.begin()
        assert (answer.status, answer.getheader("retry-after")) == (503, "2")
        store.go_on.set()


# Pages


class Pages:
    """A page that answers, one that blocks its loop, one that goes on for long, and one that is large."""

    def __init__(self) -> None:
        self.blocks = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(body: bytes) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/blocks":
            self.blocks.set()
            assert self.go_on.wait(60)
        elif scope["path"] == "/events":
            for _ in range(15):
                await say(b".")
                await asyncio.sleep(0.1)
        elif scope["path"] == "/large":
            await say(bytes(10_000_000))
            await say(b"")  # waits for the reader
            self.ended.set()
        await send({"type": "http.response.body", "body": scope["path"].encode()})


def get(collector: CollectorServer, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", collector.pages_port, timeout=30)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


def test_pages_have_a_port_of_their_own() -> None:
    with CollectorServer(pages=Pages()) as collector:
        assert get(collector, "/one") == b"/one"
        assert collector.pages_endpoint == f"http://127.0.0.1:{collector.pages_port}"
        assert len({collector.http_port, collector.grpc_port, collector.pages_port}) == 3


def test_without_pages_there_is_no_third_port() -> None:
    with CollectorServer() as collector:
        assert collector.pages_port == 0


def test_a_page_that_blocks_holds_up_no_telemetry() -> None:
    pages = Pages()
    with CollectorServer(pages=pages) as collector, connected(collector.pages_port) as reader:
        reader.sendall(b"GET /blocks HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert pages.blocks.wait(30)
        with connected(collector.http_port) as sender:
            sender.sendall(WHOLE)
            assert statuses(sender, 1) == [200]
        pages.go_on.set()

        assert statuses(reader, 1) == [200]


def test_a_port_of_pages_that_is_taken_is_an_error_with_its_cure() -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CollectorError, match=rf"127\.0\.0\.1 port {port}.*in use.*0 takes a free one"):
            CollectorServer(pages=Pages(), pages_port=port).start()

    assert not set(threading.enumerate()) - before


def test_a_port_that_only_root_may_have_is_told_as_such() -> None:
    refused = _not_to_be_had("127.0.0.1", 80, "--port", PermissionError(errno.EACCES, "Permission denied"))

    assert str(refused) == (
        "this user may not listen on port 80: give it one from 1024 on with --port (0 takes a free one)"
    )


def test_a_page_that_nobody_reads_is_cut_off() -> None:
    pages = Pages()
    with (
        CollectorServer(pages=pages, request_timeout_s=1) as collector,
        connected(collector.pages_port) as reader,
    ):
        reader.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")

        assert pages.ended.wait(30)


def test_a_page_that_goes_on_is_not_cut_off() -> None:
    with CollectorServer(pages=Pages(), request_timeout_s=1) as collector:
        assert get(collector, "/events") == b"." * 15 + b"/events"


# Answers in OTLP's own words


class FullDisk(MemoryStore):
    def add_spans(self, spans: Sequence[Span]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def post(
    collector: CollectorServer, body: bytes, content_type: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=30)
    connection.request("POST", "/v1/traces", body, {"content-type": content_type})
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer, read


@pytest.mark.parametrize("content_type", ["application/x-protobuf", "application/json"])
def test_a_full_disk_is_a_503_that_says_when_to_come_again(content_type: str) -> None:
    with CollectorServer(FullDisk()) as collector:
        encoding: Encoding = "json" if content_type.endswith("json") else "protobuf"
        answer, body = post(collector, encode_spans(SPANS, encoding), content_type)

    status = Status.FromString(body) if encoding == "protobuf" else json_format.Parse(body, Status())
    retry = RetryInfo()
    assert status.details[0].Unpack(retry)
    assert (answer.status, answer.getheader("content-type")) == (503, content_type)
    assert (answer.getheader("retry-after"), retry.retry_delay.seconds) == ("2", 2)
    assert (status.code, "No space left on device" in status.message) == (14, True)


@pytest.mark.parametrize(
    ("body", "content_type", "answer"),
    [(b"", "application/x-protobuf", b""), (b"{}", "application/json", b"{}")],
)
def test_a_request_that_holds_nothing_is_a_success(body: bytes, content_type: str, answer: bytes) -> None:
    with CollectorServer() as collector:
        answered, read = post(collector, body, content_type)

        assert (answered.status, read) == (200, answer)


def retry_of(error: grpc.RpcError) -> int:
    """After how many seconds a failed call may be sent again; 0 where it must not."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    retry = RetryInfo()
    if (status := Status.FromString(details)).details:
        status.details[0].Unpack(retry)
    assert status.code == error.code().value[0]
    return int(retry.retry_delay.seconds)


def test_a_full_disk_over_grpc_is_unavailable_and_says_when_to_come_again() -> None:
    with CollectorServer(FullDisk()) as collector, channel(collector) as export:
        with pytest.raises(grpc.RpcError) as full:
            export(GOOD)
        with pytest.raises(grpc.RpcError) as unreadable:
            export(b"\xff")

        assert (full.value.code(), retry_of(full.value)) == (grpc.StatusCode.UNAVAILABLE, 2)
        assert (unreadable.value.code(), retry_of(unreadable.value)) == (grpc.StatusCode.INVALID_ARGUMENT, 0)


@contextmanager
def channel(to: CollectorServer | Throttled) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    port = to.port if isinstance(to, Throttled) else to.grpc_port
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as opened:
        yield opened.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")


def test_calls_over_grpc_that_do_not_fit_in_are_told_to_come_again_at_once() -> None:
    with CollectorServer(BlockedStore()) as collector, ExitStack() as opened:
        exports = [opened.enter_context(channel(collector)) for _ in range(3)]
        calls = [export.future(GOOD, timeout=60) for export in exports for _ in range(45)]
        refused = [call for _, call in zip(range(27), as_completed(calls), strict=False)]
        blocked(collector).go_on.set()

        # So many had a turn, or waited for one.
        codes = Counter(call.code() for call in calls)
        assert {retry_of(call) for call in refused} == {2}
    assert codes == {grpc.StatusCode.OK: 108, grpc.StatusCode.UNAVAILABLE: 27}


def test_more_calls_than_are_ever_kept_are_told_to_come_again() -> None:
    with CollectorServer(BlockedStore()) as collector, ExitStack() as opened:
        exports = [opened.enter_context(channel(collector)) for _ in range(10)]
        calls = [export.future(GOOD, timeout=60) for export in exports for _ in range(60)]
        refused = [call for _, call in zip(range(492), as_completed(calls), strict=False)]
        blocked(collector).go_on.set()

        assert {(call.code(), retry_of(call)) for call in refused} == {(grpc.StatusCode.UNAVAILABLE, 2)}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def half_calls(number: int) -> bytes:
    """So many calls on one connection, each with the begin of its message."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(bytes([0, len(k)]) + k + bytes([len(v)]) + v for k, v in headers.items())
    begin = b"\0" + (1 << 20).to_bytes(4, "big") + b"x" * 100
    calls = (frame(1, 4, 2 * at + 1, block) + frame(0, 0, 2 * at + 1, begin) for at in range(number))
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + b"".join(calls)


@pytest.mark.parametrize(("connections", "each"), [(1, 10), (20, 90)])
def test_calls_whose_message_does_not_come_keep_nobody_out(connections: int, each: int) -> None:
    with CollectorServer() as collector, ExitStack() as opened:
        for _ in range(connections):
            opened.enter_context(connected(collector.grpc_port)).sendall(half_calls(each))
        export = opened.enter_context(channel(collector))

        assert export(GOOD, timeout=4) == b""


class Throttled:
    """A line for many senders, each of which gets so many bytes a second through to the port."""

    def __init__(self, port: int, bytes_per_s: int) -> None:
        self._port = port
        self._bytes_per_s = bytes_per_s
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sender, _ = self._listening.accept()
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
                receiver = socket.create_connection(("127.0.0.1", self._port))
                for one, other, pause_s in ((sender, receiver, 0.02), (receiver, sender, 0.0)):
                    self._threads.append(threading.Thread(target=self._pass, args=(one, other, pause_s)))
                    self._threads[-1].start()

    def _pass(self, one: socket.socket, other: socket.socket, pause_s: float) -> None:
        with contextlib.suppress(OSError), closing(one):
            while piece := one.recv(int(self._bytes_per_s * 0.02)):
                other.sendall(piece)
                threading.Event().wait(pause_s)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Throttled:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(30)


def test_senders_on_slow_lines_do_not_take_each_others_turns() -> None:
    large = encode_spans([Span("1" * 32, "2" * 16, "x" * 300_000, 1, 2)])
    with (
        CollectorServer() as collector,
        Throttled(collector.grpc_port, 200_000) as line,
        ExitStack() as opened,
    ):
        exports = [opened.enter_context(channel(line)) for _ in range(20)]
        calls = [export.future(large, timeout=20) for export in exports]

        assert Counter(call.code() for call in calls) == {grpc.StatusCode.OK: 20}


@pytest.mark.parametrize(
    ("error", "code", "retry_s"),
    [
        (CancelledError(), grpc.StatusCode.UNAVAILABLE, 2),  # as where it stops
        (LookupError("a bug"), grpc.StatusCode.INTERNAL, 0),
    ],
)
def test_a_call_that_fails_inside_is_answered_and_gives_its_turn_back(
    error: Exception, code: grpc.StatusCode, retry_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_in(*_: object) -> bytes:
        raise error

    with CollectorServer() as collector, channel(collector) as export:
        with monkeypatch.context() as failing:
            failing.setattr(Intake, "take_in", take_in)
            calls = [export.future(GOOD, timeout=10) for _ in range(100)]
            assert {(call.code(), retry_of(call)) for call in calls} == {(code, retry_s)}

        assert export(GOOD, timeout=4) == b""


def test_a_call_at_which_its_thread_fails_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def via(*_: object) -> NoReturn:
        raise LookupError("a bug")

    with CollectorServer() as collector, channel(collector) as export:
        with monkeypatch.context() as failing:
            failing.setattr(rpc, "Via", via)
            with pytest.raises(grpc.RpcError):
                export(GOOD, timeout=1)

        assert export(GOOD, timeout=4) == b""
    assert [record.message for record in caplog.records] == [
        "tracekit: the collector fails at a call over gRPC, and goes on (1 in all): LookupError"
    ]


def test_calls_whose_message_does_not_come_cost_no_thread() -> None:
    with CollectorServer() as collector, connected(collector.grpc_port) as sender:
        before = threading.active_count()
        sender.sendall(half_calls(90))
        with channel(collector) as export:
            export(GOOD, timeout=4)

            assert threading.active_count() <= before + 3  # that served it, and the client's


def test_a_call_whose_message_does_not_come_in_time_is_told_to_come_again() -> None:
    with CollectorServer(request_timeout_s=1) as collector, connected(collector.grpc_port) as sender:
        sender.sendall(half_calls(1))
        heard = b""
        while b"did not come in time" not in heard:
            piece = sender.recv(65536)
            assert piece, heard
            heard += piece

        assert collector.status()["refused"] == {"503": 1}


def as_completed(calls: list[grpc.Future]) -> Iterator[grpc.Future]:
    done: SimpleQueue[grpc.Future] = SimpleQueue()
    for call in calls:
        call.add_done_callback(done.put)
    for _ in calls:
        yield done.get(timeout=30)


# A disk that is full


def test_what_a_full_disk_refuses_is_told_and_what_was_answered_is_there(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.integration.receiver_on_a_full_disk", str(tmp_path / "data")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = json.loads(run.stdout)

    assert {*map(tuple, said["full"])} == {(200, None), (503, "2")}
    assert {*map(tuple, said["freed"])} == {(200, None)}
    taken = [number for number, (status, _) in enumerate(said["full"] + said["freed"]) if status == 200]
    assert (said["found"], said["spans"]) == (taken, 100 * len(taken))
    assert said["refused"] == {"503": 80 - len(taken)}
    assert run.stderr.count("the collector's store fails") == 1


# A thousand connections

CROWD = """
import resource, socket, sys
port, number = int(sys.argv[1]), int(sys.argv[2])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
senders = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(number)]
for at, sender in enumerate(senders):
    try:
        sender.sendall(b"POST /v1/traces HTTP/1.1\\r\\n"[: at % 20])
    except ConnectionError:
        pass
print("there", flush=True)
sys.stdin.read()
"""


def test_among_a_thousand_connections_senders_that_behave_get_through() -> None:
    with (
        CollectorServer() as collector,
        subprocess.Popen(
            [sys.executable, "-c", CROWD, str(collector.http_port), "1000"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as crowd,
    ):
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"there\n"
        for _ in range(3):
            with connected(collector.http_port) as sender:
                sender.sendall(WHOLE)
                assert statuses(sender, 1) == [200]
        open_now = [found for found in psutil.Process().net_connections() if found.status == "ESTABLISHED"]
        here = [found for found in open_now if found.laddr.port == collector.http_port]
        assert len(here) <= MAX_CONNECTIONS
        crowd.communicate(timeout=30)


def test_after_a_crowd_that_says_nothing_senders_over_grpc_get_through() -> None:
    with CollectorServer(max_connections=20, request_timeout_s=1) as collector, ExitStack() as opened:
        for _ in range(60):
            opened.enter_context(connected(collector.grpc_port))
        export = opened.enter_context(channel(collector))

        assert export(GOOD, timeout=30, wait_for_ready=True) == b""


def test_a_process_of_its_own_may_have_more_connections() -> None:
    script = (
        "import resource; from tracekit.collector.server import connections_alone;"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(connections_alone(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script.format(soft=soft, hard=hard)], capture_output=True, check=True
        ).stdout.split()
        for soft, hard in ((512, "hard"), (512, 1024))
    ]

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert said[0] == (
        [b"1000", b"8192"] if hard < 0 or hard >= 8192 else [b"%d" % ((hard - 250) // 3), b"%d" % hard]
    )
    assert said[1] == [b"258", b"1024"]
