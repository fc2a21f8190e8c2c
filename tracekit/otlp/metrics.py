"""Metrics: ExportMetricsServiceRequest, decoded and encoded.

Gauges, sums and histograms with explicit bounds. Exponential histograms and summaries are refused and
counted. Minima, maxima and exemplars are left out: nothing of ours reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2

from tracekit.model import Metric, Point, Temporality
from tracekit.otlp.envelope import Decoded, Encoding, Shape, decode, encode
from tracekit.otlp.tally import Refused, Tally
from tracekit.otlp.values import from_pairs, to_pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from tracekit.model import Service

SHAPE: Final = Shape(
    metrics_pb2.Metric,
    ExportMetricsServiceRequest,
    resources="resourceMetrics",
    scopes="scopeMetrics",
    records="metrics",
)
_TEMPORALITIES: Final = {temporality.value: temporality for temporality in Temporality}


def decode_metrics(body: bytes, encoding: Encoding = "protobuf") -> Decoded[Metric]:
    """The metrics of a request; `rejected` counts points. Raises OtlpError where it cannot be read."""
    return decode(body, encoding, SHAPE, _read)


def encode_metrics(metrics: Iterable[Metric], encoding: Encoding = "protobuf") -> bytes:
    """A request with these metrics. Raises ValueError for what OTLP cannot hold."""
    return encode(metrics, encoding, SHAPE, lambda metric: (metric.service, metric.scope), _write)


def _read(message: metrics_pb2.Metric, service: Service, scope: str, tally: Tally) -> Metric | None:
    kind = message.WhichOneof("data")
    temporality, is_monotonic = 0, False
    if kind == "gauge":
        points = tuple(_numbers(message.gauge.data_points, tally))
    elif kind == "sum":
        points = tuple(_numbers(message.sum.data_points, tally))
        temporality, is_monotonic = message.sum.aggregation_temporality, message.sum.is_monotonic
    elif kind == "histogram":
        points = tuple(_histograms(message.histogram.data_points, tally))
        temporality = message.histogram.aggregation_temporality
    elif kind == "exponential_histogram":
        raise Refused("exponential histograms are not kept", len(message.exponential_histogram.data_points))
    elif kind == "summary":
        raise Refused("summaries are not kept", len(message.summary.data_points))
    else:
        return None
    if not points:
        return None
    return Metric(
        name=message.name,
        kind=kind,
        points=points,
        unit=message.unit,
        description=message.description,
        temporality=_TEMPORALITIES.get(temporality, Temporality.UNSPECIFIED),
        is_monotonic=is_monotonic,
        service=service,
        scope=scope,
    )


def _numbers(messages: Collection[metrics_pb2.NumberDataPoint], tally: Tally) -> Iterator[Point]:
    for message in tally.counted(messages):
        held = message.WhichOneof("value")
        yield Point(
            time_ns=message.time_unix_nano,
            value=None if held is None else getattr(message, held),
            attributes=from_pairs(message.attributes, tally),
            start_ns=message.start_time_unix_nano,
        )


def _histograms(messages: Collection[metrics_pb2.HistogramDataPoint], tally: Tally) -> Iterator[Point]:
    for message in tally.counted(messages):
        if message.bucket_counts and len(message.bucket_counts) != len(message.explicit_bounds) + 1:
            tally.reject("a histogram must have one bucket more than bounds")
            continue
        yield Point(
            time_ns=message.time_unix_nano,
            value=message.sum if message.HasField("sum") else None,
            attributes=from_pairs(message.attributes, tally),
            start_ns=message.start_time_unix_nano,
            count=message.count,
            bounds=tuple(message.explicit_bounds),
            buckets=tuple(message.bucket_counts),
        )


def _write(metric: Metric) -> metrics_pb2.Metric:
    message = metrics_pb2.Metric(name=metric.name, unit=metric.unit, description=metric.description)
    temporality = metrics_pb2.AggregationTemporality.ValueType(metric.temporality.value)
    if metric.kind == "gauge":
        message.gauge.SetInParent()
        message.gauge.data_points.extend(_to_number(point) for point in metric.points)
    elif metric.kind == "sum":
        message.sum.SetInParent()
        message.sum.aggregation_temporality = temporality
        message.sum.is_monotonic = metric.is_monotonic
        message.sum.data_points.extend(_to_number(point) for point in metric.points)
    else:
        message.histogram.SetInParent()
        message.histogram.aggregation_temporality = temporality
        message.histogram.data_points.extend(_to_histogram(point) for point in metric.points)
    return message


def _to_number(point: Point) -> metrics_pb2.NumberDataPoint:
    message = metrics_pb2.NumberDataPoint(
        time_unix_nano=point.time_ns,
        start_time_unix_nano=point.start_ns,
        attributes=to_pairs(point.attributes),
    )
    if isinstance(point.value, int):
        message.as_int = point.value
    elif point.value is not None:
        message.as_double = point.value
    return message


def _to_histogram(point: Point) -> metrics_pb2.HistogramDataPoint:
    return metrics_pb2.HistogramDataPoint(
        time_unix_nano=point.time_ns,
        start_time_unix_nano=point.start_ns,
        attributes=to_pairs(point.attributes),
        sum=point.value,
        count=point.count,
        explicit_bounds=point.bounds,
        bucket_counts=point.buckets,
    )
