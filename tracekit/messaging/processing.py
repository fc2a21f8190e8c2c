"""The processing of one message: its span, its wait, what it brought, and where its flow may end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan

from tracekit import context as ours
from tracekit import semconv
from tracekit.messaging import creation
from tracekit.messaging.nesting import Nested, outside
from tracekit.tracing.errors import outcome as outcome
from tracekit.tracing.errors import record_error as record_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from tracekit.messaging.creation import Arrived
    from tracekit.messaging.engine import Engine, ParentRule
    from tracekit.messaging.telemetry import Shape
    from tracekit.messaging.transport import Message, Source
    from tracekit.pathway import Pathway

_MS: Final = 1_000_000


class Process(Nested):
    """One message in process: from its start to the end of its scope.

    `context` is the one its work runs in. Ended once; what ends it again changes nothing.
    """

    __slots__ = (
        "_checkpoint",
        "_in_batch",
        "_pathway",
        "_shape",
        "_start_ns",
        "_telemetry",
        "record",
    )

    def __init__(
        self,
        engine: Engine,
        transport: Source,
        message: Message,
        record: object,
        client: object = None,
        parent: ParentRule | None = None,
        *,
        in_batch: bool = False,
    ) -> None:
        self.record = record
        self._in_batch = in_batch
        self.ended = False
        self.may_leak = False
        self.saved = otel.get_current()
        base = outside(self.saved)
        self._telemetry = telemetry = engine.telemetry
        reader = client if client is not None else engine.receiver.reader_of(transport, message.destination)
        self._shape = shape = telemetry.shape(
            transport, reader, "process", transport.processing, message.destination, group=message.group
        )
        arrived = creation.Arrived(message)
        surrounding = ambient(base)
        rule = parent or engine.parent
        came = _pathway(arrived, base if surrounding else None)
        self._pathway = pathway = came.advanced(telemetry.service, shape.step)
        self._checkpoint = ours.Checkpoint()
        place = ours.Place(pathway, self._checkpoint, arrived.traceparent, self)
        around = creation.with_baggage(arrived, base)
        self._start_ns = start_ns = time.time_ns()
        self.span = span = telemetry.start(
            shape,
            _parent(surrounding, arrived, rule),
            _attributes(shape, message, arrived, pathway),
            _links(surrounding, arrived, rule),
            start_ns,
            pathway,
            around,
            place,
        )
        self.context = ours.within(span, place, around)
        if not in_batch:  # else the batch has said it already
            telemetry.waited(shape, arrived, start_ns, span.get_span_context())

    def destination_of(self, source: Source) -> str:
        """Where its message came from, if that is of this system; else nothing."""
        labels = self._shape.labels
        is_its = labels[semconv.MESSAGING_SYSTEM] == source.system
        return str(labels.get(semconv.MESSAGING_DESTINATION_NAME, "")) if is_its else ""

    def end(self, error: BaseException | None = None, *, leaked: bool = False) -> None:
        """The message is done, or failed with `error`, or (`leaked`) nobody said when it was done."""
        if self.ended:
            return
        self.ended = True
        self.record = None  # a task that was begun in our context may live on, and keep us
        end_ns = time.time_ns()
        failure = ""
        try:
            if leaked:
                self.span.set_attribute(semconv.LEAKED, True)
            if error is not None:
                failure = outcome(self.span, error)
            pathway = self._pathway
            if not self._checkpoint.sent and pathway.origin_ns and not pathway.is_hub and not leaked:
                took_ms = (end_ns - pathway.origin_ns) // _MS
                self.span.set_attribute(semconv.FLOW_COMPLETION_MS, max(0, took_ms))
        finally:
            self.span.end(end_ns)
        if leaked:  # its duration says nothing about the work
            return
        here = self.span.get_span_context()
        telemetry = self._telemetry
        telemetry.processed(self._shape, end_ns - self._start_ns, here, failure, in_batch=self._in_batch)
        if not self._checkpoint.sent:
            telemetry.flow_ended(self._pathway, end_ns, here, failure)


def current_process(context: Context | None = None) -> Process | None:
    """The innermost message in process."""
    found = ours.place_of(context).scope
    return found if isinstance(found, Process) else None


def ambient(context: Context) -> Span | None:
    """The current span, if it is of this process and has not ended."""
    span = trace.get_current_span(context)
    own = span.get_span_context()
    if not own.is_valid or own.is_remote:
        return None
    return None if isinstance(span, ReadableSpan) and span.end_time is not None else span


def _pathway(arrived: Arrived, surrounding: Context | None) -> Pathway:
    """The message's place in its flow, whatever its parent is; without one, the surroundings'."""
    pathway = arrived.pathway
    if pathway is None and surrounding is not None:
        pathway = ours.pathway_of(surrounding)
    return creation.beginning() if pathway is None else pathway


def _parent(surrounding: Span | None, arrived: Arrived, rule: ParentRule) -> Span:
    if rule == "link":
        return INVALID_SPAN
    if arrived.is_known and (rule == "message" or surrounding is None):
        return NonRecordingSpan(arrived.context)
    return INVALID_SPAN if surrounding is None else surrounding


def _links(surrounding: Span | None, arrived: Arrived, rule: ParentRule) -> Sequence[Link]:
    """A link to the creation context always, and one to the ambient span that is not the parent."""
    if not arrived.is_known:
        return ()
    links = [creation.linked(arrived.context)]
    if rule == "message" and surrounding is not None:
        links.append(Link(surrounding.get_span_context()))
    return links


def _attributes(
    shape: Shape, message: Message, arrived: Arrived, pathway: Pathway
) -> dict[str, str | int | bool]:
    attributes = {**shape.attributes, **message.attributes}
    if message.id is not None:
        attributes[semconv.MESSAGING_MESSAGE_ID] = message.id
    if message.delivery_attempt is not None:
        attributes[semconv.DELIVERY_ATTEMPT] = message.delivery_attempt
    if arrived.state and not message.is_entry:
        attributes[semconv.CONTEXT_STATE] = arrived.state
    if arrived.published_ns is not None:
        attributes[semconv.PUBLISHED_AT] = arrived.published_ns
        attributes[semconv.PUBLISHED_AT_SOURCE] = arrived.source
    attributes[semconv.PATHWAY_HASH] = f"{pathway.hash:016x}"
    return attributes
