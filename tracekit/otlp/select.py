"""Select: of a request of spans, those that mention an id, decoded; the others stay bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from tracekit.otlp.spans import decode_spans, encode_spans, read_span
from tracekit.otlp.tally import OtlpError, Refused, Tally
from tracekit.otlp.values import from_resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracekit.model import Span

_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A


@dataclass(slots=True)
class Room:
    """How many bytes of spans may still be decoded; below 0 once it was too little."""

    bytes: int


def select_spans(body: bytes, id_: str, room: Room | None = None) -> list[Span]:
    """The spans of a request in protobuf whose bytes hold this id (hex digits), in their order.

    They take away from the room as many bytes as they have; once there is none, the others are left out.

    As raw bytes, or as the text of an attribute; a few more may be among them. The request is one that
    `Scanner.scan_spans` took, or `encode_spans` wrote. Raises OtlpError for another.
    """
    needles = bytes.fromhex(id_), id_.encode()
    places = sorted(place for needle in needles for place in _places(body, needle))
    if not places:
        return []
    try:
        parts = _of_trace(body, needles[0], places)
        return list(_decoded(body, _holding(body, places) if parts is None else parts, room))
    except (ValueError, IndexError):  # written in another order than SDKs do
        return [
            span for span in decode_spans(body).records if any(n in encode_spans([span]) for n in needles)
        ]
    except (DecodeError, Refused) as error:
        raise OtlpError("the request cannot be read") from error


def _places(body: bytes, needle: bytes) -> Iterator[int]:
    at = body.find(needle)
    while at >= 0:
        yield at
        at = body.find(needle, at + 1)


def _of_trace(body: bytes, trace_id: bytes, places: list[int]) -> list[tuple[int, int]] | None:
    """The spans of a trace; None if not all of the places lie in them.

    They do in most flows, which spares a walk through all spans of the request.
    """
    parts: list[tuple[int, int]] = []
    end = 0
    for place in places:
        if place < end:
            continue
        start = _span_at(body, place - 2)
        if start is None or body[place : place + 16] != trace_id:
            return None
        parts.append(_part(body, start, _SECOND))
        end = parts[-1][1]
    return parts


def _span_at(body: bytes, at: int) -> int | None:
    """Where the span stands whose content begins here with a trace id; None if none does."""
    if body[at : at + 2] == b"\x0a\x10":
        for start in (at - 2, at - 3, at - 4):
            if start >= 0 and body[start] == _SECOND and _part(body, start, _SECOND)[0] == at:
                return start
    return None


def _holding(body: bytes, places: list[int]) -> Iterator[tuple[int, int]]:
    """The spans in which the places lie."""
    next_place = 0
    for _, _, at, end in _scopes(body):
        while at < end and body[at] == _SECOND:
            start, at = _part(body, at, _SECOND)
            while next_place < len(places) and places[next_place] < start:
                next_place += 1
            if next_place < len(places) and places[next_place] < at:
                yield start, at
        _end_with_schema(body, at, end)


def _decoded(body: bytes, parts: Iterable[tuple[int, int]], room: Room | None) -> Iterator[Span]:
    """The spans that stand there, which are in order."""
    scopes = _scopes(body)
    resource, scope, _, scope_end = next(scopes)
    service, name = None, ""
    for start, end in parts:
        if room is not None:
            room.bytes -= end - start
            if room.bytes < 0:
                return
        while start >= scope_end:
            resource, scope, _, scope_end = next(scopes)
            service = None
        if service is None:
            service = from_resource(Resource.FromString(resource), Tally())
            name = InstrumentationScope.FromString(scope).name
        yield read_span(trace_pb2.Span.FromString(body[start:end]), service, name, Tally())


def _scopes(body: bytes) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Of each scope its resource, itself, where its spans begin, and its end. ValueError: another order."""
    at = 0
    while at < len(body):
        at, end = _part(body, at, _FIRST)
        start, at = _part(body, at, _FIRST)
        resource = body[start:at]
        while at < end and body[at] == _SECOND:
            spans, at = _part(body, at, _SECOND)
            scope = b""
            if spans < at and body[spans] == _FIRST:
                start, spans = _part(body, spans, _FIRST)
                scope = body[start:spans]
            yield resource, scope, spans, at
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
