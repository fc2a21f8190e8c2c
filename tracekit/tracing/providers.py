"""Delegating providers: one per signal for the life of the process, whose target can be switched.

OpenTelemetry lets a process set its providers once. `configure()` sets these, and its handle switches
the target: what is undone can be done again, for tracers, meters and loggers that were cached too.
Without a target they do nothing, as OpenTelemetry does without a provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import Logger, LoggerProvider, NoOpLoggerProvider
from opentelemetry.trace import NoOpTracerProvider, SpanKind, Tracer, TracerProvider
from opentelemetry.util._decorator import _agnosticcontextmanager
from opentelemetry.util._once import Once

from tracekit.guard import shielded
from tracekit.tracing.meters import DelegatingMeterProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Link, Span
    from opentelemetry.util.types import Attributes

    from tracekit.tracing.processors import FlowProcessor

Target = TypeVar("Target")


class _Following(Generic[Target]):
    """What the provider's present target gave, fetched anew whenever the target was switched."""

    __slots__ = ("_fetch", "_fetched", "_from", "_provider")

    def __init__(
        self, provider: DelegatingTracerProvider | DelegatingLoggerProvider, fetch: Callable[[], Target]
    ) -> None:
        self._provider = provider
        self._fetch = fetch
        self._from: object = None
        self._fetched: Target | None = None

    def now(self) -> Target:
        target = self._provider.target
        if self._fetched is None or self._from is not target:
            self._fetched = self._fetch()
            self._from = target
        return self._fetched


class DelegatingTracer(Tracer):
    """A tracer of whatever provider is the target now."""

    def __init__(self, following: _Following[Tracer]) -> None:
        self._following = following

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        return self._following.now().start_span(
            name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
        )

    @_agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[Span]:
        # A generator, so that a function decorated before configure() is traced after it.
        with self._following.now().start_as_current_span(
            name,
            context,
            kind,
            attributes,
            links,
            start_time,
            record_exception,
            set_status_on_exception,
            end_on_exit,
        ) as span:
            yield span


class DelegatingTracerProvider(TracerProvider):
    """The process's tracer provider; `target` does the work."""

    def __init__(self) -> None:
        self.target: TracerProvider = NoOpTracerProvider()
        self._processor: FlowProcessor | None = None

    def switch(self, target: TracerProvider, processor: FlowProcessor | None) -> None:
        """Let another provider do the work; `processor` is the one that its spans go through."""
        self.target = target
        self._processor = processor

    def add_span_processor(self, processor: SpanProcessor) -> None:
        """As the SDK's provider has it: one more processor, behind a shield; until this is undone."""
        if self._processor is not None:
            self._processor.add(processor)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        return DelegatingTracer(
            _Following(
                self,
                lambda: self.target.get_tracer(
                    instrumenting_module_name, instrumenting_library_version, schema_url, attributes
                ),
            )
        )


class DelegatingLogger(Logger):
    """A logger of whatever provider is the target now."""

    def __init__(self, name: str, following: _Following[Logger]) -> None:
        super().__init__(name)
        self._following = following

    def enabled(
        self,
        *,
        context: Context | None = None,
        severity_number: SeverityNumber | None = None,
        event_name: str | None = None,
    ) -> bool:
        return self._following.now().enabled(
            context=context, severity_number=severity_number, event_name=event_name
        )

    def emit(self, record: LogRecord | None = None, **fields: Any) -> None:
        if record is None:
            self._following.now().emit(**fields)
        else:
            self._following.now().emit(record)


class DelegatingLoggerProvider(LoggerProvider):
    """The process's logger provider; `target` does the work."""

    def __init__(self) -> None:
        self.target: LoggerProvider = NoOpLoggerProvider()

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Logger:
        return DelegatingLogger(
            name, _Following(self, lambda: self.target.get_logger(name, version, schema_url, attributes))
        )


class _SetByUs(Once):
    """Stands where the API remembers that a provider was set: the application may still set its own."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then

    def do_once(self, func: Callable[[], None]) -> bool:
        done = super().do_once(func)
        if done:
            with shielded("joining the application's provider"):
                self._then()
        return done


class Providers:
    """The process's three delegating providers: those that it has, else new ones.

    A signal whose provider the application set before us is not ours (`owns_…` is False): it is
    joined, never replaced. Where it sets one after us (it cannot do so before, under `tracekit run`),
    that one takes our place, what was cached goes to it, and `set_by_application` is called.
    """

    def __init__(self, set_by_application: Callable[[], object] | None = None) -> None:
        traces, meters, loggers = (
            trace.get_tracer_provider(),
            metrics.get_meter_provider(),
            _logs.get_logger_provider(),
        )
        self.traces = traces if isinstance(traces, DelegatingTracerProvider) else DelegatingTracerProvider()
        self.metrics = meters if isinstance(meters, DelegatingMeterProvider) else DelegatingMeterProvider()
        self.logs = loggers if isinstance(loggers, DelegatingLoggerProvider) else DelegatingLoggerProvider()
        # The API has no public name for "none set yet".
        if isinstance(traces, trace.ProxyTracerProvider):
            trace.set_tracer_provider(self.traces)
        if type(meters).__name__ == "_ProxyMeterProvider":
            metrics.set_meter_provider(self.metrics)
        if type(loggers).__name__ == "ProxyLoggerProvider":
            _logs.set_logger_provider(self.logs)
        self.owns_traces = trace.get_tracer_provider() is self.traces
        self.owns_metrics = metrics.get_meter_provider() is self.metrics
        self.owns_logs = _logs.get_logger_provider() is self.logs
        self._set_by_application = set_by_application
        if set_by_application is not None:
            self._stay_open()

    def _stay_open(self) -> None:
        """Let the application set its own. The API keeps what was set, once, under these names."""
        if self.owns_traces:
            vars(trace)["_TRACER_PROVIDER_SET_ONCE"] = _SetByUs(self._traces_were_set)
        if self.owns_metrics:
            vars(metrics._internal)["_METER_PROVIDER_SET_ONCE"] = _SetByUs(self._metrics_were_set)  # noqa: SLF001
        if self.owns_logs:
            vars(_logs._internal)["_LOGGER_PROVIDER_SET_ONCE"] = _SetByUs(self._logs_were_set)  # noqa: SLF001

    def _traces_were_set(self) -> None:
        self._join()
        self.traces.switch(trace.get_tracer_provider(), None)

    def _metrics_were_set(self) -> None:
        self._join()
        self.metrics.target = metrics.get_meter_provider()

    def _logs_were_set(self) -> None:
        self._join()
        self.logs.target = _logs.get_logger_provider()

    def _join(self) -> None:
        if self._set_by_application is not None:
            self._set_by_application()
