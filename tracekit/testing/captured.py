"""Capture: this process traced, with everything kept in memory, until the block ends."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from unittest import mock

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor

from tracekit import _configure, _settings, guard, semconv
from tracekit.collector.memory import MemoryStore
from tracekit.flow import Knowledge
from tracekit.otlp import decode_logs, decode_metrics, decode_spans
from tracekit.testing.determinism import determined
from tracekit.testing.environment import only
from tracekit.testing.flows import Flows
from tracekit.tracing.signals import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from tracekit._settings import Settings
    from tracekit.testing.measured import Measured

_QUIET_S: Final = 0.1
_SAME_INSTANCE: Final = {"OTEL_RESOURCE_ATTRIBUTES": f"{semconv.SERVICE_INSTANCE_ID}=test"}


class Captured(Flows):
    """What this process emitted since `capture` began: a span is here as soon as it has ended.

    There are `spans`, `logs`, `metrics`, `flows`, `flow()` and `dropped`; `wait_for`, `wait_for_flow` and
    `wait_for_flows`, each with an `…_async`; `report()` and `save()`. `report_line` is what `configure()`
    would have said at start-up.
    """

    def __init__(self) -> None:
        self._memory = MemoryStore()
        super().__init__(self._memory, quiet_s=_QUIET_S)
        self.report_line = ""
        self._running: set[tuple[str, str]] = set()
        self._readers: list[InMemoryMetricReader] = []
        self._before = guard.dropped()
        self._dropped: Mapping[str, int] | None = None

    @property
    def metrics(self) -> Mapping[str, tuple[Measured, ...]]:
        """By name, what was measured so far under each set of attributes."""
        self._collect()
        return super().metrics

    @property
    def dropped(self) -> Mapping[str, int]:
        """What tracekit left out in this process since the capture began, by reason."""
        if self._dropped is not None:
            return self._dropped
        return {
            reason: number - self._before.get(reason, 0)
            for reason, number in guard.dropped().items()
            if number > self._before.get(reason, 0)
        }

    def outputs(self, _: Settings | None = None) -> Outputs:
        """Processors and a reader that bring everything here, whatever the settings say."""
        self._collect()  # what was recorded under a configuration that ends now
        reader = InMemoryMetricReader()
        self._readers.append(reader)
        return Outputs([_Spans(self._memory, self._running)], [reader], [_Logs(self._memory)])

    def end(self) -> None:
        """Keep what is here as it is."""
        self._dropped = self.dropped
        self._collect()
        self._readers.clear()

    def _hint(self) -> str:
        if self._running:
            return "spans are open still: a span is here once it has ended"
        return f"only this process is seen, for others take `flow_sink`; traced is\n  {self.report_line}"

    def _known(self, *, is_quiet: bool = True) -> Knowledge:
        return Knowledge(is_quiet=is_quiet, running=frozenset(self._running))

    def _collect(self) -> None:
        for reader in self._readers:
            if (data := reader.get_metrics_data()) is not None:
                self._memory.add_metrics(decode_metrics(encode_metrics(data).SerializeToString()).records)


@contextmanager
def capture(
    service: str = "test",
    *,
    parent: str | None = None,
    kafka: str | None = None,
    receive_spans: bool | None = None,
    wait_spans: bool | None = None,
    trust: Mapping[str, str] | None = None,
    quiet: bool = True,
    environment: Mapping[str, str] | None = None,
    deterministic: bool = False,
) -> Iterator[Captured]:
    """Trace this process as `configure()` does, with everything kept in memory; undone at the end.

    The arguments are those of `configure()`. A `configure()` that the application calls inside the block
    takes effect with its own settings, and what it emits still comes here. Of the process's variables
    none that begins with `OTEL_` or `TRACEKIT_` counts inside, so that a test is the same everywhere:
    only those of `environment` do. `deterministic`: ids are counted, and time goes on by one millisecond
    whenever it is looked at.

        with capture("orders") as seen:
            place_order()
            seen.wait_for_flow("send orders", "process orders").assert_complete()
    """
    captured = Captured()
    with ExitStack() as undo:
        if deterministic:
            environment = {**_SAME_INSTANCE, **(environment or {})}
            undo.enter_context(determined())
        undo.enter_context(only(environment or {}))
        settings = _settings.read(
            service=service,
            parent=parent,
            kafka=kafka,
            receive_spans=receive_spans,
            wait_spans=wait_spans,
            trust=trust,
            quiet=quiet,
        )
        undo.enter_context(mock.patch.object(_configure, "exporters", captured.outputs))
        off = replace(settings, disabled=True, quiet=True)
        undo.callback(lambda: _configure.start(off).undo())
        captured.report_line = _configure.start(settings, captured.outputs()).report
        undo.callback(captured.end)
        yield captured


class _Spans(SpanProcessor):
    """Puts spans into the store as OTLP has them, and knows which are under way."""

    def __init__(self, store: MemoryStore, running: set[tuple[str, str]]) -> None:
        self._store = store
        self._running = running

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._running.add(_key(span))

    def on_end(self, span: ReadableSpan) -> None:
        self._running.discard(_key(span))
        if span.context is not None and span.context.trace_flags.sampled:
            self._store.add_spans(decode_spans(encode_spans([span]).SerializeToString()).records)


def _key(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None  # a span that was started has one
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


class _Logs(LogRecordProcessor):
    """Puts log lines into the store as OTLP has them."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if otel.get_value(_SUPPRESS_INSTRUMENTATION_KEY):
            return
        readable = ReadableLogRecord(
            log_record=log_record.log_record,
            resource=log_record.resource or Resource.get_empty(),
            instrumentation_scope=log_record.instrumentation_scope,
            limits=log_record.limits,
        )
        self._store.add_logs(decode_logs(encode_logs([readable]).SerializeToString()).records)

    def shutdown(self) -> None:
        """Nothing is held back."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True
