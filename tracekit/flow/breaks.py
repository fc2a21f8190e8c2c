"""The break: a place where a flow should go on and does not, with the evidence and the cure.

A break is only what the spans, or what else is known, can prove. Where a span is missing and nothing
tells why, the evidence says which few causes are left. What a flow would look like in health, a parent
in a gateway or a browser, a consumer that is merely late, is no break.

Source of the codes: ours; the conventions (1.44) have no words for them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tracekit import semconv
from tracekit.flow import facts
from tracekit.flow.edges import PlacedEdge, concerns
from tracekit.flow.graph import Graph, Key, Reference, is_remote
from tracekit.model import Kind, Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracekit.flow.tree import Tree

BreakReason: TypeAlias = Literal[
    "headers_lost",
    "context_ignored",
    "unsampled_parent",
    "parent_running",
    "exporter_dropped",
    "clock_skew",
    "id_truncated",
    "wrong_kind",
    "missing_destination",
    "duplicate_span_id",
    "link_target_absent",
    "parent_absent",
    "never_consumed",
]

CURES: Final[Mapping[BreakReason, str]] = MappingProxyType(
    {
        "headers_lost": "Instrument the producer, and keep the message headers wherever it is copied.",
        "context_ignored": "Let the consumer extract `traceparent`, and what is in between pass it on.",
        "unsampled_parent": "Sample by the parent's decision (`parentbased_…`) in every service.",
        "parent_running": "Wait for its end. If that never comes, look for the worker that died.",
        "exporter_dropped": "Give the exporter a longer queue (OTEL_BSP_MAX_QUEUE_SIZE), or sample less.",
        "clock_skew": "Synchronise the clocks of the two hosts (NTP, chrony).",
        "id_truncated": "Let the service between them propagate 128-bit trace ids (`traceparent`).",
        "wrong_kind": "Start it with the kind that the conventions give this operation.",
        "missing_destination": "Set `messaging.destination.name`; the queue cannot be drawn without it.",
        "duplicate_span_id": "After a fork, give the child process an id generator and exporter of its own.",
        "link_target_absent": "See that the producer's service exports and samples what it sends.",
        "parent_absent": "See that the service that called exports and samples its spans.",
        "never_consumed": "Look at the consumer group: is it running, lagging, or reading another topic?",
    }
)

SKEW_TOLERANCE_NS: Final = 10_000_000
"""Clocks that agree within 10 ms are in step, as good as NTP keeps them; a wait still tells its skew."""


@dataclass(frozen=True, slots=True)
class Break:
    """A place where a flow should go on and does not. Two are equal in place and reason."""

    at: Span
    reason: BreakReason
    evidence: str = field(default="", compare=False)

    @property
    def cure(self) -> str:
        """What to do about it."""
        return CURES[self.reason]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known beside the spans; the default is nothing.

    `running`: spans that began and have not ended, by trace and span id. `dropped`: how many spans the
    exporter of a service counted as dropped while this flow ran. `consumers`: the consumers (groups, or
    services without one) that read a destination. `is_quiet`: nothing more will come for these flows.
    """

    running: frozenset[Key] = frozenset()
    dropped: Mapping[str, int] = field(default_factory=dict)
    consumers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    is_quiet: bool = False


NOTHING_KNOWN: Final = Knowledge()


def breaks_of(
    graph: Graph, tree: Tree, edges: list[PlacedEdge], *, flow_id: str, has_entry: bool, known: Knowledge
) -> tuple[Break, ...]:
    """All breaks of one flow, in tree order. `has_entry`: a span without parent began it."""
    looker = _Looker(graph, tree, flow_id, has_entry, known)
    skewed = {placed.consuming: skew for placed in edges if (skew := _skew_ns(placed)) > SKEW_TOLERANCE_NS}
    unread = _unread(tree, edges, known)
    found: list[Break] = []
    for node in tree.places:
        span = graph.spans[node]
        found += _own(graph, node)
        found += looker.absent(node)
        if skew := max(skewed.get(node, 0), looker.starts_early_ns(node)):
            evidence = f"It begins {skew / 1e6:.0f} ms before what caused it."
            found.append(Break(span, "clock_skew", evidence))
        if node in unread:
            found.append(Break(span, "never_consumed", unread[node]))
    return tuple(found)


def _own(graph: Graph, node: int) -> Iterator[Break]:
    """What a span's own attributes, kind and id prove."""
    span = graph.spans[node]
    yield from _lost_context(graph, node)
    named = facts.operation(span)
    if named in _KINDS and span.kind not in _KINDS[named]:
        evidence = f"Its operation type is {named}, its kind {span.kind.name}."
        yield Break(span, "wrong_kind", evidence)
    if _lacks_destination(span):
        yield Break(span, "missing_destination", "It names no destination, and none of its links does.")
    if node in graph.duplicates:
        yield Break(span, "duplicate_span_id", f"Another span has the id {span.span_id} in this trace.")


_KINDS: Final[Mapping[str, frozenset[Kind]]] = MappingProxyType(
    {
        "create": frozenset({Kind.PRODUCER}),
        "send": frozenset({Kind.PRODUCER, Kind.CLIENT}),
        "process": frozenset({Kind.CONSUMER}),
        # A CONSUMER in the conventions before 1.41.
        "receive": frozenset({Kind.CLIENT, Kind.CONSUMER}),
    }
)


def _lost_context(graph: Graph, node: int) -> Iterator[Break]:
    span = graph.spans[node]
    state = span.attributes.get(semconv.CONTEXT_STATE)
    own = facts.flow_id(span)
    if state == "skipped" and facts.is_producing(span):
        why = facts.text(span.attributes, semconv.DROP_REASON)
        reason = f" ({why})" if why else ""
        yield Break(span, "headers_lost", f"The message was sent without context{reason}.")
    elif state in {"absent", "invalid"} and not graph.messages(node):
        # On a hub with other messages it is none of theirs that came without.
        evidence = {"absent": "The message brought no context.", "invalid": "Its context cannot be read."}
        yield Break(span, "headers_lost", evidence[str(state)])
    elif not graph.references[node] and own and own != span.trace_id:
        evidence_of_id = f"The flow header came ({own[:8]}), yet the span has neither parent nor link."
        yield Break(span, "context_ignored", evidence_of_id)
    elif facts.is_consuming(span) and not graph.messages(node) and _brought_header(span):
        yield Break(span, "context_ignored", "Our header came with the message, yet no span is linked.")


def _brought_header(span: Span) -> bool:
    return span.attributes.get(semconv.PUBLISHED_AT_SOURCE) == "header"


def _lacks_destination(span: Span) -> bool:
    if not facts.is_messaging(span) or not (facts.is_producing(span) or facts.is_consuming(span)):
        return False
    # A batch over several destinations names them on its links, or not at all.
    if facts.is_batch(span) or len(span.links) > 1:
        return False
    return not any(facts.destination(a) for a in (span.attributes, *(link.attributes for link in span.links)))


class _Looker:
    """Judges what the spans of one flow refer to."""

    def __init__(self, graph: Graph, tree: Tree, flow_id: str, has_entry: bool, known: Knowledge) -> None:
        self._graph = graph
        self._flow_id = flow_id
        self._known = known
        entry = tree.places[0]
        self._outside = None if has_entry or not self._from_outside(entry) else graph.spans[entry].kind

    def absent(self, node: int) -> Iterator[Break]:
        """What it refers to, and what never arrived."""
        span = self._graph.spans[node]
        for reference in self._graph.references[node]:
            if reference.target is not None or not (reference.by_parent or reference.is_message):
                continue
            if not concerns(self._graph, node, reference, self._flow_id):
                continue
            if reference.by_parent and span.kind is self._outside and self._from_outside(node):
                continue
            yield Break(span, *self._why(span, reference))

    def _from_outside(self, node: int) -> bool:
        """Whether its parent may be a gateway's or a browser's: remote, and it brought no flow header."""
        span = self._graph.spans[node]
        own = facts.flow_id(span)
        if own not in {None, span.trace_id} or _brought_header(span):
            return False
        parent = next((r for r in self._graph.references[node] if r.by_parent), None)
        if parent is None or parent.whole is not None or not is_remote(span):
            return False
        return _is_sampled(span, parent) and (parent.trace_id, parent.span_id) not in self._known.running

    def _why(self, span: Span, reference: Reference) -> tuple[BreakReason, str]:
        what = "creation context" if reference.is_message else "parent"
        if reference.whole is not None:
            whole = self._graph.spans[reference.whole].trace_id
            return "id_truncated", f"Its {what} is in trace {whole}, of which only the last half came."
        if not _is_sampled(span, reference):
            return "unsampled_parent", f"Its {what} was not sampled: the flag came with the context."
        if (reference.trace_id, reference.span_id) in self._known.running:
            return "parent_running", f"Its {what} {reference.span_id} is still running."
        local = reference.by_parent and not is_remote(span)
        name = span.service.name
        suspects = {
            service: count
            for service, count in self._known.dropped.items()
            if count > 0 and (service == name) == local
        }
        if suspects:
            counts = " and ".join(f"{service} {count}" for service, count in sorted(suspects.items()))
            return "exporter_dropped", f"Its {what} never arrived; spans dropped meanwhile: {counts}."
        if reference.is_message and reference.link is not None:
            causes = "not sampled, not exported by its service"
            return "link_target_absent", self._one_of(what, reference, causes)
        causes = "not sampled, dropped on the way, in a service that exports elsewhere"
        if local:
            causes = "dropped by the exporter, still running, never ended"
        return "parent_absent", self._one_of(what, reference, causes)

    def _one_of(self, what: str, reference: Reference, causes: str) -> str:
        """Where nothing proves the cause: the few that are left."""
        late = "" if self._known.is_quiet else ", not here yet"
        return f"Its {what} {reference.span_id} is missing; the cause is one of: {causes}{late}."

    def starts_early_ns(self, node: int) -> int:
        """By how much a span begins before its remote parent; 0 within what clocks may differ."""
        span = self._graph.spans[node]
        parent = next((r.target for r in self._graph.references[node] if r.by_parent), None)
        if parent is None or self._graph.spans[parent].service == span.service:
            return 0
        early = self._graph.spans[parent].start_ns - span.start_ns
        return early if early > SKEW_TOLERANCE_NS and facts.operation(span) != "receive" else 0


def _is_sampled(span: Span, reference: Reference) -> bool:
    """False only where the context that came says so."""
    said = [reference.link.attributes] if reference.link else []
    if reference.by_parent:
        said.append(span.attributes)
    return all(attributes.get(semconv.CONTEXT_SAMPLED) is not False for attributes in said)


def _skew_ns(placed: PlacedEdge) -> int:
    return placed.edge.wait.skew_ns if placed.edge.wait else 0


def _unread(tree: Tree, edges: list[PlacedEdge], known: Knowledge) -> dict[int, str]:
    """Messages that were sent and not consumed, by consumers known to read that destination.

    Only once the flow is quiet: a message may wait for days and be well. And only where it is known that
    somebody reads there, from elsewhere or from another message of this flow: a topic that nobody traced
    reads (a sink, another company) is healthy.
    """
    if not known.is_quiet:
        return {}
    readers: dict[str, set[str]] = defaultdict(set)
    for name, consumers in known.consumers.items():
        readers[name] |= consumers
    consumed: dict[int, set[str]] = defaultdict(set)
    for placed in edges:
        readers[placed.edge.destination].add(placed.edge.consumer)
        if placed.creation is not None:
            consumed[placed.creation].add(placed.edge.consumer)
    found: dict[int, str] = {}
    for node, span in zip(tree.places, tree.spans, strict=True):
        sent_to = facts.destination(span.attributes)
        # A send whose context is not the message's own is answered for by the span whose it is.
        if sent_to is None or span.kind is not Kind.PRODUCER or not facts.is_producing(span):
            continue
        sent = span.end_ns is not None and span.status is not Status.ERROR
        if (
            sent
            and semconv.CONTEXT_STATE not in span.attributes
            and (missing := readers[sent_to] - consumed[node])
        ):
            found[node] = f"No process span of {', '.join(sorted(missing))} came for it."
    return found
