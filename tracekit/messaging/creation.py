"""The creation context: what a message carries of the place where it was made.

Read from what arrives, kept or replaced on what is sent, and left out where there is no room for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.trace import Link

from tracekit import context as ours
from tracekit import pathway, semconv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanContext

    from tracekit.messaging.transport import Headers, Message
    from tracekit.pathway import Pathway

TRACEPARENT: Final = "traceparent"
# The least needed first. Source: ours (ARCHITECTURE, "How data goes").
_SACRIFICE: Final = ("baggage", pathway.HEADER, "tracestate", TRACEPARENT)
_AROUND_HEADER: Final = 10  # bytes a broker adds to a header at most: two lengths as varints

_PROCESS = otel.create_key("tracekit-message-in-process")
_RELAY = otel.create_key("tracekit-relay")


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a message brought: its creation context, flow and baggage, and when it was published.

    `state` says why there is no creation context: `absent` or `invalid`. `published_ns` (Unix ns)
    comes from the `source`: the broker, our header, or a client's own timestamp.
    """

    context: SpanContext
    state: Literal["", "absent", "invalid"]
    pathway: Pathway | None
    baggage: Mapping[str, object]
    traceparent: str
    published_ns: int | None
    source: Literal["", "broker", "header", "client"]

    @property
    def is_known(self) -> bool:
        return not self.state

    def link(self, attributes: Mapping[str, str | int | bool] | None = None) -> Link:
        """The link to the creation context, as a hub has it: with the flow's id on it."""
        own = dict(attributes or {})
        if self.pathway is not None and self.pathway.flow_id and not self.pathway.is_hub:
            own[semconv.FLOW_ID] = self.pathway.flow_id
        return Link(self.context, own)


def read(message: Message) -> Arrived:
    """What the message brought. Headers that make no sense are as good as absent."""
    headers = ours.texts(message.headers) if message.headers else {}
    extracted = ours.context_from(headers, Context()) if headers else Context()
    context = trace.get_current_span(extracted).get_span_context()
    said = ours.pathway_of(extracted) if headers else None
    published_ns, source = _published(message, said)
    known = context.is_valid
    carried = bool(message.headers) and any(_is_traceparent(name) for name, _ in message.headers)
    return Arrived(
        context=context,
        state="" if known else "invalid" if carried else "absent",
        pathway=said if known else None,
        baggage=baggage.get_all(extracted) if headers else {},
        traceparent=headers.get(TRACEPARENT, ""),
        published_ns=published_ns,
        source=source,
    )


def _published(
    message: Message, said: Pathway | None
) -> tuple[int | None, Literal["", "broker", "header", "client"]]:
    if message.published_at_ns is not None:
        return message.published_at_ns, "broker"
    if said is not None and said.edge_ns:
        return said.edge_ns, "header"
    if message.sent_at_ns is not None:
        return message.sent_at_ns, "client"
    return None, ""


def _is_traceparent(name: object) -> bool:
    return isinstance(name, str) and name.lower() == TRACEPARENT


def kept(headers: Headers, context: Context) -> SpanContext | None:
    """The creation context that the caller put on the message and that stays there.

    None where there is none, and where it is that of the message in process (headers that are only
    handed on) or the current span's (our own `inject`): those are replaced.
    """
    if not any(_is_traceparent(name) for name, _ in headers):
        return None
    found = ours.texts(headers)
    theirs = trace.get_current_span(ours.context_from(found, Context())).get_span_context()
    if not theirs.is_valid:
        return None
    if not otel.get_value(_RELAY, context):
        if found.get(TRACEPARENT) == otel.get_value(_PROCESS, context):
            return None
        current = trace.get_current_span(context).get_span_context()
        if (theirs.trace_id, theirs.span_id) == (current.trace_id, current.span_id):
            return None
    return theirs


def with_message(arrived: Arrived, context: Context) -> Context:
    """The context in which this message is processed: with its baggage, and known for what it is."""
    for name, value in arrived.baggage.items():
        context = baggage.set_baggage(name, value, context)
    return otel.set_value(_PROCESS, arrived.traceparent or None, context)


def with_relay(context: Context | None = None) -> Context:
    """The context in which messages are sent on with the creation context that they already have."""
    return otel.set_value(_RELAY, True, context)


def trim(headers: dict[str, str], room: int) -> list[str]:
    """Take headers out, the least needed first, until they fit into `room` bytes; which ones."""
    left_out: list[str] = []
    order = [*(name for name in headers if name not in _SACRIFICE), *_SACRIFICE]
    size = sum(map(_size, headers.items()))
    for name in order:
        if size <= room:
            break
        if name in headers:
            size -= _size((name, headers.pop(name)))
            left_out.append(name)
    return left_out


def _size(header: tuple[str, str]) -> int:
    return len(header[0]) + len(header[1]) + _AROUND_HEADER


def beginning() -> Pathway:
    """Where a message without context stands: a flow begins with it, whose entry has no id yet."""
    return pathway.Pathway("", origin_ns=time.time_ns())
