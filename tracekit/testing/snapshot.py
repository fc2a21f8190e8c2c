"""Snapshot: a flow's tree as text, without anything that differs from run to run. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracekit.flow.labels import labels
from tracekit.flow.text import harmless
from tracekit.model import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit.flow import Flow

_INDENT = "  "


def snapshot(flow: Flow) -> str:
    """A line for each span and each wait, indented below its cause; `✕` where a span failed.

    What a span does itself stands in order of time; what consumed its messages, which may come in any
    order, sorted by destination, service and name. Breaks follow at the end, by their codes.
    """
    lines = [*_lines(flow)]
    lines += [
        f"✕ {each.reason}: {harmless(each.at.name)} ({harmless(each.at.service.name)})"
        for each in flow.breaks
    ]
    return "\n".join(lines)


def _lines(flow: Flow) -> Iterator[str]:
    tree = flow.tree
    names = [harmless(name) for name in labels(tree)]
    stack = [(at, 0) for at in reversed(tree.roots)]
    while stack:
        at, depth = stack.pop()
        span, arrival = tree.spans[at], tree.arrivals[at]
        if arrival is not None and arrival.creation is not None:
            yield f"{_INDENT * depth}~ {harmless(arrival.destination)}"
            depth += 1
        mark = " ✕" if span.status is Status.ERROR else " …" if span.end_ns is None else ""
        yield f"{_INDENT * depth}{names[at]} ({harmless(span.service.name)}){mark}"
        stack += [(child, depth + 1) for child in reversed(_in_order(flow, tree.children[at], names))]


def _in_order(flow: Flow, children: tuple[int, ...], names: list[str]) -> list[int]:
    own = [at for at in children if flow.tree.arrivals[at] is None]
    consumed = [at for at in children if flow.tree.arrivals[at] is not None]

    def place(at: int) -> tuple[str, str, str]:
        arrival = flow.tree.arrivals[at]
        return arrival.destination if arrival else "", flow.tree.spans[at].service.name, names[at]

    return own + sorted(consumed, key=place)
