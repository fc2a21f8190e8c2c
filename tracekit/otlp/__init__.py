"""OTLP: bytes in, records out, and back. Pure: no sockets, files, threads or clocks.

Whatever the bytes, decoding gives `Decoded` or raises `OtlpError`, and nothing else.
"""

from __future__ import annotations

from tracekit.otlp.answers import (
    INTERNAL,
    INVALID_ARGUMENT,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    encode_answer,
    encode_status,
    rejected_of,
    retry_after_s,
)
from tracekit.otlp.convert import to_protobuf
from tracekit.otlp.envelope import Decoded, Encoding, Signal
from tracekit.otlp.logs import decode_logs, encode_logs
from tracekit.otlp.metrics import decode_metrics, encode_metrics
from tracekit.otlp.spans import decode_spans, encode_spans
from tracekit.otlp.tally import OtlpError

__all__ = [
    "INTERNAL",
    "INVALID_ARGUMENT",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
    "Decoded",
    "Encoding",
    "OtlpError",
    "Signal",
    "decode_logs",
    "decode_metrics",
    "decode_spans",
    "encode_answer",
    "encode_logs",
    "encode_metrics",
    "encode_spans",
    "encode_status",
    "rejected_of",
    "retry_after_s",
    "to_protobuf",
]
