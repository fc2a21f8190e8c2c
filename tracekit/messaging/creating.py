"""Creates: a call that sends several messages, each of which is created in a span of its own.

Source: conventions 1.44, messaging spans, "Batch sending": the messages carry the contexts of their create
spans, and the send is a CLIENT that links to them.
"""

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
from tracekit.messaging.transport import shared
from tracekit.tracing.errors import outcome, partly_failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext

    from tracekit.messaging.engine import Engine
    from tracekit.messaging.transport import Call, Headers, Hook, Message, Transport


class Created:
    """One message of several, created.

    `span` is None where the message keeps the creation context that the caller put on it, and `headers`
    where it stays as it is. `context` is its creation context.
    """

    __slots__ = ("context", "headers", "span")

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        hook: Hook,
        message: Message,
        client: object,
        context: Context,
    ) -> None:
        self.span: Span | None = None
        self.headers: Headers | None = None
        kept = creation.kept(message.headers, context)
        if kept is not None:
            self.context: SpanContext = kept
            return
        telemetry = engine.telemetry
        shape = telemetry.shape(transport, client, "create", "create", message.destination)
        attributes = {**shape.attributes, **message.attributes}
        if message.id is not None:
            attributes[semconv.MESSAGING_MESSAGE_ID] = message.id
        parent, pathway = trace.get_current_span(context), ours.pathway_of(context)
        self.span = telemetry.start(shape, parent, attributes, (), time.time_ns(), pathway, context)
        self.context = self.span.get_span_context()
        step = semconv.messaging_span_name(hook.name, message.destination)
        self.headers = creation.fitting(message, self.span, context, f"{step} {transport.system}")


class Creating:
    """Several messages under way in one call. Called with the broker's answer, as a `Sending`.

    The span of a message ends with the answer, which says whether the broker took it.
    """

    def __init__(
        self, engine: Engine, transport: Transport, hook: Hook, call: Call, messages: Sequence[Message]
    ) -> None:
        self.call = call
        self.is_changed = False
        self._transport = transport
        self._telemetry = telemetry = engine.telemetry
        self._messages = messages
        context = sound(otel.get_current())
        self._created: list[Span | None] = []
        links: list[Link] = []
        headers: list[Headers | None] = []
        if (batch := transport.gathered(call)) is not None:
            added = engine.gathered.pop(batch, None)
            links = [] if added is None else [creation.linked(each) for each in added.contexts]
            self._created = [None] * len(messages) if added is None else added.sent_to(messages)
        else:
            for message in messages:
                made = Created(engine, transport, hook, message, call["self"], context)
                self._created.append(made.span)
                links.append(creation.linked(made.context))
                headers.append(made.headers)
        destinations = {message.destination for message in messages}
        self._shape = shape = telemetry.shape(
            transport,
            call["self"],
            "send",
            hook.name,
            destinations.pop() if len(destinations) == 1 else "",
            own_context=False,
        )
        self._start_ns = time.time_ns()
        self._span = telemetry.start(
            shape,
            trace.get_current_span(context),
            {
                **shape.attributes,
                **shared(messages),
                semconv.MESSAGING_BATCH_MESSAGE_COUNT: len(messages),
            },
            links,
            self._start_ns,
            ours.pathway_of(context),
            context,
        )
        checkpoint = ours.checkpoint_of(context)
        if checkpoint is not None:
            checkpoint.sent = True
        if any(each is not None for each in headers):
            self.call = transport.stamp(call, headers)
            self.is_changed = True

    def is_to_blame(self, error: Exception) -> bool:
        """As that of a `Sending`."""
        with shielded("messages that were refused"):
            if self.is_changed and self._transport.is_oversized(error):
                self.is_changed = False
                count_drop("oversized", "context that made messages too large", len(self._messages))
                for span in filter(None, self._created):
                    span.set_attribute(semconv.DROP_REASON, "oversized")
                    span.set_attribute(semconv.CONTEXT_STATE, "skipped")
                return True
        return False

    def __call__(self, answer: object, error: BaseException | None = None) -> None:
        try:
            self._answered(answer, error)
        except Exception as failure:  # noqa: BLE001 - the shield of a hot path
            swallow("the broker's answer", failure)

    def _answered(self, answer: object, error: BaseException | None) -> None:
        end_ns = time.time_ns()
        failure = "" if error is None else outcome(self._span, error)
        failures: Sequence[str] = [failure] * len(self._messages)
        if error is None:
            with shielded("what became of the messages"):
                if isinstance(self._span, SdkSpan):
                    self._span.set_attributes(self._transport.answer(self.call, answer))
                failures = self._tell(self._transport.answers(self.call, answer)) or failures
            failure = partly_failed(self._span, failures)
        for span, own in zip(self._created, failures, strict=True):
            if span is not None:
                if own:
                    span.set_attribute(semconv.ERROR_TYPE, own)
                    span.set_status(trace.Status(trace.StatusCode.ERROR))
                elif error is not None:
                    span.set_attribute(semconv.CANCELLED, True)
                span.end(end_ns)
        self._span.end(end_ns)
        here, telemetry, shape = self._span.get_span_context(), self._telemetry, self._shape
        telemetry.operated(shape, end_ns - self._start_ns, here, failure)
        for own in failures:
            shape.count(telemetry.instruments.sent_messages, 1, own)

    def _tell(self, answers: Sequence[object]) -> Sequence[str]:
        """Put what the broker says of each message on its span; the failure of each, or nothing."""
        if len(answers) != len(self._messages):
            return ()
        for span, said in zip(self._created, answers, strict=True):
            if isinstance(said, dict) and isinstance(span, SdkSpan):
                span.set_attributes(said)
        return [said if isinstance(said, str) else "" for said in answers]


def create(engine: Engine, transport: Transport, hook: Hook, call: Call) -> Creating | None:
    """Begin a call that sends several messages; None where it sends none that we understand."""
    messages = transport.outgoing(call)
    return Creating(engine, transport, hook, call, messages) if messages else None
