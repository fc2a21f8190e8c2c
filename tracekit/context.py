"""Context: what it knows of its flow, taken from headers and put on headers.

A context is attached and detached in one function, or by `with`. Everything here works on plain
dicts and pairs, so that any transport can use it: `inject` on the way out, `extract` on the way in.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from opentelemetry import context as otel
from opentelemetry import propagate, trace
from opentelemetry.context import Context

from tracekit.guard import count_drop, shielded
from tracekit.pathway import NO_FLOW, Pathway

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.propagators.textmap import TextMapPropagator

Pairs: TypeAlias = Sequence[tuple[str, str | bytes]]
Carrier: TypeAlias = Mapping[str, str] | Mapping[str, bytes] | Pairs

# The API gives no name to the key of the current span.
(_SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
_PLACE = otel.create_key("tracekit-place")
_STEP = otel.create_key("tracekit-step")
_ON_SPAN = "_tracekit_pathway"


class Checkpoint:
    """One place where a flow may end: a request, or the processing of a message.

    `sent` turns true once something was published from within; then the flow goes on.
    """

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


class Place:
    """What a context knows of its flow: one value, so that a message in process costs one copy.

    `pathway` is where the work stands in its flow, `checkpoint` the innermost place where the flow
    may end, `traceparent` that of the message in process, `scope` the scope that made this place.
    """

    __slots__ = ("checkpoint", "pathway", "scope", "traceparent")

    def __init__(
        self,
        pathway: Pathway | None = None,
        checkpoint: Checkpoint | None = None,
        traceparent: str = "",
        scope: object = None,
    ) -> None:
        self.pathway = pathway
        self.checkpoint = checkpoint
        self.traceparent = traceparent
        self.scope = scope


_NOWHERE = Place()


# -- what a context knows of its flow ---------------------------------------------------------------


def place_of(context: Context | None = None) -> Place:
    """What this context knows of its flow."""
    found: Any = (otel.get_current() if context is None else context).get(_PLACE)
    return found or _NOWHERE


def with_place(place: Place, context: Context | None = None) -> Context:
    """The context with this knowledge of its flow, and no other."""
    return otel.set_value(_PLACE, place, context)


def within(span: trace.Span, place: Place, context: Context) -> Context:
    """The context with this span and this knowledge of its flow: as `with_place` and
    `set_span_in_context`, by one copy instead of four."""
    values = dict(context)
    values[_SPAN] = span
    values[_PLACE] = place
    return Context(values)


def with_pathway(pathway: Pathway, context: Context | None = None) -> Context:
    """The context, standing at this place of this flow."""
    old = place_of(context)
    return with_place(Place(pathway, old.checkpoint, old.traceparent, old.scope), context)


def with_checkpoint(checkpoint: Checkpoint, context: Context | None = None) -> Context:
    """The context of a place where the flow may end."""
    old = place_of(context)
    return with_place(Place(old.pathway, checkpoint, old.traceparent, old.scope), context)


def checkpoint_of(context: Context | None = None) -> Checkpoint | None:
    """The innermost place where the flow may end."""
    return place_of(context).checkpoint


def with_step(step: str, context: Context | None = None) -> Context:
    """The context from which one thing is sent: `step` names it in the route (the pathway hash)."""
    return otel.set_value(_STEP, step, context)


def step_of(context: Context | None = None) -> str:
    """What is sent from this context, for the route; `http` where nobody said."""
    return cast("str", otel.get_value(_STEP, context) or "http")


def pathway_of(context: Context | None = None) -> Pathway | None:
    """Where this context stands in its flow; None outside of any.

    What the context says counts first (a message in process says it), then what its span remembers.
    A span nobody told anything is the entry of a flow, or behind a service that knows only
    `traceparent`: either way the trace id is the flow's.
    """
    said = place_of(context).pathway
    if said is not None and said.flow_id:
        return said
    span = trace.get_current_span(context)
    told: Pathway | None = getattr(span, _ON_SPAN, None)
    if told is not None:
        return told
    span_context = span.get_span_context()
    if not span_context.is_valid:
        return said
    return (said or Pathway(""))._replace(flow_id=trace.format_trace_id(span_context.trace_id))


def remembered(span: trace.Span) -> Pathway | None:
    """Where the span stands, if it was told."""
    pathway: Pathway | None = getattr(span, _ON_SPAN, None)
    return pathway


def remember(span: trace.Span, pathway: Pathway) -> None:
    """Keep on the span where it stands, for contexts that hold only the span."""
    setattr(span, _ON_SPAN, pathway)


def flow_id(context: Context | None = None) -> str | None:
    """The id of the flow that this context works for; None outside of any, and in a hub."""
    pathway = pathway_of(context)
    return None if pathway is None or pathway.flow_id in ("", NO_FLOW) else pathway.flow_id


# -- headers ----------------------------------------------------------------------------------------


def texts(headers: Iterable[tuple[object, object]]) -> dict[str, str]:
    """The context headers among these, as text by lower-case name; of repeated ones the last counts.

    One that is not text (not UTF-8, a number, None) is as good as absent, and counted. Source: case
    46 of the messaging specification (Java, .NET and Brave take the last).
    """
    fields = context_fields()
    found: dict[str, str] = {}
    for name, value in headers:
        key = name if name.__class__ is str and name in fields else _lowered(name)
        if key not in fields:
            continue
        text = value
        if isinstance(value, bytes):
            try:
                text = value.decode()
            except UnicodeDecodeError:
                text = None
        if isinstance(text, str):
            found[key] = text
        else:
            found.pop(key, None)
            count_drop("invalid_context", f"a {key} header that is not text")
    return found


def _lowered(name: object) -> str:
    """The name of a header in the one form in which names compare; "" for what is none."""
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return text.lower() if isinstance(text, str) else ""


def context_fields() -> frozenset[str]:
    """The names of the headers that carry context, as the global propagator has them."""
    return _fields(propagate.get_global_textmap())


@functools.lru_cache(maxsize=8)
def _fields(propagator: TextMapPropagator) -> frozenset[str]:
    return frozenset(propagator.fields)


def headers_of(context: Context | None = None) -> dict[str, str]:
    """The headers that carry this context; empty where ours failed."""
    carrier: dict[str, str] = {}
    with shielded("the context of what is sent"):
        propagate.inject(carrier, context)
        return carrier
    return {}


def context_from(headers: Mapping[str, str], context: Context | None = None) -> Context:
    """The context with what the headers carry; unchanged where they carry nothing of use."""
    with shielded("the context of what arrived", "invalid_context"):
        return propagate.extract(headers, otel.get_current() if context is None else context)
    return otel.get_current() if context is None else context


def inject(carrier: Carrier | None = None) -> Carrier:
    """A copy of the headers with the current context on it; the one given stays as it is.

    A mapping, or None, gives a dict; a list or tuple of pairs gives a list. Values are bytes where the
    given ones are, and for a list that is empty (Kafka's form); else text; names are bytes where the
    given ones are. Our own headers are replaced, in whatever case they are spelled, the others kept.
    Outside of any span there is no context, and none is added. Never raises: what is no carrier is
    given back as it is, and counted.

        producer.publish(body, headers=tracekit.inject({"content-type": "application/json"}))
    """
    pairs = _pairs("inject", {} if carrier is None else carrier)
    if pairs is None:
        return cast("Carrier", carrier)
    ours = headers_of()
    kept = [(name, value) for name, value in pairs if _lowered(name) not in ours]
    as_pairs = carrier is not None and not isinstance(carrier, Mapping)
    as_bytes = isinstance(pairs[0][1], bytes) if pairs else as_pairs
    are_names_bytes = bool(pairs) and isinstance(cast("object", pairs[0][0]), bytes)  # ASGI's form
    added = [
        (cast("str", name.encode()) if are_names_bytes else name, value.encode() if as_bytes else value)
        for name, value in ours.items()
    ]
    return [*kept, *added] if as_pairs else cast("Carrier", dict([*kept, *added]))


class extract:  # noqa: N801 - reads as a phrase: with extract(headers):
    """What headers carry: a `context` of OpenTelemetry's, current inside `with`, which gives it too.

    `carrier` is a mapping or pairs, of text or bytes; None is as good as empty. Headers that carry
    nothing, or nonsense, and what is no carrier leave the context as it was; nothing is raised.

        with tracekit.extract(job["headers"]):
            with tracer.start_as_current_span("run job", kind=SpanKind.CONSUMER):
                run(job)
    """

    __slots__ = ("_tokens", "context")

    def __init__(self, carrier: Carrier | None) -> None:
        self.context: Context = otel.get_current()
        self._tokens: list[Token[Context]] = []
        with shielded("the context of what arrived", "invalid_context"):
            self.context = context_from(texts(_pairs("extract", {} if carrier is None else carrier) or ()))

    def __enter__(self) -> Context:
        self._tokens.append(otel.attach(self.context))
        return self.context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        otel.detach(self._tokens.pop())


def _pairs(who: str, carrier: object) -> list[tuple[str, str | bytes]] | None:
    """The pairs of a carrier; None for what is none, which is counted."""
    with suppress(Exception):
        found: list[Any] = []
        if isinstance(carrier, Mapping) or callable(getattr(carrier, "items", None)):
            found = list(cast("Mapping[str, str]", carrier).items())
        elif isinstance(carrier, list | tuple):
            found = [*carrier]
        else:  # not looked through: an iterator would be used up
            raise TypeError
        if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in found):
            return found
    kind = type(carrier).__name__
    count_drop("invalid_context", f"context ({who} takes a mapping or pairs, not {kind})")
    return None
