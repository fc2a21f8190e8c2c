"""Retries: what a client sends once more by itself, noted as it does so, and told by the span of the send.

It happens in the client's own thread and to a whole batch at once, so as little as can be is done there.
Spans learn of it when they end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tracekit import semconv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Span

    from tracekit.messaging.transport import Call, Transport

_MOMENTS: Final = 8
"""Retries with an event of their own, the first ones of a message. A client may try a thousand times."""


class Retries:
    """The retries of one message."""

    __slots__ = ("_at_ns", "_number")

    def __init__(self, at_ns: int) -> None:
        self._number = 1
        self._at_ns = [at_ns]

    def add(self, at_ns: int) -> None:
        """There was one more."""
        self._number += 1
        if self._number <= _MOMENTS:
            self._at_ns.append(at_ns)

    def tell(self, span: Span) -> None:
        """Put them on the span of the send."""
        span.set_attribute(semconv.RETRIES, self._number)
        for at_ns in self._at_ns:
            span.add_event(semconv.RETRY_EVENT, timestamp=at_ns)


class Retriable:
    """Who listens for the answer to one message; `retries` is None while there are none."""

    __slots__ = ("retries",)

    retries: Retries | None


class _Early(Retries):
    """Those of a message whose send has not returned yet, so that nobody listens for its answer.

    It listens itself. Who joins later hears the answer after it, and has the retries by then.
    """

    __slots__ = ("_listeners",)

    def __init__(self, listeners: Sequence[object], at_ns: int) -> None:
        super().__init__(at_ns)
        self._listeners = listeners

    def __call__(self, answer: object, error: BaseException | None = None, /) -> None:
        self.hand_over()
        self._listeners = ()  # of which it is one

    def hand_over(self) -> None:
        """Give them to the send, if it listens by now."""
        for listener in self._listeners:
            if isinstance(listener, Retriable):
                listener.retries = self


def note_retries(transport: Transport, call: Call) -> None:
    """Note that this call of the client sends messages once more."""
    at_ns = time.time_ns()
    for awaited, listeners in transport.resent(call):
        for listener in listeners:
            if isinstance(listener, Retries):
                listener.add(at_ns)
                break
            if isinstance(listener, Retriable):
                if listener.retries is None:
                    listener.retries = Retries(at_ns)
                else:
                    listener.retries.add(at_ns)
                break
        else:
            early = _Early(listeners, at_ns)
            transport.listen(awaited, early)
            early.hand_over()  # a send that joined meanwhile hears the answer before it
