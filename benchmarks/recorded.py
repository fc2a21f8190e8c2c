"""Telemetry of the shop, recorded once and copied under new ids and times: what a Collector gets in life."""

from __future__ import annotations

import random
import re
import struct
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from tracekit_demo.client import place
from tracekit_demo.scenarios import MODES, Scenario
from tracekit_demo.services import CONSUMING, SERVING, Services

from benchmarks.orders import message
from tracekit import semconv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

BATCH: Final = 512
_QUIET_S: Final = 3
_PATIENCE_S: Final = 60


@dataclass(slots=True)
class _Heard:
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    at: float = 0

    def await_quiet(self) -> None:
        began = time.monotonic()
        while time.monotonic() < max(self.at, began) + _QUIET_S:
            if time.monotonic() > began + _PATIENCE_S:
                raise RuntimeError("the shop does not come to rest")
            time.sleep(0.1)

    def bodies(self, signal: str) -> Iterator[bytes]:
        return (body for path, body in self.requests if path == f"/v1/{signal}")


@contextmanager
def _ear() -> Iterator[tuple[_Heard, str]]:
    heard = _Heard()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            heard.requests.append((self.path, body))
            if self.path == "/v1/traces":
                heard.at = time.monotonic()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield heard, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Copied:
    """A span as its exporter encoded it, in pieces: every other one is an id or a time, to be replaced."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def under(self, values: dict[bytes, bytes]) -> bytes:
        pieces = self._pieces.copy()
        pieces[1::2] = [values[piece] for piece in pieces[1::2]]
        return b"".join(pieces)


class Recorded:
    """The spans of one order in each of the shop's modes, and what each of its services says of metrics."""

    def __init__(self, flows: list[str], heard: _Heard) -> None:
        self._random = random.Random(6)
        spans = [*_spans(flows, heard)]
        ids = {bytes(each) for _, _, span in spans for each in (span.trace_id, span.span_id)}
        ids |= {bytes(link.span_id) for _, _, span in spans for link in span.links}
        ids |= {bytes(span.parent_span_id) for _, _, span in spans if span.parent_span_id}
        times = {t for _, _, span in spans for t in (span.start_time_unix_nano, span.end_time_unix_nano)}
        times |= {event.time_unix_nano for _, _, span in spans for event in span.events}
        self._ids, self._times = sorted(ids), sorted(times)
        marks = [*ids, *(id_.hex().encode() for id_ in ids if len(id_) == 16), *map(_encoded, times)]
        pattern = re.compile(b"(" + b"|".join(map(re.escape, marks)) + b")")
        self._spans = [
            (resource, scope, _Copied(pattern.split(span.SerializeToString())))
            for resource, scope, span in spans
        ]
        self.flows = len(flows)
        self.spans = len(spans)
        operations = [_operation(span) for _, _, span in spans]
        self.messages = operations.count("process")
        self.messaging_spans = len([each for each in operations if each])
        self.bytes = sum(len(span.SerializeToString()) for _, _, span in spans)
        self.metrics = [*_last_metrics(heard)]
        self.points = sum(map(_points, self.metrics))

    def requests(self, spans: int) -> Iterator[tuple[bytes, int, str]]:
        """So many spans, at the least, as exporters send them, ending about now: a request, the number of
        its spans, the trace id of one of them."""
        waiting: dict[bytes, dict[bytes, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        counts: dict[bytes, int] = defaultdict(int)
        made, trace_id = 0, ""
        while made < spans:
            shift = time.time_ns() - self._times[-1]
            values = {_encoded(at): _encoded(at + shift) for at in self._times}
            for id_ in self._ids:
                new = self._random.randbytes(len(id_))
                values |= {id_: new, id_.hex().encode(): new.hex().encode()}
                trace_id = new.hex() if len(new) == 16 else trace_id
            for resource, scope, span in self._spans:
                waiting[resource][scope].append(message(b"\x12", span.under(values)))
                counts[resource] += 1
                if counts[resource] == BATCH:
                    yield _request(resource, waiting.pop(resource)), counts.pop(resource), trace_id
            made += self.spans
        for resource, scopes in waiting.items():
            yield _request(resource, scopes), counts[resource], trace_id

    def metrics_of(self, instance: str, number: int) -> Iterator[bytes]:
        """What each service says the nth time, as an instance of that name."""
        now = time.time_ns()
        for body in self.metrics:
            request = ExportMetricsServiceRequest.FromString(body)
            for each in request.resource_metrics:
                for attribute in each.resource.attributes:
                    if attribute.key == semconv.SERVICE_INSTANCE_ID:
                        attribute.value.string_value = instance
                for metric in (metric for scope in each.scope_metrics for metric in scope.metrics):
                    for point in (*metric.sum.data_points, *metric.gauge.data_points):
                        point.time_unix_nano = now
                    for histogram in metric.histogram.data_points:
                        histogram.time_unix_nano = now
                        histogram.count += number
                        histogram.bucket_counts[number % len(histogram.bucket_counts)] += number
                        histogram.sum += number * 0.013
                        del histogram.exemplars[:]  # their traces are not these
            yield request.SerializeToString()


def record(broker: str) -> Recorded:
    """Run the shop on a broker that has its topics, place an order in each mode, and keep what is said."""
    with (
        tempfile.TemporaryDirectory(prefix="tracekit-bench-") as folder,
        _ear() as (heard, otlp),
        Services(Path(folder)) as services,
    ):
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": broker,
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "FAULTS_FOLDER": folder,
        }
        services.start([*SERVING, *CONSUMING], settings)
        services.wait_ready([*SERVING, *CONSUMING])
        for mode in MODES:  # the first ones open connections and databases
            place(services.port("orders"), Scenario(mode))
        heard.await_quiet()
        flows = [place(services.port("orders"), Scenario(mode))[0] for mode in MODES]
        heard.await_quiet()
        services.end()
        return Recorded(flows, heard)


def _spans(flows: list[str], heard: _Heard) -> Iterator[tuple[bytes, bytes, Span]]:
    for body in heard.bodies("traces"):
        for of_service in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = ResourceSpans(resource=of_service.resource, schema_url=of_service.schema_url)
            for of_scope in of_service.scope_spans:
                scope = ScopeSpans(scope=of_scope.scope, schema_url=of_scope.schema_url)
                for span in of_scope.spans:
                    flow = _text(span, semconv.FLOW_ID) or span.trace_id.hex()
                    if flow in flows:
                        yield resource.SerializeToString(), scope.SerializeToString(), span


def _last_metrics(heard: _Heard) -> Iterator[bytes]:
    """Of each service the last thing that it said."""
    last = {}
    for body in heard.bodies("metrics"):
        for each in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            names = {a.key: a.value.string_value for a in each.resource.attributes}
            last[names[semconv.SERVICE_NAME]] = body
    yield from last.values()


def _points(body: bytes) -> int:
    return sum(
        len(metric.histogram.data_points) + len(metric.sum.data_points) + len(metric.gauge.data_points)
        for each in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in each.scope_metrics
        for metric in scope.metrics
    )


def _text(span: Span, name: str) -> str:
    return next((each.value.string_value for each in span.attributes if each.key == name), "")


def _operation(span: Span) -> str:
    """That of a messaging span; `wait` of one that shows a wait."""
    if any(each.key == semconv.WAIT for each in span.attributes):
        return "wait"
    return _text(span, semconv.MESSAGING_OPERATION_TYPE)


def _encoded(at_ns: int) -> bytes:
    return struct.pack("<Q", at_ns)


def _request(resource: bytes, scopes: dict[bytes, list[bytes]]) -> bytes:
    spans = [message(b"\x12", scope + b"".join(spans)) for scope, spans in scopes.items()]
    return message(b"\x0a", resource + b"".join(spans))
