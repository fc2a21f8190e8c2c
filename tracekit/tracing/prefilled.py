"""Attributes that need no cleaning, put on a span as they are.

The SDK cleans every attribute of every span anew (2 us each); the engine's are texts, numbers and
truths made once for many spans. Where the SDK keeps them where this one does, without limits, and
nobody looks at a span as it starts, they go there directly; else by the SDK's own way. The place
has no public name, so it is looked for first, on a span of a provider that nobody hears of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from tracekit import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.trace import Span

_ENOUGH = 64  # attributes: more than the engine puts on any span


class _OneId(IdGenerator):
    """Ids for the span that is looked at: it must take none from whoever counts them."""

    def generate_span_id(self) -> int:
        return 1

    def generate_trace_id(self) -> int:
        return 1


def can_prefill() -> bool:
    """Whether spans of the SDK keep their attributes where `fill` puts them, and as many as there are."""
    provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False, id_generator=_OneId())
    span: Any = provider.get_tracer("tracekit").start_span("looked at", attributes={"a": 1})
    kept = getattr(span, "_attributes", None)
    if not isinstance(kept, BoundedAttributes) or getattr(kept, "_dict", None) != {"a": 1}:
        return False
    return kept.max_value_len is None and (kept.maxlen is None or kept.maxlen >= _ENOUGH)


def watch_starts(processors: Iterable[SpanProcessor]) -> bool:
    """Whether one of these may look at a span as it starts: then its attributes must be there."""
    for processor in processors:
        kind = type(processor)
        if (
            kind not in (BatchSpanProcessor, SimpleSpanProcessor)
            and kind.on_start is not SpanProcessor.on_start
        ):
            return True
    return False


def fill(span: Span, attributes: dict[str, str | int | bool]) -> None:
    """Put the attributes on a span that has just started; with a mark where its parent was not sampled."""
    if isinstance(span, SdkSpan):
        parent = span.parent
        if parent is not None and parent.is_remote and not parent.trace_flags.sampled:
            attributes[semconv.CONTEXT_SAMPLED] = False
        kept: Any = span._attributes  # noqa: SLF001 - `can_prefill` has looked
        kept._dict.update(attributes)  # noqa: SLF001 - the same
