"""Valid OTLP requests with everything in them that OTLP has, to begin fuzzing with."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracekit import semconv
from tracekit.model import Event, Kind, Link, LogLine, Metric, Point, Service, Span, Status, Temporality
from tracekit.otlp import encode_logs, encode_metrics, encode_spans

if TYPE_CHECKING:
    from tracekit.otlp import Encoding, Signal

KINDS: tuple[tuple[Signal, Encoding], ...] = (
    ("traces", "protobuf"),
    ("logs", "protobuf"),
    ("metrics", "protobuf"),
    ("traces", "json"),
    ("logs", "json"),
    ("metrics", "json"),
)

SHOP = Service("shop", "demo", "1", {"service.name": "shop", "host.name": "h", "n": 1})
ATTRIBUTES: dict[str, Any] = {
    "text": "ümlaut",
    "number": -5,
    "ratio": 0.5,
    "flag": True,
    "bytes": b"\x00\xff",
    "list": (1, "a", (True,)),
    "map": {"inner": {"deep": None}},
    semconv.FLOW_ID: "1" * 32,
    semconv.MESSAGING_DESTINATION_NAME: "orders",
}
SPAN = Span(
    "1" * 32,
    "2" * 16,
    "send orders",
    1_700_000_000_000_000_000,
    1_700_000_000_000_500_000,
    kind=Kind.PRODUCER,
    attributes=ATTRIBUTES,
    links=(Link("3" * 32, "4" * 16, {semconv.FLOW_ID: "5" * 32}),),
    events=(Event("retry", 1_700_000_000_000_100_000, {"n": 1}),),
    service=SHOP,
    scope="tests",
)
PLAIN = Span("1" * 32, "6" * 16, "work", 1_700_000_000_000_000_000, 1_700_000_000_000_000_900, service=SHOP)
SPANS = [
    SPAN,
    PLAIN,
    replace(PLAIN, span_id="7" * 16, parent_id="6" * 16, kind=Kind.CLIENT, status=Status.ERROR),
    replace(PLAIN, trace_id="8" * 32, kind=Kind.CONSUMER, attributes=ATTRIBUTES),
    replace(SPAN, trace_id="9" * 32, service=Service("billing")),
]
LINES = [
    LogLine(1, "paid", 9, attributes=ATTRIBUTES, trace_id="1" * 32, span_id="2" * 16, service=SHOP),
    LogLine(2, "failed", 17),
]
POINT = Point(5, 1.5, ATTRIBUTES, start_ns=1, count=3, bounds=(1.0, 2.0), buckets=(1, 1, 1))
METRICS = [
    Metric("depth", "gauge", (Point(1, 7), Point(2, 0.5, {"to": "a"})), "1", service=SHOP),
    Metric("sent", "sum", (Point(1, 7),), temporality=Temporality.DELTA, is_monotonic=True),
    Metric("took", "histogram", (POINT,), "s", temporality=Temporality.CUMULATIVE),
]


def samples() -> list[tuple[Signal, Encoding, bytes]]:
    """What this library writes, and beside it what it does not know of."""
    found: list[tuple[Signal, Encoding, bytes]] = []
    for encoding in ("protobuf", "json"):
        found += [
            ("traces", encoding, encode_spans(SPANS, encoding)),
            ("traces", encoding, encode_spans([PLAIN], encoding)),
            ("logs", encoding, encode_logs(LINES, encoding)),
            ("metrics", encoding, encode_metrics(METRICS, encoding)),
        ]
    document = json.loads(encode_spans([SPAN], "json"))
    document["resourceSpans"][0]["unknown"] = [{"resourceSpans": None}]
    found.append(("traces", "json", json.dumps(document).encode()))
    return [*found, *_with_all_fields()]


def _with_all_fields() -> list[tuple[Signal, Encoding, bytes]]:
    resource = Resource(
        attributes=[KeyValue(key="service.name", value=AnyValue(string_value="shop"))],
        dropped_attributes_count=1,
    )
    scope = InstrumentationScope(name="tests", version="1", dropped_attributes_count=2)
    traces = ExportTraceServiceRequest.FromString(encode_spans([SPAN, PLAIN]))
    for part in traces.resource_spans:
        part.schema_url = "https://opentelemetry.io/schemas/1.44.0"
        part.resource.CopyFrom(resource)
        for scoped in part.scope_spans:
            scoped.scope.CopyFrom(scope)
            scoped.schema_url = part.schema_url
            for span in scoped.spans:
                span.flags = 0x301
                span.trace_state = "a=1,b=2"
                span.dropped_events_count = span.dropped_links_count = 3
                span.status.message = "no"
                for link in span.links:
                    link.trace_state, link.flags = "c=3", 1
    logs = ExportLogsServiceRequest.FromString(encode_logs(LINES))
    for record in logs.resource_logs[0].scope_logs[0].log_records:
        record.flags, record.severity_text, record.event_name = 1, "INFO", "paid"
        record.body.kvlist_value.values.add(key="a").value.array_value.values.add().bytes_value = b"x"
    number = metrics_pb2.NumberDataPoint(as_int=1, time_unix_nano=1, flags=1)
    number.exemplars.add(as_double=2.0, trace_id=b"1" * 16, span_id=b"2" * 8, time_unix_nano=3)
    exponential = metrics_pb2.ExponentialHistogramDataPoint(count=1, scale=2, zero_count=1)
    exponential.positive.bucket_counts.append(1)
    summary = metrics_pb2.SummaryDataPoint(count=1, sum=2.0)
    summary.quantile_values.add(quantile=0.5, value=1.0)
    metrics = ExportMetricsServiceRequest.FromString(encode_metrics(METRICS))
    known = metrics.resource_metrics[0].scope_metrics[0].metrics
    known.add(name="a").gauge.data_points.append(number)
    known.add(name="b").exponential_histogram.data_points.append(exponential)
    known.add(name="c").summary.data_points.append(summary)
    return [
        ("traces", "protobuf", traces.SerializeToString()),
        ("logs", "protobuf", logs.SerializeToString()),
        ("metrics", "protobuf", metrics.SerializeToString()),
    ]
