"""The wait of a message: from publishing to the start of processing, and who says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from tracekit import semconv
from tracekit.flow import facts
from tracekit.model import Kind, Link, Span

WaitSource: TypeAlias = Literal["broker", "header", "client", "span"]

_SOURCES: Final = frozenset({"broker", "header", "client"})


@dataclass(frozen=True, slots=True)
class Wait:
    """Time that a message spent in a queue.

    `source` tells who knows when it was published: the broker itself, the edge time in our header,
    a client's timestamp, or only the send span. Clocks that disagree give a wait of 0, and `skew_ns`
    keeps by how much it would have been negative.
    """

    start_ns: int
    end_ns: int
    source: WaitSource
    skew_ns: int = 0

    @property
    def duration_ns(self) -> int:
        """Never negative."""
        return self.end_ns - self.start_ns


def wait_of(consuming: Span, link: Link | None, send: Span | None) -> Wait | None:
    """The wait of one message; None where nothing tells when it was published.

    `link` is the one to this message, where its own times stand if the span serves several; `send`
    the span that published it, where that is known.
    """
    begin = _taken_over_ns(consuming)
    holder = link.attributes if link and semconv.PUBLISHED_AT in link.attributes else consuming.attributes
    published = facts.number(holder, semconv.PUBLISHED_AT)
    if published is not None:
        said = holder.get(semconv.PUBLISHED_AT_SOURCE)
        # Unnamed is taken for the weakest: some client's clock.
        source = cast("WaitSource", said) if said in _SOURCES else "client"
        return Wait(min(published, begin), begin, source, max(0, published - begin))
    if send is None or send.end_ns is None:
        return None
    # A consumer may have the message before the broker's answer reaches the producer. So only what
    # begins before the send span itself shows that the clocks disagree.
    return Wait(min(send.end_ns, begin), begin, "span", max(0, send.start_ns - begin))


def _taken_over_ns(consuming: Span) -> int:
    """When the consumer had the message.

    The start of processing; but a pull begins before the message is there, so it is the end of a
    receive span of today's conventions (CLIENT; in older ones it was a CONSUMER, begun on arrival).
    """
    pulled = consuming.kind is Kind.CLIENT and facts.operation(consuming) == "receive"
    return consuming.end_ns if pulled and consuming.end_ns is not None else consuming.start_ns
