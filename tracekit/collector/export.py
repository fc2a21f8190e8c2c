"""Export: one request of OTLP to another collector, over HTTP or gRPC, and what it says to that.

Bounds: a try is over after the target's `timeout_s`, and of an answer 64 KiB are read. No redirect is
followed, and no proxy used. Over gRPC what came as JSON goes as protobuf.
"""

from __future__ import annotations

import email.utils
import http.client
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

import grpc

# Not `grpc.insecure_channel`: other people's instrumentation puts a function that traces in its place.
from grpc._channel import Channel

from tracekit.collector.exchange import Deadline, TooLongError, bound, pieces
from tracekit.collector.via import HEADER
from tracekit.otlp import rejected_of, retry_after_s, to_protobuf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracekit.otlp import Encoding, Signal

Way: TypeAlias = Literal["http/protobuf", "grpc"]

NO_HTTP: Final = "what listens there speaks no HTTP"
_MAX_ANSWER: Final = 64 * 1024
_PORTS: Final = {("http/protobuf", "http"): 80, ("http/protobuf", "https"): 443}
_GRPC_PORT: Final = 4317
_CONTENT_TYPES: Final = {"protobuf": "application/x-protobuf", "json": "application/json"}
# What may be sent again. Source: the OTLP specification, "Retryable Response Codes" and "Failures".
_RETRYABLE: Final = frozenset({429, 502, 503, 504})
_RETRYABLE_CODES: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
_METHODS: Final[dict[Signal, str]] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent, until which moment of the monotonic clock, and whom it has passed."""

    signal: Signal
    body: bytes
    encoding: Encoding
    via: str
    until: float


@dataclass(frozen=True, slots=True)
class Target:
    """Where it is sent."""

    host: str
    port: int
    is_secure: bool
    path: str
    headers: dict[str, str]
    timeout_s: float


class Again(Exception):  # noqa: N818 (it is no error of the program)
    """It was not taken, and may be sent again, after so many seconds where the other side says so."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Refused(Exception):  # noqa: N818 (as above)
    """It was refused, and must not be sent again."""


class Client(Protocol):
    """What sends it."""

    def send(self, request: Request) -> int:
        """Send it; gives how many of its records were refused. Raises Again or Refused."""
        ...

    def close(self) -> None: ...


class Http:
    """OTLP over HTTP, on one connection that is kept."""

    def __init__(self, target: Target) -> None:
        kind = http.client.HTTPSConnection if target.is_secure else http.client.HTTPConnection
        self._connection = kind(target.host, target.port, timeout=target.timeout_s)
        self._target = target

    def send(self, request: Request) -> int:
        was_open = self._connection.sock is not None
        deadline = Deadline.within(self._target.timeout_s)
        try:
            return self._send(request, deadline)
        except ConnectionError as error:
            if not was_open:  # else it may have been closed since the last request
                raise Again(_reason(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise Again(_reason(error)) from error
        try:
            return self._send(request, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise Again(_reason(error)) from error

    def _send(self, request: Request, deadline: Deadline) -> int:
        headers = {
            **self._target.headers,
            HEADER: request.via,
            "content-type": _CONTENT_TYPES[request.encoding],
            "content-length": str(len(request.body)),
        }
        bound(self._connection, deadline, 2 * _MAX_ANSWER)  # framing included
        try:
            if self._connection.sock is not None:
                self._connection.sock.settimeout(self._target.timeout_s)
            path = f"{self._target.path}/v1/{request.signal}"
            self._connection.request("POST", path, pieces(self._connection, request.body, deadline), headers)
            answer = self._connection.getresponse()
            body = answer.read(_MAX_ANSWER)
            if not answer.isclosed():
                self._connection.close()  # it has more to say than we read
        except BaseException:
            self._connection.close()
            raise
        if 200 <= answer.status < 300:
            return rejected_of(body, request.encoding)
        reason = f"{answer.status} {answer.reason}"
        if answer.status in _RETRYABLE:
            raise Again(reason, _seconds(answer.headers.get("retry-after")))
        raise Refused(reason)

    def close(self) -> None:
        self._connection.close()


class Grpc:
    """OTLP over gRPC, on one channel."""

    def __init__(self, target: Target) -> None:
        credentials = grpc.ssl_channel_credentials()._credentials if target.is_secure else None  # noqa: SLF001
        options = (
            ("grpc.max_receive_message_length", _MAX_ANSWER),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        )
        host = f"[{target.host}]" if ":" in target.host else target.host
        self._channel = Channel(f"{host}:{target.port}", options, credentials, None)
        self._exports = {signal: self._channel.unary_unary(method) for signal, method in _METHODS.items()}
        self._target = target

    def send(self, request: Request) -> int:
        body = request.body if request.encoding == "protobuf" else to_protobuf(request.signal, request.body)
        headers = {**self._target.headers, HEADER: request.via}
        metadata = tuple((name.lower(), value) for name, value in headers.items())
        try:
            answer = self._exports[request.signal](body, timeout=self._target.timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            code, reason = error.code().name, f"{error.code().name}: {error.details()}"
            after_s = next(
                (
                    retry_after_s(value)
                    for name, value in error.trailing_metadata() or ()
                    if name == "grpc-status-details-bin"
                ),
                None,
            )
            if code in _RETRYABLE_CODES or (code == "RESOURCE_EXHAUSTED" and after_s is not None):
                raise Again(reason, after_s) from error
            raise Refused(reason) from error
        return rejected_of(answer, "protobuf")

    def close(self) -> None:
        self._channel.close()


def _reason(error: OSError | http.client.HTTPException) -> str:
    """Why HTTP failed, without the bytes that are none of it."""
    if isinstance(error, TimeoutError | TooLongError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or f"{type(error).__name__}: {error}"
    return NO_HTTP if isinstance(error, http.client.BadStatusLine) else type(error).__name__


def target_of(endpoint: str, protocol: Way, headers: Mapping[str, str], timeout_s: float) -> Target:
    """Where an endpoint is. Raises ValueError for one, or a header, that cannot be."""
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError as error:
        raise _no_endpoint(endpoint, str(error)) from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise _no_endpoint(endpoint, "it must begin with http:// or https://, and name a host")
    if url.username is not None or url.query or url.fragment:
        raise _no_endpoint("(not shown)", "it may have no user, query or fragment; secrets go into headers")
    if protocol == "grpc" and url.path.strip("/"):
        raise _no_endpoint(endpoint, "over grpc it has no path")
    for name, value in headers.items():
        if not name or _CONTROL.search(name + value) or not (name + value).isascii():
            raise ValueError(f"forwarding: the header {name!r} cannot be sent; its value is not shown")
    if port is None:
        port = _PORTS.get((protocol, url.scheme), _GRPC_PORT)
    is_secure = url.scheme == "https"
    return Target(url.hostname, port, is_secure, url.path.rstrip("/"), dict(headers), timeout_s)


def _no_endpoint(endpoint: str, reason: str) -> ValueError:
    return ValueError(f"forwarding to {endpoint}: {reason}. As in http://collector:4318, for grpc :4317")


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header says. Source: RFC 9110, 10.2.3."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):  # a moment that is none, or that no clock here shows
        return None
