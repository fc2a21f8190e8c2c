"""What a test asserts about a flow, and what it says where that fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tracekit.flow import build_flow, render
from tracekit.model import Event, LogLine, Service, Span
from tracekit.testing import CheckedFlow
from tracekit.testing.checked import seconds
from tracekit.testing.spans import at, batch, called, processed, request, sent, shop, span

ENTRY = request()
SENT = sent(parent=ENTRY)


def checked(*spans: Span, logs: tuple[LogLine, ...] = ()) -> CheckedFlow:
    return CheckedFlow(build_flow(spans, spans[0].trace_id), logs)


def failure(of: CheckedFlow, assertion: str, *args: object, **kwargs: object) -> str:
    """What a failed assertion says, down to the tree."""
    with pytest.raises(AssertionError) as caught:
        getattr(of, assertion)(*args, **kwargs)
    return str(caught.value).partition("\n\n")[0]


SHOP = checked(*shop())


def test_a_path_goes_through_calls_and_messages_by_names_or_as_drawn() -> None:
    SHOP.assert_path("POST /orders", "POST", "POST /charge")
    SHOP.assert_path("POST /orders", "POST payment /charge", "POST /charge")
    SHOP.assert_path("POST /orders", "send order.confirmed", "process order.confirmed", "send mail")
    SHOP.assert_path("POST /orders", "process notification.sent")


def test_a_path_that_stops_is_named() -> None:
    assert failure(SHOP, "assert_path", "POST /orders", "POST /charge", "POST /reserve") == (
        "the path stopped after `POST /charge`: no `POST /reserve` followed"
    )
    assert failure(SHOP, "assert_path", "GET /orders") == "no `GET /orders` is in it"


def test_a_failed_assertion_draws_the_flow() -> None:
    with pytest.raises(AssertionError) as caught:
        SHOP.assert_path("GET /orders")

    assert str(caught.value).endswith(render(SHOP.flow))


def test_a_complete_flow_has_no_break_and_nothing_open() -> None:
    SHOP.assert_complete()


def test_an_open_span_and_a_break_are_named() -> None:
    open_send = sent(end=None, parent=ENTRY)
    orphan = span("charge", 20, 30, trace_id=ENTRY.trace_id, parent_id="ab" * 8, remote=False)

    said = failure(checked(ENTRY, open_send, orphan), "assert_complete")

    assert said.startswith("the flow is not complete: `send orders` (orders) is still open; parent_absent at")


def test_orphans_are_named() -> None:
    SHOP.assert_no_orphans()
    orphan = span("charge", 20, 30, trace_id=ENTRY.trace_id, parent_id="ab" * 8)

    assert failure(checked(ENTRY, orphan), "assert_no_orphans") == "1 span without a cause: `charge` (orders)"


def test_a_batch_has_so_many_links() -> None:
    sends = [sent(start=start, parent=ENTRY) for start in (10, 20, 30)]
    flow = checked(ENTRY, *sends, batch(sends))

    flow.assert_linked("process orders", n=3)
    assert failure(flow, "assert_linked", "process orders", n=2) == "`process orders` has 3 links, not 2"


def test_edges_are_an_exact_list() -> None:
    flow = checked(ENTRY, SENT, processed(SENT, service="billing"), processed(SENT, 90, service="audit"))

    assert flow.edges == [
        ("orders", "POST /orders", "call", "orders", "send orders"),
        ("orders", "send orders", "message", "audit", "process orders"),
        ("orders", "send orders", "message", "billing", "process orders"),
    ]


def test_a_message_processed_under_an_ambient_span_has_both_edges() -> None:
    ambient = span("poll", 90, 200, service="billing", trace_id=ENTRY.trace_id, parent_id=ENTRY.span_id)

    assert checked(ENTRY, SENT, ambient, processed(SENT, service="billing", ambient=ambient)).edges == [
        ("billing", "poll", "call", "billing", "process orders"),
        ("orders", "POST /orders", "call", "billing", "poll"),
        ("orders", "POST /orders", "call", "orders", "send orders"),
        ("orders", "send orders", "message", "billing", "process orders"),
    ]


def test_times_are_seconds() -> None:
    flow = checked(ENTRY, SENT, processed(SENT, 1018, 2000, published=18))

    assert (flow.response_time, flow.completion_time, flow.queue_wait("orders")) == (0.084, 2.0, 1.0)
    assert checked(span("nightly")).response_time is None


def test_of_several_waits_it_is_the_longest() -> None:
    flow = checked(
        ENTRY, SENT, processed(SENT, 118, published=18), processed(SENT, 518, service="audit", published=18)
    )

    assert flow.queue_wait("orders") == 0.5


def test_a_queue_where_nothing_waited_is_no_zero() -> None:
    assert failure(SHOP, "queue_wait", "orders") == (
        "no message waited at `orders`; consumed was from `order.confirmed`, `notification.sent`"
    )


def test_retries_and_duplicates_are_counted() -> None:
    tries = [processed(SENT, 100, 110, failed=True), processed(SENT, 200, 210), processed(SENT, 300, 310)]
    flow = checked(ENTRY, SENT, *tries)

    assert (flow.retries, flow.duplicates) == (1, 1)


def test_one_span_is_found_by_name_and_service() -> None:
    assert SHOP.span("process order.confirmed", service="analytics").service == Service("analytics")
    assert len(SHOP.named("send mail")) == 2
    assert failure(SHOP, "span", "send mail") == "2 spans are `send mail`, not one"
    assert failure(SHOP, "span", "x", service="audit") == "0 spans are `x of audit`, not one"


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"completion": "2s"}, "over budget: it completed in 2.630 s, not within 2s"),
        ({"response": "80ms"}, "over budget: it answered in 0.084 s, not within 80ms"),
        ({"spans": 11}, "over budget: it has 12 spans, not 11 at most"),
    ],
)
def test_a_budget_is_kept_or_said_to_be_over(budget: dict[str, str | int], said: str) -> None:
    SHOP.assert_within(completion="3s", response=0.1, spans=12)

    assert failure(SHOP, "assert_within", **budget) == said


@pytest.mark.parametrize(("text", "expected"), [("300ms", 0.3), ("2s", 2.0), ("1.5 m", 90.0), (2, 2.0)])
def test_a_budget_is_a_number_or_a_text_with_its_unit(text: str | float, expected: float) -> None:
    assert seconds(text) == expected


def test_a_budget_without_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"write 300ms, 2s or 1\.5m"):
        seconds("2")


CARD = "4111 1111 1111 1111"


@pytest.mark.parametrize(
    ("spans", "logs", "where"),
    [
        ([replace(ENTRY, attributes={"api_key": "x"})], (), "api_key of `POST /orders` (orders)"),
        ([replace(ENTRY, attributes={"note": f"pays with {CARD}"})], (), "note of `POST /orders` (orders)"),
        ([replace(ENTRY, name=f"pay {CARD}")], (), "the name of `pay [redacted]` (orders)"),
        ([replace(ENTRY, status_message=CARD)], (), "the status of `POST /orders` (orders)"),
        (
            [replace(ENTRY, events=(Event("exception", at(1), {"exception.message": CARD}),))],
            (),
            "exception.message of event exception of `POST /orders` (orders)",
        ),
        ([ENTRY], (LogLine(at(1), {"password": "x"}, service=Service("orders")),), "a log line of orders"),
    ],
)
def test_a_secret_is_found_wherever_it_is_and_not_repeated(
    spans: list[Span], logs: tuple[LogLine, ...], where: str
) -> None:
    SHOP.assert_no_pii()

    assert failure(checked(*spans, logs=logs), "assert_no_pii") == f"1 secret: in {where}"


def test_further_patterns_are_looked_for_too() -> None:
    flow = checked(replace(ENTRY, attributes={"to": "ann@example.org"}))

    flow.assert_no_pii()
    assert failure(flow, "assert_no_pii", r"\S+@\S+") == "1 secret: in to of `POST /orders` (orders)"


def test_a_snapshot_has_no_times_and_no_ids() -> None:
    assert SHOP.snapshot() == (
        "POST /orders (orders)\n"
        "  POST payment /charge (orders)\n"
        "    POST /charge (payment)\n"
        "  POST inventory /reserve (orders)\n"
        "    POST /reserve (inventory)\n"
        "  send order.confirmed (orders)\n"
        "    ~ order.confirmed\n"
        "      process order.confirmed (analytics)\n"
        "    ~ order.confirmed\n"
        "      process order.confirmed (notification)\n"
        "        send mail (notification) ✕\n"
        "        send mail (notification)\n"
        "        send notification.sent (notification)\n"
        "          ~ notification.sent\n"
        "            process notification.sent (audit)"
    )


def test_a_snapshot_does_not_depend_on_which_consumer_was_first() -> None:
    def run(audit: float, billing: float) -> CheckedFlow:
        consumed = [processed(SENT, audit, service="audit"), processed(SENT, billing, service="billing")]
        return checked(ENTRY, SENT, *consumed)

    assert run(audit=100, billing=200).snapshot() == run(audit=200, billing=100).snapshot()


def test_a_snapshot_shows_what_is_open_and_where_it_broke() -> None:
    lost = processed(None, 0, None, attributes={"tracekit.messaging.context": "absent"})

    assert checked(lost).snapshot() == (
        "process orders (notification) …\n✕ headers_lost: process orders (notification)"
    )


def test_it_reads_as_the_drawn_flow() -> None:
    assert str(SHOP) == render(SHOP.flow)
    assert repr(SHOP) == f"<flow {SHOP.id[:8]}: POST /orders, 12 spans>"


def test_calls_are_edges_too() -> None:
    call = called("http://10.0.0.7:8001/charge", 9, 52, parent=ENTRY)
    answered = request("POST /charge", 12, 50, service="payment", parent=call)

    assert checked(ENTRY, call, answered).edges == [
        ("orders", "POST", "call", "payment", "POST /charge"),
        ("orders", "POST /orders", "call", "orders", "POST"),
    ]
