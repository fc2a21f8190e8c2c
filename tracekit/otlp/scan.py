"""Scan: what an index needs of a request of spans, without making records of them.

That takes a tenth of the time: the bytes are kept as they came, and decoded where somebody looks. Protobuf's
own parser reads them here too, so that they can be decoded is certain.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1 import trace_pb2

from tracekit import semconv
from tracekit.model import Kind, Status
from tracekit.otlp.tally import Tally
from tracekit.otlp.values import from_resource
from tracekit.otlp.wire import regions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence, Sized

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    from tracekit.model import Attributes, Service, Span

_MAX_SERVICES: Final = 1000
_FLOW_KEY: Final = semconv.FLOW_ID.encode()
_FLOW_IDS: Final = re.compile(
    rb"\x4a\x36\x0a\x10" + re.escape(_FLOW_KEY) + rb"\x12\x22\x0a\x20(.{32})", re.DOTALL
).findall
"""The value of the attribute of spans, not of their links and events."""
_ARE_IDS: Final = re.compile(rb"[0-9a-f]*").fullmatch
_IS_ID: Final = re.compile("[0-9a-f]{32}").fullmatch
_PRODUCER, _CONSUMER, _ERROR = Kind.PRODUCER.value, Kind.CONSUMER.value, Status.ERROR.value
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)

Entry: TypeAlias = tuple[str, int, int, int]
"""Name, kind, start and end of a span with which a flow begins; the end is 0 where it has none."""


class Strand(NamedTuple):
    """Consecutive spans of one service in one trace, of one flow id or none.

    Ids are 16 raw bytes; `flow_id` is None too where it is none that tracekit writes. Times are Unix ns;
    `end_ns` is the latest end, 0 where none has ended. `entry` is the first. `mentioned` are the
    traces and the flow ids of links. `destinations` are those that its producers and consumers name.
    """

    trace_id: bytes
    flow_id: bytes | None
    service: Service
    start_ns: int
    end_ns: int
    spans: int
    errors: int
    open: int
    entry: Entry | None
    mentioned: tuple[bytes, ...]
    destinations: tuple[str, ...]


class Scanner:
    """Scans requests. Remembers the services of up to 1,000 resources; for one thread at a time."""

    def __init__(self) -> None:
        self._services: dict[bytes, Service] = {}

    def scan_spans(self, body: bytes) -> list[Strand] | None:
        """The strands of a request in protobuf, in their order; None where it must be decoded.

        Where it gives strands, `decode_spans` refuses nothing, and warns of nothing; but that its bound on
        items is one of a span here, and of a request there.
        """
        found: list[Strand] = []
        try:
            for region in regions(body):
                parts = trace_pb2.TracesData.FromString(region).resource_spans
                spans = [span for part in parts for scope in part.scope_spans for span in scope.spans]
                flow_ids = iter(_flow_ids(spans, region))
                for part in parts:
                    service = self._service(part.resource)
                    own = [span for scope in part.scope_spans for span in scope.spans]
                    found += _strands(own, service, flow_ids)
        except (_Refused, DecodeError, ValueError):
            return None
        return found

    def _service(self, resource: Resource) -> Service:
        key = resource.SerializeToString()
        service = self._services.get(key)
        if service is None:
            service = from_resource(resource, Tally())
            if len(self._services) >= _MAX_SERVICES:
                self._services.clear()
            self._services[key] = service
        return service


def strands_of(spans: Iterable[Span]) -> list[Strand]:
    """Strands of decoded spans, one each, in their order."""
    return [_strand_of(span) for span in spans]


class _Refused(Exception):  # noqa: N818 (it is no error)
    """Something that is to be refused, or warned of."""


def _strands(
    spans: Sequence[trace_pb2.Span], service: Service, flow_ids: Iterator[bytes | None]
) -> Iterator[Strand]:
    """This loop decides how many spans a second a collector takes: it makes nothing that is not needed."""
    trace: bytes | None = None
    flow_id: bytes | None = None
    number = errors = unended = first = last = 0
    entry: Entry | None = None
    mentioned: tuple[bytes, ...] = ()
    named: tuple[str, ...] = ()
    for span, own_flow in zip(spans, flow_ids, strict=False):
        own_trace, parent, start = span.trace_id, span.parent_span_id, span.start_time_unix_nano
        if own_trace != trace or own_flow != flow_id:
            if number:
                strand = (
                    trace,
                    flow_id,
                    service,
                    first,
                    last,
                    number,
                    errors,
                    unended,
                    entry,
                    mentioned,
                    named,
                )
                yield _new(Strand, strand)
                number = errors = unended = last = 0
                entry, mentioned, named = None, (), ()
            trace, flow_id, first = own_trace, own_flow, start
            if len(trace) != 16 or trace == _NO_TRACE:
                raise _Refused
        span_id = span.span_id
        if len(span_id) != 8 or span_id == _NO_SPAN or (parent and len(parent) != 8):
            raise _Refused
        number += 1
        if start < first:
            first = start
        end = span.end_time_unix_nano
        if end > last:
            last = end
        elif not end:
            unended += 1
        if span.status.code == _ERROR:
            errors += 1
        links = span.links
        if links:
            mentioned += tuple(_mentioned(links, trace if flow_id == trace else None))
        kind = span.kind
        if entry is None and (not parent or parent == _NO_SPAN) and _is_entry(kind, trace, flow_id, links):
            entry = span.name, kind if 0 <= kind <= _CONSUMER else 0, start, end
        if kind >= _PRODUCER and (destination := _destination(span)) and destination not in named:
            named += (destination,)
    if trace is not None:
        yield Strand(trace, flow_id, service, first, last, number, errors, unended, entry, mentioned, named)


_new = tuple.__new__


def _flow_ids(spans: Sequence[trace_pb2.Span], region: bytes) -> Sequence[bytes | None]:
    """The flow id of each span; found in the bytes where each has one, as tracekit's have, or none has."""
    if _FLOW_KEY not in region:
        return [None] * len(spans)
    found = _FLOW_IDS(region)
    if len(found) == len(spans) and _ARE_IDS(together := b"".join(found)):
        ids = unhexlify(together)
        return [ids[at : at + 16] for at in range(0, len(ids), 16)]
    return [_flow_id(span.attributes) for span in spans]


def _flow_id(attributes: Iterable[KeyValue]) -> bytes | None:
    """Of repeated keys the last counts."""
    said = None
    for pair in attributes:
        if pair.key == semconv.FLOW_ID:
            said = _id(pair.value.string_value)
    return said


def _id(text: str) -> bytes | None:
    return bytes.fromhex(text) if _IS_ID(text) else None


def _mentioned(links: Iterable[trace_pb2.Span.Link], own: bytes | None) -> Iterator[bytes]:
    """`own` is the trace of a span that is its flow too: a link into that mentions nothing else."""
    for link in links:
        trace, span_id = link.trace_id, link.span_id
        if len(trace) != 16 or len(span_id) != 8 or trace == _NO_TRACE or span_id == _NO_SPAN:
            raise _Refused  # left out, with a warning
        if trace != own:
            yield trace
            if (flow_id := _flow_id(link.attributes)) is not None and flow_id != trace:
                yield flow_id


def _destination(span: trace_pb2.Span) -> str:
    """Empty where it names none."""
    if span.kind <= _CONSUMER:
        for pair in span.attributes:
            if pair.key == semconv.MESSAGING_DESTINATION_NAME:
                return str(pair.value.string_value)
    return ""


def _is_entry(kind: int, trace: bytes, flow_id: bytes | None, links: Sized) -> bool:
    """A span without a parent is where a flow begins, unless it goes on with what it has a link to."""
    return not links or (kind != _CONSUMER and flow_id == trace)


def _strand_of(span: Span) -> Strand:
    end_ns = span.end_ns or 0
    trace_id = bytes.fromhex(span.trace_id)
    flow_id = _said(span.attributes)
    entry = None
    if span.parent_id is None and _is_entry(span.kind.value, trace_id, flow_id, span.links):
        entry = span.name, span.kind.value, span.start_ns, end_ns
    own = span.trace_id if flow_id == trace_id else None
    others = [link for link in span.links if link.trace_id != own]
    mentioned = [bytes.fromhex(link.trace_id) for link in others]
    mentioned += [said for link in others if (said := _said(link.attributes)) is not None]
    destination = span.attributes.get(semconv.MESSAGING_DESTINATION_NAME)
    is_named = span.kind.value >= _PRODUCER and isinstance(destination, str) and destination
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
        destinations=(str(destination),) if is_named else (),
    )


def _said(attributes: Attributes) -> bytes | None:
    said = attributes.get(semconv.FLOW_ID)
    return _id(said) if isinstance(said, str) else None
