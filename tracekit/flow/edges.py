"""The message edge: from the context that a message carried to the span that consumed it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tracekit import semconv
from tracekit.flow import facts
from tracekit.flow.waits import Wait, wait_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracekit.flow.graph import Graph, Reference
    from tracekit.model import Attributes, Span

_MOST_ABOVE: Final = 100
"""Bounds the work on made-up data; a message is processed right below its batch, or a few calls below."""

Relation: TypeAlias = Literal["parent", "link", "parent and link"]


@dataclass(frozen=True, slots=True)
class MessageEdge:
    """One message, from its creation to one consumption of it.

    `creation` is None where that span never arrived. `wait` is None where nothing tells when the
    message was published. `destination` and `system` are empty where nobody names them.
    """

    creation: Span | None
    consuming: Span
    destination: str
    system: str
    group: str | None
    relation: Relation
    wait: Wait | None
    partition: str | None = None
    offset: int | None = None
    message_id: str | None = None

    @property
    def consumer(self) -> str:
        """Who consumed: the consumer group, or the service where no group is known."""
        return facts.consumer(self.consuming)


@dataclass(frozen=True, slots=True)
class PlacedEdge:
    """An edge and the places of its two ends in the graph."""

    edge: MessageEdge
    creation: int | None
    consuming: int


def edges_of(graph: Graph, nodes: Sequence[int], flow_id: str) -> list[PlacedEdge]:
    """The edges of one flow's messages, in the order of its consuming spans."""
    members = set(nodes)
    sends = _sends(graph, nodes)
    found: list[PlacedEdge] = []
    for node in nodes:
        if not facts.is_consuming(graph.spans[node]):
            continue
        messages = graph.messages(node)
        for reference in messages:
            if reference.target in members or (
                reference.target is None and concerns(graph, node, reference, flow_id)
            ):
                edge = _edge(graph, node, reference, sends, single=len(messages) == 1)
                found.append(PlacedEdge(edge, reference.target, node))
    return _once(_delivered(graph, found))


def concerns(graph: Graph, node: int, reference: Reference, flow_id: str) -> bool:
    """Whether what a span refers to, and what never arrived, would be part of this flow.

    A hub refers to messages of many flows. Where no id tells them apart, the trace does.
    """
    link_id = facts.flow_id(reference.link) if reference.link else None
    said = link_id or facts.flow_id(graph.spans[node])
    if said:
        return said == flow_id
    return len(graph.references[node]) == 1 or reference.by_parent or reference.trace_id == flow_id


def _edge(
    graph: Graph, node: int, reference: Reference, sends: Mapping[int, Span], *, single: bool
) -> MessageEdge:
    consuming = graph.spans[node]
    creation = None if reference.target is None else graph.spans[reference.target]
    send = None if reference.target is None else sends.get(reference.target)
    if send is None and creation is not None and facts.is_producing(creation):
        send = creation
    on_link: Attributes = reference.link.attributes if reference.link else {}
    placed: list[Attributes] = [on_link, consuming.attributes]
    named = [*placed, send.attributes] if send else placed
    # What tells messages apart stands on the links of a batch; the span's own is then nobody's.
    told = placed if single else [on_link]
    return MessageEdge(
        creation=creation,
        consuming=consuming,
        destination=next((name for a in named if (name := facts.destination(a))), ""),
        system=next((name for a in named if (name := facts.text(a, semconv.MESSAGING_SYSTEM))), ""),
        group=facts.group(consuming),
        relation=_relation(reference),
        wait=wait_of(consuming, reference.link, send),
        partition=next((name for a in placed if (name := facts.text(a, *_PARTITION))), None),
        offset=next((at for a in told if (at := facts.number(a, *_OFFSET)) is not None), None),
        message_id=next((name for a in told if (name := facts.text(a, semconv.MESSAGING_MESSAGE_ID))), None),
    )


_PARTITION = (
    semconv.MESSAGING_DESTINATION_PARTITION_ID,
    semconv.OLD_MESSAGING_KAFKA_DESTINATION_PARTITION,
    semconv.OLD_MESSAGING_KAFKA_PARTITION,
)
_OFFSET = (semconv.MESSAGING_KAFKA_OFFSET, semconv.OLD_MESSAGING_KAFKA_OFFSET)


def _relation(reference: Reference) -> Relation:
    if reference.by_parent:
        return "parent and link" if reference.link else "parent"
    return "link"


def _sends(graph: Graph, nodes: Sequence[int]) -> dict[int, Span]:
    """For a creation context, the span that sent its message on: a batch send, or a relay's.

    Of several, the one that ended first: the message was there from then on.
    """
    found: dict[int, Span] = {}
    for node in nodes:
        span = graph.spans[node]
        if not span.links or not facts.is_producing(span) or span.end_ns is None:
            continue
        for reference in graph.references[node]:
            if reference.link is not None and reference.target is not None:
                other = found.get(reference.target)
                if other is None or other.end_ns is None or span.end_ns < other.end_ns:
                    found[reference.target] = span
    return found


def _delivered(graph: Graph, edges: list[PlacedEdge]) -> list[PlacedEdge]:
    """Without the processing of one message inside of that of its batch: it was delivered once."""
    consumed = {(placed.creation, placed.consuming) for placed in edges if placed.creation is not None}
    return [
        placed
        for placed in edges
        if placed.creation is None
        or not any((placed.creation, above) in consumed for above in _above(graph, placed.consuming))
    ]


def _above(graph: Graph, node: int) -> Iterator[int]:
    """The nearest spans above one, by distance; each once, whatever they refer to."""
    seen = {node}
    while len(seen) <= _MOST_ABOVE:
        parents = [r.target for r in graph.references[node][:1] if r.by_parent and not r.is_message]
        if not parents or parents[0] is None or parents[0] in seen:
            return
        node = parents[0]
        seen.add(node)
        yield node


def _once(edges: list[PlacedEdge]) -> list[PlacedEdge]:
    """Without the receiving of messages that the same service also processed: they arrived once."""
    processed = defaultdict(set)
    for placed in edges:
        if facts.operation(placed.edge.consuming) != "receive" and placed.creation is not None:
            processed[placed.creation].add(placed.edge.consuming.service.name)
    return [
        placed
        for placed in edges
        if facts.operation(placed.edge.consuming) != "receive"
        or placed.creation is None
        or placed.edge.consuming.service.name not in processed[placed.creation]
    ]
