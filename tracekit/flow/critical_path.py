"""The critical path: the chain of work and waits that a response, or the end of a flow, hung on.

It is walked backwards: from the end of a span to the child that ended last before, down into it, and at
its start back up to what caused it. A message's cause is its creation, with the wait in between. What
outlives its parent, or runs beside the path, is not on it. Its segments touch: together they are the
whole time, and what no span explains is a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tracekit.model import Kind, Span

if TYPE_CHECKING:
    from tracekit.flow.edges import MessageEdge
    from tracekit.flow.tree import Tree

SegmentKind: TypeAlias = Literal["work", "wait", "gap"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of a path.

    Work in `span`; a wait of the message on `edge`, which `span` then consumed; or a gap that no span
    covers, before `span` began.
    """

    kind: SegmentKind
    span: Span
    start_ns: int
    end_ns: int
    edge: MessageEdge | None = None

    @property
    def duration_ns(self) -> int:
        """Always positive."""
        return self.end_ns - self.start_ns


Path: TypeAlias = tuple[Segment, ...]


def critical_path(tree: Tree, *, last: int, start_ns: int, until_ns: int) -> Path:
    """The path from `start_ns` to the end of the span at `last`, oldest segment first.

    Spans still open count as running until `until_ns`. Empty where no time passed.
    """
    ends = [until_ns if span.end_ns is None else span.end_ns for span in tree.spans]
    waiting = _Waiting(tree, ends)
    walk = _Walk(start_ns, ends[last])
    at: int | None = last
    span = tree.spans[last]
    while at is not None and walk.now > start_ns:
        span = tree.spans[at]
        child = waiting.take(at, walk.now)
        if child is not None:
            walk.back_to(waiting.end(at, child), "work", span)
            at = child
            continue
        walk.back_to(span.start_ns, "work", span)
        cause, edge = tree.parents[at], tree.arrivals[at]
        if cause is not None:
            if edge is not None and edge.wait is not None:
                walk.back_to(edge.wait.start_ns, "wait", span, edge)
            walk.back_to(ends[cause], "gap", span)
        at = cause
    walk.back_to(start_ns, "gap", span)
    return tuple(reversed(walk.found))


class _Walk:
    """How far back the path has come, and its segments so far, newest first."""

    def __init__(self, start_ns: int, now: int) -> None:
        self._start_ns = start_ns
        self.now = now
        self.found: list[Segment] = []

    def back_to(self, moment: int, kind: SegmentKind, span: Span, edge: MessageEdge | None = None) -> None:
        """Goes back to this moment, or stays where that is not earlier."""
        begin = max(moment, self._start_ns)
        if begin < self.now:
            self.found.append(Segment(kind, span, begin, self.now, edge))
            self.now = begin


class _Waiting:
    """The children that a span may have waited for and that the walk has not yet passed, by end."""

    def __init__(self, tree: Tree, ends: list[int]) -> None:
        self._tree = tree
        self._ends = ends
        self._left: dict[int, list[int]] = {}

    def end(self, parent: int, child: int) -> int:
        """When the parent went on.

        The answer of a call is there when the call returns, whatever the clock of the other side says.
        """
        calls = self._tree.spans[parent].kind is Kind.CLIENT and self._tree.spans[child].kind is Kind.SERVER
        return min(self._ends[child], self._ends[parent]) if calls else self._ends[child]

    def take(self, parent: int, now: int) -> int | None:
        """The child that ended last before now; each is given once. Time only goes back, so those
        that end later are passed for good."""
        if parent not in self._left:
            children = self._tree.awaited[parent]
            self._left[parent] = sorted(children, key=lambda child: (self.end(parent, child), child))
        left = self._left[parent]
        while left:
            child = left.pop()
            begun = self._tree.spans[child].start_ns < now
            if (
                self.end(parent, child) <= now
                and begun
                and self._ends[child] > self._tree.spans[parent].start_ns
            ):
                return child
        return None
