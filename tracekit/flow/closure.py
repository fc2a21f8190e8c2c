"""The closure: which spans belong to which flow.

From its entry a flow goes down, through children and through links to it. It enters a hub, never goes
up from it, and goes down from it only into spans that carry this flow's id, or none. What no entry
reaches (its parent never arrived, its context was lost) goes to the flow whose id or trace it carries.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tracekit.flow import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracekit.flow.graph import Graph
    from tracekit.model import Span

_MOST_ALIASES: Final = 16
"""Bounds the work on made-up data; a real flow has one for each service without flow headers."""


@dataclass(slots=True)
class Membership:
    """The places of a flow's spans; `entries` are those where it begins, empty if none arrived."""

    id: str
    entries: list[int] = field(default_factory=list)
    nodes: set[int] = field(default_factory=set)
    aliases: set[str] = field(default_factory=set)

    def extend(self, starts: Iterable[int], graph: Graph, begun: Mapping[str, object]) -> set[int]:
        """Takes in these spans and what is reached from them; gives what is new.

        A service that received no flow header takes the trace id for the flow's, also where other
        instrumentation had led the flow into a new trace. Where nothing begins in that trace, the id
        is another name of this flow; what was left out before the name was known is looked at again.
        """
        stack = [node for node in starts if node not in self.nodes]
        new = set(stack)
        self.nodes |= new
        while stack:
            node = stack.pop()
            span, incoming = graph.spans[node], graph.incoming[node]
            if not incoming:
                continue
            if self._is_alias(span.trace_id, incoming, begun) and facts.flow_id(span) is None:
                self.aliases.add(span.trace_id)
                stack.extend(self.nodes)
            for key in (None, self.id, *self.aliases):
                fresh = [below for below in incoming.get(key, ()) if below not in self.nodes]
                self.nodes.update(fresh)
                new.update(fresh)
                stack.extend(fresh)
        return new

    def _is_alias(
        self, trace_id: str, incoming: Mapping[str | None, object], begun: Mapping[str, object]
    ) -> bool:
        known = trace_id == self.id or trace_id in self.aliases or trace_id in begun
        return trace_id in incoming and not known and len(self.aliases) < _MOST_ALIASES


def memberships(graph: Graph) -> list[Membership]:
    """All flows, each span in one of them at least."""
    begun: dict[str, list[int]] = defaultdict(list)
    for node in range(len(graph.spans)):
        if _is_entry(graph, node):
            begun[graph.spans[node].trace_id].append(node)
    flows = {flow: Membership(flow, nodes) for flow, nodes in begun.items()}
    for flow in flows.values():
        flow.extend(flow.entries, graph, begun)
    reached = set().union(*(flow.nodes for flow in flows.values()))
    if len(reached) < len(graph.spans):
        _place_the_rest(graph, flows, reached, begun)
    return list(flows.values())


def _is_entry(graph: Graph, node: int) -> bool:
    """Whether a flow begins here: no parent, no creation context, and no word of another flow."""
    span, references = graph.spans[node], graph.references[node]
    own = facts.flow_id(span)
    if any(reference.by_parent or reference.is_message for reference in references):
        return False
    if own is None:
        return all(reference.target is None for reference in references)
    return own == span.trace_id


def _place_the_rest(
    graph: Graph, flows: dict[str, Membership], reached: set[int], begun: Mapping[str, object]
) -> None:
    """Puts what no entry reached where its context says; what it refers to first, cycles last."""
    in_trace = _flows_of_traces(graph, flows)
    for node in _tops_first(graph, [node for node in range(len(graph.spans)) if node not in reached]):
        if node in reached:
            continue
        for home in sorted(_homes(graph, node, in_trace)):
            flow = flows.setdefault(home, Membership(home))
            reached |= flow.extend([node], graph, begun)


def _tops_first(graph: Graph, rest: list[int]) -> list[int]:
    """These places, each after those of them that it refers to.

    What refers in a circle comes last, and of that first what says where it belongs: the others hang on it.
    """
    among = set(rest)
    targets = {
        node: {reference.target for reference in graph.references[node]} & among - {node} for node in rest
    }
    referring: dict[int, list[int]] = defaultdict(list)
    for node, its in targets.items():
        for target in its:
            if target is not None:
                referring[target].append(node)
    left = {node: len(its) for node, its in targets.items()}
    order = [node for node in rest if not left[node]]
    for node in order:
        for other in referring[node]:
            left[other] -= 1
            if not left[other]:
                order.append(other)
    placed = set(order)
    circling = [node for node in rest if node not in placed]
    return order + sorted(circling, key=lambda node: not _says_a_flow(graph.spans[node]))


def _says_a_flow(span: Span) -> bool:
    return bool(facts.flow_id(span) or any(facts.flow_id(link) for link in span.links))


def _flows_of_traces(graph: Graph, flows: Mapping[str, Membership]) -> dict[str, set[str]]:
    """Which flows a trace is known to be part of."""
    in_trace: dict[str, set[str]] = defaultdict(set)
    for flow in flows.values():
        for node in flow.nodes:
            in_trace[graph.spans[node].trace_id].add(flow.id)
    for span in graph.spans:
        if said := facts.flow_id(span):
            in_trace[span.trace_id].add(said)
    return {trace: {trace} if trace in flows else found for trace, found in in_trace.items()}


def _homes(graph: Graph, node: int, in_trace: Mapping[str, set[str]]) -> set[str]:
    """The flows that a span with no way up belongs to."""
    span = graph.spans[node]
    if own := facts.flow_id(span):
        return {own}
    if said := {told for link in span.links if (told := facts.flow_id(link))}:
        return said
    references = graph.messages(node) or graph.references[node]
    traces = {
        graph.spans[reference.whole].trace_id if reference.whole is not None else reference.trace_id
        for reference in references
    } or {span.trace_id}
    return {_home_of(trace, in_trace) for trace in traces}


def _home_of(trace: str, in_trace: Mapping[str, set[str]]) -> str:
    """The one flow known in a trace; else the trace's own id, which is what its entry would give."""
    known = in_trace.get(trace, set())
    return next(iter(known)) if len(known) == 1 else trace
