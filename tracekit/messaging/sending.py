"""Sends and settles: from the call to the broker's answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import Span as SdkSpan

from tracekit import context as ours
from tracekit import semconv
from tracekit.guard import count_drop, shielded, swallow
from tracekit.messaging import creation
from tracekit.messaging.nesting import sound
from tracekit.messaging.processing import current_process
from tracekit.messaging.retries import Retriable
from tracekit.messaging.transport import shared
from tracekit.tracing.errors import outcome, partly_failed
from tracekit.tracing.quick import QuickSpan

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from tracekit.messaging.engine import Engine
    from tracekit.messaging.telemetry import Shape, Telemetry
    from tracekit.messaging.transport import Call, Hook, Transport


class Sending(Retriable):
    """One send or settle under way. Called with the broker's answer, in whatever thread that comes."""

    __slots__ = ("_shape", "_span", "_start_ns", "_telemetry", "_transport", "call", "is_batch", "is_changed")

    def __init__(
        self, telemetry: Telemetry, transport: Transport, call: Call, shape: Shape, span: Span, start_ns: int
    ) -> None:
        self._telemetry = telemetry
        self._transport = transport
        self._shape = shape
        self._span = span
        self._start_ns = start_ns
        self.retries = None
        self.call = call
        self.is_batch = False
        """Whether the broker answers for several messages, each on its own."""
        self.is_changed = False
        """Whether the call carries our headers."""

    def is_to_blame(self, error: Exception) -> bool:
        """Whether the client refused a message for its size, and our headers may be why.

        Nothing was sent then. The message goes once more, as it was given.
        """
        with shielded("a message that was refused"):
            if self.is_changed and self._transport.is_oversized(error):
                self.is_changed = False
                count_drop("oversized", "context that made a message too large")
                self._span.set_attribute(semconv.DROP_REASON, "oversized")
                self._span.set_attribute(semconv.CONTEXT_STATE, "skipped")
                return True
        return False

    def __call__(self, answer: object, error: BaseException | None = None) -> None:
        try:
            self._answered(answer, error)
        except Exception as failure:  # noqa: BLE001 - the shield of a hot path
            swallow("the broker's answer", failure)

    def _answered(self, answer: object, error: BaseException | None) -> None:
        end_ns = time.time_ns()
        span, shape, telemetry = self._span, self._shape, self._telemetry
        failure = ""
        try:
            if self.retries is not None:
                self.retries.tell(span)
            if error is not None:
                failure = outcome(span, error)
            elif isinstance(span, QuickSpan):
                span.put(self._transport.answer(self.call, answer))
            elif isinstance(span, SdkSpan):
                span.set_attributes(self._transport.answer(self.call, answer))
                if self.is_batch:
                    failure = partly_failed(span, self._transport.answers(self.call, answer))
        finally:
            span.end(end_ns)
        telemetry.operated(shape, end_ns - self._start_ns, span.get_span_context(), failure)
        if shape.labels[semconv.MESSAGING_OPERATION_TYPE] == "send":
            shape.count(telemetry.instruments.sent_messages, 1, failure)


def send(engine: Engine, transport: Transport, hook: Hook, call: Call) -> Sending | None:
    """Begin the send of one message, with our headers on it; None where the call is none.

    A message that has a creation context of its own keeps it, and its span has a link to there.
    """
    messages = transport.outgoing(call)
    if len(messages) != 1:
        return None
    (message,) = messages
    telemetry = engine.telemetry
    context = sound(otel.get_current())
    kept = creation.kept(message.headers, context)
    shape = telemetry.shape(
        transport, call["self"], "send", hook.name, message.destination, own_context=kept is None
    )
    start_ns = time.time_ns()
    attributes = {**shape.attributes, **message.attributes}
    if message.id is not None:
        attributes[semconv.MESSAGING_MESSAGE_ID] = message.id
    span = telemetry.start(
        shape,
        trace.get_current_span(context),
        attributes,
        () if kept is None else [creation.linked(kept)],
        start_ns,
        ours.pathway_of(context),
        context,
    )
    checkpoint = ours.checkpoint_of(context)
    if checkpoint is not None:
        checkpoint.sent = True
    sending = Sending(telemetry, transport, call, shape, span, start_ns)
    if kept is None:
        headers = creation.fitting(message, span, context, shape.step)
        if headers is not None:
            sending.call = transport.stamp(call, [headers])
            sending.is_changed = True
    return sending


def settle(engine: Engine, transport: Transport, hook: Hook, call: Call) -> Sending | None:
    """Begin a commit, an acknowledgement or the like: of the message in process, where it says no other.

    None where the call is none, or settles a message that the application was never given.
    """
    messages = transport.outgoing(call)
    if not messages:
        return None
    telemetry = engine.telemetry
    context = sound(otel.get_current())
    destinations = {message.destination for message in messages}
    destination = destinations.pop() if len(destinations) == 1 else ""
    turn = current_process(context)
    client: object = call["self"]
    if (receipt := transport.receipt(messages[0])) is not None:
        if (received := engine.settled(transport, client, receipt)) is None:
            return None
        destination = received.destination
    elif not destinations and not destination and turn is not None:
        destination = turn.destination_of(transport)
    groups = {message.group for message in messages}
    group = groups.pop() if len(groups) == 1 else ""
    if transport.records(client):  # a message that settles itself is no client
        described, _ = engine.described(transport, client)
        destination = destination or described[0].destination
        client = transport.owner(client)
    shape = telemetry.shape(transport, client, "settle", hook.name, destination, group=group)
    attributes = {**shape.attributes, **shared(messages)}
    if hook.scope == "batch":
        attributes[semconv.MESSAGING_BATCH_MESSAGE_COUNT] = len(messages)
    start_ns = time.time_ns()
    span = telemetry.tracer.start_span(shape.name, context, shape.kind, attributes, None, start_ns)
    settling = Sending(telemetry, transport, call, shape, span, start_ns)
    settling.is_batch = hook.scope == "batch"
    return settling
