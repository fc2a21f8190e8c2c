"""Forwarder: sends what this collector accepted on to another one, the same bytes.

Nobody waits for it. Bounds: `max_bytes` of requests wait, the one under way included; what comes then is
dropped. One is tried again for `MAX_AGE_S`, after pauses that double up to half a minute, or that the other
side asks for, a minute at most; those behind it wait. Of an answer 64 KiB are read. No redirect is
followed, and no proxy used. Over gRPC what came as JSON goes as protobuf.
"""

from __future__ import annotations

import email.utils
import http.client
import random
import re
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

import grpc

# Not `grpc.insecure_channel`: other people's instrumentation puts a function that traces in its place.
from grpc._channel import Channel

from tracekit.collector.seldom import Seldom
from tracekit.flow.text import counted
from tracekit.otlp import rejected_of, retry_after_s, to_protobuf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.otlp import Encoding, Signal

Way: TypeAlias = Literal["http/protobuf", "grpc"]
_Outcome: TypeAlias = Literal["forwarded", "refused", "internal", "given_up", "stopped"]

MAX_BYTES: Final = 32 * 1024 * 1024
MAX_AGE_S: Final = 300.0
TIMEOUT_S: Final = 10.0
FLUSH_S: Final = 5.0

_MAX_ANSWER: Final = 64 * 1024
_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 30.0
_MAX_RETRY_AFTER_S: Final = 60.0
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
_DROPPED: Final = ("queue_full", "given_up", "stopped", "internal")
_NO_HTTP: Final = "what listens there speaks no HTTP"
_CURES: Final = (
    ((_NO_HTTP,), "If it speaks gRPC: --forward-protocol grpc"),
    (("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"), "Look at OTEL_EXPORTER_OTLP_HEADERS"),
    (("404", "405", "UNIMPLEMENTED"), "Is it an OTLP receiver, and --forward without the signal's path?"),
    (("429", "503", "RESOURCE_EXHAUSTED"), "It cannot keep up: look at its log"),
    (("refused", "not known", "UNAVAILABLE"), "Start a collector there, or name another with --forward"),
)
"""What the other side, or the network, says, and what to do."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class _Request:
    signal: Signal
    body: bytes
    encoding: Encoding
    until: float


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    port: int
    is_secure: bool
    path: str
    headers: dict[str, str]
    timeout_s: float


class _Again(Exception):  # noqa: N818 (it is no error of the program)
    """It was not taken, and may be sent again, after so many seconds where the other side says so."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _Refused(Exception):  # noqa: N818 (as above)
    """It was refused, and must not be sent again."""


class _Client(Protocol):
    def send(self, request: _Request) -> int:
        """Send it; gives how many of its records were refused. Raises _Again or _Refused."""
        ...

    def close(self) -> None: ...


class Forwarder:
    """Forwards between `start` and `stop`, on a thread of its own.

    `endpoint` is as in OTEL_EXPORTER_OTLP_ENDPOINT: `http://collector:4318` for http/protobuf, where the
    signal's path is added, `http://collector:4317` for grpc; https likewise. `headers` are sent with each
    request. Raises ValueError for an endpoint or a header that cannot be.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: Way = "http/protobuf",
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_BYTES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.endpoint = endpoint
        self.protocol = protocol
        self._target = _target(endpoint, protocol, headers or {}, timeout_s)
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._trouble: _Again | _Refused | None = None
        self._seldom = Seldom(f"forwarding to {endpoint} fails")
        self._stop_by: float | None = None
        self._thread: threading.Thread | None = None

    def loss(self) -> str:
        """How much was not forwarded, and will not be, in a sentence; empty where all was, or may yet be."""
        with self._changed:
            lost = sum(self._counts[outcome] for outcome in ("refused", *_DROPPED))
        if not lost:
            return ""
        was = "was" if lost == 1 else "were"
        return f"{counted(lost, 'request')} {was} not forwarded to {self.endpoint}; it is all kept here"

    def troubles(self) -> Sequence[str]:
        """What goes wrong, in sentences for people."""
        trouble, loss = self._trouble, self.loss()
        failing = trouble and f"forwarding to {self.endpoint} fails: {trouble}. {self._meaning(trouble)}"
        return tuple(said for said in (failing, loss) if said)

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that it sends to."""
        return self._target.host, self._target.port

    def start(self) -> None:
        """Begin to send what waits, and what comes."""
        self._stop_by = None
        self._thread = threading.Thread(target=self._run, name="tracekit-collector-forward", daemon=True)
        self._thread.start()

    def stop(self, flush_s: float = FLUSH_S) -> None:
        """Send what waits, until the first failure and for so long at most; the rest is dropped."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._stop_by = time.monotonic() + flush_s
            self._changed.notify_all()
        thread.join(flush_s)
        with self._changed:
            self._counts["stopped"] += len(self._queue)
            self._queue.clear()
            self._bytes = 0

    def add(self, signal: Signal, body: bytes, encoding: Encoding) -> None:
        """Queue a request; never waits."""
        with self._changed:
            if self._bytes + len(body) > self._max_bytes:
                self._counts["queue_full"] += 1
                return
            self._queue.append(_Request(signal, body, encoding, time.monotonic() + MAX_AGE_S))
            self._bytes += len(body)
            self._changed.notify_all()

    def status(self) -> Mapping[str, object]:
        """What became of requests. `refused` by the other side, as were so many records of those it took."""
        with self._changed:
            return {
                "endpoint": self.endpoint,
                "protocol": self.protocol,
                "forwarded": self._counts["forwarded"],
                "refused": self._counts["refused"],
                "refused_records": self._counts["records"],
                "dropped": {reason: self._counts[reason] for reason in _DROPPED if self._counts[reason]},
                "waiting": len(self._queue),
                "waiting_bytes": self._bytes,
                "trouble": str(self._trouble or ""),
            }

    def _run(self) -> None:
        client = _Grpc(self._target) if self.protocol == "grpc" else _Http(self._target)
        try:
            while (request := self._next()) is not None:
                self._finish(request, self._sent(client, request))
        finally:
            client.close()

    def _next(self) -> _Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stop_by is not None)
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                return None
            return self._queue[0] if self._queue else None

    def _finish(self, request: _Request, outcome: _Outcome) -> None:
        with self._changed:
            if self._queue and self._queue[0] is request:  # else `stop` has given it up
                self._queue.popleft()
                self._bytes -= len(request.body)
                self._counts[outcome] += 1

    def _sent(self, client: _Client, request: _Request) -> _Outcome:
        """Send it, again and again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                self._counts["records"] += client.send(request)
            except _Refused as error:
                self._say(error)
                return "refused"
            except _Again as error:
                self._say(error)
                wait_s = error.after_s
            except Exception as error:  # noqa: BLE001 - it costs this request, not those that follow
                self._seldom.say("a request could not be sent", error)
                return "internal"
            else:
                self._trouble = None
                return "forwarded"
            if wait_s is None:
                wait_s = pause_s * random.uniform(0.75, 1.25)  # noqa: S311
            wait_s = min(max(wait_s, _FIRST_PAUSE_S), _MAX_RETRY_AFTER_S)
            if time.monotonic() + wait_s > request.until:
                return "given_up"
            with self._changed:
                if self._changed.wait_for(lambda: self._stop_by is not None, wait_s):
                    self._stop_by = time.monotonic()  # the others would fare no better
                    return "stopped"
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _say(self, trouble: _Again | _Refused) -> None:
        self._trouble = trouble
        self._seldom.say(f"{trouble}. {self._meaning(trouble)}")

    def _meaning(self, trouble: _Again | _Refused) -> str:
        """What follows from it, and what to do."""
        cure = next(
            (cure for signs, cure in _CURES if any(sign in str(trouble) for sign in signs)), "Look at its log"
        )
        if isinstance(trouble, _Refused):
            return f"What is refused is kept here, and not sent on. {cure}"
        return (
            f"All is kept here, and tried again for {MAX_AGE_S / 60:.0f} minutes; what waits beyond "
            f"{self._max_bytes >> 20} MiB is not sent on. {cure}"
        )


class _Http:
    """OTLP over HTTP, on one connection that is kept."""

    def __init__(self, target: _Target) -> None:
        kind = http.client.HTTPSConnection if target.is_secure else http.client.HTTPConnection
        self._connection = kind(target.host, target.port, timeout=target.timeout_s)
        self._target = target

    def send(self, request: _Request) -> int:
        was_open = self._connection.sock is not None
        try:
            return self._send(request)
        except ConnectionError as error:
            if not was_open:  # else it may have been closed since the last request
                raise _Again(_reason(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Again(_reason(error)) from error
        try:
            return self._send(request)
        except (OSError, http.client.HTTPException) as error:
            raise _Again(_reason(error)) from error

    def _send(self, request: _Request) -> int:
        headers = {**self._target.headers, "content-type": _CONTENT_TYPES[request.encoding]}
        try:
            self._connection.request(
                "POST", f"{self._target.path}/v1/{request.signal}", request.body, headers
            )
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
            raise _Again(reason, _seconds(answer.headers.get("retry-after")))
        raise _Refused(reason)

    def close(self) -> None:
        self._connection.close()


class _Grpc:
    """OTLP over gRPC, on one channel."""

    def __init__(self, target: _Target) -> None:
        credentials = grpc.ssl_channel_credentials()._credentials if target.is_secure else None  # noqa: SLF001
        options = (
            ("grpc.max_receive_message_length", _MAX_ANSWER),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        )
        self._channel = Channel(f"{target.host}:{target.port}", options, credentials, None)
        self._exports = {signal: self._channel.unary_unary(method) for signal, method in _METHODS.items()}
        self._target = target

    def send(self, request: _Request) -> int:
        body = request.body if request.encoding == "protobuf" else to_protobuf(request.signal, request.body)
        metadata = tuple((name.lower(), value) for name, value in self._target.headers.items())
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
                raise _Again(reason, after_s) from error
            raise _Refused(reason) from error
        return rejected_of(answer, "protobuf")

    def close(self) -> None:
        self._channel.close()


def _reason(error: OSError | http.client.HTTPException) -> str:
    """Why HTTP failed, without the bytes that are none of it."""
    if isinstance(error, OSError):
        return error.strerror or f"{type(error).__name__}: {error}"
    return _NO_HTTP if isinstance(error, http.client.BadStatusLine) else type(error).__name__


def _target(endpoint: str, protocol: Way, headers: Mapping[str, str], timeout_s: float) -> _Target:
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
    return _Target(url.hostname, port, is_secure, url.path.rstrip("/"), dict(headers), timeout_s)


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
