"""The load of the ingest benchmark: orders of a shop, as OTLP requests in a file.

An order is a flow of eight spans in four services. Its spans are encoded by OpenTelemetry's exporter, once
for each shape; what differs from order to order (ids, times, numbers) has a fixed width there and is filled
in. Requests hold 512 spans of one service, in the order in which the spans end, as its exporter sends them.
The same number gives the same file, but for the moment at which it ends.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
import struct
import time
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPANS: Final = 8
"""In each flow."""
BATCH: Final = 512
SERVICES: Final = ("orders", "payment", "inventory", "notification")
_TRACE_APART_EVERY: Final = 16  # a consumer that links to its message, and begins a trace
_APART_NS: Final = 1_000_000

# Filled in for each span. As wide as the real values, and found nowhere else in an encoded span.
_FIELDS: Final[dict[str, bytes]] = {
    "trace": b"\xf1" * 16,
    "span": b"\xf2" * 8,
    "parent": b"\xf3" * 8,
    "linked_trace": b"\xf4" * 16,
    "linked_span": b"\xf5" * 8,
    "start": b"\x76" * 8,
    "end": b"\x77" * 8,
    "flow": b"\xf8".hex().encode() * 16,
    "number": b"#" * 8,
}
_MARKS: Final = re.compile(b"|".join(re.escape(mark) for mark in _FIELDS.values()))
_NAMES: Final = {mark: name for name, mark in _FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Load:
    """A file of requests: where each begins and how long it is; the ids of the flows, one after the other."""

    path: Path
    flows: int
    began_ns: int
    places: list[tuple[int, int]] = field(repr=False)
    ids: bytes = field(repr=False)

    @property
    def spans(self) -> int:
        return self.flows * SPANS

    @property
    def bytes(self) -> int:
        return sum(length for _, length in self.places)

    def flow_id(self, number: int) -> str:
        return self.ids[16 * number : 16 * number + 16].hex()


def has_failed(number: int) -> bool:
    """Its notification could not be sent."""
    return number % 50 == 49


def is_slow(number: int) -> bool:
    """It waits for seconds; all others are done within one."""
    return number % 40 == 9


def is_refused(number: int) -> bool:
    """Its payment was refused, and another queue hears of it: few of many."""
    return number % 2500 == 7


class _Shape:
    """A span as the exporter encodes it, with places for what differs."""

    def __init__(
        self, service: str, scope: str, name: str, kind: SpanKind, attributes: dict[str, Any], **more: Any
    ) -> None:
        self.service = service
        parent = more.pop("parent", True)
        span = ReadableSpan(
            name,
            _context("trace", "span"),
            _context("trace", "parent") if parent else None,
            resource=_resource(service),
            attributes={**attributes, "tracekit.flow.id": _FIELDS["flow"].decode()},
            kind=kind,
            start_time=_number("start"),
            end_time=_number("end"),
            instrumentation_scope=InstrumentationScope(scope, "0.66b1"),
            **more,
        )
        (in_resource,) = encode_spans([span]).resource_spans
        (in_scope,) = in_resource.scope_spans
        self.resource = ResourceSpans(resource=in_resource.resource).SerializeToString()
        self.scope = ScopeSpans(scope=in_scope.scope).SerializeToString()
        encoded = in_scope.spans[0].SerializeToString()
        marks = [_NAMES[mark] for mark in _MARKS.findall(encoded)]
        self._values = itemgetter(*marks)
        self._format = _MARKS.sub(b"%b", encoded.replace(b"%", b"%%"))

    def filled(self, values: dict[str, bytes]) -> bytes:
        encoded: bytes = self._format % self._values(values)
        return encoded


def _context(trace: str, span: str) -> SpanContext:
    ids = int.from_bytes(_FIELDS[trace], "big"), int.from_bytes(_FIELDS[span], "big")
    return SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _number(name: str) -> int:
    return int.from_bytes(_FIELDS[name], "little")


def _resource(service: str) -> Resource:
    return Resource(
        {
            "service.name": service,
            "service.instance.id": f"{service}-7d4b9c-x2x9p",
            "service.version": "1.2.0",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": "1.45.1",
        }
    )


_FASTAPI: Final = "opentelemetry.instrumentation.fastapi"
_HTTPX: Final = "opentelemetry.instrumentation.httpx"
_KAFKA: Final = "tracekit.kafka"
_ERROR: Final = Status(StatusCode.ERROR)


def _served(service: str, route: str, path: str, status: int, **more: Any) -> _Shape:
    attributes = {"http.request.method": "POST", "url.path": path, "http.response.status_code": status}
    return _Shape(service, _FASTAPI, f"POST {route}", SpanKind.SERVER, attributes, **more)


def _called(service: str, host: str, status: int) -> _Shape:
    attributes = {"http.request.method": "POST", "server.address": host, "http.response.status_code": status}
    if status < 400:
        return _Shape(service, _HTTPX, "POST", SpanKind.CLIENT, attributes)
    attributes["error.type"] = str(status)
    return _Shape(service, _HTTPX, "POST", SpanKind.CLIENT, attributes, status=_ERROR)


def _sent(service: str, topic: str) -> _Shape:
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
    }
    return _Shape(service, _KAFKA, f"send {topic}", SpanKind.PRODUCER, attributes)


def _processed(service: str, topic: str, **more: Any) -> _Shape:
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
        "messaging.consumer.group.name": service,
    }
    link = Link(_context("linked_trace", "linked_span"))
    return _Shape(service, _KAFKA, f"process {topic}", SpanKind.CONSUMER, attributes, links=[link], **more)


def _exception() -> Event:
    attributes = {"exception.type": "httpx.HTTPStatusError", "exception.message": "503 Service Unavailable"}
    return Event("exception", attributes, _number("end"))


class _Orders:
    """Makes the spans of one order after the other."""

    def __init__(self) -> None:
        self.ids = bytearray()
        self._random = random.Random(4)
        self._order = _served(
            "orders", "/orders/{number}", f"/orders/{_FIELDS['number'].decode()}", 201, parent=False
        )
        self._charge_call = _called("orders", "payment", 200)
        self._charge = _served("payment", "/charge", "/charge", 200)
        self._refused_call = _called("orders", "payment", 402)
        self._refused_charge = _served("payment", "/charge", "/charge", 402)
        self._sent = {topic: _sent("orders", topic) for topic in ("orders", "refusals")}
        self._reserved = {topic: _processed("inventory", topic) for topic in self._sent}
        self._stock = _sent("inventory", "stock")
        self._notified = _processed("notification", "stock")
        self._notified_apart = _processed("notification", "stock", parent=False)
        self._failed = _processed("notification", "stock", status=_ERROR, events=[_exception()])
        self._mail = _called("notification", "mail", 202)
        self._failed_mail = _called("notification", "mail", 503)

    def spans(self, number: int, at_ns: int) -> Iterator[tuple[int, _Shape, bytes]]:
        """Its spans, and when each ends."""
        drawn = self._random
        flow = drawn.randbytes(16)
        self.ids += flow
        ids = [drawn.randbytes(8) for _ in range(SPANS)]
        fails, refused = has_failed(number), is_refused(number)
        apart = not fails and number % _TRACE_APART_EVERY == 0
        topic = "refusals" if refused else "orders"
        called = at_ns + drawn.randrange(1_000_000, 4_000_000)
        charged = called + drawn.randrange(500_000, 1_500_000)
        charge_ended = charged + drawn.randrange(5_000_000, 60_000_000)
        call_ended = charge_ended + drawn.randrange(300_000, 1_000_000)
        sent = call_ended + drawn.randrange(100_000, 500_000)
        sent_ended = sent + drawn.randrange(1_000_000, 5_000_000)
        ended = sent_ended + drawn.randrange(200_000, 900_000)
        wait = drawn.randrange(2_000_000_000, 4_000_000_000) if is_slow(number) else 0
        taken = sent_ended + wait + drawn.randrange(2_000_000, 300_000_000)
        stock = taken + drawn.randrange(3_000_000, 20_000_000)
        stock_ended = stock + drawn.randrange(1_000_000, 5_000_000)
        taken_ended = stock_ended + drawn.randrange(100_000, 900_000)
        notified = stock_ended + drawn.randrange(2_000_000, 300_000_000)
        mailed = notified + drawn.randrange(500_000, 2_000_000)
        mail_ended = mailed + drawn.randrange(10_000_000, 90_000_000)
        notified_ended = mail_ended + drawn.randrange(100_000, 900_000)
        last = self._failed if fails else self._notified_apart if apart else self._notified
        # The shape, its parent's and its message's place, start and end.
        rows = [
            (self._order, 0, 0, at_ns, ended),
            (self._refused_call if refused else self._charge_call, 0, 0, called, call_ended),
            (self._refused_charge if refused else self._charge, 1, 0, charged, charge_ended),
            (self._sent[topic], 0, 0, sent, sent_ended),
            (self._reserved[topic], 3, 3, taken, taken_ended),
            (self._stock, 4, 0, stock, stock_ended),
            (last, 5, 5, notified, notified_ended),
            (self._failed_mail if fails else self._mail, 6, 0, mailed, mail_ended),
        ]
        trace_apart = drawn.randbytes(16)
        values = {
            "flow": flow.hex().encode(),
            "linked_trace": flow,
            "number": b"%08d" % number,
        }
        for place, (shape, parent, linked, start, end) in enumerate(rows):
            values |= {
                "trace": trace_apart if apart and place >= 6 else flow,
                "span": ids[place],
                "parent": ids[parent],
                "linked_span": ids[linked],
                "start": struct.pack("<Q", start),
                "end": struct.pack("<Q", end),
            }
            yield end, shape, shape.filled(values)


class _Exporter:
    """A service's spans that were not sent yet, by scope."""

    def __init__(self) -> None:
        self._resource = b""
        self._waiting: dict[bytes, list[bytes]] = {}
        self.count = 0

    def add(self, shape: _Shape, span: bytes) -> None:
        self._resource = shape.resource
        self._waiting.setdefault(shape.scope, []).append(message(b"\x12", span))
        self.count += 1

    def request(self) -> bytes:
        """An ExportTraceServiceRequest with all of them."""
        scopes = [message(b"\x12", scope + b"".join(spans)) for scope, spans in self._waiting.items()]
        self._waiting, self.count = {}, 0
        return message(b"\x0a", self._resource + b"".join(scopes))


def message(tag: bytes, content: bytes) -> bytes:
    return tag + _length(content) + content


def _length(content: bytes) -> bytes:
    left, encoded = len(content), bytearray()
    while left > 0x7F:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)


def write(path: Path, spans: int) -> Load:
    """Write at least so many spans, whole flows; the last flow begins about now."""
    flows = -(-spans // SPANS)
    began_ns = time.time_ns() - flows * _APART_NS
    orders = _Orders()
    places: list[tuple[int, int]] = []
    at = 0
    with path.open("wb") as file:
        for request in _requests(orders, flows, began_ns):
            places.append((at, len(request)))
            at += file.write(request)
    return Load(path, flows, began_ns, places, bytes(orders.ids))


def _requests(orders: _Orders, flows: int, began_ns: int) -> Iterator[bytes]:
    exporters = {service: _Exporter() for service in SERVICES}
    under_way: list[tuple[int, int, _Shape, bytes]] = []  # by their end; the counter is the tie-breaker
    counter = itertools.count()
    for number in range(flows + 1):
        at_ns = began_ns + number * _APART_NS
        if number < flows:
            for end_ns, shape, span in orders.spans(number, at_ns):
                heapq.heappush(under_way, (end_ns, next(counter), shape, span))
        while under_way and (under_way[0][0] <= at_ns or number == flows):
            *_, shape, span = heapq.heappop(under_way)
            exporter = exporters[shape.service]
            exporter.add(shape, span)
            if exporter.count == BATCH:
                yield exporter.request()
    for exporter in exporters.values():
        if exporter.count:
            yield exporter.request()
