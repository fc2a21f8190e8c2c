"""Spans of the engine's, made in a quicker way than the SDK's tracer has, where nobody can tell.

To make and end a span costs the SDK more than all else that is done for a message: every attribute is
cleaned anew, and locks and lists are made for what hardly any span has. The engine's attributes are
texts, numbers and truths, mostly made once for many spans. So where no limit can be met and the sampler
is OpenTelemetry's own, its spans are begun here: they are the SDK's in all they do and all they show, and
what they do not need they do not have yet.

Source: item 2 of the performance study. `tests/unit/tracing/test_quick.py` compares them with the SDK's.
"""

from __future__ import annotations

import time
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags

from tracekit import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opentelemetry.trace import Link, Span, SpanKind
    from opentelemetry.util.types import Attributes

    from tracekit.tracing.processors import FlowProcessor

_ENOUGH: Final = 64  # attributes, events or links: more than the engine puts on any span
_RANDOM: Final = TraceFlags.RANDOM_TRACE_ID
_SAMPLED: Final = TraceFlags.SAMPLED
_FLAGS: Final = tuple(TraceFlags(bits) for bits in range(4))
# Where the SDK keeps what is looked for here, under names that are not public.
_OF_TRACER: Final = frozenset({"_instrumentation_scope", "_span_limits"})
_OF_SPAN: Final = frozenset(
    {
        "_attributes",
        "_context",
        "_end_time",
        "_events",
        "_kind",
        "_links",
        "_lock",
        "_name",
        "_parent",
        "_span_processor",
        "_start_time",
    }
)


class _OneId(IdGenerator):
    """Ids for the span that is looked at: it must take none from whoever counts them."""

    def generate_span_id(self) -> int:
        return 1

    def generate_trace_id(self) -> int:
        return 1


def can_be_quick() -> bool:
    """Whether the SDK's own provider makes spans that ours can stand for.

    No limit may be in the way, the SDK must not measure itself, and its spans and tracers must keep
    what they know where it is looked for.
    """
    limits = SpanLimits()
    counts = (
        limits.max_span_attributes,
        limits.max_events,
        limits.max_event_attributes,
        limits.max_links,
        limits.max_link_attributes,
    )
    lengths = limits.max_attribute_length, limits.max_span_attribute_length
    if any(count is not None and count < _ENOUGH for count in counts) or lengths != (None, None):
        return False
    provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False, id_generator=_OneId())
    tracer: Any = provider.get_tracer("tracekit")
    if not isinstance(tracer, SdkTracer) or not vars(tracer).keys() >= _OF_TRACER:
        return False
    if type(getattr(tracer, "_tracer_metrics", None)).__name__ not in ("NoOpTracerMetrics", "NoneType"):
        return False
    kept = vars(tracer.start_span("looked at", attributes={"a": 1}))
    return (
        kept.keys() >= _OF_SPAN
        and kept.keys() == vars(_stock(tracer)).keys()
        and isinstance(kept["_attributes"], BoundedAttributes)
        and getattr(kept["_attributes"], "_dict", None) == {"a": 1}
        and getattr(kept["_attributes"], "_immutable", None) is False
    )


def watch_starts(processors: Iterable[SpanProcessor]) -> bool:
    """Whether one of these may look at a span as it starts: then it must hear of it."""
    for processor in processors:
        kind = type(processor)
        if kind in (BatchSpanProcessor, SimpleSpanProcessor):
            continue
        is_own = "on_start" in getattr(processor, "__dict__", ())  # set on this one object
        if is_own or getattr(kind, "on_start", None) is not SpanProcessor.on_start:
            return True
    return False


class QuickSpans:
    """Begins spans in the stead of a tracer of the SDK's, where `can_be_quick` says that it may.

    It does not tell the `processor`, which the tracer's spans go through, that they have started.
    """

    def __init__(self, tracer: SdkTracer, processor: FlowProcessor) -> None:
        self.processor = processor
        self._ids = tracer.id_generator
        self._sampler = tracer.sampler
        self._alike = vars(_stock(tracer))
        self._most = SpanLimits().max_span_attributes

    def start(
        self,
        name: str,
        kind: SpanKind,
        parent: Span,
        attributes: dict[str, str | int | bool],
        links: Sequence[Link],
        start_ns: int,
    ) -> Span:
        """A span that has started. `attributes` becomes its own: what is put there later counts too."""
        above: SpanContext | None = parent.get_span_context()
        if above is not None and above.is_valid:
            trace_id, flags = above.trace_id, above.trace_flags & (_SAMPLED | _RANDOM)
        else:
            above = None
            trace_id = self._ids.generate_trace_id()
            flags = _SAMPLED | (_RANDOM if self._ids.is_trace_id_random() else 0)
        if self._sampler is DEFAULT_ON and flags & _SAMPLED:
            state = above.trace_state if above is not None else None
        else:  # OpenTelemetry's own look at the parent in the context, and at the trace id
            context = trace.set_span_in_context(parent, Context())
            sampled = self._sampler.should_sample(context, trace_id, name, kind, None, links)
            decision: Any = sampled.decision
            state = sampled.trace_state
            flags = flags & _RANDOM | (_SAMPLED if decision.is_sampled() else 0)
            if not decision.is_recording():
                own = SpanContext(trace_id, self._ids.generate_span_id(), False, _FLAGS[flags], state)
                return NonRecordingSpan(own)
            if above is not None and above.is_remote and not above.trace_flags & _SAMPLED:
                attributes[semconv.CONTEXT_SAMPLED] = False
        kept: Any = BoundedAttributes(self._most, immutable=False)
        kept._dict = attributes  # noqa: SLF001 - `can_be_quick` has looked
        span = object.__new__(QuickSpan)
        vars(span).update(
            self._alike,
            _name=name,
            _kind=kind,
            _context=SpanContext(trace_id, self._ids.generate_span_id(), False, _FLAGS[flags], state),
            _parent=above,
            _start_time=start_ns,
            _attributes=kept,
            _links=links,
            _events=(),
            _lock=RLock(),
        )
        return span


class QuickSpan(SdkSpan):
    """A span of the SDK's that has a list of events or links only once somebody adds one."""

    _events: Any
    _links: Any

    # The lock is one that its holder may take again: in a block under it, the garbage collector may free a
    # loop, and so end the span.

    def put(self, attributes: Mapping[str, str | int | bool]) -> None:
        """Set attributes that need no cleaning."""
        kept: Any = self._attributes
        with self._lock:
            if self._end_time is None:
                kept._dict.update(attributes)  # noqa: SLF001 - `can_be_quick` has looked

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        with self._lock:
            if self._events == ():
                self._events = self._new_events()  # type: ignore[no-untyped-call]
        super().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        with self._lock:
            if isinstance(self._links, (tuple, list)):
                self._links = self._new_links(self._links)
        super().add_link(context, attributes)

    def end(self, end_time: int | None = None) -> None:
        with self._lock:
            is_first = self._end_time is None
            if is_first:
                self._end_time = time.time_ns() if end_time is None else end_time
                kept: Any = self._attributes
                kept._immutable = True  # noqa: SLF001 - the same
        if is_first:
            self._span_processor.on_end(self)
        else:
            super().end(end_time)  # says so

    def readable(self) -> ReadableSpan:
        """What an SDK span hands to its processors: no lock on it, and nothing to change."""
        return self._readable_span()


def _stock(tracer: Any) -> QuickSpan:
    """A span of the tracer's by which all others are made: it has what they have in common."""
    return QuickSpan(
        "",
        INVALID_SPAN_CONTEXT,
        sampler=tracer.sampler,
        resource=tracer.resource,
        span_processor=tracer.span_processor,
        instrumentation_info=tracer.instrumentation_info,
        limits=tracer._span_limits,  # noqa: SLF001 - `can_be_quick` has looked
        instrumentation_scope=tracer._instrumentation_scope,  # noqa: SLF001 - the same
    )
