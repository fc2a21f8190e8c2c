"""The edges that a flow of the shop must have, exactly: who called whom, and whose event who consumed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from tracekit.model import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracekit.flow import Flow, Tree
    from tracekit.model import Span
    from tracekit_demo.scenarios import Ending, Mode, Scenario


class Edge(NamedTuple):
    """From an operation of one service to one of another; `by` is `call`, or the topic of the event."""

    caller: str
    by: str
    callee: str

    def __str__(self) -> str:
        return f"{self.caller} ─{self.by}→ {self.callee}"


_CHARGE: Final = Edge("orders POST /orders", "call", "payment POST /charge")
_RESERVE: Final = Edge("orders POST /orders", "call", "inventory POST /reserve")
_NOTIFY: Final = Edge("orders POST /orders", "call", "notification POST /notify")
_CREATED: Final = Edge("orders POST /orders", "order.created", "payment process order.created")


def _notified(by: str) -> tuple[Edge, ...]:
    """What follows where notification has handled this event."""
    return tuple(
        Edge(f"notification process {by}", "notification.sent", f"{service} process notification.sent")
        for service in ("orders", "audit")
    )


EXPECTED: Final[Mapping[tuple[Mode, Ending], tuple[Edge, ...]]] = {
    ("sync", "accepted"): (_CHARGE, _RESERVE, _NOTIFY),
    ("sync", "declined"): (_CHARGE,),
    ("sync", "malformed"): (_CHARGE,),
    ("sync", "crashed"): (_CHARGE,),
    ("async", "accepted"): (
        _CREATED,
        Edge("payment process order.created", "payment.authorized", "inventory process payment.authorized"),
        Edge("inventory process payment.authorized", "stock.reserved", "notification process stock.reserved"),
        *_notified("stock.reserved"),
    ),
    ("async", "declined"): (
        _CREATED,
        Edge("payment process order.created", "payment.declined", "orders process payment.declined"),
    ),
    ("async", "malformed"): (
        _CREATED,
        Edge("payment process order.created", "order.rejected", "orders process order.rejected"),
    ),
    ("async", "crashed"): (_CREATED,),
    ("hybrid", "accepted"): (
        _CHARGE,
        _RESERVE,
        Edge("orders POST /orders", "order.confirmed", "notification process order.confirmed"),
        Edge("orders POST /orders", "order.confirmed", "analytics process order.confirmed"),
        Edge("orders POST /orders", "order.confirmed", "audit process order.confirmed"),
        *_notified("order.confirmed"),
    ),
    ("hybrid", "declined"): (_CHARGE,),
    ("hybrid", "malformed"): (_CHARGE,),
    ("hybrid", "crashed"): (_CHARGE,),
}


def seen(flow: Flow) -> Counter[Edge]:
    """The edges that a flow has, and how often."""
    tree = flow.tree
    at = {id(span): place for place, span in enumerate(tree.spans)}
    found: Counter[Edge] = Counter()
    for edge in flow.edges:
        caller = "nobody" if edge.creation is None else _operation(tree, at.get(id(edge.creation)))
        found[Edge(caller, edge.destination, _named(edge.consuming))] += 1
    for place, parent in enumerate(tree.parents):
        span = tree.spans[place]
        if span.kind is Kind.SERVER and parent is not None:
            found[Edge(_operation(tree, parent), "call", _named(span))] += 1
    return found


def missing(flow: Flow, scenario: Scenario) -> tuple[Edge, ...]:
    """The edges that the flow of such an order must have, and this one has not."""
    return tuple((Counter(EXPECTED[scenario.mode, scenario.ending]) - seen(flow)).elements())


def surplus(flow: Flow, scenario: Scenario) -> tuple[Edge, ...]:
    """The edges that the flow of such an order must not have, and this one has."""
    return tuple((seen(flow) - Counter(EXPECTED[scenario.mode, scenario.ending])).elements())


def strays(flow: Flow) -> tuple[str, ...]:
    """Calls that nobody answered, events that nobody consumed, and what came by neither: doubled spans."""
    tree = flow.tree
    joined = {id(end) for edge in flow.edges for end in (edge.creation, edge.consuming)}
    for place, parent in enumerate(tree.parents):
        if tree.spans[place].kind is Kind.SERVER and parent is not None:
            joined |= {id(tree.spans[place]), id(tree.spans[parent])}
    return tuple(
        _named(span)
        for span in tree.spans
        if span is not flow.entry and span.kind is not Kind.INTERNAL and id(span) not in joined
    )


def _operation(tree: Tree, place: int | None) -> str:
    """The operation that a span is part of: where its service was called, or consumed a message."""
    if place is None:
        return "outside"
    while tree.spans[place].kind not in {Kind.SERVER, Kind.CONSUMER}:
        parent = tree.parents[place]
        if parent is None or tree.arrivals[place] is not None:
            break
        place = parent
    return _named(tree.spans[place])


def _named(span: Span) -> str:
    return f"{span.service.name} {span.name}"
