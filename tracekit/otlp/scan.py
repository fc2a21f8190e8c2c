"""Scan: what an index needs of a request of spans, without making records of them.

That takes a tenth of the time: the bytes are kept as they came, and decoded where somebody looks. Protobuf's
own parser reads them here too, so that they can be decoded is certain.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeAlias

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
_BEFORE_FLOW: Final = b"\x4a\x36\x0a\x10" + _FLOW_KEY + b"\x12\x22\x0a\x20"
"""Before the value of the attribute of spans, not of their links and events."""
_HEX_DIGITS: Final = b"0123456789abcdef"
_IS_ID: Final = re.compile("[0-9a-f]{32}").fullmatch
_READ: Final = attrgetter(
    "trace_id",
    "parent_span_id",
    "span_id",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "kind",
    "links",
    "status.code",
)
_PRODUCER, _CONSUMER, _ERROR = Kind.PRODUCER.value, Kind.CONSUMER.value, Status.ERROR.value
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)

Entry: TypeAlias = tuple[str, int, int, int]
"""Name, kind, start and end of a span with which a flow begins; the end is 0 where it has none."""


@dataclass(slots=True)
class Strand:
    """The spans of a request that are of one service in one trace, and of one flow id or none.

    Ids are 16 raw bytes; `flow_id` is None too where it is none that tracekit writes. Times are Unix ns;
    `end_ns` is the latest end, 0 where none has ended. `entry` is the first. `mentioned` are the
    traces and the flow ids of links. `destinations` are those that its producers and consumers name.
    """

    trace_id: bytes
    flow_id: bytes | None
    service: Service
    start_ns: int
    end_ns: int = 0
    spans: int = 0
    errors: int = 0
    open: int = 0
    entry: Entry | None = None
    mentioned: list[bytes] = field(default_factory=list)
    destinations: tuple[str, ...] = ()


class Scanner:
    """Scans requests. Remembers the services of up to 1,000 resources; for one thread at a time."""

    def __init__(self) -> None:
        self._services: dict[bytes, Service] = {}

    def scan_spans(self, body: bytes) -> list[Strand] | None:
        """The strands of a request in protobuf, by their first spans; None where it must be decoded.

        Where it gives strands, `decode_spans` refuses nothing, and warns of nothing; but that its bound on
        items is one of a span here, and of a request there.
        """
        found: list[Strand] = []
        try:
            for region in regions(body):
                parts = trace_pb2.TracesData.FromString(region).resource_spans
                spans = [[span for scope in part.scope_spans for span in scope.spans] for part in parts]
                every = spans[0] if len(spans) == 1 else [span for own in spans for span in own]
                flows = iter(_flows(every, region))
                for part, own in zip(parts, spans, strict=True):
                    found += _strands(own, self._service(part.resource), flows)
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


def _strands(spans: Sequence[trace_pb2.Span], service: Service, flows: Iterator[bytes]) -> Iterable[Strand]:
    """This loop decides how many spans a second a collector takes: it makes nothing that is not needed."""
    found: dict[bytes, Strand] = {}
    places = {_PRODUCER: 0, _CONSUMER: 0}
    # The spans first: where they end, no flow is taken that is the next one's.
    for span, flow, (trace, parent, span_id, start, end, kind, links, code) in zip(
        spans, flows, map(_READ, spans), strict=False
    ):
        if len(span_id) != 8 or span_id == _NO_SPAN or (parent and len(parent) != 8):
            raise _Refused
        strand = found.get(key := trace + flow)
        if strand is None:
            if len(trace) != 16 or trace == _NO_TRACE:
                raise _Refused
            strand = found[key] = Strand(trace, unhexlify(flow) if flow else None, service, start)
        elif start < strand.start_ns:
            strand.start_ns = start
        strand.spans += 1
        if end > strand.end_ns:
            strand.end_ns = end
        elif not end:
            strand.open += 1
        if code == _ERROR:
            strand.errors += 1
        if links:
            _mention(strand, links)
        if kind in places:
            name = _destination(span, places)
            if name and name not in strand.destinations:
                strand.destinations += (name,)
        if (not parent or parent == _NO_SPAN) and strand.entry is None and _is_entry(kind, strand, links):
            strand.entry = span.name, kind if 0 <= kind <= _CONSUMER else 0, start, end
    return found.values()


def _flows(spans: Sequence[trace_pb2.Span], region: bytes) -> Iterable[bytes]:
    """The flow id of each span as text; from the bytes where each has one, as tracekit's have, or none."""
    if _FLOW_KEY not in region:
        return repeat(b"")
    found = [after[:32] for after in region.split(_BEFORE_FLOW)[1:]]
    together = b"".join(found)
    is_each = len(found) == len(spans) and len(together) == 32 * len(spans)
    if is_each and not together.translate(None, _HEX_DIGITS):
        return found
    return [b"" if (own := _flow_id(span.attributes)) is None else own.hex().encode() for span in spans]


def _flow_id(attributes: Iterable[KeyValue]) -> bytes | None:
    """Of repeated keys the last counts."""
    said = None
    for pair in attributes:
        if pair.key == semconv.FLOW_ID:
            said = _id(pair.value.string_value)
    return said


def _id(text: str) -> bytes | None:
    return bytes.fromhex(text) if _IS_ID(text) else None


def _mention(strand: Strand, links: Iterable[trace_pb2.Span.Link]) -> None:
    """A link into the trace of a span that is its flow too mentions nothing else, unless by its flow id."""
    own = strand.trace_id if strand.flow_id == strand.trace_id else None
    for link in links:
        trace, span_id = link.trace_id, link.span_id
        if len(trace) != 16 or len(span_id) != 8 or trace == _NO_TRACE or span_id == _NO_SPAN:
            raise _Refused  # left out, with a warning
        if trace != own:
            strand.mentioned.append(trace)
        if (flow_id := _flow_id(link.attributes)) is not None and flow_id != strand.flow_id:
            strand.mentioned.append(flow_id)


def _destination(span: trace_pb2.Span, places: dict[int, int]) -> str:
    """Looked for first where the last span of its kind had it; empty where it names none."""
    attributes = span.attributes
    if (place := places[span.kind]) < len(attributes):
        pair = attributes[place]
        if pair.key == semconv.MESSAGING_DESTINATION_NAME:
            return str(pair.value.string_value)
    for place, pair in enumerate(attributes):
        if pair.key == semconv.MESSAGING_DESTINATION_NAME:
            places[span.kind] = place
            return str(pair.value.string_value)
    return ""


def _is_entry(kind: int, strand: Strand, links: Sized) -> bool:
    """A span without a parent is where a flow begins, unless it goes on with what it has a link to."""
    return not links or (kind != _CONSUMER and strand.flow_id == strand.trace_id)


def _strand_of(span: Span) -> Strand:
    end_ns = span.end_ns or 0
    trace_id, kind = bytes.fromhex(span.trace_id), span.kind.value
    strand = Strand(trace_id, _said(span.attributes), span.service, span.start_ns, end_ns, spans=1)
    strand.errors = int(span.status is Status.ERROR)
    strand.open = int(not end_ns)
    if span.parent_id is None and _is_entry(kind, strand, span.links):
        strand.entry = span.name, kind, span.start_ns, end_ns
    own = span.trace_id if strand.flow_id == trace_id else None
    for link in span.links:
        if link.trace_id != own:
            strand.mentioned.append(bytes.fromhex(link.trace_id))
        if (said := _said(link.attributes)) is not None and said != strand.flow_id:
            strand.mentioned.append(said)
    destination = span.attributes.get(semconv.MESSAGING_DESTINATION_NAME)
    if kind >= _PRODUCER and isinstance(destination, str) and destination:
        strand.destinations = (destination,)
    return strand


def _said(attributes: Attributes) -> bytes | None:
    said = attributes.get(semconv.FLOW_ID)
    return _id(said) if isinstance(said, str) else None
