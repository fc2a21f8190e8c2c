"""The processing of several messages at once: one span that serves several flows, a hub."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN

from tracekit import context as ours
from tracekit import semconv
from tracekit.messaging import creation
from tracekit.messaging.nesting import Nested, outside
from tracekit.messaging.processing import Process, ambient, outcome
from tracekit.messaging.transport import shared
from tracekit.pathway import NO_FLOW, Pathway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Link

    from tracekit.messaging.creation import Arrived
    from tracekit.messaging.engine import Engine
    from tracekit.messaging.transport import Message, Transport


class Batch(Nested):
    """Messages that are processed together, each of which stays in its own flow.

    No producer is the parent: one would have to be picked. Attributes that all messages share stand
    on the span, the others on the link to each message's creation context.
    """

    __slots__ = (
        "_arrived",
        "_checkpoint",
        "_engine",
        "_messages",
        "_records",
        "_shape",
        "_start_ns",
        "_transport",
    )

    def __init__(
        self, engine: Engine, transport: Transport, messages: Sequence[Message], records: Sequence[object]
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._messages = messages
        self._records = records
        self.ended = False
        self.may_leak = False
        self.saved = otel.get_current()
        base = outside(self.saved)
        destinations = Counter(message.destination for message in messages)
        destination = next(iter(destinations)) if len(destinations) == 1 else ""
        telemetry = engine.telemetry
        reader = engine.receiver.reader_of(transport, messages[0].destination)
        groups = {message.group for message in messages}
        self._shape = shape = telemetry.shape(
            transport,
            reader,
            "process",
            transport.processing,
            destination,
            group=groups.pop() if len(groups) == 1 else "",
        )
        self._arrived = [creation.Arrived(message) for message in messages]
        parent = base if ambient(base) is not None else trace.set_span_in_context(INVALID_SPAN, base)
        self._checkpoint = ours.Checkpoint()
        hub = ours.with_place(ours.Place(Pathway(NO_FLOW), self._checkpoint, scope=self), parent)
        common = shared(messages)
        self._start_ns = time.time_ns()
        self.span = telemetry.tracer.start_span(
            shape.name,
            hub,
            shape.kind,
            {**shape.attributes, **common, semconv.MESSAGING_BATCH_MESSAGE_COUNT: len(messages)},
            _links(messages, self._arrived, common),
            self._start_ns,
        )
        self.context = trace.set_span_in_context(self.span, hub)
        for arrived in self._arrived:
            telemetry.waited(shape, arrived, self._start_ns, self.span.get_span_context())

    def message(self, record: object) -> Process:
        """The processing of one message of the batch: a child span in that message's own flow."""
        (message,), client = self._engine.described(self._transport, record)
        return Process(self._engine, self._transport, message, record, client, in_batch=True)

    def end(self, error: BaseException | None = None, *, leaked: bool = False) -> None:
        """The batch is done, or failed with `error`."""
        if self.ended:
            return
        self.ended = True
        end_ns = time.time_ns()
        failure = ""
        try:
            if error is not None:
                failure = outcome(self.span, error)
        finally:
            self.span.end(end_ns)
        here = self.span.get_span_context()
        telemetry = self._engine.telemetry
        telemetry.processed(self._shape, end_ns - self._start_ns, here, failure)
        if not self._checkpoint.sent:
            for arrived in self._arrived:
                if arrived.pathway is not None:
                    telemetry.flow_ended(arrived.pathway, end_ns, here, failure)


def _links(
    messages: Sequence[Message], arrived: Sequence[Arrived], common: dict[str, str | int | bool]
) -> list[Link]:
    links: list[Link] = []
    seen: set[tuple[int, int]] = set()
    for message, one in zip(messages, arrived, strict=True):
        where = one.context.trace_id, one.context.span_id
        if not one.is_known or where in seen:
            continue
        seen.add(where)
        own = {name: value for name, value in message.attributes.items() if name not in common}
        if message.id is not None:
            own[semconv.MESSAGING_MESSAGE_ID] = message.id
        if one.published_ns is not None:
            own[semconv.PUBLISHED_AT] = one.published_ns
            own[semconv.PUBLISHED_AT_SOURCE] = one.source
        links.append(one.link(own))
    return links
