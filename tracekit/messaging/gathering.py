"""Batches to which messages are added one by one, before it is known where they go.

Each message is created in a span of its own as it is added; the call that sends the batch says where to.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry.sdk.trace import Span as SdkSpan

from tracekit import semconv
from tracekit.guard import shielded
from tracekit.messaging.calls import is_suppressed
from tracekit.messaging.creating import Created
from tracekit.messaging.nesting import sound
from tracekit.patching import Names
from tracekit.tracing.errors import record_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Span, SpanContext

    from tracekit.messaging.engine import Engine
    from tracekit.messaging.transport import Hook, Message, Transport
    from tracekit.patching import Function


class Gathered:
    """The messages of one batch of a client."""

    def __init__(self, client: object) -> None:
        self.client: weakref.ref[object] = weakref.ref(client)
        self._created: list[tuple[Span | None, SpanContext]] = []

    @property
    def contexts(self) -> Sequence[SpanContext]:
        """The creation contexts."""
        return [context for _, context in self._created]

    def add(self, one: Created) -> None:
        """One more that is in the batch."""
        self._created.append((one.span, one.context))

    def sent_to(self, messages: Sequence[Message]) -> list[Span | None]:
        """The spans of the messages, which now have a destination; None for what has none of its own."""
        spans = [span for span, _ in self._created]
        if len(spans) != len(messages):  # some were added while nothing was traced: nobody knows which
            for each in filter(None, spans):
                each.end()
            return [None] * len(messages)
        for span, message in zip(spans, messages, strict=True):
            if isinstance(span, SdkSpan):
                span.update_name(semconv.messaging_span_name("create", message.destination))
                span.set_attribute(semconv.MESSAGING_DESTINATION_NAME, message.destination)
        return spans


def gathering(engine: Engine, transport: Transport, hook: Hook, function: Function) -> Function:
    """What gives a batch, to which messages are added."""

    @functools.wraps(function)
    def gather(*args: Any, **kwargs: Any) -> Any:
        batch = function(*args, **kwargs)
        with shielded(hook.name):
            if not is_suppressed():
                engine.gathered[batch] = Gathered(args[0] if args else kwargs["self"])
        return batch

    return gather


def adding(engine: Engine, transport: Transport, hook: Hook, function: Function) -> Function:
    """What adds a message to a batch, and gives None where it has not."""
    names = Names(function, hook.parameters)

    @functools.wraps(function)
    def add(*args: Any, **kwargs: Any) -> Any:
        gathered = engine.gathered.get(args[0]) if args else None
        if gathered is None or is_suppressed():
            return function(*args, **kwargs)
        created: Created | None = None
        with shielded(hook.name):
            call = names.bind(args, kwargs)
            client = gathered.client()
            messages = (
                () if call is None or client is None else transport.outgoing({**call, "client": client})
            )
            if call is not None and len(messages) == 1:
                context = sound(otel.get_current())
                created = Created(engine, transport, hook, messages[0], client, context)
                if created.headers is not None:
                    args, kwargs = names.unbind(transport.stamp(call, [created.headers]), len(args))
        if created is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            with shielded(hook.name):
                if created.span is not None:
                    record_error(created.span, error)
                    created.span.end()
            raise
        if result is not None:
            gathered.add(created)
        return result

    return add
