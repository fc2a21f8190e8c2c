"""Select: of a request of spans, those that mention one of some ids, decoded; the others stay bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from tracekit.otlp.spans import decode_spans, encode_spans, read_span
from tracekit.otlp.tally import OtlpError, Refused, Tally
from tracekit.otlp.values import from_resource

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tracekit.model import Span

_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A


def select_spans(body: bytes, ids: Collection[str]) -> list[Span]:
    """The spans of a request in protobuf whose bytes hold one of these ids (hex digits), in their order.

    As raw bytes, or as the text of an attribute; a few more may be among them. The request is one that
    `Scanner.scan_spans` took, or `encode_spans` wrote. Raises OtlpError for another.
    """
    needles = [needle for id_ in ids for needle in (bytes.fromhex(id_), id_.encode())]
    places = sorted(place for needle in needles for place in _places(body, needle))
    if not places:
        return []
    try:
        return list(_selected(body, places))
    except (ValueError, IndexError):  # written in another order than SDKs do
        return [span for span in decode_spans(body).records if any(n in _encoded(span) for n in needles)]
    except (DecodeError, Refused) as error:
        raise OtlpError("the request cannot be read") from error


def _encoded(span: Span) -> bytes:
    return encode_spans([span])


def _places(body: bytes, needle: bytes) -> Iterator[int]:
    at = body.find(needle)
    while at >= 0:
        yield at
        at = body.find(needle, at + 1)


def _selected(body: bytes, places: list[int]) -> Iterator[Span]:
    """Goes from span to span, and decodes those in which a place lies. Another order is a ValueError."""
    at, next_place = 0, 0
    while at < len(body):
        part, end = _part(body, at, _FIRST)
        start, at = _part(body, part, _FIRST)
        resource, service = body[start:at], None
        while at < end and body[at] == _SECOND:
            spans_at, scope_end = _part(body, at, _SECOND)
            scope = b""
            if spans_at < scope_end and body[spans_at] == _FIRST:
                start, spans_at = _part(body, spans_at, _FIRST)
                scope = body[start:spans_at]
            while spans_at < scope_end and body[spans_at] == _SECOND:
                start, spans_at = _part(body, spans_at, _SECOND)
                while next_place < len(places) and places[next_place] < start:
                    next_place += 1
                if next_place < len(places) and places[next_place] < spans_at:
                    if service is None:
                        service = from_resource(Resource.FromString(resource), Tally())
                    message = trace_pb2.Span.FromString(body[start:spans_at])
                    name = InstrumentationScope.FromString(scope).name
                    yield read_span(message, service, name, Tally())
            _end_with_schema(body, spans_at, scope_end)
            at = scope_end
        _end_with_schema(body, at, end)
        at = end


def _end_with_schema(body: bytes, at: int, end: int) -> None:
    if at < end and _part(body, at, _THIRD)[1] != end:
        raise ValueError("something follows the address of the schema")


def _part(body: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of the part stands that begins here; it must have this tag."""
    if body[at] != tag:
        raise ValueError("another part was expected")
    size = body[at + 1]
    at += 2
    if size >= 0x80:
        size &= 0x7F
        shift = 7
        while True:
            byte = body[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
    return at, at + size
