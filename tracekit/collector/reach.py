"""Reach: the spans that a flow may have, collected from a store's indexes.

`flow` decides what belongs to a flow; it needs the spans for that, and a store holds too many to hand
over all. Collected are
- the trace of the entry, whole, and every span that carries the flow's id, itself or on a link;
- from there on children, and spans that link to one already collected; up from a span, never;
- in each trace that was reached, what nothing leads to because its parent, or what it links to, never
  arrived: without that no break could be shown;
- of all these only such as carry this flow's id, another name of it, or none: a batch or a poller has
  spans of many flows below it. Where no flow id came along, the id of a reached trace is such a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from tracekit.flow import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tracekit.model import Link, Span


class SpanIndex(Protocol):
    """What a store must be able to find."""

    def trace(self, trace_id: str) -> Sequence[Span]: ...

    def linking(self, trace_id: str) -> Sequence[Span]:
        """Spans, of any trace, with a link into this one."""
        ...

    def carrying(self, flow_id: str) -> Sequence[Span]:
        """Spans, of any trace, that carry this flow's id, themselves or on a link."""
        ...


def flow_spans(index: SpanIndex, flow_id: str) -> tuple[Span, ...]:
    """The spans of a flow, and perhaps a few more; empty where nothing of it is known."""
    return _Collection(index, flow_id).collected()


def flows_of(spans: Iterable[Span]) -> tuple[str, ...]:
    """Ids of the flows that these spans say they are part of; those on links, where no span says one."""
    spans = tuple(spans)
    own = [facts.flow_id(span) for span in spans]
    said = own if any(own) else [facts.flow_id(link) for span in spans for link in span.links]
    return tuple(dict.fromkeys(flow_id for flow_id in said if flow_id is not None))


def several_flows(trace_id: str, ids: Sequence[str]) -> str:
    """That a trace is part of several, so that it does not say which one is meant."""
    return f"{trace_id} is a trace of several flows: {', '.join(ids[:10])}; give the id of one of them"


_Way: TypeAlias = "tuple[Span, Link | None]"
"""Down to a span: as a child, or by this link of it."""


class _Collection:
    def __init__(self, index: SpanIndex, flow_id: str) -> None:
        self._index = index
        self._flow_id = flow_id
        self._names = {flow_id}
        self._found: dict[int, Span] = {}
        self._unfollowed: list[Span] = []
        self._foreign: dict[str, list[_Way]] = {}
        """By the flow ids that they say, none of which is a name of this flow so far."""
        self._ways: dict[str, dict[str, list[_Way]]] = {}

    def collected(self) -> tuple[Span, ...]:
        self._add(self._index.trace(self._flow_id))
        self._add(self._index.carrying(self._flow_id))
        self._ways_down(self._flow_id)
        while self._unfollowed:
            span = self._unfollowed.pop()
            if facts.flow_id(span) is None and span.trace_id not in self._names:
                self._names.add(span.trace_id)
                self._enter(self._foreign.pop(span.trace_id, ()))
            # Once: what leads on from a span leads on from all that have its id.
            self._enter(self._ways_down(span.trace_id).pop(span.span_id, ()))
        return tuple(self._found.values())

    def _add(self, spans: Iterable[Span]) -> None:
        for span in spans:
            if id(span) not in self._found:
                self._found[id(span)] = span
                self._unfollowed.append(span)

    def _enter(self, ways: Iterable[_Way]) -> None:
        for span, link in ways:
            own = facts.flow_id(span), facts.flow_id(link) if link else None
            said = [name for name in own if name is not None]
            if not said or not self._names.isdisjoint(said):
                self._add((span,))
                continue
            for name in said:
                self._foreign.setdefault(name, []).append((span, link))

    def _ways_down(self, trace_id: str) -> dict[str, list[_Way]]:
        """From each span of a trace; the first time, those too that begin at one that never arrived."""
        if trace_id in self._ways:
            return self._ways[trace_id]
        ways = self._ways[trace_id] = {}
        spans = self._index.trace(trace_id)
        arrived = {span.span_id for span in spans}
        for child in spans:
            if child.parent_id is not None:
                ways.setdefault(child.parent_id, []).append((child, None))
        for span in self._index.linking(trace_id):
            for link in span.links:
                if link.trace_id == trace_id:
                    ways.setdefault(link.span_id, []).append((span, link))
        for missing in ways.keys() - arrived:
            self._enter(ways[missing])
        self._enter((span, None) for span in _circling(spans, arrived))
        return ways


def _circling(spans: Sequence[Span], arrived: set[str]) -> list[Span]:
    """Spans whose parents lead in a circle: nothing reaches them, and they are somebody's all the same."""
    children: dict[str, list[str]] = {}
    reached = []
    for span in spans:
        if span.parent_id is None or span.parent_id not in arrived:
            reached.append(span.span_id)
        else:
            children.setdefault(span.parent_id, []).append(span.span_id)
    seen = set(reached)
    while reached:
        below = [child for child in children.pop(reached.pop(), ()) if child not in seen]
        seen.update(below)
        reached += below
    return [span for span in spans if span.span_id not in seen]
