"""What the engine makes: spans of few shapes, told their place in their flow, and their metrics."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final, TypeAlias

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import NonRecordingSpan, SpanKind

from tracekit import context as ours
from tracekit import semconv
from tracekit.guard import shielded
from tracekit.model import Kind
from tracekit.pathway import Pathway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

    from tracekit.messaging.creation import Arrived
    from tracekit.messaging.metrics import Count, Counts, Distribution, Distributions, Instruments
    from tracekit.messaging.transport import Facts, Source
    from tracekit.tracing.quick import QuickSpans

Attributes: TypeAlias = dict[str, str | int | bool]

_KINDS: Final[dict[Kind, SpanKind]] = {
    kind: SpanKind[kind.name] for kind in Kind if kind is not Kind.UNSPECIFIED
}
_NS: Final = 1_000_000_000
_MS: Final = 1_000_000
_MAX_SHAPES: Final = 2_000
_OF_WAITS: Final = (
    semconv.MESSAGING_SYSTEM,
    semconv.MESSAGING_DESTINATION_NAME,
    semconv.MESSAGING_CONSUMER_GROUP_NAME,
)


class Shape:
    """What all spans of one operation of one client on one destination share, and their metrics."""

    __slots__ = (
        "_client",
        "_counts",
        "_distributions",
        "attributes",
        "in_batch",
        "is_noted",
        "kind",
        "labels",
        "name",
        "step",
        "wait",
    )

    def __init__(
        self, name: str, kind: SpanKind, attributes: Attributes, labels: Attributes, client: object
    ) -> None:
        self._client = None if client is None else weakref.ref(client)
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.labels = labels
        """The attributes of its metrics."""
        group = labels.get(semconv.MESSAGING_CONSUMER_GROUP_NAME, "")
        self.step = f"{name} {labels.get(semconv.MESSAGING_SYSTEM)} {group}".rstrip()
        """Its name in a flow's route."""
        self.is_noted = False
        """Whether it is known already who reads its destination."""
        self.wait: Shape | None = None
        """That of the spans that show the waits of its messages, once there is one."""
        self.in_batch: Shape | None = None
        """That of the metrics of its messages in a batch, once there is one."""
        self._distributions: dict[tuple[Distributions, str], Distribution] = {}
        self._counts: dict[tuple[Counts, str], Count] = {}

    def is_of(self, client: object) -> bool:
        """Whether it was made for this client, and not for one that had the same id before."""
        return client is None if self._client is None else self._client() is client

    def record(
        self, what: Distributions, took_ns: int, span: SpanContext, label: str = "", value: str = ""
    ) -> None:
        """Record a duration, in seconds, with one more attribute where it has a value.

        Never a negative one: the span keeps both clocks, so that skew shows there.
        """
        bound = self._distributions.get((what, value))
        if bound is None:
            labels = {**self.labels, label: value} if value else self.labels
            bound = self._distributions[what, value] = what.bind(labels)
        bound.record(took_ns / _NS if took_ns > 0 else 0.0, span)

    def count(self, what: Counts, number: int, error: str = "") -> None:
        """Count messages, by the error where there was one."""
        bound = self._counts.get((what, error))
        if bound is None:
            labels = {**self.labels, semconv.ERROR_TYPE: error} if error else self.labels
            bound = self._counts[what, error] = what.bind(labels)
        bound.add(number)


def referable(client: object) -> object:
    """The client, or None for one that cannot be referred to weakly (of a class in C): it has no facts."""
    return client if type(client).__weakrefoffset__ else None


class Telemetry:
    """Spans and metrics of messaging, for one service.

    `service` names this side in a flow's route. `quick` begins spans in the tracer's stead, where it may.
    `has_wait_spans`: a message's time in its queue is a span too.
    """

    def __init__(
        self,
        service: str,
        tracer: Tracer,
        quick: QuickSpans | None,
        instruments: Instruments,
        *,
        has_wait_spans: bool = False,
    ) -> None:
        self.service = service
        self._has_wait_spans = has_wait_spans
        self.tracer = tracer
        self.quick = quick
        self.instruments = instruments
        self._shapes: dict[tuple[str, str, str, str, str, int], Shape] = {}
        self._facts: weakref.WeakKeyDictionary[object, Facts] = weakref.WeakKeyDictionary()
        self._flow_ends: dict[tuple[str, str], Distribution] = {}

    def shape(
        self,
        source: Source,
        client: object,
        operation: semconv.Operation,
        name: str,
        destination: str,
        *,
        own_context: bool = True,
        group: str = "",
    ) -> Shape:
        """The shape of an operation, made once for each client, destination and consumer group."""
        client = referable(client)
        verb = name if own_context else f"{name}*"
        key = (source.system, verb, operation, destination, group, id(client))
        shape = self._shapes.get(key)
        if shape is None or not shape.is_of(client):  # an id is only good as long as its client lives
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            facts = self._client(source, client)
            labels: Attributes = {
                semconv.MESSAGING_SYSTEM: source.system,
                semconv.MESSAGING_OPERATION_NAME: name,
                semconv.MESSAGING_OPERATION_TYPE: operation,
                **{name: value for name, value in facts.items() if name != semconv.MESSAGING_CLIENT_ID},
            }
            if destination:
                labels[semconv.MESSAGING_DESTINATION_NAME] = destination
            if group:
                labels[semconv.MESSAGING_CONSUMER_GROUP_NAME] = group
            shape = self._shapes[key] = Shape(
                semconv.messaging_span_name(name, destination),
                _KINDS[semconv.messaging_kind(operation, own_context=own_context)],
                {**labels, **facts, **labels},
                labels,
                client,
            )
        return shape

    def made(self, client: object, facts: Facts) -> None:
        """What a client was made with."""
        self._facts[client] = facts

    def _client(self, source: Source, client: object) -> Facts:
        if client is None:
            return {}
        facts = self._facts.get(client)
        if facts is None:
            facts = {}
            with shielded("what a client's configuration says"):
                facts = source.client(client)
            self._facts[client] = facts
        return facts

    def start(
        self,
        shape: Shape,
        parent: Span,
        attributes: Attributes,
        links: Sequence[Link],
        start_ns: int,
        pathway: Pathway | None,
        context: Context,
        place: ours.Place | None = None,
    ) -> Span:
        """A span of this shape, told its place in its flow. No pathway: a flow begins with it.

        `attributes` becomes its own. `context` is the one around it, whose span need not be `parent`, and
        `place` is what the one within will know of the flow, where that is more.
        """
        quick = self.quick
        if quick is None or quick.processor.is_watched:
            context = trace.set_span_in_context(parent, context)
            context = context if place is None else ours.with_place(place, context)
        if quick is None:
            return self.tracer.start_span(shape.name, context, shape.kind, attributes, links, start_ns)
        span = quick.start(shape.name, shape.kind, parent, attributes, links, start_ns)
        if pathway is None or not pathway.flow_id or not pathway.origin_ns:
            pathway = self._beginning(span, pathway, start_ns)
        if not pathway.is_hub:
            attributes[semconv.FLOW_ID] = pathway.flow_id
        ours.remember(span, pathway)
        if quick.processor.is_watched and isinstance(span, SdkSpan):
            quick.processor.on_start(span, context)
        return span

    def _beginning(self, span: Span, pathway: Pathway | None, start_ns: int) -> Pathway:
        """The place of an entry; or of a span behind a service that knows only `traceparent`."""
        if pathway is not None and pathway.flow_id:
            return Pathway(pathway.flow_id, pathway.hash, start_ns)
        flow_id = trace.format_trace_id(span.get_span_context().trace_id)
        origin_ns = pathway.origin_ns if pathway is not None else start_ns
        return Pathway(flow_id, 0, origin_ns, origin=self.service)

    def waited(self, shape: Shape, arrived: Arrived, start_ns: int, span: SpanContext) -> None:
        """The time in the queue."""
        if arrived.published_ns is not None:
            took_ns = start_ns - arrived.published_ns
            shape.record(self.instruments.queue_duration, took_ns, span, semconv.WAIT_SOURCE, arrived.source)
            # Without a creation context there is no trace that it could stand in.
            if self._has_wait_spans and took_ns > 0 and arrived.is_known:
                self._draw_wait(shape, arrived, _bar_ns(arrived.published_ns, start_ns), start_ns)

    def _draw_wait(self, shape: Shape, arrived: Arrived, published_ns: int, start_ns: int) -> None:
        """A span for the time in the queue, beside that of the processing, below that of the send."""
        if shape.wait is None:
            labels: Attributes = {name: shape.labels[name] for name in _OF_WAITS if name in shape.labels}
            name = semconv.wait_span_name(str(labels.get(semconv.MESSAGING_DESTINATION_NAME, "")))
            shape.wait = Shape(name, SpanKind.INTERNAL, {**labels, semconv.WAIT: True}, labels, None)
        attributes = {**shape.wait.attributes, semconv.PUBLISHED_AT_SOURCE: arrived.source}
        sent = NonRecordingSpan(arrived.context)
        self.start(shape.wait, sent, attributes, (), published_ns, arrived.pathway, otel.get_current()).end(
            start_ns
        )

    def processed(
        self, shape: Shape, took_ns: int, span: SpanContext, failure: str, *, in_batch: bool = False
    ) -> None:
        """How long the processing took: of a message, of a batch, or (`in_batch`) of a message of one."""
        if in_batch:
            if shape.in_batch is None:
                labels: Attributes = {**shape.labels, semconv.IN_BATCH: True}
                shape.in_batch = Shape(shape.name, shape.kind, shape.attributes, labels, None)
            shape = shape.in_batch
        shape.record(self.instruments.process_duration, took_ns, span, semconv.ERROR_TYPE, failure)

    def operated(self, shape: Shape, took_ns: int, span: SpanContext, failure: str = "") -> None:
        """How long a call of the client took: a send until its answer, a settle, a receive."""
        shape.record(self.instruments.operation_duration, took_ns, span, semconv.ERROR_TYPE, failure)

    def flow_ended(self, pathway: Pathway, end_ns: int, span: SpanContext, failure: str) -> None:
        """The flow's duration until here, where it may end: nothing was sent on."""
        if not pathway.origin_ns or pathway.is_hub:
            return
        key = pathway.origin or self.service, failure
        bound = self._flow_ends.get(key)
        if bound is None:
            labels: Attributes = {semconv.FLOW_END: "process", semconv.FLOW_ORIGIN: key[0]}
            if failure:
                labels[semconv.ERROR_TYPE] = failure
            bound = self.instruments.flow_duration.bind(labels)
            if len(self._flow_ends) < _MAX_SHAPES:  # origins come from headers
                self._flow_ends[key] = bound
        bound.record(max(0, end_ns - pathway.origin_ns) / _NS, span)


def _bar_ns(published_ns: int, start_ns: int) -> int:
    """Where the bar of a wait begins: not before the send, which began within the ms that is told of it.

    A moment in whole ms was cut to them: Jaeger would find the bar before its parent, and warn of clocks.
    """
    return published_ns if published_ns % _MS else min(published_ns + _MS - 1, start_ns)
