"""Sources: where flows are read from: a running `tracekit serve`, or a Jaeger that keeps the spans."""

from __future__ import annotations

from tracekit.sources.api import API_PORT, DEFAULT_SERVER, ApiSource
from tracekit.sources.jaeger_api import DEFAULT_JAEGER
from tracekit.sources.jaeger_source import JaegerSource
from tracekit.sources.source import Notice, Source
from tracekit.sources.web import LOOPBACK, LostError, NotFoundError, NotReachedError, SourceError

__all__ = [
    "API_PORT",
    "DEFAULT_JAEGER",
    "DEFAULT_SERVER",
    "LOOPBACK",
    "ApiSource",
    "JaegerSource",
    "LostError",
    "NotFoundError",
    "NotReachedError",
    "Notice",
    "Source",
    "SourceError",
]
