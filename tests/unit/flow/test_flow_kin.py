"""Which flows belong to each other though context was lost between them, and how that is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tracekit.flow import build_flow, render
from tracekit.flow.kin import earlier, kin, later, lost, ran_meanwhile
from tracekit.flow.search import AttributeTerm, NumberTerm, matches
from tracekit.testing.spans import at, processed, request, sent, span

if TYPE_CHECKING:
    from tracekit.model import Attributes, Span

ABSENT = {"tracekit.messaging.context": "absent"}


def carrying(of: Span, attributes: Attributes) -> Span:
    return replace(of, attributes={**of.attributes, **attributes})


def order() -> list[Span]:
    """One that is paid for, and goes on in what nobody sees."""
    entry = carrying(request("POST /orders", 0, 20), {"order.id": "17"})
    send = sent("order.created", 5, 10, parent=entry)
    return [entry, send, processed(send, 100, 140, service="payment")]


def orphan(*, order_id: str = "17", published: float = 135) -> Span:
    """What its message set off after it had lost its headers."""
    known: Attributes = {**ABSENT, "order.id": order_id, "tracekit.messaging.published_at": at(published)}
    return processed(None, 300, 330, attributes=known)


def test_where_a_flow_goes_on_and_comes_from_is_looked_for_by_its_id() -> None:
    flow, apart = build_flow(order()), build_flow([orphan()])

    same = AttributeTerm("order.id", "=", "17")
    assert later(flow) == ((NumberTerm("breaks", ">", 0), NumberTerm("started", ">=", at(0)), same),)
    assert earlier(apart) == ((NumberTerm("started", "<=", at(300)), same),)
    assert matches(later(flow)[0], apart)
    assert matches(earlier(apart)[0], flow)
    assert not matches(later(flow)[0], build_flow([orphan(order_id="18")]))


def test_what_begins_well_comes_from_nowhere() -> None:
    assert (earlier(build_flow(order())), lost(build_flow(order()))) == ((), None)


@pytest.mark.parametrize(
    ("attributes", "keys"),
    [
        ({"order.id": "17", "orderId": 17, "tenant_id": "acme"}, ["order.id", "orderId", "tenant_id"]),
        ({"messaging.client.id": "k", "thread.id": 3, "user.id": "u", "session.id": "s"}, []),
        ({"order.paid": "yes", "grid": "g", "order.id": "", "is.id": True, "no.id": 1.5}, []),
        ({"long.id": "x" * 201}, []),
        ({"a.id": 1, "b.id": 2, "c.id": 3, "d.id": 4}, ["a.id", "b.id", "c.id"]),
    ],
)
def test_only_ids_that_are_a_flow_s_own_are_looked_for(attributes: Attributes, keys: list[str]) -> None:
    flow = build_flow([span("work", attributes=attributes)])

    assert [term.key for query in later(flow) for term in query if isinstance(term, AttributeTerm)] == keys


@pytest.mark.parametrize(
    ("published", "name"), [(135, "process order.created"), (139.9, "process order.created"), (200, None)]
)
def test_what_ran_when_the_message_was_sent_is_known_by_its_moment(
    published: float, name: str | None
) -> None:
    ran = ran_meanwhile(build_flow(order()), build_flow([orphan(published=published)]))

    assert (ran.name if ran else None) == name


def test_a_flow_shows_the_break_with_which_it_goes_on_elsewhere() -> None:
    flow, apart = build_flow(order()), build_flow([orphan()])

    text = render(flow, goes_on_in=[kin(apart, later(flow)[0])])

    rows = text.splitlines()
    assert rows[1].startswith(f"              0 breaks, 1 in {apart.id[:8]}   ")
    assert rows[-6:] == [
        "",
        f"✕ headers_lost  {apart.id[:8]}, process orders (notification)",
        "  The message brought no context.",
        "  It was sent while process order.created (payment) ran, and has the same order.id 17: probably it",
        "  belongs here.",
        "  Instrument the producer, and keep the message headers wherever it is copied.",
    ]


def test_what_begins_with_a_break_shows_where_it_probably_comes_from() -> None:
    flow, apart = build_flow(order()), build_flow([orphan()])

    text = render(apart, comes_from=[kin(flow, earlier(apart)[0])])

    assert text.endswith(
        f"\n  It probably belongs to {flow.id[:8]}, POST /orders (orders), which has the same order.id 17."
    )


def test_in_colours_a_break_elsewhere_is_red() -> None:
    flow, apart = build_flow(order()), build_flow([orphan()])

    text = render(flow, width=200, color=True, goes_on_in=[kin(apart, later(flow)[0])])

    assert f" · \x1b[31m0 breaks, 1 in {apart.id[:8]}   \x1b[0m" in text.splitlines()[0]
