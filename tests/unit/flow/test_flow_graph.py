"""What belongs to a flow, in which order, and how flows stay apart."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tracekit.flow import MessageEdge, Wait, build_flow, build_flows
from tracekit.model import Kind, Link, Service, Span
from tracekit.testing.spans import (
    at,
    batch,
    called,
    contrib_received,
    contrib_sent,
    link,
    messaging,
    processed,
    pulled,
    request,
    sent,
    shop,
    span,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def names(spans: Iterable[Span]) -> list[str]:
    return [each.name for each in spans]


def test_a_flow_takes_the_trace_id_of_its_entry_and_goes_on_through_queues() -> None:
    spans = shop()

    flow = build_flow(spans)

    assert (flow.id, flow.entry, flow.spans) == (spans[0].trace_id, spans[0], tuple(spans))


def test_a_link_leads_into_another_trace() -> None:
    entry = request()
    send = sent(parent=entry)
    consumed = processed(send, by="link")

    flow = build_flow([consumed, send, entry])

    assert consumed.trace_id != entry.trace_id
    assert flow.spans == (entry, send, consumed)


def test_a_message_edge_tells_all_that_is_known_of_the_message() -> None:
    send = sent()
    consumed = processed(
        send,
        100,
        published=15,
        attributes={
            "messaging.destination.partition.id": "2",
            "messaging.kafka.offset": 48213,
            "messaging.message.id": "m1",
        },
    )

    assert build_flow([send, consumed]).edges == (
        MessageEdge(
            creation=send,
            consuming=consumed,
            destination="orders",
            system="kafka",
            group="notification",
            relation="parent and link",
            wait=Wait(at(15), at(100), "broker"),
            partition="2",
            offset=48213,
            message_id="m1",
        ),
    )


@pytest.mark.parametrize("by", ["parent", "link", "parent and link"])
def test_a_message_is_one_edge_however_its_context_is_referred_to(by: str) -> None:
    send = sent()

    flow = build_flow([send, processed(send, by=by)])

    assert [edge.relation for edge in flow.edges] == [by]


def test_old_kafka_instrumentation_gives_edges_too() -> None:
    entry = request()
    send = contrib_sent("orders", 10, 11, parent=entry)
    received = contrib_received("orders", 40, 41, parent=send)

    assert build_flow([entry, send, received]).edges == (
        MessageEdge(send, received, "orders", "kafka", None, "parent", Wait(at(11), at(40), "span"), "2"),
    )


def test_a_batch_of_500_messages_keeps_500_flows_apart() -> None:
    sends = [sent(start=i, end=i + 1) for i in range(500)]
    hub = batch(sends, 600, 900)
    work = [
        span(
            "store",
            600 + i / 2,
            601 + i / 2,
            service="billing",
            parent=hub,
            attributes={"tracekit.flow.id": s.trace_id},
        )
        for i, s in enumerate(sends)
    ]

    flows = build_flows([*work, hub, *sends])

    assert [flow.spans for flow in flows] == [(s, hub, own) for s, own in zip(sends, work, strict=True)]


def test_500_messages_under_one_ambient_span_stay_500_flows() -> None:
    sends = [sent(start=i, end=i + 1) for i in range(500)]
    poller = span("poll", 500, 2000, service="billing")
    work = [
        processed(
            s,
            600 + i,
            601 + i,
            service="billing",
            ambient=poller,
            attributes={"tracekit.flow.id": s.trace_id},
        )
        for i, s in enumerate(sends)
    ]

    flows = build_flows([poller, *work, *sends])

    assert [flow.spans for flow in flows] == [*zip(sends, work, strict=True), (poller,)]


def test_a_process_span_without_flow_id_takes_that_of_its_message_not_of_its_ambient_span() -> None:
    send, poller = sent(), span("poll", 0, 500, service="billing")
    foreign = processed(send, service="billing", ambient=poller)

    flows = build_flows([send, poller, foreign])

    assert sorted(names(flow.spans) for flow in flows) == [["poll"], ["send orders", "process orders"]]


def test_what_a_hub_does_without_a_flow_id_belongs_to_all_its_flows() -> None:
    first, second = sent(start=1), sent(start=2)
    hub = batch([first, second])
    shared = span("insert", 110, 120, service="billing", parent=hub)

    assert [flow.spans for flow in build_flows([first, second, hub, shared])] == [
        (first, hub, shared),
        (second, hub, shared),
    ]


def test_a_batch_with_several_messages_of_one_flow_has_an_edge_for_each() -> None:
    entry = request()
    sends = [sent(start=start, end=start + 2, parent=entry) for start in (10, 20, 30)]
    hub = batch(sends)

    flow = build_flow([entry, hub, *sends])

    assert [edge.creation for edge in flow.edges] == sends
    assert flow.children(sends[2]) == (hub,)


def test_a_message_processed_on_its_own_inside_its_batch_was_delivered_once() -> None:
    entry = request()
    one, other = (sent(start=start, end=start + 2, parent=entry) for start in (10, 20))
    hub = batch([one, other])
    own = [processed(message, 110, 120, service="billing", ambient=hub) for message in (one, other)]

    flow = build_flow([entry, one, other, hub, *own])

    assert [(edge.creation, edge.consuming) for edge in flow.edges] == [(one, hub), (other, hub)]
    assert flow.duplicates == 0
    assert flow.children(hub) == tuple(own)


def test_our_receive_span_is_no_second_consumption() -> None:
    send = sent()
    poll, consumed = pulled([send], 5, 90), processed(send)

    flow = build_flow([send, poll, consumed])

    assert set(names(flow.spans)) == {"send orders", "poll orders", "process orders"}
    assert [edge.consuming for edge in flow.edges] == [consumed]


def test_a_receive_span_alone_is_the_consumption_and_ends_the_wait_at_its_end() -> None:
    send = sent(start=10, end=18)

    assert build_flow([send, pulled([send], 5, 90)]).waits == (Wait(at(18), at(90), "span"),)


def test_a_relay_sends_the_context_of_the_request_on() -> None:
    entry = request()
    relay = span("relay", 500, 600, service="outbox", attributes={"tracekit.flow.id": "of the job"})
    send = span(
        "send orders",
        510,
        520,
        service="outbox",
        kind=Kind.CLIENT,
        parent=relay,
        links=[link(entry)],
        attributes={**messaging("send", "orders"), "tracekit.flow.id": entry.trace_id},
    )
    consumed = processed(entry, 700, 710, destination="orders")

    flow = build_flow([entry, relay, send, consumed], entry.trace_id)

    assert set(names(flow.spans)) == {"POST /orders", "send orders", "process orders"}
    assert flow.waits == (Wait(at(520), at(700), "span"),)


def test_an_id_that_a_service_took_for_want_of_a_header_is_another_name_of_the_flow() -> None:
    send = sent()
    foreign = span("orders process", 30, 90, service="java", kind=Kind.CONSUMER, links=[link(send)])
    call = called("http://b/x", 40, 60, parent=foreign)
    answer = span(
        "GET /x",
        42,
        58,
        service="b",
        parent=call,
        kind=Kind.SERVER,
        attributes={"tracekit.flow.id": foreign.trace_id},
    )
    further = sent("more", 50, 52, parent=answer, attributes={"tracekit.flow.id": foreign.trace_id})

    assert build_flow([further, answer, call, foreign, send]).spans == (send, foreign, call, answer, further)


def test_a_span_whose_parent_never_came_is_kept_in_the_flow_of_its_trace() -> None:
    entry = request()
    lost = span("reserve", 20, 30, trace_id=entry.trace_id, parent_id="ab" * 8, remote=False)

    assert build_flow([lost, entry]).spans == (entry, lost)


@pytest.mark.parametrize("circles", [False, True], ids=["a chain", "a circle"])
def test_what_no_entry_reaches_goes_where_what_it_hangs_on_goes(circles: bool) -> None:
    first, second, trace = "1" * 32, "2" * 32, "2" * 32
    apart = Span(trace, "1" * 16, "apart", 1, 2, parent_id="2" * 16 if circles else None)
    apart = replace(apart, attributes={"tracekit.flow.id": first})
    child = Span(trace, "2" * 16, "child", 1, 2, parent_id="3" * 16)
    above = Span(trace, "3" * 16, "above", 1, 2, links=(Link(trace, "1" * 16, {"tracekit.flow.id": second}),))

    flows = build_flows([apart, child, above])

    assert [(flow.id, sorted(names(flow.spans))) for flow in flows] == [
        (first, ["apart"]),
        (second, ["above", "child"]),
    ]


def test_late_spans_only_add_to_a_flow() -> None:
    spans = shop()

    assert build_flow(spans[5:] + spans[:5]) == build_flow(spans)
    assert build_flow(spans[6:]).id == build_flow(spans).id


def test_a_batch_of_spans_that_arrives_twice_counts_once() -> None:
    spans = shop()

    assert build_flow(spans + spans) == build_flow(spans)


def test_a_span_reported_open_and_then_ended_is_one_span() -> None:
    assert build_flow([request(end=None), request()]) == build_flow([request()])


def test_an_open_span_leaves_the_flow_unfinished() -> None:
    entry = request()
    send = sent(parent=entry)
    working = processed(send, 300, None)

    flow = build_flow([entry, send, working])

    assert (flow.open_spans, flow.is_complete, flow.completion_ns) == ((working,), False, at(300) - at(0))


def test_response_and_completion_are_two_numbers() -> None:
    flow = build_flow(shop())

    assert (flow.response_ns, flow.completion_ns) == (at(84) - at(0), at(2630) - at(0))


@pytest.mark.parametrize("entry", [span("nightly"), sent(), sent(end=None), request(end=None)])
def test_there_is_no_response_where_nobody_waited_or_still_does(entry: Span) -> None:
    flow = build_flow([entry])

    assert (flow.response_ns, flow.blocking_path) == (None, ())


def test_a_message_consumed_again_after_a_failure_is_a_retry_else_a_duplicate() -> None:
    send = sent()
    failed = processed(send, 100, 110, failed=True)
    done, again = processed(send, 200, 210), processed(send, 300, 310)

    flow = build_flow([send, failed, done, again])

    assert (flow.retries, flow.duplicates) == (1, 1)


@pytest.mark.parametrize(
    ("told", "retries"), [(2, 2), (0, 0), (-3, 0), ("2", 0), (True, 0), (2**63 - 1, 1_000_000)]
)
def test_a_message_that_its_client_sent_again_counts_as_often(told: str | int, retries: int) -> None:
    entry = request()
    again = called("http://b/x", 20, 30, parent=entry, resend=2)
    send = sent(parent=entry, attributes={"tracekit.messaging.retries": told})

    assert build_flow([entry, send]).retries == retries
    assert build_flow([entry, again, send]).retries == retries + 1


def test_build_flow_asks_which_of_several() -> None:
    with pytest.raises(ValueError, match="2 flows in these spans; say which one"):
        build_flow([request(), span("nightly")])


def test_build_flow_says_what_there_is_instead_of_the_flow_asked_for() -> None:
    with pytest.raises(ValueError, match=f"no flow 1234 in these spans; there is {request().trace_id}"):
        build_flow([request()], "1234")


def test_no_spans_are_no_flow() -> None:
    assert build_flows([]) == ()
    with pytest.raises(ValueError, match="no spans"):
        build_flow([])


@pytest.mark.parametrize("shape", ["bush", "chain"])
def test_a_flow_of_10000_spans_builds_at_once(shape: str) -> None:
    chosen = random.Random(1)
    spans = [request(end=90_000)]
    for i in range(9_999):
        parent = spans[-1] if shape == "chain" else chosen.choice(spans[-50:])
        spans.append(span("work", i + 1, 80_000 - i, parent=parent))
    chosen.shuffle(spans)

    began_s = time.thread_time()
    flow = build_flow(spans)
    took_s = time.thread_time() - began_s

    assert len(flow.spans) == 10_000
    assert took_s < 2.5  # 0.3 s on an idle machine


def _hub(many: int) -> Iterator[Span]:
    """A batch of messages that one request sent."""
    yield (entry := request(end=90_000))
    messages = [span(f"send {i}", i, i + 1, kind=Kind.PRODUCER, parent=entry) for i in range(many)]
    yield from messages
    yield span("batch", many, many + 1, kind=Kind.CONSUMER, links=tuple(map(link, messages)))


def _same_id(many: int) -> Iterator[Span]:
    """A process that gives out one id again and again."""
    yield (entry := request(end=90_000))
    first = span("work", 1, 2, parent=entry)
    for number in range(many):
        yield replace(first, attributes={"number": number})


def _referred(many: int) -> Iterator[Span]:
    """Many spans of one id, and as many below one of them."""
    yield (first := request(end=90_000))
    for number in range(many):
        yield replace(first, start_ns=first.start_ns + number + 1, name=f"{number}")
        yield replace(span(f"work {number}", 1, 2, parent=first), service=Service(name="elsewhere"))


def _deep(many: int) -> Iterator[Span]:
    """A message consumed again and again, each time far below the other spans."""
    yield (entry := request(end=90_000))
    yield (message := span("send", 0, 1, kind=Kind.PRODUCER, parent=entry))
    above = entry
    for number in range(many):
        yield (above := span("call", number, 80_000 - number, parent=above))
    for number in range(many):
        each = span(f"use {number}", 2, 3, kind=Kind.CONSUMER, parent=above, links=(link(message),))
        yield replace(each, parent_is_remote=False)


@pytest.mark.parametrize("shape", [_hub, _same_id, _referred, _deep])
def test_no_shape_of_a_flow_takes_a_time_that_grows_as_its_square(
    shape: Callable[[int], Iterator[Span]],
) -> None:
    few, many = list(shape(200)), list(shape(6_400))

    def took_s(spans: list[Span]) -> float:
        began_s = time.thread_time()
        flow = build_flow(spans)
        took_s = time.thread_time() - began_s
        assert len(flow.spans) == len(spans)
        return took_s

    # 32 if all is well. Who shares the processor's caches makes work slower, though not three times over.
    assert any(took_s(many) < 100 * took_s(few) for _ in range(3))
