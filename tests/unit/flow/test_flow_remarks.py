"""What a flow says of itself where it took long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracekit.flow import build_flow
from tracekit.flow.remarks import remarks
from tracekit.testing.spans import called, processed, request, sent, span

if TYPE_CHECKING:
    from tracekit.model import Span


def said(*spans: Span) -> list[tuple[str, str]]:
    return [(each.kind, each.text) for each in remarks(build_flow(spans))]


def test_a_long_call_is_named_with_what_the_caller_waited() -> None:
    entry = request(end=1900)
    call = called("http://payment/charge", 10, 1880, parent=entry)
    charge = request("POST /charge", 20, 1870, service="payment", parent=call)

    assert said(entry, call, charge) == [
        ("work", "payment POST /charge took 1.85 s of the 1.9 s that the caller waited")
    ]


def test_a_long_handler_is_named_with_the_time_until_all_was_done() -> None:
    entry = request(end=20)
    send = sent("order.created", 5, 10, parent=entry)

    assert said(entry, send, processed(send, 110, 2010, service="payment")) == [
        ("work", "payment process order.created took 1.9 s of the 2.01 s until all was done")
    ]


def test_time_that_many_share_is_no_long_work_of_one() -> None:
    entry = request(end=3310)
    calls = [span(f"step {at}", 10 + 1100 * at, 1100 * (at + 1), parent=entry) for at in range(3)]

    assert said(entry, *calls) == []


def test_a_flow_that_is_one_long_span_says_nothing_that_its_row_does_not() -> None:
    assert said(span("nightly", end=60_000)) == []


def test_a_long_wait_for_a_short_handler_says_that_its_consumer_was_behind() -> None:
    entry = request(end=20)
    send = sent("order.created", 5, 10, parent=entry)
    handled = processed(send, 9000, 9030, published=10, service="payment")

    ((kind, text),) = said(entry, send, handled)

    assert kind == "wait"
    assert text == (
        "order.created waited 8.99 s for payment, which then took 30 ms: payment was behind, or not there yet"
    )


def test_a_wait_that_is_short_or_before_long_work_says_nothing_of_its_consumer() -> None:
    entry = request(end=20)
    send = sent("order.created", 5, 10, parent=entry)
    short = processed(send, 1400, 1410, published=10, service="audit")
    busy = processed(send, 2000, 2500, published=10, service="payment")

    assert said(entry, send, short, busy) == []


def test_of_many_messages_that_waited_for_one_consumer_the_longest_speaks() -> None:
    entry = request(end=20)
    sends = [sent("order.created", 5 + at, 6 + at, parent=entry) for at in range(5)]
    handled = [
        processed(each, 3000 + at, 3001 + at, published=6, service="payment") for at, each in enumerate(sends)
    ]

    ((_, text),) = said(entry, *sends, *handled)

    assert text.startswith("order.created waited 3 s for payment, ")
