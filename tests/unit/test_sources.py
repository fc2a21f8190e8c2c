"""Sources: what is made of a server's answers, whoever that is."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import TYPE_CHECKING, Final

import pytest

from tracekit.collector.archive import Page, Summary
from tracekit.sources import (
    ApiSource,
    JaegerSource,
    NotFoundError,
    Notice,
    NotReachedError,
    SourceError,
    api,
    web,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOW_ID: Final = "9f3c1a7e00000000000000000000000a"
SUMMARY: Final[dict[str, object]] = {
    "id": FLOW_ID,
    "name": "POST /orders",
    "service": "orders",
    "start_ns": "1795528931000000000",
    "response_ns": None,
    "completion_ns": 2630000000,
    "services": ["orders", "payment"],
    "is_settled": True,
}
KNOWN: Final = Summary(
    id=FLOW_ID,
    name="POST /orders",
    service="orders",
    start_ns=1795528931000000000,
    response_ns=None,
    completion_ns=2630000000,
    services=("orders", "payment"),
    is_settled=True,
)


@contextmanager
def answering(*answers: bytes) -> Iterator[ApiSource]:
    """A server that gives these bytes, one a connection, whatever it is asked, and then hangs up."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            self.parse_request()
            self.wfile.write(left.pop(0))
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield ApiSource(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def answer(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


def as_json(document: object) -> bytes:
    return answer(json.dumps(document).encode())


def stream(*events: tuple[str, object]) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n"
    return head + b"".join(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in events)


@pytest.mark.parametrize(
    "url", ["", "localhost:4320", "ftp://here", "http://", "http://x:port", "http://x:0"]
)
def test_what_is_no_address_is_refused_with_one_that_is(url: str) -> None:
    with pytest.raises(SourceError) as refused:
        ApiSource(url)

    assert str(refused.value) == f"{url!r} is no address of a server; it looks like http://127.0.0.1:4320"


@pytest.mark.parametrize("url", ["http://127.0.0.1:", "https://[::1]:/", "http://me@here:/tracekit"])
def test_an_address_that_ends_where_its_port_should_be_is_told_so(url: str) -> None:
    with pytest.raises(SourceError) as refused:
        ApiSource(url)

    assert str(refused.value) == (
        f"the port is missing in {url!r}, behind its colon; it looks like http://127.0.0.1:4320"
    )


def test_where_nobody_answers_it_says_what_to_start() -> None:
    with pytest.raises(NotReachedError) as failed:
        ApiSource("http://127.0.0.1:1").find("")

    assert str(failed.value) == (
        "nobody answers at http://127.0.0.1:1 (Connection refused). Start it: tracekit serve; "
        "or say where it is: --server URL"
    )


def test_a_page_is_read_with_its_moments_whole_and_what_it_lacks_by_default() -> None:
    newer = {**SUMMARY, "invented_later": {"by": "us"}}
    with answering(as_json({"flows": [newer], "next": "c1"})) as source:
        assert source.find("error", limit=7) == Page((KNOWN,), "c1")


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"flows": {}, "next": None},
        {"flows": [], "next": 3},
        {"flows": [None], "next": None},
        {"flows": [{**SUMMARY, "id": 7}], "next": None},
        {"flows": [{**SUMMARY, "start_ns": "soon"}], "next": None},
        {"flows": [{"id": FLOW_ID}], "next": None},
        {"flows": [{**SUMMARY, "completion_ns": float("inf")}], "next": None},
    ],
)
def test_an_answer_of_another_shape_is_somebody_else_s(document: object) -> None:
    with answering(as_json(document)) as source, pytest.raises(SourceError, match="is no `tracekit serve`"):
        source.find("")


def test_a_server_of_another_kind_is_named_with_its_answer() -> None:
    page = answer(b"<h1>Not Found</h1>", "404 Not Found")
    with answering(page) as source, pytest.raises(SourceError, match=r"\(404 Not Found\); say where"):
        source.find("")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("404 Not Found", NotFoundError),
        ("409 Conflict", SourceError),
        ("503 Service Unavailable", NotReachedError),
    ],
)
def test_a_refusal_is_in_the_server_s_own_words(status: str, kind: type[SourceError]) -> None:
    refusal = answer(b'{"error": "there is no flow abcd; look at /api/flows"}', status)
    with answering(refusal) as source, pytest.raises(SourceError) as refused:
        source.document("abcd")

    assert type(refused.value) is kind
    assert str(refused.value) == "there is no flow abcd; look at /api/flows"


@pytest.mark.parametrize("said", [b"\x00\x00\x1e\x04\x00" * 9, b"SSH-2.0-OpenSSH\r\n"])
def test_a_server_that_speaks_no_http_is_named_without_what_it_said(said: bytes) -> None:
    with answering(said) as source, pytest.raises(SourceError) as failed:
        source.find("")

    assert str(failed.value) == (
        f"what answers at {source.url} is no `tracekit serve` of this version (no HTTP, or none that can be "
        "read); say where that is: --server URL"
    )


def test_a_server_that_hangs_up_is_not_reached() -> None:
    with answering(b"") as source, pytest.raises(
        NotReachedError, match=r"hangs up on HTTP .*: it may be a port for gRPC. Say where .*, such as http://"
    ):  # fmt: skip
        source.find("")


def test_a_server_that_is_silent_runs_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NotReachedError) as error:
            ApiSource(url, silence_s=0.1).find("")

    assert str(error.value) == (
        f"{url} did not answer within 0.1 s: it is busy, or hangs. Try it again, or look at its log; or say "
        "what else to ask: --server URL"
    )


def test_a_jaeger_is_named_with_the_option_that_reads_it() -> None:
    page = b"<!doctype html><title>Jaeger UI</title>"
    with answering(answer(page)) as source, pytest.raises(SourceError) as error:
        source.find("")
    with answering(answer(page)) as source, pytest.raises(SourceError) as same:
        JaegerSource(source.url).find("")

    assert str(error.value) == (
        f"what answers at {error.value.args[0].split()[3]} is no `tracekit serve` of this version, but a "
        "Jaeger, it seems: `flow`, `flows` and `tail` read one with --source jaeger; say where that is: "
        "--server URL"
    )
    assert "is no Jaeger with its query API; say where" in str(same.value)


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    cut = answer(b'{"flows": []', length=1000)
    with answering(cut) as source, pytest.raises(NotReachedError, match="broke off in the middle"):
        source.find("")


def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_ANSWER_BYTES", 2**20)
    endless = answer(b" " * 2**21)
    with answering(endless) as source, pytest.raises(SourceError, match="answers more than 1 MiB"):
        source.find("")


ENDLESS: Final = {
    "a header, byte by byte": (b"HTTP/1.1 200 OK\r\nx-a: ", b"b", 0.02),
    "headers, one by one": (b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n", 0.02),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0),
    "one header": (b"HTTP/1.1 200 OK\r\nx-a: ", b"b" * 4096, 0.0),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n", 0.0),
    "a body, byte by byte": (b"HTTP/1.1 200 OK\r\n\r\n", b" ", 0.02),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n", 0.02),
    "a refusal": (b"HTTP/1.1 400 Bad\r\n\r\n", b" ", 0.02),
    "a redirect": (b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", b" ", 0.02),
}


@contextmanager
def going_on(first: bytes, piece: bytes, pause_s: float) -> Iterator[ApiSource]:
    """A server whose answers have no end, as long as somebody reads them; fails where that is too long."""
    is_over = threading.Event()
    by = time.monotonic() + 5

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            self.parse_request()
            self.close_connection = True
            with suppress(OSError):
                self.wfile.write(first)
                while not is_over.wait(pause_s) and time.monotonic() < by:
                    self.wfile.write(piece)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield ApiSource(f"http://127.0.0.1:{server.server_port}")
        finally:
            is_over.set()
            server.shutdown()
            thread.join()
    assert time.monotonic() < by


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_left_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, endless: tuple[bytes, bytes, float]
) -> None:
    monkeypatch.setattr(web, "_ANSWER_S", 0.5)
    with going_on(*endless) as source, pytest.raises(SourceError, match="--server URL"):
        source.find("")


@pytest.mark.parametrize("endless", [*ENDLESS][:5])
def test_who_follows_waits_for_the_first_event_but_not_for_headers_without_end(
    monkeypatch: pytest.MonkeyPatch, endless: str
) -> None:
    monkeypatch.setattr(web, "_ANSWER_S", 0.5)
    with going_on(*ENDLESS[endless]) as source, pytest.raises(SourceError, match="--server URL"):
        next(source.follow(""))


def test_a_stream_may_be_silent_for_longer_than_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_ANSWER_S", 1.0)
    event = f"event: flow\ndata: {json.dumps(SUMMARY)}\n\n".encode()
    with going_on(stream(), event, 1.2) as source:
        assert next(source.follow("")) == KNOWN


def test_a_line_of_a_stream_without_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_SILENCE_S", 0.3)
    with going_on(stream(), b"x", 0.02) as source:
        told = next(source.follow(""))

    assert told == Notice(f"the connection to {source.url} was lost; trying again")


def test_a_redirect_is_followed_by_http_alone() -> None:
    there = answer(b"", "302 Found\r\nlocation: ftp://127.0.0.1:1/")
    with answering(there) as source, pytest.raises(SourceError, match="302 Found"):
        source.find("")
    here = answer(b"", "302 Found\r\nlocation: /elsewhere")
    with answering(here, as_json({"flows": [], "next": None})) as source:
        assert source.find("") == Page(())


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(as_json({"flows": [], "next": None})) as source:
        assert source.find("") == Page(())


def test_followed_flows_come_as_they_settle_over_a_lost_connection_too() -> None:
    first, second = (
        stream(("status", {}), ("flow", SUMMARY)),
        stream(("lost", {"lost": None}), ("flow", SUMMARY), ("lost", {"lost": 3})),
    )
    with answering(first, b"", second) as source:
        told = list(islice(source.follow(""), 6))

    assert told == [
        KNOWN,
        Notice(f"the connection to {source.url} was lost; trying again"),
        Notice("connected again"),
        Notice("what settled meanwhile was not told; `tracekit flows` has it"),
        KNOWN,
        Notice("3 flows were not told: too many at once; `tracekit flows` has them"),
    ]


def test_who_follows_learns_at_once_that_nobody_answers() -> None:
    with pytest.raises(NotReachedError):
        next(ApiSource("http://127.0.0.1:1").follow(""))


@pytest.mark.parametrize("endless", [b"data: " + b"x" * 2000 + b"\n\n", 300 * b"data: x\n" + b"\n"])
def test_an_event_without_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch, endless: bytes) -> None:
    monkeypatch.setattr(api, "_MAX_EVENT_BYTES", 1000)
    endless = stream() + endless
    with answering(endless, stream(("flow", SUMMARY))) as source:
        told = list(islice(source.follow(""), 3))

    assert told[2] == KNOWN


@pytest.mark.parametrize("id_", [b"a\rX: y", "€".encode(), b"\0", b"-1"], ids=repr)
def test_an_id_of_an_event_that_is_none_is_not_sent_back(id_: bytes) -> None:
    first = stream() + b"id: " + id_ + b"\nevent: flow\ndata: " + json.dumps(SUMMARY).encode() + b"\n\n"
    with answering(first, stream(("flow", SUMMARY))) as source:
        told = list(islice(source.follow(""), 4))

    assert (told[0], told[3]) == (KNOWN, KNOWN)


@pytest.mark.parametrize("field", ["completion_ns", "response_ns", "start_ns"])
def test_a_number_that_is_none_of_64_bits_is_somebody_else_s(field: str) -> None:
    row = {**SUMMARY, field: 10**400}
    answers = answering(as_json({"flows": [row], "next": None}))
    with answers as source, pytest.raises(SourceError, match="is no `tracekit serve`"):
        source.find("")
