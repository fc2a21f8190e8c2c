"""Remarks: what a flow says of itself where it took long, in sentences.

One flow tells where most of its time went: to one span's work, or to a queue whose consumer had little to
do for it. Whether that is more than usual, only several flows can tell.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from tracekit.flow.text import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit.flow.build import Flow
    from tracekit.flow.critical_path import Path
    from tracekit.flow.edges import MessageEdge
    from tracekit.model import Span

LONG_WORK_NS: Final = 1_000_000_000
LONG_WAIT_NS: Final = 1_500_000_000
HANDLER_SHARE: Final = 5
"""A handler is short beside a wait that is five times as long."""
_WAITS: Final = 3
"""So many waits are worth a sentence, the longest first."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence, and what it is about: a span's work, or the wait of the message on `edge`."""

    kind: Literal["work", "wait"]
    text: str
    edge: MessageEdge | None = None


def remarks(flow: Flow) -> tuple[Remark, ...]:
    """All that there is to say of it; empty where nothing took long."""
    return (*long_work(flow), *long_waits(flow))


def long_work(flow: Flow) -> Iterator[Remark]:
    """The work of one span that most of the response, else of the completion, was spent on."""
    for path, until in (
        (flow.blocking_path, "that the caller waited"),
        (flow.completion_path, "until all was done"),
    ):
        worked = _worked(path)
        span, longest_ns = max(worked, key=lambda each: each[1], default=(flow.entry, 0))
        whole_ns = sum(segment.duration_ns for segment in path)
        others = len(worked) > 1 or longest_ns < whole_ns
        if longest_ns >= LONG_WORK_NS and 2 * longest_ns > whole_ns - _waited_ns(path) and others:
            took = f"{duration(longest_ns)} of the {duration(whole_ns)} {until}"
            yield Remark("work", f"{span.service.name} {span.name} took {took}")
            return


def long_waits(flow: Flow) -> Iterator[Remark]:
    """The messages that waited long for a handler that then was quick, one of each queue and consumer."""
    longest: dict[tuple[str, str, str], tuple[int, int, MessageEdge]] = {}
    for edge in flow.edges:
        if edge.wait is None or edge.consuming.end_ns is None:
            continue
        waited_ns, worked_ns = edge.wait.duration_ns, edge.consuming.end_ns - edge.consuming.start_ns
        queue = edge.system, edge.destination, edge.consumer
        if (
            waited_ns >= LONG_WAIT_NS
            and worked_ns * HANDLER_SHARE <= waited_ns
            and (queue not in longest or waited_ns > longest[queue][0])
        ):
            longest[queue] = waited_ns, worked_ns, edge
    for waited_ns, worked_ns, edge in sorted(longest.values(), key=lambda each: -each[0])[:_WAITS]:
        yield Remark(
            "wait",
            f"{edge.destination or 'a message'} waited {duration(waited_ns)} for {edge.consumer}, which then "
            f"took {duration(worked_ns)}: {edge.consumer} was behind, or not there yet",
            edge,
        )


def _worked(path: Path) -> list[tuple[Span, int]]:
    spans: dict[int, Span] = {}
    worked: defaultdict[int, int] = defaultdict(int)
    for segment in path:
        if segment.kind == "work":
            spans[id(segment.span)] = segment.span
            worked[id(segment.span)] += segment.duration_ns
    return [(span, worked[key]) for key, span in spans.items()]


def _waited_ns(path: Path) -> int:
    return sum(segment.duration_ns for segment in path if segment.kind == "wait")
