"""Kin: the flows that work falls apart into where context is lost, found by an id that both carry.

Where a flow begins with a message whose context was lost, and one that began before it has the same
`order.id`, that one probably goes on in it. They are shown with each other and never joined: an id that
many share, and what came later by chance, would make one flow of many.

Bounds: one value each of `MAX_IDS` ids is looked for; `MAX_KIN` flows are worth showing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracekit import semconv
from tracekit.flow import facts
from tracekit.flow.search import AttributeTerm, NumberTerm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit.flow.breaks import Break
    from tracekit.flow.build import Flow
    from tracekit.flow.search import Query
    from tracekit.model import Span

MAX_IDS: Final = 3
MAX_KIN: Final = 3
_MAX_LENGTH: Final = 200
_ID: Final = re.compile(r"(.*[._-])?id|.*[a-z0-9]I[dD]")
_OF_MANY: Final = frozenset(
    {
        *("tracekit", "messaging", "service", "process", "thread", "host", "container", "k8s", "cloud"),
        *("faas", "aws", "gcp", "azure", "device", "browser", "client", "session", "user", "enduser", "app"),
    }
)
"""First parts of keys whose ids many flows have: of machines, of connections, of who is logged in."""
_LOST: Final = frozenset({"headers_lost", "context_ignored"})
_TICK_NS: Final = 1_000_000
"""Brokers and clients give whole milliseconds."""


@dataclass(frozen=True, slots=True)
class Kin:
    """Another flow that carries the same id."""

    flow: Flow
    key: str
    value: str


def later(flow: Flow) -> tuple[Query, ...]:
    """What to look for where it may go on: what has a break and an id of this one, and began later."""
    began = (NumberTerm("breaks", ">", 0), NumberTerm("started", ">=", flow.start_ns))
    return tuple((*began, AttributeTerm(key, "=", value)) for key, value in _ids(flow))


def earlier(flow: Flow) -> tuple[Query, ...]:
    """What to look for where it may come from, the nearest first; nothing for one that begins well."""
    if lost(flow) is None:
        return ()
    began = NumberTerm("started", "<=", flow.start_ns)
    return tuple((began, AttributeTerm(key, "=", value)) for key, value in _ids(flow))


def kin(flow: Flow, query: Query) -> Kin:
    """A flow that one of these queries found."""
    (term,) = (term for term in query if isinstance(term, AttributeTerm))
    return Kin(flow, term.key, term.value)


def lost(flow: Flow) -> Break | None:
    """The break that it begins with, where it should have gone on from another; None where it begins well."""
    if facts.is_producing(flow.entry):
        return None
    return next((each for each in flow.breaks if each.at is flow.entry and each.reason in _LOST), None)


def ran_meanwhile(flow: Flow, late: Flow) -> Span | None:
    """What of the flow ran, innermost, when the other's first message was sent; None if nothing did."""
    sent_ns = facts.number(late.entry.attributes, semconv.PUBLISHED_AT)
    if sent_ns is None:
        return None
    ran = (
        span
        for span in flow.spans
        if span.start_ns - _TICK_NS < sent_ns and (span.end_ns is None or sent_ns <= span.end_ns)
    )
    return max(ran, key=lambda span: span.start_ns, default=None)


def _ids(flow: Flow) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for span in flow.spans:
        for key, value in _ids_of(span):
            found.setdefault(key, value)
            if len(found) == MAX_IDS:
                return [*found.items()]
    return [*found.items()]


def _ids_of(span: Span) -> Iterator[tuple[str, str]]:
    for key, value in span.attributes.items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            continue
        if (
            _ID.fullmatch(key)
            and key.partition(".")[0] not in _OF_MANY
            and 0 < len(str(value)) <= _MAX_LENGTH
        ):
            yield key, str(value)
