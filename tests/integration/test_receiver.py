"""The receiver under senders that are slow, many, odd or hostile, and above a disk that does not go on."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import CollectorError, CollectorServer
from tracekit.model import Span
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.types import Receive, Scope, Send

GOOD = encode_spans([Span("1" * 32, "2" * 16, "send orders", 1, 2)])
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
