"""Spans: ExportTraceServiceRequest, decoded and encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from tracekit.model import Event, Kind, Link, Span, Status
from tracekit.otlp.envelope import Decoded, Encoding, Shape, decode, encode
from tracekit.otlp.tally import Refused, Tally
from tracekit.otlp.values import from_pairs, is_id, to_pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tracekit.model import Service

SHAPE: Final = Shape(
    trace_pb2.Span, ExportTraceServiceRequest, resources="resourceSpans", scopes="scopeSpans", records="spans"
)
_KINDS: Final = {kind.value: kind for kind in Kind}
_STATUSES: Final = {status.value: status for status in Status}
_PARENT_KNOWN: Final = int(trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
_PARENT_REMOTE: Final = int(trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)


def decode_spans(body: bytes, encoding: Encoding = "protobuf") -> Decoded[Span]:
    """The spans of a request. Raises OtlpError where it cannot be read.

    A span is refused alone if its trace id is not 16 bytes, its span id or its parent's not 8, or its own
    are all zero. A link with such ids is left out, with a warning: SDKs write links to nothing.
    """
    return decode(body, encoding, SHAPE, read_span)


def encode_spans(spans: Iterable[Span], encoding: Encoding = "protobuf") -> bytes:
    """A request with these spans. Raises ValueError for what OTLP cannot hold."""
    return encode(spans, encoding, SHAPE, lambda span: (span.service, span.scope), _write)


def read_span(message: trace_pb2.Span, service: Service, scope: str, tally: Tally) -> Span:
    """The span that a message holds. Raises Refused where it has no valid ids."""
    if not is_id(message.trace_id, 16):
        raise Refused("a trace_id must be 16 bytes, not all zero")
    if not is_id(message.span_id, 8):
        raise Refused("a span_id must be 8 bytes, not all zero")
    parent = message.parent_span_id
    if parent and len(parent) != 8:
        raise Refused("a parent_span_id must be empty or 8 bytes")
    return Span(
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        name=message.name,
        start_ns=message.start_time_unix_nano,
        end_ns=message.end_time_unix_nano or None,
        parent_id=parent.hex() if any(parent) else None,
        parent_is_remote=_parent_is_remote(message.flags),
        kind=_KINDS.get(message.kind, Kind.UNSPECIFIED),
        status=_STATUSES.get(message.status.code, Status.UNSET),
        status_message=message.status.message,
        attributes=from_pairs(message.attributes, tally),
        links=_links(message.links, tally),
        events=tuple(
            Event(e.name, e.time_unix_nano, from_pairs(e.attributes, tally))
            for e in tally.counted(message.events)
        ),
        service=service,
        scope=scope,
        trace_state=message.trace_state,
    )


def _parent_is_remote(flags: int) -> bool | None:
    return bool(flags & _PARENT_REMOTE) if flags & _PARENT_KNOWN else None


def _links(messages: Collection[trace_pb2.Span.Link], tally: Tally) -> tuple[Link, ...]:
    links = []
    for message in tally.counted(messages):
        if is_id(message.trace_id, 16) and is_id(message.span_id, 8):
            links.append(
                Link(message.trace_id.hex(), message.span_id.hex(), from_pairs(message.attributes, tally))
            )
        else:
            tally.warn("a link without valid ids was left out")
    return tuple(links)


def _write(span: Span) -> trace_pb2.Span:
    flags = 0 if span.parent_is_remote is None else _PARENT_KNOWN | (_PARENT_REMOTE * span.parent_is_remote)
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id or ""),
        trace_state=span.trace_state,
        flags=flags,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.ValueType(span.kind.value),
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns or 0,
        attributes=to_pairs(span.attributes),
        events=[
            trace_pb2.Span.Event(name=e.name, time_unix_nano=e.time_ns, attributes=to_pairs(e.attributes))
            for e in span.events
        ],
        links=[
            trace_pb2.Span.Link(
                trace_id=bytes.fromhex(link.trace_id),
                span_id=bytes.fromhex(link.span_id),
                attributes=to_pairs(link.attributes),
            )
            for link in span.links
        ],
        status=trace_pb2.Status(
            code=trace_pb2.Status.StatusCode.ValueType(span.status.value), message=span.status_message
        ),
    )
