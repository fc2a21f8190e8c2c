"""Exporters: what the settings name for each signal, behind queues that never block."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tracekit._settings import SettingError
from tracekit.tracing.processors import CountedExporter
from tracekit.tracing.signals import Outputs

if TYPE_CHECKING:
    from tracekit._settings import Settings

_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PATHS: Final = {"traces": "v1/traces", "metrics": "v1/metrics", "logs": "v1/logs"}


def exporters(settings: Settings) -> Outputs:
    """An exporter for each name that the settings have, with a queue of its own."""
    return Outputs(
        spans=[BatchSpanProcessor(CountedExporter(one)) for one in _made(settings, "traces")],
        metrics=[PeriodicExportingMetricReader(one) for one in _made(settings, "metrics")],
        logs=[BatchLogRecordProcessor(one) for one in _made(settings, "logs")],
    )


def _made(settings: Settings, signal: str) -> list[Any]:
    return [_exporter(settings, signal, name) for name in settings.exporters[signal]]


def _exporter(settings: Settings, signal: str, name: str) -> Any:
    entry = _OTLP[settings.protocol] if name == "otlp" else name
    for point in entry_points(group=f"opentelemetry_{signal}_exporter", name=entry):
        make = point.load()
        if signal == "traces" and name == "otlp" and settings.protocol == "http/protobuf":
            # The same exporter, with an encoder of ours. By its own name, the SDK's can still be had.
            from tracekit.tracing.otlp_exporter import EncodingSpanExporter

            make = EncodingSpanExporter
        # An exporter reads the OTEL_EXPORTER_OTLP_* variables itself; an argument goes before them.
        if name != "otlp" or not settings.endpoint_given:
            return make()
        if settings.protocol == "grpc":
            return make(endpoint=settings.endpoint, insecure=settings.endpoint.startswith("http://"))
        return make(endpoint=f"{settings.endpoint.rstrip('/')}/{_PATHS[signal]}")
    raise SettingError(f"OTEL_{signal.upper()}_EXPORTER", name, f"there is no exporter {entry} here")
