"""A Jaeger as a source: what it is asked, and what is made of its answers; the real one is in tests/real."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from tracekit.flow.search import parse
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


def jaeger(
    spans: Sequence[Span], *, filters: bool = False, tags: bool = True, asked: list[Any] | None = None
) -> Any:
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
        if path == "/api/traces":
            if not tags:
                return 404, b'{"error": "there is nothing here"}'
            since, until = int(given["start"]) * 1000, int(given["end"]) * 1000
            wanted, most = json.loads(given["tags"]), int(given["limit"])
        else:
            since, until = (
                int(datetime.fromisoformat(given[f"query.start_time_{end}"]).timestamp() * 1e6) * 1000
                for end in ("min", "max")
            )
            wanted = json.loads(given.get("query.attributes", "{}")) if filters else {}
            most = int(given["query.num_traces"])
        service = given.get("query.service_name") or given.get("service")
        meeting = [
            span
            for span in spans
            if span.service.name == service
            and since <= span.start_ns <= until + 999
            and all(span.attributes.get(name) == value for name, value in wanted.items())
        ]
        meeting.sort(key=lambda span: -span.start_ns)
        traces = [*dict.fromkeys(span.trace_id for span in meeting)][:most]
        if path == "/api/traces":
            return 200, json.dumps({"data": [{"traceID": trace.lstrip("0")} for trace in traces]}).encode()
        found = [span for span in spans if span.trace_id in traces]
        return (200, result(*found)) if found else NOT_FOUND

    return answer


def orders(number: int, *, apart_ns: int = 1_000_000_000, until_ns: int = NOW) -> list[Span]:
    """So many orders, each of an entry and a span of another service in a trace of its own, over a link."""
    found = []
    for n in range(1, number + 1):
        start_ns, flow_id = until_ns - (number - n) * apart_ns - 1000, f"{n:032x}"
        marked = {"tracekit.flow.id": flow_id}
        entry = replace(ENTRY, trace_id=flow_id, start_ns=start_ns, end_ns=start_ns + 40, attributes=marked)
        send = replace(SEND, trace_id=flow_id, start_ns=start_ns + 5, end_ns=start_ns + 9,
                       attributes={**SEND.attributes, **marked})  # fmt: skip
        apart = replace(
            APART, trace_id=f"{n + 0xF000:032x}", start_ns=start_ns + 50, end_ns=start_ns + 70,
            attributes={**APART.attributes, **marked, "order.id": str(n)},
            links=(Link(flow_id, "b" * 16, marked),),
        )  # fmt: skip
        found += [entry, send, apart]
    return found


def known(url: str, now_ns: int = NOW + 10_000_000_000) -> Jaeger:
    return Jaeger(url, now_ns=lambda: now_ns)


@pytest.mark.parametrize(
    ("tags", "filters"),
    [(True, False), (False, True), (False, False)],
    ids=["by tags, as Jaeger 2.13", "by attributes", "by neither"],
)
def test_a_flow_is_the_trace_of_its_entry_and_those_that_carry_its_id(tags: bool, filters: bool) -> None:
    with answering(jaeger([ENTRY, SEND, APART, STRANGE], tags=tags, filters=filters)) as url:
        flow = JaegerSource(url).flow(FLOW)

    assert (flow.spans, flow.breaks) == ((ENTRY, SEND, APART), ())
    assert [(edge.creation, edge.consuming) for edge in flow.edges] == [(SEND, APART)]


def test_it_is_asked_for_spans_as_they_came() -> None:
    asked: list[Any] = []
    with answering(jaeger([ENTRY], filters=True, asked=asked)) as url:
        JaegerSource(url).flow(FLOW)

    raw = {
        given.get("raw_traces", given.get("query.raw_traces")) for path, given in asked if "v3/traces" in path
    }
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


def pages(jaeger: Jaeger, query: str, limit: int) -> list[list[str]]:
    found: list[list[str]] = []
    after: str | None = None
    while not found or after is not None:
        page = jaeger.find(parse(query), limit, after)
        found.append([flow.id for flow in page.flows])
        after = page.next
    return found


def test_a_list_goes_on_where_its_page_ended() -> None:
    spans = orders(7)
    with answering(jaeger(spans)) as url:
        found = pages(known(url), 'name = "POST /orders"', 3)

    latest = [f"{n:032x}" for n in range(7, 0, -1)]
    assert found == [latest[:3], latest[3:6], latest[6:]]


def test_a_flow_over_links_is_listed_and_found_whole() -> None:
    with answering(jaeger([ENTRY, SEND, APART])) as url:
        (whole,) = known(url).find(parse("service=billing"), 5, None).flows
        (slow,) = known(url).find(parse("waited > 40ns service=billing"), 5, None).flows

    assert (whole.completion_ns, whole.waited_ns, whole.services) == (70, 41, ("orders", "billing"))
    assert slow == whole


def test_what_may_still_come_is_no_break_in_a_list() -> None:
    orphan = replace(SEND, parent_id="e" * 16)
    with answering(jaeger([orphan])) as url:
        (soon,) = known(url, NOW + 1_000_000_000).find((), 5, None).flows
        (later,) = known(url, NOW + 20_000_000_000).find((), 5, None).flows

    assert (soon.breaks, later.breaks) == ((), ("parent_absent",))


def test_more_than_are_asked_for_at_once_are_all_found() -> None:
    with answering(jaeger(orders(90, apart_ns=10_000_000))) as url:
        found = pages(known(url, NOW + 1_000_000_000), "", 100)

    assert found[0] == [f"{n:032x}" for n in range(90, 0, -1)]


def test_what_was_read_is_not_asked_for_again() -> None:
    asked: list[Any] = []
    spans = orders(120, apart_ns=10_000_000_000)
    now = NOW
    with answering(lambda path, given: jaeger(spans, asked=asked)(path, given)) as url:
        reader = Jaeger(url, now_ns=lambda: now)
        reader.find((), 100, None)
        reader.find((), 100, None)  # and once what may be late
        asked.clear()
        now += 1_000_000_000
        spans += orders(121, apart_ns=10_000_000_000, until_ns=now)[-3:]
        found = reader.find((), 100, None).flows

    assert [flow.id for flow in found[:2]] == [f"{121:032x}", f"{120:032x}"]
    since = [given["query.start_time_min"] for path, given in asked if path == "/api/v3/traces"]
    assert len(since) == 2  # of each service once
    assert all(datetime.fromisoformat(each).timestamp() >= NOW / 1e9 - 6 for each in since)


def test_what_comes_late_is_found_by_who_watches() -> None:
    spans = [ENTRY]
    with answering(lambda path, given: jaeger(spans)(path, given)) as url:
        reader = known(url, NOW + 30_000_000_000)
        found = [[flow.spans for flow in reader.find((), 5, None).flows]]
        spans.append(SEND)
        found += [[flow.spans for flow in reader.find((), 5, None).flows]]
        found += [[built.summary.spans for built in reader.settled((), OrderedDict())]]

    assert found == [[1], [1], [2]]


def test_those_who_ask_meanwhile_share_what_one_reads() -> None:
    asked: list[Any] = []
    begun, go_on = threading.Event(), threading.Event()
    answer: Callable[[str, dict[str, str]], tuple[int, bytes]] = jaeger([ENTRY])

    def slow(path: str, given: dict[str, str]) -> tuple[int, bytes]:
        if path == "/api/v3/services":
            asked.append(path)
            begun.set()
            assert go_on.wait(10)
        return answer(path, given)

    with answering(slow) as url, ThreadPoolExecutor(5) as threads:
        reader = known(url, NOW + 1_000_000_000)
        first = threads.submit(reader.find, (), 1, None)
        assert begun.wait(10)
        others = [threads.submit(reader.find, (), 1, None) for _ in range(4)]
        while sum(each.running() for each in others) < 4:
            time.sleep(0.001)
        time.sleep(0.05)
        go_on.set()
        found = {each.result().flows for each in (first, *others)}

    assert len(found) == 1
    assert len(asked) == 2  # the first's, and one for all who asked after it began


def test_an_attribute_is_looked_for_by_its_tag() -> None:
    asked: list[Any] = []
    spans = orders(60, apart_ns=60_000_000_000)
    with answering(jaeger(spans, asked=asked)) as url:
        found = known(url).find(parse("order.id=3"), 5, None)

    assert ([flow.id for flow in found.flows], found.next) == ([f"{3:032x}"], None)
    assert not [path for path, _ in asked if path == "/api/v3/traces"]  # no list was read for it


def test_the_id_of_any_of_its_traces_finds_a_flow() -> None:
    with answering(jaeger([ENTRY, SEND, APART, STRANGE])) as url:
        source = JaegerSource(url)
        assert source.flow(OTHER).id == FLOW
        assert source.document(OTHER)["summary"]["id"] == FLOW  # type: ignore[index]  # it is an object
        with pytest.raises(NotFoundError, match=r"has no flow e{32}, and no trace of one"):
            source.flow("e" * 32)


def test_a_trace_of_several_flows_does_not_say_which_one_is_meant() -> None:
    other = replace(APART, span_id="e" * 16, attributes={"tracekit.flow.id": "e" * 32}, links=())
    with answering(jaeger([APART, other])) as url, pytest.raises(
        SourceError, match=r"is a trace of several flows: 9f3c.*, e{32}; give the id of one of them"
    ):  # fmt: skip
        JaegerSource(url).flow(OTHER)


def test_what_is_done_is_told_once_and_again_when_it_grew() -> None:
    now = NOW + 4_000_000_000
    told: OrderedDict[str, int] = OrderedDict()
    spans = [ENTRY]
    with answering(lambda path, given: jaeger(spans, filters=True)(path, given)) as url:
        source = Jaeger(url, now_ns=lambda: now)
        first = [built.summary.spans for built in source.settled((), told)]
        again = [built.summary.spans for built in source.settled((), told)]
        spans.append(SEND)
        grown = [built.summary.spans for built in source.settled((), told)]
        spans.append(replace(APART, end_ns=now))  # under way a moment ago
        busy = [built.summary.spans for built in source.settled((), told)]

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
