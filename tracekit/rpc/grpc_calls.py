"""Calls of gRPC: what a span of one says, on either side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from opentelemetry.trace import Status, StatusCode

from tracekit import semconv

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span

_CODES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""By their numbers. Source: gRPC, "Status codes and their use in gRPC"."""
_SERVER_FAILS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""What is the server's own failure. Source: conventions 1.44, gRPC, "gRPC Status"."""


def code_name(code: Any) -> str:
    """The name of a status code, which may be gRPC's enumeration, its number, or nothing: all went well."""
    if code is None:
        return "OK"
    number: Any = code.value[0] if hasattr(code, "value") else code
    return _CODES[number] if isinstance(number, int) and 0 <= number < len(_CODES) else "UNKNOWN"


def method_name(method: str | bytes) -> str:
    """`package.Service/Method`."""
    return (method.decode() if isinstance(method, bytes) else method).lstrip("/")


def address(target: str | bytes) -> dict[str, str | int]:
    """Where a target leads: its host, and its port where it says one."""
    text = target.decode() if isinstance(target, bytes) else target
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "xds"):
        text = rest.rpartition("/")[2] if scheme in ("dns", "xds") else rest
        if scheme.startswith("unix"):
            return {semconv.SERVER_ADDRESS: text}
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        return {semconv.SERVER_ADDRESS: text.strip("[]")}
    return {semconv.SERVER_ADDRESS: host.strip("[]"), semconv.SERVER_PORT: int(port)}


def ended(span: Span, code: str, *, is_server: bool) -> str:
    """Tell the span how its call ended; its error, or nothing."""
    span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, code)
    if code == "OK" or (is_server and code not in _SERVER_FAILS):
        return ""
    span.set_attribute(semconv.ERROR_TYPE, code)
    span.set_status(Status(StatusCode.ERROR))
    return code


def duration(side: str) -> Histogram:
    """The histogram of the `client` or the `server`."""
    name = semconv.RPC_CLIENT_CALL_DURATION if side == "client" else semconv.RPC_SERVER_CALL_DURATION
    return metrics.get_meter("tracekit", schema_url=semconv.SCHEMA_URL).create_histogram(
        name,
        semconv.SECONDS,
        f"How long calls take, as the {side} sees it.",
        explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
    )
