"""What a receiver answers: an export response, or an error as google.rpc.Status; how a sender reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # as the next
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # its stubs lack py.typed
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tracekit.otlp.envelope import Decoded, Encoding, Signal

# gRPC status codes. What is refused with any but the last must not be sent again as it is.
INVALID_ARGUMENT: Final = 3
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14


_REJECTED: Final = ("rejectedSpans", "rejectedLogRecords", "rejectedDataPoints")


def encode_answer(signal: Signal, decoded: Decoded[object], encoding: Encoding) -> bytes:
    """The response to a request that was accepted, wholly or in part.

    With nothing refused and nothing to say it is empty, as the OTLP specification wants it.
    """
    rejected, reason = decoded.rejected, decoded.reason
    response: Message
    if signal == "traces":
        response = trace_service_pb2.ExportTraceServiceResponse()
        if reason:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = reason
    elif signal == "logs":
        response = logs_service_pb2.ExportLogsServiceResponse()
        if reason:
            response.partial_success.rejected_log_records = rejected
            response.partial_success.error_message = reason
    else:
        response = metrics_service_pb2.ExportMetricsServiceResponse()
        if reason:
            response.partial_success.rejected_data_points = rejected
            response.partial_success.error_message = reason
    return _encoded(response, encoding)


def encode_status(code: int, message: str, encoding: Encoding, retry_after_s: int | None = None) -> bytes:
    """An error, with a gRPC status code, as the body of an HTTP response or the details of a gRPC status.

    With `retry_after_s` it says when to send again. Source: the OTLP specification, "Throttling".
    """
    status = Status(code=code, message=message)
    if retry_after_s is not None:
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=retry_after_s)))
    return _encoded(status, encoding)


def rejected_of(answer: bytes, encoding: Encoding) -> int:
    """How many records an export response says were refused; 0 where it cannot be read.

    Of all signals: their responses have the same numbers for their fields, and in JSON one name each.
    """
    try:
        if encoding == "protobuf":
            partial = trace_service_pb2.ExportTraceServiceResponse.FromString(answer).partial_success
            return max(partial.rejected_spans, 0)
        said = json.loads(answer)["partialSuccess"]
        return max(0, *(int(said.get(name, 0)) for name in _REJECTED))
    except (DecodeError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return 0


def retry_after_s(details: bytes) -> float | None:
    """When a gRPC status says to send again, in seconds; None where it does not say."""
    try:
        for detail in Status.FromString(details).details:
            retry = RetryInfo()
            if detail.Unpack(retry):
                return float(retry.retry_delay.ToNanoseconds() / 1e9)
    except DecodeError:
        pass
    return None


def _encoded(message: Message, encoding: Encoding) -> bytes:
    if encoding == "protobuf":
        return message.SerializeToString()
    return json_format.MessageToJson(message, indent=None).encode()
