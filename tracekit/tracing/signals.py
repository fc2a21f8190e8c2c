"""The three signals of a process: providers with their processors, exporters and propagators.

The providers are the delegating ones; where the application set an SDK provider before, that one is
joined: it gets our processors, which are switched off when this is undone.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from opentelemetry import _logs, metrics, propagate, trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.metrics import NoOpMeterProvider, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION,
    OTEL_TRACES_SAMPLER,
    OTEL_TRACES_SAMPLER_ARG,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.trace import NoOpTracerProvider

from tracekit import semconv
from tracekit.guard import dropped, shielded
from tracekit.tracing.cells import Cells
from tracekit.tracing.joining import missing
from tracekit.tracing.processors import FlowProcessor, ShieldedSampler, watch_forks
from tracekit.tracing.propagator import DEFAULT_NAMES, composite
from tracekit.tracing.providers import Providers
from tracekit.tracing.quick import QuickSpans, can_be_quick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.metrics import CallbackOptions
    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Tracer
    from opentelemetry.trace import TracerProvider as AnyTracerProvider

_SHUTDOWN_MS = 5_000


@dataclass(slots=True)
class Outputs:
    """Where telemetry goes, one list a signal."""

    spans: list[SpanProcessor] = field(default_factory=list)
    metrics: list[MetricReader] = field(default_factory=list)
    logs: list[LogRecordProcessor] = field(default_factory=list)


class Signals:
    """Traces, metrics and logs set up for one service, until `undo`.

    `propagators` are those of OTEL_PROPAGATORS; ours is added. `outputs` makes what telemetry goes to: late,
    for a reader of metrics that has no provider yet complains of it. `joined` names the signals whose
    provider is the application's. `rejoin` is called when the application sets one after all.
    """

    def __init__(
        self,
        service: str,
        propagators: Sequence[str],
        outputs: Callable[[], Outputs],
        rejoin: Callable[[], object] | None = None,
    ) -> None:
        self.joined: list[str] = []
        self.cells: Cells | None = None
        """Where bound instruments add up; None where metrics are the application's provider's."""
        self._give_back: list[Callable[[], object]] = []
        self._shut_down: list[Callable[[], object]] = []
        self._flush: list[Callable[[int], bool]] = []
        resource = Resource.create({semconv.SERVICE_NAME: service})  # may take long
        self.outputs = outputs()
        self._propagate(service, propagators or DEFAULT_NAMES)
        watch_forks()
        providers = Providers(rejoin)
        self._set_up_traces(providers, service, resource, self.outputs.spans)
        self._set_up_metrics(providers, resource, self.outputs.metrics)
        self._set_up_logs(providers, resource, self.outputs.logs)

    def flush(self, timeout_s: float) -> bool:
        """Hand everything to the exporters; whether they took it."""
        milliseconds = max(1, int(timeout_s * 1000))
        taken = [flush(milliseconds) for flush in self._flush]  # each, whatever another one says
        return all(taken)

    def give_back(self) -> None:
        """Take everything back that the application can see, the last first. Waits for nobody."""
        _do_all(self._give_back)

    def shut_down(self) -> None:
        """End what exports. A hung exporter can hold this up for long."""
        _do_all(self._shut_down)

    def _propagate(self, service: str, names: Sequence[str]) -> None:
        before = propagate.get_global_textmap()
        if "none" not in names and "tracekit" not in names:
            names = (*names, "tracekit")
        propagate.set_global_textmap(composite(service, names))
        self._give_back.append(lambda: propagate.set_global_textmap(before))

    def _set_up_traces(
        self, providers: Providers, service: str, resource: Resource, processors: Sequence[SpanProcessor]
    ) -> None:
        target: AnyTracerProvider = trace.get_tracer_provider()
        if not providers.owns_traces:
            processors = missing(processors, target)
        self._processor = processor = FlowProcessor(service, processors, is_shared=not providers.owns_traces)
        self._can_be_quick = False
        if providers.owns_traces:
            sampler = _sampler()
            # OpenTelemetry's own samplers look at no attributes; others may decide by them.
            self._can_be_quick = not isinstance(sampler, ShieldedSampler) and can_be_quick()
            target = TracerProvider(sampler, resource, shutdown_on_exit=False)
            providers.traces.switch(target, processor)
            self._give_back.append(lambda: providers.traces.switch(NoOpTracerProvider(), None))
        else:
            self.joined.append("traces")
        self._tracers = target
        if isinstance(target, TracerProvider):  # somebody's own takes none, and makes spans as it likes
            target.add_span_processor(processor)
            self._give_back.append(processor.switch_off)
            self._shut_down.append(processor.shutdown)
            self._flush.append(processor.force_flush)

    def quick(self, tracer: Tracer) -> QuickSpans | None:
        """What begins spans in the tracer's stead, where that may be."""
        if not self._can_be_quick or not isinstance(tracer, SdkTracer):
            return None
        return QuickSpans(tracer, self._processor)

    def tracer(self, name: str) -> Tracer:
        """A tracer for as long as these signals are set up, without a detour over what delegates."""
        return self._tracers.get_tracer(name, schema_url=semconv.SCHEMA_URL)

    def _set_up_metrics(
        self, providers: Providers, resource: Resource, readers: Iterable[MetricReader]
    ) -> None:
        target = metrics.get_meter_provider()
        if providers.owns_metrics:
            readers = list(readers)
            target = MeterProvider(readers, resource, shutdown_on_exit=False)
            if _has_buckets():
                self.cells = Cells(resource)
                for reader in readers:
                    self.cells.join(reader)
            providers.metrics.target = target
            self._give_back.append(lambda: setattr(providers.metrics, "target", NoOpMeterProvider()))
            self._shut_down.append(lambda: target.shutdown(_SHUTDOWN_MS))
            self._flush.append(target.force_flush)
        else:
            self.joined.append("metrics")
            if isinstance(target, MeterProvider):
                for reader in missing(readers, target):
                    target.add_metric_reader(reader)
                    self._shut_down.append(functools.partial(target.remove_metric_reader, reader))
                    self._flush.append(functools.partial(reader.force_flush))
        # Not through what delegates, which would keep an observable instrument for good.
        target.get_meter("tracekit", schema_url=semconv.SCHEMA_URL).create_observable_counter(
            semconv.DROPPED, [_observed_drops], "{item}", "What tracekit left out, by reason."
        )

    def _set_up_logs(
        self, providers: Providers, resource: Resource, processors: Iterable[LogRecordProcessor]
    ) -> None:
        target = _logs.get_logger_provider()
        if providers.owns_logs:
            target = LoggerProvider(resource, shutdown_on_exit=False)
            providers.logs.target = target
            self._give_back.append(lambda: setattr(providers.logs, "target", NoOpLoggerProvider()))
        else:
            self.joined.append("logs")
            if not isinstance(target, LoggerProvider):
                return
            processors = missing(processors, target)
        for processor in processors:
            target.add_log_record_processor(processor)
            self._shut_down.append(processor.shutdown)
            self._flush.append(processor.force_flush)


def _do_all(actions: list[Callable[[], object]]) -> None:
    while actions:
        with shielded("undoing the providers"):
            actions.pop()()


def _sampler() -> Sampler:
    """The sampler that OTEL_TRACES_SAMPLER names. OpenTelemetry's own never raise; others may."""
    name = os.environ.get(OTEL_TRACES_SAMPLER, "").strip().lower()
    points = entry_points(group="opentelemetry_traces_sampler", name=name) if name else ()
    for point in points:
        if not point.value.startswith("opentelemetry.sdk."):
            return ShieldedSampler(point.load()(os.environ.get(OTEL_TRACES_SAMPLER_ARG, "")))
    return sampling._get_from_env_or_default()  # noqa: SLF001 - the standard variables' own reader


def _has_buckets() -> bool:
    """Whether histograms are to have the conventions' boundaries: cells know no others."""
    wanted = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION, "")
    return wanted.strip().lower() in ("", "explicit_bucket_histogram")


def _observed_drops(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(number, {semconv.DROP_REASON: reason}) for reason, number in dropped().items()]
