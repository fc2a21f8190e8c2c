"""The graph of spans: who refers to whom, by the context that each carries.

Spans come in any order, twice, unfinished and then finished, with parents that never arrive and with
ids that collide. They are put into one order first, so that nothing depends on how they came.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from tracekit import semconv
from tracekit.flow import facts
from tracekit.model import Kind, Link, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Key: TypeAlias = tuple[str, str]
"""Trace id and span id."""

_ZEROS: Final = "0" * 16
_NEIGHBOURS: Final = 16
"""Of reports of one span, in order, that many before are compared: bounds the work on made-up data."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a span says about another one: its parent, a link to it, or both.

    `target` is its place in the graph, None where it never arrived. `is_message`: this is the creation
    context of a message that the span consumes. `whole` is the target with its full trace id, where
    the reference carries only half of it.
    """

    trace_id: str
    span_id: str
    target: int | None
    by_parent: bool
    link: Link | None
    is_message: bool
    whole: int | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """All spans in one order, and their references; a span is named by its place in that order.

    Of a span's references its parent is the first.
    `incoming` holds who refers to a span, by the flow id with which it may be entered (None: any).
    `duplicates` are places whose ids an earlier span has already.
    """

    spans: tuple[Span, ...]
    references: tuple[tuple[Reference, ...], ...]
    incoming: tuple[Mapping[str | None, Sequence[int]], ...]
    duplicates: frozenset[int]

    def messages(self, node: int) -> tuple[Reference, ...]:
        """The creation contexts of the messages that a span consumes."""
        return tuple(reference for reference in self.references[node] if reference.is_message)


def graph_of(spans: Iterable[Span]) -> Graph:
    """The graph of these spans; without those that show a wait, which the edges tell better."""
    ordered, duplicates = _in_order(span for span in spans if not facts.is_wait(span))
    places: dict[tuple[str, ...], int] = {}
    halves: dict[Key, int] = {}
    for node, span in enumerate(ordered):
        places.setdefault((span.trace_id, span.span_id), node)
        places.setdefault((span.trace_id, span.span_id, span.service.name), node)
        halves.setdefault((span.trace_id[16:], span.span_id), node)

    references = tuple(_references(span, ordered, places, halves) for span in ordered)
    incoming: list[dict[str | None, list[int]]] = [{} for _ in ordered]
    for node, (span, refs) in enumerate(zip(ordered, references, strict=True)):
        is_of_one = sum(other.is_message for other in refs) == 1 and not facts.is_batch(span)
        for reference in refs:
            if reference.target is not None and reference.target != node:
                for key in _ways_in(span, reference, is_of_one=is_of_one):
                    incoming[reference.target].setdefault(key, []).append(node)
    return Graph(ordered, references, tuple(incoming), duplicates)


def _in_order(spans: Iterable[Span]) -> tuple[tuple[Span, ...], frozenset[int]]:
    """One order for all, by start; reports of the same span made one; places of the duplicates."""
    reports: dict[Key, list[Span]] = defaultdict(list)
    for span in spans:
        reports[span.trace_id, span.span_id].append(span)
    ranked: list[tuple[int, str, str, int, Span]] = []
    for key, same in reports.items():
        distinct = same if len(same) == 1 else _distinct(same)
        ranked += [(span.start_ns, *key, rank, span) for rank, span in enumerate(distinct)]
    ranked.sort(key=lambda row: row[:4])
    duplicates = frozenset(node for node, row in enumerate(ranked) if row[3])
    return tuple(row[4] for row in ranked), duplicates


def _distinct(same: list[Span]) -> list[Span]:
    """The different spans among reports with one id.

    A batch that was sent twice, and a span reported while open and again at its end, are one span.
    """
    closed = {(span.name, span.start_ns, span.service) for span in same if span.end_ns is not None}
    found: dict[tuple[str, int, int | None], list[Span]] = {}
    for span in sorted(same, key=lambda each: (each.start_ns, repr(each))):
        alike = found.setdefault((span.name, span.start_ns, span.end_ns), [])
        superseded = span.end_ns is None and (span.name, span.start_ns, span.service) in closed
        if not superseded and span not in alike[-_NEIGHBOURS:]:
            alike.append(span)
    return [span for alike in found.values() for span in alike]


def _references(
    span: Span, spans: Sequence[Span], places: Mapping[tuple[str, ...], int], halves: Mapping[Key, int]
) -> tuple[Reference, ...]:
    own = (span.trace_id, span.span_id)
    parent = (span.trace_id, span.parent_id) if span.parent_id and span.parent_id != span.span_id else None
    if parent is None and not span.links:
        return ()
    links: dict[Key, Link] = {}
    for link in span.links:
        if (link.trace_id, link.span_id) != own:
            links.setdefault((link.trace_id, link.span_id), link)

    consuming = facts.is_consuming(span)
    targets = {key: _target(span, key, places) for key in ([parent] if parent else []) + list(links)}
    by_parent = consuming and parent is not None and _is_creation(span, targets[parent], spans)
    found = []
    for key, target in targets.items():
        link_to = links.get(key)
        message = by_parent and key == parent
        if consuming and link_to is not None and not message:
            others = by_parent or len(links) > 1
            message = not (others and _is_ambient(span, link_to, target, spans))
        whole = None if target is not None or not _is_half(key) else halves.get((key[0][16:], key[1]))
        found.append(Reference(*key, target, key == parent, link_to, message, whole))
    return tuple(found)


def _is_half(key: Key) -> bool:
    """A trace id of which only the lower half came, as from a system with 64-bit ids."""
    return key[0].startswith(_ZEROS)


def _target(span: Span, key: Key, places: Mapping[tuple[str, ...], int]) -> int | None:
    """The place of what a reference names; of several with this id, the one of the same service."""
    first = places.get(key)
    return None if first is None else places.get((*key, span.service.name), first)


def _is_creation(span: Span, parent: int | None, spans: Sequence[Span]) -> bool:
    """Whether the parent of a consuming span is its message's creation context, not an ambient span."""
    if parent is None:
        return span.parent_is_remote is not False
    if facts.is_producing(spans[parent]):
        return True
    if span.parent_is_remote is None:
        return spans[parent].service.name != span.service.name
    return span.parent_is_remote


def _is_ambient(span: Span, link: Link, target: int | None, spans: Sequence[Span]) -> bool:
    """Whether a link of a consuming span names the span that was current there, not a message."""
    if target is None or semconv.FLOW_ID in link.attributes or semconv.PUBLISHED_AT in link.attributes:
        return False
    return spans[target].service.name == span.service.name and not facts.is_producing(spans[target])


def _ways_in(span: Span, reference: Reference, *, is_of_one: bool) -> set[str | None]:
    """The flow ids with which the closure may go down this reference; None: any flow may.

    A span that processes one message takes the id of that message, whatever its parent is, also where
    its instrumentation knows nothing of flow ids.
    """
    said = {facts.flow_id(span), facts.flow_id(reference.link) if reference.link else None} - {None}
    if said:
        return said
    return set() if is_of_one and not reference.is_message else {None}


def is_remote(span: Span) -> bool:
    """Whether its parent is in another process; where the sender did not say, its kind does."""
    if span.parent_is_remote is None:
        return span.kind in {Kind.SERVER, Kind.CONSUMER}
    return span.parent_is_remote
