"""The flow: one piece of business from its entry to its last span, and how spans become it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tracekit.flow import facts
from tracekit.flow.breaks import NOTHING_KNOWN, Break, Knowledge, breaks_of
from tracekit.flow.closure import Membership, memberships
from tracekit.flow.critical_path import Path, critical_path
from tracekit.flow.edges import MessageEdge, edges_of
from tracekit.flow.graph import Graph, graph_of
from tracekit.flow.tree import Tree, tree_of
from tracekit.model import Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracekit.flow.waits import Wait


@dataclass(frozen=True, slots=True)
class Flow:
    """All that is known of one flow.

    `spans` are in tree order, the entry first. `end_ns` is the last moment known: while spans are open,
    the flow has come so far. `blocking_path` is empty where nobody waited, or has no answer yet.
    """

    id: str
    spans: tuple[Span, ...]
    edges: tuple[MessageEdge, ...]
    breaks: tuple[Break, ...]
    end_ns: int
    blocking_path: Path
    completion_path: Path
    tree: Tree = field(compare=False, repr=False)

    @property
    def entry(self) -> Span:
        """Where the flow begins for us; the first that arrived, where its real entry did not."""
        return self.spans[0]

    @property
    def name(self) -> str:
        """The entry's name."""
        return self.entry.name

    @property
    def start_ns(self) -> int:
        """When the entry began."""
        return self.entry.start_ns

    @property
    def response_ns(self) -> int | None:
        """What the caller of the entry waited; None where nobody waits, or still does."""
        if not facts.is_call(self.entry) or self.entry.end_ns is None:
            return None
        return self.entry.end_ns - self.entry.start_ns

    @property
    def completion_ns(self) -> int:
        """From the start of the entry to the last end; so far, while spans are open."""
        return self.end_ns - self.start_ns

    @property
    def waits(self) -> tuple[Wait, ...]:
        """The waits of its messages, in the order of the edges."""
        return tuple(edge.wait for edge in self.edges if edge.wait is not None)

    @property
    def delays(self) -> tuple[tuple[MessageEdge, int], ...]:
        """The messages that the end of the flow waited for, and how long, in ns.

        Messages that waited beside the way to the end did not delay it, and their waits would add up to more
        than the whole. Where none is on that way, it is the longest wait.
        """
        on_path = tuple(
            (each.edge, each.duration_ns) for each in self.completion_path if each.edge is not None
        )
        if on_path:
            return on_path
        waits = [(edge, edge.wait.duration_ns) for edge in self.edges if edge.wait is not None]
        return (max(waits, key=lambda each: each[1]),) if waits else ()

    @property
    def waited_ns(self) -> int:
        """The sum of its delays."""
        return sum(waited_ns for _, waited_ns in self.delays)

    @property
    def open_spans(self) -> tuple[Span, ...]:
        """Spans that have not ended."""
        return tuple(span for span in self.spans if span.end_ns is None)

    @property
    def errors(self) -> tuple[Span, ...]:
        """Spans that failed, recovered from or not."""
        return tuple(span for span in self.spans if span.status is Status.ERROR)

    @property
    def is_complete(self) -> bool:
        """No span is open, and the flow has no break."""
        return not self.breaks and not self.open_spans

    @property
    def services(self) -> tuple[str, ...]:
        """The services it went through, in the order of its tree."""
        return tuple(dict.fromkeys(span.service.name for span in self.spans))

    @property
    def retries(self) -> int:
        """Further tries: calls and messages sent again, and messages consumed again after a failure."""
        return sum(map(facts.resends, self.spans)) + sum(
            1 for tries in self._consumptions() for earlier in tries[:-1] if earlier.status is Status.ERROR
        )

    @property
    def duplicates(self) -> int:
        """Messages that a consumer had done with and got again."""
        return sum(
            1
            for tries in self._consumptions()
            for earlier in tries[:-1]
            if earlier.status is not Status.ERROR
        )

    def children(self, span: Span) -> tuple[Span, ...]:
        """What hangs on this span of the flow. Raises ValueError for a span of another flow."""
        at = next((at for at, own in enumerate(self.spans) if own is span), None)
        at = self.spans.index(span) if at is None else at
        return tuple(self.spans[child] for child in self.tree.children[at])

    def _consumptions(self) -> list[list[Span]]:
        """The consumptions of each message by each consumer, in time."""
        tries: defaultdict[tuple[str, str, str], list[Span]] = defaultdict(list)
        for edge in self.edges:
            if edge.creation is not None:
                key = (edge.creation.trace_id, edge.creation.span_id, edge.consumer)
                tries[key].append(edge.consuming)
        return list(tries.values())


def build_flows(spans: Iterable[Span], *, known: Knowledge = NOTHING_KNOWN) -> tuple[Flow, ...]:
    """All flows of these spans, by start and id. Each span is in one of them at least."""
    graph = graph_of(spans)
    flows = [_flow(graph, membership, known) for membership in memberships(graph)]
    return tuple(sorted(flows, key=lambda flow: (flow.start_ns, flow.id)))


def build_flow(
    spans: Iterable[Span], flow_id: str | None = None, *, known: Knowledge = NOTHING_KNOWN
) -> Flow:
    """The flow with this id, or the only one.

    Raises ValueError where there is none, or several and no id to choose by.
    """
    graph = graph_of(spans)
    found = {membership.id: membership for membership in memberships(graph)}
    if not found:
        raise ValueError("no spans, so no flow")
    if flow_id is None and len(found) == 1:
        flow_id = next(iter(found))
    if flow_id in found:
        return _flow(graph, found[flow_id], known)
    some = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
    if flow_id is None:
        raise ValueError(f"{len(found)} flows in these spans; say which one: {some}")
    raise ValueError(f"no flow {flow_id} in these spans; there is {some}")


def _flow(graph: Graph, membership: Membership, known: Knowledge) -> Flow:
    nodes = sorted(membership.nodes)
    placed = edges_of(graph, nodes, membership.id)
    tree = tree_of(graph, nodes, membership.entries, placed)
    entry = tree.spans[0]
    end_ns = max(entry.start_ns, max(map(_last_moment, tree.spans)))
    ends = [end_ns if span.end_ns is None else span.end_ns for span in tree.spans]
    last = max(range(len(ends)), key=lambda at: (ends[at], tree.spans[at].start_ns, at))
    waited_for = facts.is_call(entry) and entry.end_ns is not None
    times = {"start_ns": entry.start_ns, "until_ns": end_ns}
    return Flow(
        id=membership.id,
        spans=tree.spans,
        edges=tuple(each.edge for each in placed),
        breaks=breaks_of(
            graph, tree, placed, flow_id=membership.id, has_entry=bool(membership.entries), known=known
        ),
        end_ns=end_ns,
        blocking_path=critical_path(tree, last=0, **times) if waited_for else (),
        completion_path=critical_path(tree, last=last, **times),
        tree=tree,
    )


def _last_moment(span: Span) -> int:
    """The last moment at which a span is known to have been at work."""
    if span.end_ns is not None:
        return span.end_ns
    return max([span.start_ns, *(event.time_ns for event in span.events)])
