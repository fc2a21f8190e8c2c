"""What a response waited for, and what the end of a flow hung on."""

from __future__ import annotations

from itertools import pairwise

from tracekit.flow import Path, build_flow
from tracekit.testing.spans import MS, at, batch, called, processed, request, sent, shop, span


def told(path: Path) -> list[tuple[str, str, float, float]]:
    """The segments, in milliseconds after the beginning."""
    return [(s.kind, s.span.name, (s.start_ns - at(0)) / MS, (s.end_ns - at(0)) / MS) for s in path]


def test_the_blocking_path_goes_through_calls_and_not_through_messages() -> None:
    entry = request(end=60)
    call = called("http://b/x", 10, 30, parent=entry)
    answer = request("GET /x", 12, 28, service="b", parent=call)
    send = sent(start=40, end=50, parent=entry)
    consumed = processed(send, 45, 55)

    assert told(build_flow([entry, call, answer, send, consumed]).blocking_path) == [
        ("work", "POST /orders", 0, 10),
        ("work", "POST", 10, 12),
        ("work", "GET /x", 12, 28),
        ("work", "POST", 28, 30),
        ("work", "POST /orders", 30, 40),
        ("work", "send orders", 40, 50),
        ("work", "POST /orders", 50, 60),
    ]


def test_the_completion_path_goes_through_the_queue() -> None:
    entry = request(end=60)
    send = sent(start=40, end=50, parent=entry)
    consumed = processed(send, 500, 520, published=48)

    assert told(build_flow([entry, send, consumed]).completion_path) == [
        ("work", "POST /orders", 0, 40),
        ("work", "send orders", 40, 48),
        ("wait", "process orders", 48, 500),
        ("work", "process orders", 500, 520),
    ]


def test_a_request_that_waits_for_a_reply_is_blocked_through_both_queues() -> None:
    entry = request(end=100)
    ask = sent("quotes", 10, 12, parent=entry)
    quote = processed(ask, 30, 50, service="pricing", published=11)
    reply = sent("replies", 40, 42, parent=quote)
    got = processed(reply, 70, 80, service="orders", ambient=entry, published=41)

    flow = build_flow([entry, ask, quote, reply, got])

    assert told(flow.blocking_path) == [
        ("work", "POST /orders", 0, 10),
        ("work", "send quotes", 10, 11),
        ("wait", "process quotes", 11, 30),
        ("work", "process quotes", 30, 40),
        ("work", "send replies", 40, 41),
        ("wait", "process replies", 41, 70),
        ("work", "process replies", 70, 80),
        ("work", "POST /orders", 80, 100),
    ]


def test_of_concurrent_children_the_one_that_ended_last_is_on_the_path() -> None:
    entry = request(end=100)
    short, long = span("short", 10, 50, parent=entry), span("long", 15, 90, parent=entry)

    assert told(build_flow([entry, short, long]).blocking_path) == [
        ("work", "POST /orders", 0, 15),
        ("work", "long", 15, 90),
        ("work", "POST /orders", 90, 100),
    ]


def test_what_outlives_the_response_is_on_the_completion_path_only() -> None:
    entry = request(end=50)
    mail = span("mail", 60, 90, parent=entry)

    flow = build_flow([entry, mail])

    assert told(flow.blocking_path) == [("work", "POST /orders", 0, 50)]
    assert told(flow.completion_path) == [
        ("work", "POST /orders", 0, 50),
        ("gap", "mail", 50, 60),
        ("work", "mail", 60, 90),
    ]


def test_a_server_whose_clock_is_ahead_stays_on_the_path_of_its_caller() -> None:
    entry = request(end=50)
    call = called("http://b/x", 10, 40, parent=entry)
    answer = request("GET /x", 15, 45, service="b", parent=call)

    assert told(build_flow([entry, call, answer]).blocking_path) == [
        ("work", "POST /orders", 0, 10),
        ("work", "POST", 10, 15),
        ("work", "GET /x", 15, 40),
        ("work", "POST /orders", 40, 50),
    ]


def test_a_batch_hangs_on_the_message_that_came_last() -> None:
    entry = request(end=60)
    first, second = (sent(start=start, end=start + 2, parent=entry) for start in (10, 30))
    hub = batch([first, second], 100, 110)

    assert told(build_flow([entry, first, second, hub]).completion_path)[-2:] == [
        ("wait", "process orders", 32, 100),
        ("work", "process orders", 100, 110),
    ]


def test_a_path_through_lost_spans_shows_a_gap() -> None:
    entry = request(end=20)
    lost = span("mail", 50, 70, trace_id=entry.trace_id, parent_id="ab" * 8)

    assert told(build_flow([entry, lost]).completion_path) == [
        ("gap", "mail", 0, 50),
        ("work", "mail", 50, 70),
    ]


def test_the_path_of_an_unfinished_flow_goes_as_far_as_it_has_come() -> None:
    entry = request(end=20)
    send = sent(start=10, end=12, parent=entry)
    working = processed(send, 100, None)
    step = span("step", 110, 130, parent=working, service="notification")

    assert told(build_flow([entry, send, working, step]).completion_path)[-2:] == [
        ("work", "process orders", 100, 110),
        ("work", "step", 110, 130),
    ]


def test_the_segments_touch_and_explain_the_whole_time() -> None:
    flow = build_flow(shop())

    for path, total in ((flow.blocking_path, flow.response_ns), (flow.completion_path, flow.completion_ns)):
        assert sum(segment.duration_ns for segment in path) == total
        assert all(one.end_ns == next_.start_ns for one, next_ in pairwise(path))
