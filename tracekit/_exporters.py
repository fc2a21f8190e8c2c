"""Exporters: what the settings name for each signal, behind queues that never block.

What they lose is counted, and what they say of it is said once a minute.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tracekit._settings import SettingError
from tracekit.guard import count_drop, shielded
from tracekit.tracing.processors import Taker
from tracekit.tracing.quick import QuickSpan
from tracekit.tracing.signals import Outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk._logs import ReadableLogRecord, ReadWriteLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

    from tracekit._settings import Settings
    from tracekit.tracing.encoding import SpanEncoder

_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PATHS: Final = {"traces": "v1/traces", "metrics": "v1/metrics", "logs": "v1/logs"}

_REACH_S: Final = 0.25


@dataclass(slots=True)
class Exports(Outputs):
    """Outputs, and the exporters behind them."""

    counted: list[Counted] = field(default_factory=list)


def exporters(settings: Settings) -> Exports:
    """An exporter for each name that the settings have, with a queue of its own."""
    spans = [CountedSpans(one) for one in _made(settings, "traces")]
    metrics = [CountedMetrics(one) for one in _made(settings, "metrics")]
    lines = [CountedLines(one) for one in _made(settings, "logs")]
    return Exports(
        spans=[QueuedSpans(one) for one in spans],
        logs=[QueuedLines(one) for one in lines],
        # Last: a reader collects from now on, and warns where it has no provider yet.
        metrics=[PeriodicExportingMetricReader(one) for one in metrics],
        counted=[*spans, *metrics, *lines],
    )


class QueuedSpans(BatchSpanProcessor, Taker):
    """The SDK's queue of spans. For what comes when it is full there is no room, and that is counted.

    A span that nobody else sees is encoded as it ends.

    The SDK would log a warning for each, and push the oldest out. Source: the specification of
    OpenTelemetry's batching processor (`maxQueueSize`).
    """

    on_start = SpanProcessor.on_start  # plainly nothing: so nobody looks at spans as they start

    def __init__(self, exporter: CountedSpans) -> None:
        super().__init__(exporter)
        emit = getattr(getattr(self, "_batch_processor", None), "emit", None)
        self._encoder: SpanEncoder | None = None if emit is None else exporter.encoder

    def on_end(self, span: ReadableSpan) -> None:
        if self._has_room(span):
            super().on_end(span)

    def take(self, span: ReadableSpan) -> None:
        if not self._has_room(span):
            return
        if self._encoder is None:
            super().on_end(span.readable() if isinstance(span, QuickSpan) else span)
        elif (ready := self._encoder.ready(span)) is not None:
            self._batch_processor.emit(ready)  # type: ignore[arg-type]  # to the exporter it is a span

    def _has_room(self, span: ReadableSpan) -> bool:
        if not (span.context and span.context.trace_flags.sampled):
            return False
        if _is_full(self):
            count_drop("queue_full", "spans that the queue had no room for")
            return False
        return True


class QueuedLines(BatchLogRecordProcessor):
    """The SDK's queue of log lines, as that of spans."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if _is_full(self):
            count_drop("queue_full", "log lines that the queue had no room for")
        else:
            super().on_emit(log_record)


def _is_full(processor: object) -> bool:
    """Whether the next one would push another out; False where the SDK keeps its queue elsewhere."""
    queue = getattr(getattr(processor, "_batch_processor", None), "_queue", None)
    return isinstance(queue, deque) and len(queue) == queue.maxlen


class Counted:
    """What counts an exporter's losses, and can give it up."""

    what = ""

    def _begin(self, exporter: Any) -> None:
        self.exporter = exporter
        self.given_up = False

    def _count(self, number: int) -> None:
        count_drop("late" if self.given_up else "export", self.what, number)

    def _export(self, batch: Any, number: int, success: object, failure: Any, **options: Any) -> Any:
        result = failure
        if not self.given_up:
            with shielded("an exporter"):
                result = self.exporter.export(batch, **options)
        if result is not success:
            self._count(number)
        return result

    def is_refused(self) -> bool:
        """Whether nobody listens where it sends to."""
        endpoint = getattr(self.exporter, "_endpoint", None)
        return isinstance(endpoint, str) and _is_refused(endpoint)

    def hurry(self) -> None:
        """Give up if nobody listens: the SDK's exporters would try again until their time is over."""
        if self.is_refused():
            self.given_up = True
            with shielded("an exporter"):
                self.exporter.shutdown()  # ends its pause between two attempts

    def _end(self, **options: Any) -> None:
        if not self.given_up:
            with shielded("an exporter"):
                self.exporter.shutdown(**options)

    def _flush(self, timeout_millis: float) -> bool:
        with shielded("an exporter"):
            return bool(self.exporter.force_flush(timeout_millis))
        return False


class CountedSpans(Counted, SpanExporter):
    """An exporter whose losses are counted: spans that it could not deliver."""

    what = "spans that could not be exported"

    def __init__(self, exporter: SpanExporter) -> None:
        self._begin(exporter)
        self.encoder: SpanEncoder | None = getattr(exporter, "encoder", None)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result: SpanExportResult = self._export(
            spans, len(spans), SpanExportResult.SUCCESS, SpanExportResult.FAILURE
        )
        return result

    def shutdown(self) -> None:
        self._end()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._flush(timeout_millis)


class CountedLines(Counted, LogRecordExporter):
    """An exporter whose losses are counted: log lines that it could not deliver."""

    what = "log lines that could not be exported"

    def __init__(self, exporter: LogRecordExporter) -> None:
        self._begin(exporter)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        result: LogRecordExportResult = self._export(
            batch, len(batch), LogRecordExportResult.SUCCESS, LogRecordExportResult.FAILURE
        )
        return result

    def shutdown(self) -> None:
        self._end()

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return self._flush(timeout_millis)


class CountedMetrics(Counted, MetricExporter):
    """An exporter whose losses are counted: batches of metrics that it could not deliver."""

    what = "metrics that could not be exported"

    def __init__(self, exporter: MetricExporter) -> None:
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)  # noqa: SLF001
        self._begin(exporter)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        result: MetricExportResult = self._export(
            metrics_data,
            1,
            MetricExportResult.SUCCESS,
            MetricExportResult.FAILURE,
            timeout_millis=timeout_millis,
            **kwargs,
        )
        return result

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._end(timeout_millis=timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._flush(timeout_millis)


def _is_refused(endpoint: str) -> bool:
    """Whether nobody listens there. Behind a proxy that cannot be known."""
    try:
        url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        if url.hostname is None or getproxies():
            return False
        socket.create_connection((url.hostname, url.port or 443), _REACH_S).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _made(settings: Settings, signal: str) -> list[Any]:
    return [exporter_of(settings, signal, name) for name in settings.exporters[signal]]


def exporter_of(settings: Settings, signal: str, name: str) -> Any:
    """The exporter of a signal that has this name. Raises SettingError where there is none."""
    protocol = settings.protocols[signal]
    entry = _OTLP[protocol] if name == "otlp" else name
    for point in entry_points(group=f"opentelemetry_{signal}_exporter", name=entry):
        make = point.load()
        if signal == "traces" and name == "otlp" and protocol == "http/protobuf":
            # The same exporter, with an encoder of ours. By its own name, the SDK's can still be had.
            from tracekit.tracing.otlp_exporter import EncodingSpanExporter

            make = EncodingSpanExporter
        # An exporter reads the OTEL_EXPORTER_OTLP_* variables itself; an argument goes before them.
        if name != "otlp" or not settings.endpoint_given:
            return make()
        if protocol == "grpc":
            return make(endpoint=settings.endpoint, insecure=settings.endpoint.startswith("http://"))
        return make(endpoint=f"{settings.endpoint.rstrip('/')}/{_PATHS[signal]}")
    raise SettingError(f"OTEL_{signal.upper()}_EXPORTER", name, f"there is no exporter {entry} here")
