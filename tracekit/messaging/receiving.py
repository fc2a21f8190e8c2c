"""Receives: what a client fetched is counted, and shown where that is asked for."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING

from opentelemetry import context as otel
from opentelemetry import trace

from tracekit import context as ours
from tracekit import semconv
from tracekit.messaging import creation
from tracekit.messaging.nesting import outside
from tracekit.messaging.telemetry import referable
from tracekit.messaging.transport import shared
from tracekit.pathway import NO_FLOW, Pathway
from tracekit.tracing.errors import record_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.trace import Link, Span

    from tracekit.messaging.telemetry import Shape, Telemetry
    from tracekit.messaging.transport import Message, Source, Transport


class Receiver:
    """Hears what clients fetch, and so knows which of them reads what. `has_spans`: fetching is shown."""

    def __init__(self, telemetry: Telemetry, *, has_spans: bool) -> None:
        self._telemetry = telemetry
        self._has_spans = has_spans
        self._lock = threading.RLock()
        self._read: weakref.WeakKeyDictionary[object, set[str]] = weakref.WeakKeyDictionary()

    def reader_of(self, source: Source, destination: str) -> object | None:
        """The one client of this process that reads the destination; None where several do."""
        place = f"{source.system} {destination}"
        with self._lock:
            readers = [client for client, read in self._read.items() if place in read]
        return readers[0] if len(readers) == 1 else None

    def received(
        self, transport: Transport, name: str, client: object, messages: Sequence[Message], start_ns: int
    ) -> None:
        """These messages were fetched by a call that began at `start_ns`."""
        if not messages:
            return
        end_ns = time.time_ns()
        destination = messages[0].destination
        if len(messages) == 1:
            shape = self._counted(transport, name, client, (destination, messages[0].group), 1)
        else:
            counts = Counter((message.destination, message.group) for message in messages)
            shapes = [self._counted(transport, name, client, *one) for one in counts.items()]
            shape = shapes[0]
            if len(shapes) > 1:
                shape = self._telemetry.shape(transport, client, "receive", name, "")
        here = trace.get_current_span().get_span_context()
        self._telemetry.operated(shape, end_ns - start_ns, here)
        if self._has_spans:
            links = [arrived.link() for arrived in map(creation.Arrived, messages) if arrived.is_known]
            attributes = {
                **shape.attributes,
                **shared(messages),
                semconv.MESSAGING_BATCH_MESSAGE_COUNT: len(messages),
            }
            self._span(shape, attributes, links, start_ns).end(end_ns)

    def delivered(self, transport: Transport, name: str, client: object, message: Message) -> None:
        """This message was handed to a handler."""
        self._counted(transport, name, client, (message.destination, message.group), 1)

    def lost(self, transport: Transport, name: str, client: object, messages: Sequence[Message]) -> None:
        """The broker said that these messages are gone, and nobody was done with them."""
        for (destination, group), number in Counter((one.destination, one.group) for one in messages).items():
            shape = self._telemetry.shape(transport, client, "receive", name, destination, group=group)
            shape.count(self._telemetry.instruments.lost_messages, number)

    def _counted(
        self, transport: Transport, name: str, client: object, source: tuple[str, str], number: int
    ) -> Shape:
        destination, group = source
        shape = self._telemetry.shape(transport, client, "receive", name, destination, group=group)
        if not shape.is_noted and (client := referable(client)) is not None:
            shape.is_noted = True
            with self._lock:
                self._read.setdefault(client, set()).add(f"{transport.system} {destination}")
        shape.count(self._telemetry.instruments.consumed_messages, number)
        return shape

    def failed(
        self, transport: Transport, name: str, client: object, start_ns: int, error: Exception
    ) -> None:
        """A call that fetches raised."""
        if isinstance(error, (StopIteration, StopAsyncIteration)) or transport.is_nothing(error):
            return  # the end of an iteration, or an empty queue, is no failure
        end_ns = time.time_ns()
        shape = self._telemetry.shape(transport, client, "receive", name, "")
        here = trace.get_current_span().get_span_context()
        self._telemetry.operated(shape, end_ns - start_ns, here, type(error).__name__)
        if self._has_spans:
            span = self._span(shape, shape.attributes, [], start_ns)
            record_error(span, error)
            span.end(end_ns)

    def _span(
        self, shape: Shape, attributes: Mapping[str, str | int | bool], links: Sequence[Link], start_ns: int
    ) -> Span:
        """A span that has several flows to serve, or none: a hub, started after the fact."""
        context = ours.with_pathway(Pathway(NO_FLOW), outside(otel.get_current()))
        return self._telemetry.tracer.start_span(shape.name, context, shape.kind, attributes, links, start_ns)
