"""The instrumentor by which `opentelemetry-instrument` finds tracekit, beside those of contrib."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from tracekit import _configure, _settings

if TYPE_CHECKING:
    from collections.abc import Collection

    from tracekit._configure import Handle


class TracekitInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # contrib's class is untyped
    """Does what `tracekit.configure()` does, once for the process.

    What a distribution of OpenTelemetry set up before is joined: a signal that it exports is not
    exported by us too. OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=tracekit leaves us out.
    """

    _handle: Handle | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def _instrument(self, **_: Any) -> None:
        if _configure.is_configured():  # under `tracekit run`, or by the application
            return
        try:
            settings = _settings.read()
        except _settings.SettingError as error:
            # As an exception it would take every other instrumentation with it.
            print(f"tracekit: not tracing: {error}", file=sys.stderr, flush=True)
            return
        exported = {
            "traces": isinstance(trace.get_tracer_provider(), TracerProvider),
            "metrics": isinstance(metrics.get_meter_provider(), MeterProvider),
            "logs": isinstance(_logs.get_logger_provider(), LoggerProvider),
        }
        ours = {signal: () if exported[signal] else names for signal, names in settings.exporters.items()}
        self._handle = _configure.start(replace(settings, exporters=ours))

    def _uninstrument(self, **_: Any) -> None:
        if self._handle is not None:
            self._handle.undo()
            self._handle = None
