"""The creation context: what a message carries of the place where it was made.

Read from what arrives, kept or replaced on what is sent, and left out where there is no room for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Link

from tracekit import context as ours
from tracekit import pathway, semconv
from tracekit.guard import count_drop
from tracekit.tracing.propagator import Brought, OurPropagators

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.trace import Span, SpanContext

    from tracekit.guard import Reason
    from tracekit.messaging.transport import Headers, Message
    from tracekit.pathway import Pathway

TRACEPARENT: Final = "traceparent"
# The least needed first. Source: ours (ARCHITECTURE, "How data goes").
_SACRIFICE: Final = ("baggage", pathway.HEADER, "tracestate", TRACEPARENT)
_MOST: Final = 32_768  # more than all of ours can come to: tracestate 16 KiB, baggage 8 KiB
_AROUND_HEADER: Final = 10  # bytes a broker adds to a header at most: two lengths as varints

# 2010 to 2100. Producers stamp seconds, us and ns by mistake, and a mock broker any number.
_SINCE_NS: Final = 1_262_304_000 * 10**9
_UNTIL_NS: Final = 4_102_444_800 * 10**9

_NOTHING: Final = Brought(None, None, {})
_RELAY = otel.create_key("tracekit-relay")


class Arrived:
    """What a message brought: its creation context, flow and baggage, and when it was published.

    `state` says why there is no creation context: `absent` or `invalid`. `published_ns` (Unix ns)
    comes from the `source`: the broker, our header, or a client's own timestamp.
    """

    __slots__ = ("baggage", "context", "pathway", "published_ns", "source", "state", "traceparent")

    def __init__(self, message: Message) -> None:
        headers = ours.texts(message.headers) if message.headers else {}
        brought = _brought(headers) if headers else _NOTHING
        self.context: SpanContext = brought.span or INVALID_SPAN_CONTEXT
        self.state: Literal["", "absent", "invalid"] = ""
        self.pathway: Pathway | None = None
        self.baggage: Mapping[str, object] = brought.baggage
        self.traceparent: str = headers.get(TRACEPARENT, "")
        if brought.span is None:
            carried = any(_is_traceparent(name) for name, _ in message.headers)
            self.state = "invalid" if carried else "absent"
        else:
            self.pathway = brought.pathway or pathway.Pathway(trace.format_trace_id(brought.span.trace_id))
        self.published_ns: int | None = None
        self.source: Literal["", "broker", "header", "client"] = ""
        if _is_plausible(message.published_at_ns):
            self.published_ns, self.source = message.published_at_ns, "broker"
        elif brought.pathway is not None and brought.pathway.edge_ns:
            self.published_ns, self.source = brought.pathway.edge_ns, "header"
        elif _is_plausible(message.sent_at_ns):
            self.published_ns, self.source = message.sent_at_ns, "client"

    @property
    def is_known(self) -> bool:
        return not self.state

    def link(self, attributes: Mapping[str, str | int | bool] | None = None) -> Link:
        """The link to the creation context, as a hub has it: with the flow's id on it."""
        own = dict(attributes or {})
        if self.pathway is not None and self.pathway.flow_id and not self.pathway.is_hub:
            own[semconv.FLOW_ID] = self.pathway.flow_id
        return linked(self.context, own)


def linked(context: SpanContext, attributes: Mapping[str, str | int | bool] | None = None) -> Link:
    """The link to a creation context; one that came unsampled says so: its span exists nowhere."""
    if context.trace_flags.sampled:
        return Link(context, attributes or {})
    return Link(context, {**(attributes or {}), semconv.CONTEXT_SAMPLED: False})


def _brought(headers: Mapping[str, str]) -> Brought:
    """What the headers bring, by whatever propagators the process has."""
    propagator = propagate.get_global_textmap()
    if isinstance(propagator, OurPropagators):
        return propagator.brought(headers)
    extracted = ours.context_from(headers, Context())
    span = trace.get_current_span(extracted).get_span_context()
    said = ours.place_of(extracted).pathway
    return Brought(
        span if span.is_valid else None,
        said if said is not None and said.flow_id else None,
        baggage.get_all(extracted),
    )


def headers_of(span: Span, step: str, context: Context) -> dict[str, str]:
    """The headers of a message that this span sends; `context` is the one around it."""
    propagator = propagate.get_global_textmap()
    inner: Context | None = None
    pathway = ours.remembered(span)
    if pathway is None or not isinstance(propagator, OurPropagators):
        inner = trace.set_span_in_context(span, context)
    if isinstance(propagator, OurPropagators):
        return propagator.headers(span.get_span_context(), pathway or ours.pathway_of(inner), step, context)
    return ours.headers_of(ours.with_step(step, inner))


def _is_plausible(time_ns: int | None) -> bool:
    return time_ns is not None and _SINCE_NS <= time_ns <= _UNTIL_NS


def _is_traceparent(name: object) -> bool:
    return isinstance(name, str) and name.lower() == TRACEPARENT


def kept(headers: Headers, context: Context) -> SpanContext | None:
    """The creation context that the caller put on the message and that stays there.

    None where there is none, and where it is that of the message in process (headers that are only
    handed on) or the current span's (our own `inject`): those are replaced.
    """
    if not headers or not any(_is_traceparent(name) for name, _ in headers):
        return None
    found = ours.texts(headers)
    theirs = _brought(found).span if found else None
    if theirs is None:
        return None
    if not otel.get_value(_RELAY, context):
        if found.get(TRACEPARENT) == ours.place_of(context).traceparent:
            return None
        current = trace.get_current_span(context).get_span_context()
        if (theirs.trace_id, theirs.span_id) == (current.trace_id, current.span_id):
            return None
    return theirs


def with_baggage(arrived: Arrived, context: Context) -> Context:
    """The context with the message's baggage beside its own."""
    for name, value in arrived.baggage.items():
        context = baggage.set_baggage(name, value, context)
    return context


def with_relay(context: Context | None = None) -> Context:
    """The context in which messages are sent on with the creation context that they already have."""
    return otel.set_value(_RELAY, True, context)


def fitting(message: Message, span: Span, context: Context, step: str) -> Headers | None:
    """The message's headers with ours, as far as they fit; None where none of ours does.

    What does not fit is left out in this order: baggage, tracekit-flow, tracestate, traceparent.
    """
    headers = headers_of(span, step, context)
    written = {*headers}
    slots = None
    if message.slots is not None:  # what takes another's place takes no slot
        slots = message.slots + sum(name in written for name, _ in message.headers)
    left_out = trim(headers, message, slots)
    if left_out:
        is_full = slots is not None and slots < len(written)
        reason: Reason = "too_many_attributes" if is_full else "size"
        count_drop(reason, "context that does not fit on a message", len(left_out))
        span.set_attribute(semconv.DROP_REASON, reason)
        if TRACEPARENT in left_out:
            span.set_attribute(semconv.CONTEXT_STATE, "skipped")
    if not headers:
        return None
    if not message.headers:
        return [*headers.items()]
    return [
        *((name, value) for name, value in message.headers if name not in written),
        *headers.items(),
    ]


def trim(headers: dict[str, str], message: Message, slots: int | None) -> list[str]:
    """Take headers out, the least needed first, until they fit on the message; which ones."""
    left_out: list[str] = []
    if message.most is not None:
        left_out = [name for name, value in headers.items() if _taken(value, message.escapes) > message.most]
        for name in left_out:
            del headers[name]
    room = _MOST if message.room is None else message.room
    if slots is None:
        slots = len(headers)
    if room >= _MOST and slots >= len(headers):
        return left_out
    size = sum(map(_size, headers.items()))
    for name in [*(name for name in headers if name not in _SACRIFICE), *_SACRIFICE]:
        if size <= room and len(headers) <= slots:
            break
        if name in headers:
            size -= _size((name, headers.pop(name)))
            left_out.append(name)
    return left_out


def _taken(value: str, escapes: Mapping[str, int]) -> int:
    return len(value) + sum(more * value.count(one) for one, more in escapes.items())


def _size(header: tuple[str, str]) -> int:
    return len(header[0]) + len(header[1]) + _AROUND_HEADER


def names() -> Sequence[str]:
    """The headers by which context comes here, for a client that must ask for them by name."""
    return [*dict.fromkeys((*reversed(_SACRIFICE), *sorted(propagate.get_global_textmap().fields)))]


def beginning() -> Pathway:
    """Where a message without context stands: a flow begins with it, whose entry has no id yet."""
    return pathway.Pathway("", origin_ns=time.time_ns())
