"""Scan: what an index needs of a request of spans, read from its bytes without decoding them.

Decoding takes ten times as long. So the bytes are kept as they came, and decoded where somebody looks.
Understood is what SDKs write: fields once, in the order of their numbers, each as short as it can be. That
a request is written so, and can be decoded, protobuf's own parser makes certain: it would write it in the
same way. All else is left to the decoder.
"""

from __future__ import annotations

import re
from binascii import hexlify
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from tracekit import semconv
from tracekit.model import Kind, Status
from tracekit.otlp.tally import OtlpError, Refused, Tally
from tracekit.otlp.values import from_resource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracekit.model import Attributes, Service, Span

_MAX_SPAN: Final = 64 * 1024
_MAX_RESOURCE: Final = 64 * 1024
_MAX_SERVICES: Final = 1000
_AT_ONCE: Final = 256 * 1024
"""Bytes that are parsed at once: two of them may take two hundred in memory."""

_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A
_KIND, _START, _END, _LINK = 0x30, 0x39, 0x41, 0x6A
_ERROR: Final = b"\x18\x02"
_FLAGS: Final = b"\x85\x01"
_HEAD: Final = re.compile(
    rb"\x0a\x10.{16}\x12\x08.{8}(?:\x22\x08(?!\x00{8})(.{8}))?\x2a(?=[\x00-\x7f])", re.DOTALL
).match
"""Trace id, span id, parent, and the tag of the name; a trace state would stand before the parent."""
_TIMES: Final = Struct("<QxQ").unpack_from
_LINKS: Final = re.compile(rb"\x6a(?:[\x00-\x7f]|[\x80-\xff][\x00-\x7f])\x0a\x10").finditer
"""What may begin a link."""
_NO_SPAN: Final = b"\x12\x08" + bytes(8)
_NO_TRACE: Final = bytes(16)
_FLOW: Final = b"\x4a\x36\x0a\x10" + semconv.FLOW_ID.encode() + b"\x12\x22\x0a\x20"
_FLOW_ON_LINK: Final = b"\x22" + _FLOW[1:]
_DESTINATION: Final = re.compile(
    rb"\x4a[\x00-\x7f]\x0a\x1a"
    + re.escape(semconv.MESSAGING_DESTINATION_NAME.encode())
    + rb"\x12.\x0a([\x00-\x7f])",
    re.DOTALL,
).search
_IS_ID: Final = re.compile(rb"[0-9a-f]{32}").fullmatch
Entry: TypeAlias = tuple[bytes, int, int, int]
_PRODUCER, _CONSUMER = Kind.PRODUCER.value, Kind.CONSUMER.value


class Strand(NamedTuple):
    """Consecutive spans of one service in one trace, of one flow id or none.

    Ids are 16 raw bytes; `flow_id` is None too where it is none that tracekit writes. Times are Unix ns;
    `end_ns` is the latest end, 0 where none has ended. `entry` is the name, kind, start and end of the first
    span with which a flow begins. `mentioned` are the traces and the flow ids of links. `destinations` are
    those that its producers and consumers name. Names are UTF-8.
    """

    trace_id: bytes
    flow_id: bytes | None
    service: Service
    start_ns: int
    end_ns: int
    spans: int
    errors: int
    open: int
    entry: Entry | None = None
    mentioned: tuple[bytes, ...] = ()
    destinations: tuple[bytes, ...] = ()


class Scanner:
    """Scans requests. Remembers the services of up to 1,000 resources; for one thread at a time."""

    def __init__(self) -> None:
        self._services: dict[bytes, Service] = {}

    def scan_spans(self, body: bytes) -> list[Strand] | None:
        """The strands of a request in protobuf, in their order; None where it must be decoded.

        Where it gives strands, `decode_spans` refuses nothing, and warns of nothing; but that its bound on
        items is one of each span here, and of a request there.
        """
        found: list[Strand] = []
        if _NO_SPAN in body:
            return None
        try:
            at = 0
            while at < len(body):
                at = self._resource_spans(body, at, found)
        except (_Unusual, IndexError, DecodeError, Refused, OtlpError):
            return None
        return found

    def _resource_spans(self, body: bytes, at: int, found: list[Strand]) -> int:
        at, end = _part(body, at, _FIRST, len(body))
        start, at = _part(body, at, _FIRST, end)
        service = self._service(body[start:at])
        while at < end and body[at] == _SECOND:
            scoped, scope_end = _part(body, at, _SECOND, end)
            if scoped < scope_end and body[scoped] == _FIRST:
                start, scoped = _part(body, scoped, _FIRST, scope_end)
                InstrumentationScope.FromString(body[start:scoped])
            _skip_schema(body, _spans(body, scoped, scope_end, service, found), scope_end)
            at = scope_end
        _skip_schema(body, at, end)
        return end

    def _service(self, resource: bytes) -> Service:
        service = self._services.get(resource)
        if service is None:
            if len(resource) > _MAX_RESOURCE:
                raise _Unusual
            service = from_resource(Resource.FromString(resource), Tally())
            if len(self._services) >= _MAX_SERVICES:
                self._services.clear()
            self._services[resource] = service
        return service


def strands_of(spans: Iterable[Span]) -> list[Strand]:
    """Strands of decoded spans, one each, in their order."""
    return [_strand_of(span) for span in spans]


class _Unusual(Exception):  # noqa: N818 (it is no error)
    """Something that only the decoder understands."""


def _part(body: bytes, at: int, tag: int, until: int) -> tuple[int, int]:
    """Where the content stands of the part that begins here, which must have this tag."""
    if body[at] != tag:
        raise _Unusual
    at += 1
    size = shift = 0
    while True:
        byte = body[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 21:
            raise _Unusual
    if at + size > until:
        raise _Unusual
    return at, at + size


def _skip_schema(body: bytes, at: int, end: int) -> None:
    """What may follow is the address of a schema, and nothing else."""
    if at < end and _part(body, at, _THIRD, end)[1] != end:
        raise _Unusual


def _spans(body: bytes, at: int, until: int, service: Service, found: list[Strand]) -> int:
    """Adds the strands of the spans that stand here; gives where they end.

    This is the loop that decides how many spans a second a collector takes. So it is one, it makes nothing
    that is not needed, and what is seldom there is looked for with one search a span.
    """
    head, times, find, new = _HEAD, _TIMES, body.find, tuple.__new__
    trace = flow = b""
    flow_id: bytes | None = None
    spans = errors = unended = first = last = 0
    entry: Entry | None = None
    mentioned: tuple[bytes, ...] = ()
    named: tuple[bytes, ...] = ()
    links = _LINKS(body, at, until)
    next_link = next(links, None)
    linked_at = next_link.start() if next_link else until
    parsed = at
    while at < until and body[at] == _SECOND:
        size = body[at + 1]
        if size < 0x80:
            start = at + 2
        elif body[at + 2] < 0x80:
            size = size & 0x7F | body[at + 2] << 7
            start = at + 3
        else:
            start, end = _part(body, at, _SECOND, until)
            size = end - start
        at = start + size
        matched = head(body, start, at)
        if matched is None or at > until or size > _MAX_SPAN:
            raise _Unusual
        name = matched.end() + 1
        rest = name + body[name - 1]
        if body[rest] != _KIND or body[rest + 2] != _START or body[rest + 11] != _END or rest + 20 > at:
            raise _Unusual
        kind = body[rest + 1]
        began, ended = times(body, rest + 3)

        said = find(_FLOW, rest, at)
        own_flow = body[said + 24 : said + 56] if said >= 0 else b""
        own_trace = body[start + 2 : start + 18]
        if own_trace != trace or own_flow != flow:
            if spans:
                strand = trace, flow_id, service, first, last, spans, errors, unended, entry, mentioned, named
                found.append(new(Strand, strand))
                spans = errors = unended = last = 0
                entry, mentioned, named = None, (), ()
            trace, flow, first = own_trace, own_flow, began
            flow_id = trace if flow == hexlify(trace) else _id(flow)
            if trace == _NO_TRACE:
                raise _Unusual  # to be refused
        is_linked = False
        while linked_at < at:
            assert next_link is not None
            if linked_at >= rest:
                mentioned += _mentioned(body, next_link.end(), at)
                is_linked = True
            next_link = next(links, None)
            linked_at = next_link.start() if next_link else until
        spans += 1
        if began < first:
            first = began
        if ended > last:
            last = ended
        elif not ended:
            unended += 1
        if _ERROR in body[at - 8 : at] and _has_failed(body, at):
            errors += 1
        if entry is None and not matched[1] and _is_entry(kind, trace, flow_id, is_linked=is_linked):
            entry = body[name:rest], kind, began, ended
        if kind >= _PRODUCER:
            if kind > _CONSUMER:
                raise _Unusual
            if (destination := _DESTINATION(body, rest, at)) is not None:
                text = body[destination.end() : destination.end() + destination[1][0]]
                if text not in named:
                    named += (text,)
        if at - parsed > _AT_ONCE:
            _check(body[parsed:at])
            parsed = at
    if spans:
        strand = trace, flow_id, service, first, last, spans, errors, unended, entry, mentioned, named
        found.append(new(Strand, strand))
    _check(body[parsed:at])
    return at


def _check(spans: bytes) -> None:
    """That they can be decoded, and have each field once and in order, as the scan takes for granted."""
    if trace_pb2.ScopeSpans.FromString(spans).SerializeToString() != spans:
        raise _Unusual


def _has_failed(body: bytes, end: int) -> bool:
    """Whether a span that ends here has a status of ERROR: that comes last, but for flags."""
    if body[end - 6 : end - 4] == _FLAGS:
        end -= 6
    # An attribute of the value 2 ends in the same way.
    return body[end - 2 : end] == _ERROR and body[end - 4 : end - 2] != b"\x12\x02"


def _is_entry(kind: int, trace: bytes, flow_id: bytes | None, *, is_linked: bool) -> bool:
    """A span without a parent is where a flow begins, unless it goes on with what it has a link to."""
    return not is_linked or (kind != _CONSUMER and flow_id == trace)


def _mentioned(body: bytes, at: int, until: int) -> tuple[bytes, ...]:
    """What a link mentions whose trace id begins here. Raises _Unusual if it is not plainly a link."""
    low, high = body[at - 4], body[at - 3]
    end = at - 2 + (high if low == _LINK else low & 0x7F | high << 7)
    trace = body[at : at + 16]
    if end > until or body[at + 16 : at + 18] != b"\x12\x08" or trace == _NO_TRACE:
        raise _Unusual
    said = body.find(_FLOW_ON_LINK, at, end)
    flow_id = _id(body[said + 24 : said + 56]) if said >= 0 else None
    return (trace,) if flow_id is None or flow_id == trace else (trace, flow_id)


def _strand_of(span: Span) -> Strand:
    end_ns = span.end_ns or 0
    trace_id = bytes.fromhex(span.trace_id)
    flow_id = _flow_id(span.attributes)
    entry = None
    if span.parent_id is None and _is_entry(span.kind.value, trace_id, flow_id, is_linked=bool(span.links)):
        entry = span.name.encode(), span.kind.value, span.start_ns, end_ns
    mentioned = [bytes.fromhex(link.trace_id) for link in span.links]
    mentioned += [said for link in span.links if (said := _flow_id(link.attributes)) is not None]
    destination = span.attributes.get(semconv.MESSAGING_DESTINATION_NAME)
    is_named = span.kind.value >= _PRODUCER and isinstance(destination, str)
    return Strand(
        trace_id,
        flow_id,
        span.service,
        span.start_ns,
        end_ns,
        spans=1,
        errors=int(span.status is Status.ERROR),
        open=int(not end_ns),
        entry=entry,
        mentioned=tuple(mentioned),
        destinations=(str(destination).encode(),) if is_named else (),
    )


def _flow_id(attributes: Attributes) -> bytes | None:
    said = attributes.get(semconv.FLOW_ID)
    return _id(said.encode()) if isinstance(said, str) and said.isascii() else None


def _id(text: bytes) -> bytes | None:
    return bytes.fromhex(text.decode()) if _IS_ID(text) else None
