"""The flow header on the wire, as an OpenTelemetry propagator, and all propagators joined into one.

`FlowPropagator` stands under the `opentelemetry_propagator` entry point as `tracekit`, so that
`OTEL_PROPAGATORS=tracecontext,baggage,tracekit` makes every OpenTelemetry instrumentation carry the
header. It comes after the trace context, whose span it looks at.
"""

from __future__ import annotations

import time
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.resources import OTELResourceDetector

from tracekit import context as ours
from tracekit.guard import count_drop, shielded
from tracekit.pathway import HEADER, Pathway, parse, write
from tracekit.semconv import SERVICE_NAME
from tracekit.tracing.baggage import BAGGAGE, BaggagePropagator, entries_of, text_of
from tracekit.tracing.carrier import values_of
from tracekit.tracing.trust import gives_little
from tracekit.tracing.w3c import (
    TRACEPARENT,
    TRACESTATE,
    TraceContextPropagator,
    parent_of,
    parent_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.trace import SpanContext

_ARRIVAL: Final = otel.create_key("tracekit-arrival")
DEFAULT_NAMES: Final = ("tracecontext", "baggage", "tracekit")
"""What is carried where OTEL_PROPAGATORS says nothing."""


class Arrival:
    """A request on its way in: what its context is to hold, and what it turned out to bring.

    Whoever owns the SERVER span extracts into an empty context, and makes that the current one; so
    what the place of arrival has to say travels beside it and is taken along by `FlowPropagator`.
    """

    __slots__ = ("brought_flow", "caller", "checkpoint", "pathway", "trusted")

    def __init__(self, checkpoint: ours.Checkpoint | None = None, *, trusted: bool = True) -> None:
        self.checkpoint = checkpoint
        self.trusted = trusted
        self.pathway: Pathway | None = None
        """Where it stands in its flow; None as long as nobody extracted."""
        self.brought_flow = False
        self.caller: trace.SpanContext | None = None
        """Whom it says it comes from, where that is not trusted: for a link."""


def arriving(arrival: Arrival, context: Context | None = None) -> Context:
    """The context in which the request's headers will be extracted."""
    return otel.set_value(_ARRIVAL, arrival, context)


class FlowPropagator(TextMapPropagator):
    """The header `tracekit-flow`.

    `service` is the origin of flows that begin here; by default what OTEL_SERVICE_NAME or
    OTEL_RESOURCE_ATTRIBUTES say.
    """

    def __init__(self, service: str = "") -> None:
        self._service = service or _service_from_environment()

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """The context, standing where the header says.

        Without a header that can be read, a flow begins here, or is that of the `traceparent`:
        which one shows with the first span. A context that already stands in a flow, and to which
        the carrier brought nothing, stays there.
        """
        if context is None:
            context = Context()
        arrival = otel.get_value(_ARRIVAL)
        if isinstance(arrival, Arrival) and arrival.pathway is None:
            return self._arrived(arrival, carrier, context, getter)
        brought = _read(carrier, getter)
        if brought is None:
            if not _brings_trace(carrier, context, getter):
                return context
            brought = self._beginning()
        return ours.with_pathway(brought, context)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Write the flow of the context, one step further."""
        with shielded("the flow header of what is sent"):
            pathway = ours.pathway_of(context)
            if pathway is None or not pathway.flow_id or gives_little(context):
                return
            setter.set(carrier, HEADER, self.text(pathway, ours.step_of(context)))

    def text(self, pathway: Pathway, step: str) -> str:
        """The header's value for what is sent now from here; `step` names it in the route."""
        return write(pathway.leaving(self._service, step, time.time_ns()))

    @property
    def fields(self) -> set[str]:
        return {HEADER}

    def _arrived(
        self, arrival: Arrival, carrier: CarrierT, context: Context, getter: Getter[CarrierT]
    ) -> Context:
        brought = _read(carrier, getter) if arrival.trusted else None
        if not arrival.trusted:
            caller = trace.get_current_span(context).get_span_context()
            arrival.caller = caller if caller.is_valid else None
            context = Context()  # no trace, no baggage
        arrival.brought_flow = brought is not None
        arrival.pathway = brought or self._beginning()
        if arrival.checkpoint is not None:
            context = ours.with_checkpoint(arrival.checkpoint, context)
        return ours.with_pathway(arrival.pathway, context)

    def _beginning(self) -> Pathway:
        return Pathway("", origin_ns=time.time_ns(), origin=self._service)


class OurPropagators(CompositePropagator):
    """Trace context, baggage and flow, all ours: messages take a shorter way through them.

    A message's headers are a mapping of text already, and what they bring is wanted apart, so there
    is no need for carriers, getters and a context for each step: that costs three times as much.
    """

    def __init__(self, service: str) -> None:
        self._flow = FlowPropagator(service)
        super().__init__([TraceContextPropagator(), BaggagePropagator(), self._flow])

    @staticmethod
    def brought(headers: Mapping[str, str]) -> Brought:
        """What a message's headers bring."""
        span: SpanContext | None = None
        if TRACEPARENT in headers:
            state = headers.get(TRACESTATE)
            span = parent_of(headers[TRACEPARENT], () if state is None else (state,))
        pathway = None
        if HEADER in headers:
            pathway = parse(headers[HEADER])
            if pathway is None:
                count_drop("invalid_flow_header", "a tracekit-flow header")
        entries = entries_of((headers[BAGGAGE],)) if BAGGAGE in headers else {}
        return Brought(span, pathway, entries)

    def headers(
        self, span: SpanContext, pathway: Pathway | None, step: str, context: Context
    ) -> dict[str, str]:
        """The headers of a message that this span sends from this context."""
        headers: dict[str, str] = {}
        if span.is_valid:
            headers[TRACEPARENT] = parent_text(span)
            if span.trace_state:
                headers[TRACESTATE] = span.trace_state.to_header()
        entries = baggage.get_all(context)
        if entries and (text := text_of(entries)):
            headers[BAGGAGE] = text
        if pathway is not None and pathway.flow_id:
            headers[HEADER] = self._flow.text(pathway, step)
        return headers


class Brought(NamedTuple):
    """What headers bring: the span that sent them, its place in its flow, and baggage."""

    span: SpanContext | None
    pathway: Pathway | None
    baggage: Mapping[str, object]


def composite(service: str = "", names: Iterable[str] = DEFAULT_NAMES) -> TextMapPropagator:
    """The propagators of these names (those of OTEL_PROPAGATORS) as one, the flow header last.

    `tracecontext` and `baggage` are ours, others come from their entry points. Raises ValueError
    for a name that nobody offers.
    """
    wanted = list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
    if "none" in wanted:
        return CompositePropagator([])
    if set(wanted) == set(DEFAULT_NAMES):
        return OurPropagators(service)
    joined: list[TextMapPropagator] = [_named(name) for name in wanted if name != "tracekit"]
    if "tracekit" in wanted:
        joined.append(FlowPropagator(service))
    return CompositePropagator(joined)


def _named(name: str) -> TextMapPropagator:
    if name == "tracecontext":
        return TraceContextPropagator()
    if name == "baggage":
        return BaggagePropagator()
    for entry in entry_points(group="opentelemetry_propagator", name=name):
        made: object = entry.load()()
        if isinstance(made, TextMapPropagator):
            return made
    known = sorted({entry.name for entry in entry_points(group="opentelemetry_propagator")})
    raise ValueError(
        f"OTEL_PROPAGATORS names {name!r}, which nothing installed offers; known here: {', '.join(known)}"
    )


def _read(carrier: CarrierT, getter: Getter[CarrierT]) -> Pathway | None:
    values = values_of(carrier, HEADER, getter)
    if not values:
        return None
    text = values[0]
    pathway = parse(text) if text is not None and len(values) == 1 else None
    if pathway is None:
        count_drop("invalid_flow_header", "a tracekit-flow header")
    return pathway


def _brings_trace(carrier: CarrierT, context: Context, getter: Getter[CarrierT]) -> bool:
    """Whether what arrives, without a flow header, stands outside of the flow that the context is in."""
    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return ours.pathway_of(context) is None
    # A remote span may have been there before: only the carrier can tell.
    return span.is_remote and bool(values_of(carrier, TRACEPARENT, getter))


def _service_from_environment() -> str:
    name = OTELResourceDetector().detect().attributes.get(SERVICE_NAME)
    return name if isinstance(name, str) and name else "unknown_service"
