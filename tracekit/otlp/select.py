"""Select: of a request of spans, those that mention one of some ids, decoded; the others stay bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from tracekit.otlp.spans import read_span
from tracekit.otlp.tally import OtlpError, Refused, Tally
from tracekit.otlp.values import from_resource

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tracekit.model import Service, Span


def select_spans(body: bytes, ids: Collection[str]) -> list[Span]:
    """The spans of a request in protobuf whose bytes hold one of these ids (hex digits), in their order.

    As raw bytes, or as the text of an attribute; a few more may be among them. The request is one that
    `Scanner.scan_spans` took, or `encode_spans` wrote. Raises OtlpError for another.
    """
    places = sorted(
        place
        for id_ in ids
        for needle in (bytes.fromhex(id_), id_.encode())
        for place in _places(body, needle)
    )
    if not places:
        return []
    try:
        return list(_selected(body, places))
    except (IndexError, DecodeError, Refused) as error:
        raise OtlpError("the request cannot be read") from error


def _places(body: bytes, needle: bytes) -> Iterator[int]:
    at = body.find(needle)
    while at >= 0:
        yield at
        at = body.find(needle, at + 1)


def _selected(body: bytes, places: list[int]) -> Iterator[Span]:
    at, next_place, size = 0, 0, len(body)
    while at < size:
        part, end = _part(body, at)
        start, part_at = part, part
        service: Service | None = None
        resource = b""
        if body[part_at : part_at + 1] == b"\x0a":
            start, part_at = _part(body, part_at)
            resource = body[start:part_at]
        while part_at < end and body[part_at] == 0x12:
            spans_at, scope_end = _part(body, part_at)
            scope = b""
            if spans_at < scope_end and body[spans_at] == 0x0A:
                start, spans_at = _part(body, spans_at)
                scope = body[start:spans_at]
            while spans_at < scope_end and body[spans_at] == 0x12:
                start, spans_at = _part(body, spans_at)
                while next_place < len(places) and places[next_place] < start:
                    next_place += 1
                if next_place < len(places) and places[next_place] < spans_at:
                    if service is None:
                        service = from_resource(Resource.FromString(resource), Tally())
                    message = trace_pb2.Span.FromString(body[start:spans_at])
                    name = InstrumentationScope.FromString(scope).name
                    yield read_span(message, service, name, Tally())
            part_at = scope_end
        at = end


def _part(body: bytes, at: int) -> tuple[int, int]:
    """Where the content of the part stands that begins here."""
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
