"""Log lines: ExportLogsServiceRequest, decoded and encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1 import logs_pb2

from tracekit.model import LogLine
from tracekit.otlp.envelope import Decoded, Encoding, Shape, decode, encode
from tracekit.otlp.values import from_any, from_pairs, is_id, to_any, to_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracekit.model import Service
    from tracekit.otlp.tally import Tally

SHAPE: Final = Shape(
    logs_pb2.LogRecord,
    ExportLogsServiceRequest,
    resources="resourceLogs",
    scopes="scopeLogs",
    records="logRecords",
)


def decode_logs(body: bytes, encoding: Encoding = "protobuf") -> Decoded[LogLine]:
    """The log lines of a request. Raises OtlpError where it cannot be read.

    A line with ids of a wrong length stays, as one written outside a span. Source: opentelemetry-proto,
    logs.proto, `trace_id`.
    """
    return decode(body, encoding, SHAPE, _read)


def encode_logs(lines: Iterable[LogLine], encoding: Encoding = "protobuf") -> bytes:
    """A request with these lines. Raises ValueError for what OTLP cannot hold."""
    return encode(lines, encoding, SHAPE, lambda line: (line.service, ""), _write)


def _read(message: logs_pb2.LogRecord, service: Service, _scope: str, tally: Tally) -> LogLine:
    in_trace = is_id(message.trace_id, 16)
    in_span = in_trace and is_id(message.span_id, 8)
    return LogLine(
        time_ns=message.time_unix_nano or message.observed_time_unix_nano,
        body=from_any(message.body, tally),
        severity=message.severity_number,
        severity_text=message.severity_text,
        attributes=from_pairs(message.attributes, tally),
        trace_id=message.trace_id.hex() if in_trace else "",
        span_id=message.span_id.hex() if in_span else "",
        service=service,
        event_name=message.event_name,
    )


def _write(line: LogLine) -> logs_pb2.LogRecord:
    return logs_pb2.LogRecord(
        time_unix_nano=line.time_ns,
        severity_number=logs_pb2.SeverityNumber.ValueType(line.severity),
        severity_text=line.severity_text,
        body=to_any(line.body),
        attributes=to_pairs(line.attributes),
        trace_id=bytes.fromhex(line.trace_id),
        span_id=bytes.fromhex(line.span_id),
        event_name=line.event_name,
    )
