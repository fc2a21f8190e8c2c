"""Whether the flow of an order that went on tour is whole: what it lacks, in words."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from tracekit.flow.text import harmless
from tracekit.model import Kind
from tracekit_demo.tour.systems import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.flow import Flow


def visited(flow: Flow) -> tuple[str, ...]:
    """The stations, in the order in which the order came to them."""
    seen: dict[str, int] = {}
    for span in flow.spans:
        if span.kind in {Kind.SERVER, Kind.CONSUMER}:
            seen[span.service.name] = min(span.start_ns, seen.get(span.service.name, span.start_ns))
    return tuple(sorted(seen, key=seen.__getitem__))


def lacks(flow: Flow, stations: Sequence[str]) -> Iterator[str]:
    """What the flow of an order that went through these stations lacks; nothing if it is whole."""
    if visited(flow) != tuple(stations):
        yield f"it went through {', '.join(visited(flow))}, and was to go through {', '.join(stations)}"
    for before, after in pairwise(stations):
        if SYSTEMS[after].server:
            yield from _of_message(flow, before, after)
        elif (before, after) not in _calls(flow):
            yield f"no call from {before} to {after}"
    for each in flow.breaks:
        yield harmless(f"{each.reason}  {each.at.name} ({each.at.service.name}): {each.evidence} {each.cure}")
    for span in flow.errors:
        yield harmless(f"failed: {span.name} ({span.service.name}): {span.status_message}")
    for span in flow.open_spans:
        yield harmless(f"not ended: {span.name} ({span.service.name})")


def _of_message(flow: Flow, before: str, after: str) -> Iterator[str]:
    edges = [
        edge
        for edge in flow.edges
        if edge.consuming.service.name == after
        and edge.creation is not None
        and edge.creation.service.name == before
    ]
    if len(edges) != 1:
        yield f"{len(edges)} messages from {before} to {after}, not one"
    for edge in edges:
        if edge.wait is None:
            yield f"nobody knows how long the message from {before} waited for {after}"


def _calls(flow: Flow) -> set[tuple[str, str]]:
    """Who called whom: two different services."""
    tree = flow.tree
    return {
        (tree.spans[parent].service.name, tree.spans[place].service.name)
        for place, parent in enumerate(tree.parents)
        if parent is not None and tree.spans[place].kind is Kind.SERVER
    }
