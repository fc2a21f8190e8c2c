"""Exporters: what the settings name for each signal, behind queues that never block.

What they lose is counted, and what they say of it is said once a minute.
"""

from __future__ import annotations

import logging
import socket
import time
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
from tracekit.tracing.signals import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk._logs import ReadableLogRecord, ReadWriteLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

    from tracekit._settings import Settings
    from tracekit.tracing.encoding import SpanEncoder

_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PATHS: Final = {"traces": "v1/traces", "metrics": "v1/metrics", "logs": "v1/logs"}

_QUIET_S: Final = 60.0
_NOBODY_S: Final = 3600.0
_NOBODY: Final = (
    "tracekit: nobody listens at %s: telemetry is lost until somebody does "
    "(OTEL_TRACES_EXPORTER=none and the like: be quiet)"
)
UNSENT: Final = "telemetry that was unsent at the end"
_REACH_S: Final = 0.25
_OURS: Final = "tracekit"
_GIVING_UP: Final = ("due to timeout, max retries or shutdown.", "Shutdown in progress, aborting retry.")
_SPEAKERS: Final = (
    "opentelemetry.exporter.",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk._logs._internal.export",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.sdk.trace.export",
)


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
            super().on_end(span)
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

    _what = ""

    def _begin(self, exporter: Any) -> None:
        self._exporter = exporter
        self._given_up = False

    def _count(self, number: int) -> None:
        count_drop("late" if self._given_up else "export", self._what, number)

    def _export(self, batch: Any, number: int, success: object, failure: Any, **options: Any) -> Any:
        result = failure
        if not self._given_up:
            with shielded("an exporter"):
                result = self._exporter.export(batch, **options)
        if result is not success:
            self._count(number)
        return result

    def is_refused(self) -> bool:
        """Whether nobody listens where it sends to."""
        endpoint = getattr(self._exporter, "_endpoint", None)
        return isinstance(endpoint, str) and _is_refused(endpoint)

    def hurry(self) -> None:
        """Give up if nobody listens: the SDK's exporters would try again until their time is over."""
        if self.is_refused():
            self._given_up = True
            with shielded("an exporter"):
                self._exporter.shutdown()  # ends its pause between two attempts

    def _end(self, **options: Any) -> None:
        if not self._given_up:
            with shielded("an exporter"):
                self._exporter.shutdown(**options)

    def _flush(self, timeout_millis: float) -> bool:
        with shielded("an exporter"):
            return bool(self._exporter.force_flush(timeout_millis))
        return False


class CountedSpans(Counted, SpanExporter):
    """An exporter whose losses are counted: spans that it could not deliver."""

    _what = "spans that could not be exported"

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

    _what = "log lines that could not be exported"

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

    _what = "metrics that could not be exported"

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
    url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    if url.hostname is None or getproxies():
        return False
    try:
        socket.create_connection((url.hostname, url.port or 443), _REACH_S).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    return False


class _Once(logging.Filter):
    """Lets a message through once a minute, whatever its values are; that nobody listens, once an hour.

    That is said by our line about what was lost, and the SDK's lines about it are kept back.
    """

    def __init__(self, counted: Sequence[Counted]) -> None:
        super().__init__()
        self._counted = counted
        self._said: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _OURS:
            return self._is_due_of_ours(record)
        # Not `getMessage()`, which raises where the arguments do not fit.
        if ("refused" in str(record.args) or str(record.msg).endswith(_GIVING_UP)) and any(
            one.is_refused() for one in self._counted if _is_speaker(one, record.name)
        ):
            return False
        return self._is_due((record.name, record.msg), _QUIET_S)

    def _is_due_of_ours(self, record: logging.LogRecord) -> bool:
        what = record.args[0] if isinstance(record.args, tuple) and record.args else None
        for one in self._counted:
            # Given up in the middle of an export, that of gRPC raises.
            is_about_it = what in (one._what, UNSENT) or (what == "an exporter" and one._given_up)  # noqa: SLF001
            if is_about_it and one.is_refused():
                place = _place(one._exporter._endpoint)  # noqa: SLF001
                record.msg, record.args, record.exc_info = _NOBODY, (place,), None
                return self._is_due(place, _NOBODY_S)
        return True

    def _is_due(self, what: object, quiet_s: float) -> bool:
        now = time.monotonic()
        last = self._said.get(what)
        if last is not None and now - last < quiet_s:
            return False
        self._said[what] = now
        return True


def _place(endpoint: str) -> str:
    """The endpoint without its path, and without a password."""
    url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}".removeprefix("://")


def _is_speaker(one: Counted, logger: str) -> bool:
    """Whether this logger is that of the exporter's module."""
    return any(kind.__module__ == logger for kind in type(one._exporter).__mro__)  # noqa: SLF001


def hush(counted: Sequence[Counted]) -> Callable[[], None]:
    """Keep the exporters from saying every second that nobody listens; gives what undoes it."""
    once = _Once(counted)
    # A logger's filter is asked for its own records only, not for those of the loggers below.
    loggers = [
        logger
        for name, logger in [*logging.root.manager.loggerDict.items()]
        if isinstance(logger, logging.Logger) and (name == _OURS or name.startswith(_SPEAKERS))
    ]
    for logger in loggers:
        logger.addFilter(once)

    def undo() -> None:
        for logger in loggers:
            logger.removeFilter(once)

    return undo


def _made(settings: Settings, signal: str) -> list[Any]:
    return [_exporter(settings, signal, name) for name in settings.exporters[signal]]


def _exporter(settings: Settings, signal: str, name: str) -> Any:
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
