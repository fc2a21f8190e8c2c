"""What flows say of what went wrong, in sentences: the failure and where it came from, the wait that grows
from order to order, the context that was lost. What took long, each flow says itself: `flow.remarks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tracekit.flow.remarks import LONG_WAIT_NS
from tracekit.flow.text import duration
from tracekit.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tracekit.flow import Flow
    from tracekit.model import Span
    from tracekit_demo.expected import Edge

_GROWN_NS: Final = 500_000_000
_WORK_SHARE: Final = 10
"""A handler is as fast as ever if it took longer by less than a tenth of what the wait grew by."""
_EARLIER: Final = 3


class Handled(NamedTuple):
    """A message of an order: how long it waited for its consumer, and how long that worked on it."""

    number: int
    destination: str
    consumer: str
    waited_ns: int
    worked_ns: int


def handled(flow: Flow, number: int) -> Iterator[Handled]:
    """The messages of the flow of this order that were handled."""
    for edge in flow.edges:
        if edge.wait is not None and edge.consuming.end_ns is not None:
            worked_ns = edge.consuming.end_ns - edge.consuming.start_ns
            yield Handled(number, edge.destination, edge.consumer, edge.wait.duration_ns, worked_ns)


def failures(flow: Flow, may_fail: Callable[[Span], bool], status: int) -> Iterator[str]:
    """The failures from which the others came."""
    for span in flow.errors:
        if may_fail(span) or any(child in flow.errors for child in flow.children(span)):
            continue
        said = f"{_named(span)} failed: {_reason(span)}"
        if span.kind is Kind.CONSUMER:
            yield f"{said}; what should follow from its message did not happen"
        else:
            yield f"{said}; the caller got {status}"


def _reason(span: Span) -> str:
    """The exception, as its span tells it; else the span's own words."""
    for event in reversed(span.events):
        raised = [event.attributes.get(f"exception.{part}") for part in ("type", "message")]
        if any(raised):
            return ": ".join(str(part).split("\n", 1)[0] for part in raised if part)
    return span.status_message or str(span.attributes.get("error.type", "it does not say why"))


def grown_waits(messages: Iterable[Handled], earlier: Sequence[Handled]) -> Iterator[tuple[Handled, str]]:
    """Messages that waited longer than those of their queue before, for a handler that takes no longer."""
    for message in messages:
        queue = (message.destination, message.consumer)
        before = [each for each in earlier if (each.destination, each.consumer) == queue][-_EARLIER:]
        if not before:
            continue
        grown_ns = message.waited_ns - before[-1].waited_ns
        slower_ns = message.worked_ns - before[-1].worked_ns
        if message.waited_ns < LONG_WAIT_NS or grown_ns < _GROWN_NS or slower_ns * _WORK_SHARE > grown_ns:
            continue
        waits = [*_rising([*before, message])]
        then = ", then ".join(f"{duration(each.waited_ns)} (#{each.number})" for each in waits[:-1])
        said = (
            f"{message.consumer} falls behind: {message.destination} waited {then}, now "
            f"{duration(message.waited_ns)}; its handler took {duration(before[-1].worked_ns)}, now "
            f"{duration(message.worked_ns)}, so messages come faster than it takes them"
        )
        yield message, said


def _rising(waits: Sequence[Handled]) -> Iterator[Handled]:
    """The last of them, from where each is longer than the one before."""
    first = len(waits) - 1
    while first > 0 and waits[first - 1].waited_ns < waits[first].waited_ns:
        first -= 1
    yield from waits[first:]


def lost_context(rest: Iterable[Flow], lost: Iterable[Edge]) -> Iterator[str]:
    """Where what followed begins a flow of its own, with the break as it stands under that one's tree.

    `lost`: the edges that are missing.
    """
    callers = {edge.callee: edge.caller for edge in lost}
    for flow in rest:
        for each in flow.breaks:
            if each.at is flow.entry:
                caller = callers.get(_named(each.at))
                after = f", after {caller}" if caller else ""
                yield (
                    f"{each.reason}  {each.at.name} ({each.at.service.name}){after}: {each.evidence} "
                    f"What follows is a flow of its own, {flow.id[:8]}, found by its order.id. {each.cure}"
                )


def _named(span: Span) -> str:
    return f"{span.service.name} {span.name}"
