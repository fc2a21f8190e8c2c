"""A Jaeger as a source: what it is asked, and what is made of its answers; the real one is in tests/real."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from tracekit.model import Kind, Link, Service, Span
from tracekit.otlp import encode_spans
from tracekit.sources import JaegerSource, NotFoundError, SourceError
from tracekit.sources.jaeger import Jaeger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FLOW: Final = "9f3c1a7e00000000000000000000000a"
OTHER: Final = "0000000000000000000000000000000b"
NOW: Final = 1_795_528_931_000_000_000
ORDERS, BILLING = Service("orders"), Service("billing")
MARKED: Final = {"tracekit.flow.id": FLOW}
ENTRY: Final = Span(
    FLOW, "a" * 16, "POST /orders", NOW, NOW + 40, kind=Kind.SERVER, service=ORDERS, attributes=MARKED
)
SEND: Final = Span(
    FLOW, "b" * 16, "send orders", NOW + 5, NOW + 9, parent_id="a" * 16, kind=Kind.PRODUCER,
    service=ORDERS, attributes={**MARKED, "messaging.destination.name": "orders"},
)  # fmt: skip
APART: Final = Span(
    OTHER, "c" * 16, "process orders", NOW + 50, NOW + 70, kind=Kind.CONSUMER, service=BILLING,
    attributes={**MARKED, "messaging.destination.name": "orders"}, links=(Link(FLOW, "b" * 16),),
)  # fmt: skip
STRANGE: Final = replace(APART, trace_id="d" * 32, span_id="d" * 16, attributes={}, links=())


def result(*spans: Span) -> bytes:
    return json.dumps({"result": json.loads(encode_spans(spans, "json"))}).encode()


@contextmanager
def answering(answer: Callable[[str, dict[str, str]], tuple[int, bytes]]) -> Iterator[str]:
    """Where a server is that answers so to a path and its parameters."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body = answer(parts.path, {name: each[0] for name, each in parse_qs(parts.query).items()})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


NOT_FOUND: Final = (404, b'{"error":{"httpCode":404,"message":"No traces found"}}')


def jaeger(spans: Sequence[Span], *, filters: bool, asked: list[Any] | None = None) -> Any:
    """What a Jaeger with these spans answers; one of version 2.13 does not filter by attributes."""

    def answer(path: str, given: dict[str, str]) -> tuple[int, bytes]:
        if asked is not None:
            asked.append((path, given))
        if path == "/api/v3/services":
            names = sorted({span.service.name for span in spans})
            return 200, json.dumps({"services": names} if names else {}).encode()
        if path.startswith("/api/v3/traces/"):
            found = [span for span in spans if span.trace_id == path.rpartition("/")[2]]
            return (200, result(*found)) if found else NOT_FOUND
        service = given.get("query.service_name") or given.get("service")
        traces = {span.trace_id for span in spans if span.service.name == service}
        wanted = json.loads(given.get("query.attributes", "{}") if filters else given.get("tags", "{}"))
        for name, value in wanted.items():
            traces &= {span.trace_id for span in spans if span.attributes.get(name) == value}
        if path == "/api/traces":
            return 200, json.dumps({"data": [{"traceID": trace.lstrip("0")} for trace in traces]}).encode()
        found = [span for span in spans if span.trace_id in traces]
        return (200, result(*found)) if found else NOT_FOUND

    return answer


@pytest.mark.parametrize("filters", [True, False], ids=["by attributes", "as Jaeger 2.13"])
def test_a_flow_is_the_trace_of_its_entry_and_those_that_carry_its_id(filters: bool) -> None:
    with answering(jaeger([ENTRY, SEND, APART, STRANGE], filters=filters)) as url:
        flow = JaegerSource(url).flow(FLOW)

    assert (flow.spans, flow.breaks) == ((ENTRY, SEND, APART), ())
    assert [(edge.creation, edge.consuming) for edge in flow.edges] == [(SEND, APART)]


def test_it_is_asked_for_spans_as_they_came() -> None:
    asked: list[Any] = []
    with answering(jaeger([ENTRY], filters=True, asked=asked)) as url:
        JaegerSource(url).flow(FLOW)

    raw = {given.get("raw_traces", given.get("query.raw_traces")) for path, given in asked if "trac" in path}
    assert raw == {"true"}


def test_several_objects_are_one_answer() -> None:
    def answer(path: str, given: dict[str, str]) -> tuple[int, bytes]:
        return (200, b"{}") if path == "/api/v3/services" else (200, result(ENTRY) + b"\n" + result(SEND))

    with answering(answer) as url:
        assert JaegerSource(url).flow(FLOW).spans == (ENTRY, SEND)


def test_the_beginning_of_an_id_is_looked_for_among_the_latest() -> None:
    recent = replace(ENTRY, start_ns=time.time_ns(), end_ns=time.time_ns() + 9)
    with answering(jaeger([recent], filters=True)) as url:
        source = JaegerSource(url)
        assert source.flow("9F3C1A").id == FLOW
        with pytest.raises(
            NotFoundError, match=r"none of the latest flows .* begins with abcd; Jaeger finds"
        ):
            source.flow("abcd")


def test_a_list_goes_on_where_its_page_ended() -> None:
    traces = [
        replace(ENTRY, trace_id=f"{n:032x}", start_ns=NOW + n, end_ns=NOW + n + 1, attributes={})
        for n in range(1, 8)
    ]
    with answering(jaeger(traces, filters=True)) as url:
        source, pages, after = JaegerSource(url), list[str](), None
        while True:
            page = source.find("name = 'POST /orders'".replace("'", '"'), limit=3, after=after)
            pages += [flow.id for flow in page.flows]
            if (after := page.next) is None:
                break

    assert pages == [span.trace_id for span in reversed(traces)]


def test_what_is_done_is_told_once_and_again_when_it_grew() -> None:
    now = NOW + 10_000_000_000
    known: OrderedDict[str, int] = OrderedDict()
    spans = [ENTRY]
    with answering(lambda path, given: jaeger(spans, filters=True)(path, given)) as url:
        source = Jaeger(url, now_ns=lambda: now)
        first = [built.summary.spans for built in source.settled((), known)]
        again = [built.summary.spans for built in source.settled((), known)]
        spans.append(SEND)
        grown = [built.summary.spans for built in source.settled((), known)]
        spans.append(replace(APART, end_ns=now))  # under way a moment ago
        busy = [built.summary.spans for built in source.settled((), known)]

    assert (first, again, grown, busy) == ([1], [], [2], [])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b'{"services": 7}'), "is no Jaeger with its query API; say where that is: --server URL"),
        ((200, b"<html>"), "is no Jaeger with its query API; say where that is: --server URL"),
        ((404, b'{"error": "there is nothing here"}'), "is no Jaeger with its query API"),
        (
            (500, b'{"error": {"httpCode": 500, "message": "service name must be set"}}'),
            "service name must be set",
        ),
    ],
)
def test_what_is_no_jaeger_or_refuses_is_told(answer: tuple[int, bytes], said: str) -> None:
    with answering(lambda *_: answer) as url, pytest.raises(SourceError, match=said):
        JaegerSource(url).find("")


def test_a_query_that_cannot_be_read_is_told_by_its_cure() -> None:
    with pytest.raises(SourceError, match="no field is called `colour`"):
        JaegerSource().find("colour > 3")
