"""The tree of a flow: what caused each of its spans, in an order that can be read from top to bottom.

A flow is a graph. For reading, and for a path through it, each span hangs on one cause: a consuming
span on the message that came last, any other on its parent, else on a span that it links to.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracekit.flow import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracekit.flow.edges import MessageEdge, PlacedEdge
    from tracekit.flow.graph import Graph
    from tracekit.model import Span


@dataclass(frozen=True, slots=True)
class Tree:
    """Spans in tree order, the entry first; the rest by position in that order.

    `parents` is None for the entry and for what has no known cause; `arrivals` the message edge by
    which a span hangs on its parent; `places` where the span stands in the graph; `awaited` the
    children that a span's own time goes into: its calls and its inner work, not what it only caused.
    """

    spans: tuple[Span, ...]
    places: tuple[int, ...]
    parents: tuple[int | None, ...]
    arrivals: tuple[MessageEdge | None, ...]
    children: tuple[tuple[int, ...], ...]
    awaited: tuple[tuple[int, ...], ...]

    @property
    def roots(self) -> tuple[int, ...]:
        """Spans without a known cause; the entry is the first."""
        return tuple(at for at, parent in enumerate(self.parents) if parent is None)


def tree_of(graph: Graph, nodes: Sequence[int], entries: Sequence[int], edges: Sequence[PlacedEdge]) -> Tree:
    """The tree over these places of the graph, which are in the graph's order."""
    arrivals = _arrivals(edges)
    causes = _causes(graph, nodes, entries, arrivals)
    _cut_cycles(nodes, causes)
    below: dict[int | None, list[int]] = defaultdict(list)
    for node in nodes:
        below[causes[node]].append(node)
    entry = entries[0] if entries else _likeliest_entry(below[None], graph)
    tops = [entry, *(node for node in below[None] if node != entry)]

    order: list[int] = []
    stack = tops[::-1]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(reversed(below[node]))
    at = {node: position for position, node in enumerate(order)}
    return Tree(
        spans=tuple(graph.spans[node] for node in order),
        places=tuple(order),
        parents=tuple(None if (cause := causes[node]) is None else at[cause] for node in order),
        arrivals=tuple(arrivals[node].edge if node in arrivals else None for node in order),
        children=tuple(tuple(at[child] for child in below[node]) for node in order),
        awaited=_awaited(graph, order, at),
    )


def _arrivals(edges: Sequence[PlacedEdge]) -> dict[int, PlacedEdge]:
    """For each consuming span the edge of the message that was published last."""
    latest: dict[int, PlacedEdge] = {}
    for placed in edges:
        other = latest.get(placed.consuming)
        if placed.creation not in (None, placed.consuming) and (
            other is None or _when(other) < _when(placed)
        ):
            latest[placed.consuming] = placed
    return latest


def _when(placed: PlacedEdge) -> tuple[int, int]:
    edge = placed.edge
    published = edge.wait.start_ns if edge.wait else edge.creation.start_ns if edge.creation else 0
    return published, placed.creation or 0


def _causes(
    graph: Graph, nodes: Sequence[int], entries: Sequence[int], arrivals: Mapping[int, PlacedEdge]
) -> dict[int, int | None]:
    members, begins = set(nodes), set(entries)
    causes: dict[int, int | None] = {}
    for node in nodes:
        if node in begins:
            causes[node] = None
        elif node in arrivals:
            causes[node] = arrivals[node].creation
        else:
            targets = (reference.target for reference in graph.references[node])
            causes[node] = next((t for t in targets if t in members and t != node), None)
    return causes


def _cut_cycles(nodes: Sequence[int], causes: dict[int, int | None]) -> None:
    """Takes the cause away from the first span of each cycle, so that every way up ends."""
    settled: set[int] = set()
    for start in nodes:
        way: dict[int, None] = {}
        node: int | None = start
        while node is not None and node not in settled and node not in way:
            way[node] = None
            node = causes[node]
        if node is not None and node in way:
            cycle = list(way)
            causes[min(cycle[cycle.index(node) :])] = None
        settled.update(way)


def _likeliest_entry(tops: Sequence[int], graph: Graph) -> int:
    """Where the entry itself never arrived: a call or a message from elsewhere, else what came first."""
    rank: Callable[[int], tuple[bool, int]] = lambda node: (  # noqa: E731
        not (facts.is_call(graph.spans[node]) or facts.is_consuming(graph.spans[node])),
        node,
    )
    return min(tops, key=rank)


def _awaited(graph: Graph, order: Sequence[int], at: Mapping[int, int]) -> tuple[tuple[int, ...], ...]:
    """For each span the children that it runs or calls, by position.

    What came as a message is never among them. But a reply that is processed within the span of the
    request that asked for it is: that request does wait for it.
    """
    found: list[list[int]] = [[] for _ in order]
    for position, node in enumerate(order):
        for reference in graph.references[node]:
            target = reference.target
            if target is None or target not in at or not reference.by_parent or reference.is_message:
                continue
            parent, child = graph.spans[target], graph.spans[node]
            if not facts.is_producing(parent) or child.service.name == parent.service.name:
                found[at[target]].append(position)
    return tuple(map(tuple, found))
