"""Where a flow should go on and does not: a fixture for every code, and none for what is healthy."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from tracekit.flow import Break, BreakReason, Knowledge, build_flow, build_flows
from tracekit.flow.breaks import CURES
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

OUTSIDE = "ab" * 8


def reasons(spans: list[Span], known: Knowledge = Knowledge()) -> list[BreakReason]:  # noqa: B008  # frozen
    return [each.reason for flow in build_flows(spans, known=known) for each in flow.breaks]


def test_a_message_without_context_shows_as_a_break() -> None:
    lost = processed(None, attributes={"tracekit.messaging.context": "absent"})

    flow = build_flow([sent(), lost], lost.trace_id)

    assert flow.breaks == (Break(at=lost, reason="headers_lost"),)


def test_a_message_whose_context_cannot_be_read_shows_as_a_break() -> None:
    lost = processed(None, attributes={"tracekit.messaging.context": "invalid"})

    assert build_flow([lost]).breaks == (Break(at=lost, reason="headers_lost"),)


def test_a_message_sent_without_context_shows_why() -> None:
    full = sent(attributes={"tracekit.messaging.context": "skipped", "tracekit.reason": "size"})

    flow = build_flow([full])

    assert flow.breaks == (Break(at=full, reason="headers_lost"),)
    assert flow.breaks[0].evidence == "The message was sent without context (size)."


def test_a_message_without_context_in_a_batch_is_no_break_of_the_other_messages() -> None:
    send = sent()
    hub = batch([send])
    hub = replace(hub, attributes={**hub.attributes, "tracekit.messaging.context": "absent"})

    assert reasons([send, hub]) == []


def test_a_context_that_came_and_was_not_used_shows_in_the_flow_it_names() -> None:
    entry = request()
    send = sent(parent=entry)
    ignorant = processed(None, attributes={"tracekit.flow.id": entry.trace_id})

    flow = build_flow([entry, send, ignorant])

    assert flow.breaks == (Break(at=ignorant, reason="context_ignored"),)


def test_a_message_that_brought_our_header_but_no_link_was_ignored() -> None:
    ambient = span("poll", 0, 500, service="notification")
    ignorant = processed(None, ambient=ambient, published=50, source="header")

    assert build_flow([ambient, ignorant]).breaks == (Break(at=ignorant, reason="context_ignored"),)


def test_an_unsampled_parent_shows_by_the_flag_that_came_with_it() -> None:
    answer = span("GET /x", kind=Kind.SERVER, trace_id="1" * 32, parent_id=OUTSIDE, remote=True,
                  attributes={"tracekit.context.sampled": False})  # fmt: skip

    assert build_flow([answer]).breaks == (Break(at=answer, reason="unsampled_parent"),)


def test_an_unsampled_creation_context_shows_by_the_flag_on_its_link() -> None:
    unsampled = Link("1" * 32, OUTSIDE, {"tracekit.context.sampled": False})
    consumed = replace(processed(None), links=(unsampled,))

    assert build_flow([consumed]).breaks == (Break(at=consumed, reason="unsampled_parent"),)


def test_a_parent_known_to_be_running_is_waited_for() -> None:
    child = span("insert", trace_id="1" * 32, parent_id=OUTSIDE, remote=False)
    known = Knowledge(running=frozenset({("1" * 32, OUTSIDE)}))

    assert build_flow([child], known=known).breaks == (Break(at=child, reason="parent_running"),)


def test_a_missing_parent_of_a_service_that_dropped_spans_was_dropped() -> None:
    child = span("insert", trace_id="1" * 32, parent_id=OUTSIDE, remote=False)

    flow = build_flow([child], known=Knowledge(dropped={"orders": 12, "payment": 3}))

    assert flow.breaks == (Break(at=child, reason="exporter_dropped"),)
    assert flow.breaks[0].evidence == "Its parent never arrived; spans dropped meanwhile: orders 12."


def test_a_message_published_after_it_was_processed_shows_clock_skew() -> None:
    send = sent()
    early = processed(send, 100, published=140)

    flow = build_flow([send, early])

    assert flow.breaks == (Break(at=early, reason="clock_skew"),)
    assert flow.breaks[0].evidence == "It begins 40 ms before what caused it."


def test_an_answer_that_begins_before_its_call_shows_clock_skew() -> None:
    entry = request()
    call = called("http://b/x", 30, 50, parent=entry)
    answer = request("GET /x", 5, 20, service="b", parent=call)

    assert build_flow([entry, call, answer]).breaks == (Break(at=answer, reason="clock_skew"),)


def test_half_a_trace_id_is_recognised_by_its_other_half() -> None:
    entry = request()
    half = "0" * 16 + entry.trace_id[16:]
    child = span("GET /x", 20, 30, service="old", kind=Kind.SERVER, trace_id=half, parent_id=entry.span_id,
                 remote=True)  # fmt: skip

    flow = build_flow([entry, child])

    assert (flow.spans, flow.breaks) == ((entry, child), (Break(at=child, reason="id_truncated"),))


@pytest.mark.parametrize(
    ("operation", "kind"),
    [("process", Kind.INTERNAL), ("process", Kind.SERVER), ("send", Kind.INTERNAL), ("receive", Kind.SERVER)],
)
def test_a_messaging_span_of_the_wrong_kind_shows(operation: str, kind: Kind) -> None:
    wrong = span("any", kind=kind, attributes=messaging(operation, "orders"))

    assert build_flow([wrong]).breaks == (Break(at=wrong, reason="wrong_kind"),)


def test_a_messaging_span_without_destination_shows() -> None:
    nowhere = span("send", kind=Kind.PRODUCER, attributes={"messaging.system": "kafka"})

    assert build_flow([nowhere]).breaks == (Break(at=nowhere, reason="missing_destination"),)


def test_two_spans_with_one_id_show() -> None:
    entry = request()
    one = span("a", 10, 20, parent=entry, span_id=OUTSIDE)
    two = span("b", 30, 40, parent=entry, span_id=OUTSIDE)

    flow = build_flow([entry, one, two])

    assert (flow.spans, flow.breaks) == ((entry, one, two), (Break(at=two, reason="duplicate_span_id"),))


def test_a_message_whose_creation_never_arrived_shows() -> None:
    consumed = processed(sent(), by="link")

    assert build_flow([consumed]).breaks == (Break(at=consumed, reason="link_target_absent"),)


def test_in_a_batch_an_absent_creation_is_a_break_of_its_own_flow_only() -> None:
    here, absent = sent(start=1), sent(start=2)
    hub = batch([here, absent])

    assert [(flow.id, flow.breaks) for flow in build_flows([here, hub])] == [
        (here.trace_id, ()),
    ]


def test_a_missing_local_parent_names_the_few_causes_left() -> None:
    entry = request()
    lost = span("reserve", 20, 30, trace_id=entry.trace_id, parent_id=OUTSIDE, remote=False)

    flow = build_flow([entry, lost])

    assert flow.breaks == (Break(at=lost, reason="parent_absent"),)
    assert flow.breaks[0].evidence == (
        f"Its parent {OUTSIDE} is missing; the cause is one of: "
        "dropped by the exporter, still running, never ended, not here yet."
    )


def test_a_missing_remote_parent_in_a_flow_with_an_entry_is_a_break() -> None:
    entry = request()
    lost = span("GET /x", 20, 30, service="b", kind=Kind.SERVER, trace_id=entry.trace_id, parent_id=OUTSIDE,
                remote=True, attributes={"tracekit.flow.id": entry.trace_id})  # fmt: skip

    assert build_flow([entry, lost]).breaks == (Break(at=lost, reason="parent_absent"),)


def test_a_message_that_brought_our_header_has_no_parent_outside() -> None:
    consumed = processed(sent(), by="parent", published=50, source="header")

    assert build_flow([consumed]).breaks == (Break(at=consumed, reason="parent_absent"),)


def test_a_message_that_a_known_consumer_never_took_shows_once_all_is_quiet() -> None:
    send = sent()
    taken = processed(send, service="analytics")
    known = Knowledge(consumers={"orders": frozenset({"analytics", "notification"})}, is_quiet=True)

    flow = build_flow([send, taken], known=known)

    assert flow.breaks == (Break(at=send, reason="never_consumed"),)
    assert flow.breaks[0].evidence == "No process span of notification came for it."


def test_a_destination_read_elsewhere_in_the_flow_has_a_known_consumer() -> None:
    entry = request()
    first, second = sent(start=10, parent=entry), sent(start=20, parent=entry)

    flow = build_flow([entry, first, second, processed(first)], known=Knowledge(is_quiet=True))

    assert flow.breaks == (Break(at=second, reason="never_consumed"),)


def test_every_code_has_a_cure() -> None:
    assert set(CURES) == set(get_args(BreakReason))
    assert Break(request(), "clock_skew").cure == CURES["clock_skew"]


def healthy() -> dict[str, list[Span]]:
    entry = request()
    call = called("http://b/x", 10, 40, parent=entry)
    answer = request("GET /x", 9.5, 41, service="b", parent=call, status=200)
    send = sent(parent=entry)
    producers = [sent(start=i, end=i + 1, service=f"producer {i}") for i in range(3)]
    ask = sent("quotes", 10, 12, parent=entry)
    quote = processed(ask, 30, 50, service="pricing", published=11)
    reply = sent("replies", 40, 42, parent=quote)
    contrib = contrib_sent("orders", 10, 11, parent=entry)
    of_flow = {"tracekit.flow.id": entry.trace_id}
    relayed = span("send orders", 500, 520, service="outbox", kind=Kind.CLIENT, links=[link(entry)],
                   attributes={**messaging("send", "orders"), **of_flow})  # fmt: skip
    gateway = span("POST /orders", kind=Kind.SERVER, trace_id="1" * 32, parent_id=OUTSIDE, remote=True,
                   attributes={"tracekit.flow.id": "1" * 32})  # fmt: skip
    second_call = replace(gateway, span_id="cd" * 8, parent_id="ef" * 8, start_ns=at(50), end_ns=at(60))
    return {
        "sync": [entry, call, answer],
        "async fan-out": shop(),
        "hybrid": [entry, ask, quote, reply, processed(reply, 70, 80, service="orders", ambient=entry)],
        "batch with 3 producers": [*producers, batch(producers)],
        "retry": [
            entry,
            send,
            processed(send, 100, 110, failed=True),
            processed(send, 200, 210),
            called("http://b/x", 20, 30, parent=entry, resend=1),
        ],
        "relay": [entry, relayed, processed(entry, 700, 710, destination="orders")],
        "202": [entry, send],
        "still going": [request(end=None), sent(parent=request(), end=None)],
        "behind a gateway": [gateway],
        "two calls of one page": [gateway, second_call],
        "old instrumentation": [entry, contrib, contrib_received("orders", 40, 41, parent=contrib)],
        "an outside parent, told by nobody": [
            replace(gateway, parent_is_remote=None, attributes={}),
        ],
        "a message from outside": [
            replace(processed(sent()), attributes={**messaging("process", "orders"), "tracekit.flow.id":
                                                   sent().trace_id}),
        ],
        "receive spans": [send, entry, pulled([send], 5, 90), processed(send, 91, 95)],
        "a failed send": [entry, sent(parent=entry, failed=True), sent(start=30, end=35, parent=entry)],
        "a cron job": [span("nightly"), span("clean", 1, 5, parent=span("nightly"))],
        "a 64-bit system": [span("old", trace_id="0" * 16 + "1" * 16)],
        "clocks as NTP keeps them": [send, entry, processed(send, 100, published=104)],
        "two instances of one service": [
            entry,
            replace(processed(send), service=Service("orders", instance="2")),
            send,
        ],
    }  # fmt: skip


@pytest.mark.parametrize("case", healthy())
def test_a_healthy_flow_has_no_break(case: str) -> None:
    assert reasons(healthy()[case]) == []


@pytest.mark.parametrize("case", sorted(set(healthy()) - {"still going"}))
def test_a_healthy_flow_has_no_break_when_quiet_either(case: str) -> None:
    readers = {"order.confirmed": frozenset({"analytics", "notification"})}

    assert reasons(healthy()[case], Knowledge(consumers=readers, is_quiet=True)) == []
