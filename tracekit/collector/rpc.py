"""OTLP over gRPC: the three Export services, on bytes.

Bounds: one message as `intake` has it, and so many at once as there are threads, for gRPC reads a message
only once a thread waits for it. `MAX_WAITING` more wait for theirs, as long as the intake lets anybody wait;
further ones are told to come again.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc

# Not `grpc.server`: other people's instrumentation puts a function that traces in its place.
from grpc._server import create_server

from tracekit.collector.intake import MAX_REQUEST_BYTES, MAX_WAIT_S, Refusal, busy
from tracekit.otlp import encode_status

if TYPE_CHECKING:
    from tracekit.collector.intake import Intake
    from tracekit.otlp import Signal

_METHODS: Final[dict[str, Signal]] = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
}
_THREADS: Final = 4
MAX_WAITING: Final = 100
_GRACE_S: Final = 1.0
_HANDSHAKE_S: Final = 5  # for so long a crowd that says nothing keeps others out; they try again for longer
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS: Final = "grpc-status-details-bin"  # where gRPC carries a google.rpc.Status
_IDENTITY_AND_GZIP: Final = 1 << 0 | 1 << 2
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_AND_GZIP),
    ("grpc.so_reuseport", 0),  # else two collectors share a port, and each sees half of a flow
    ("grpc.max_concurrent_streams", MAX_WAITING),
)


class GrpcServer:
    """A gRPC server on a port of its own; started when made."""

    def __init__(
        self, intake: Intake, host: str, port: int, request_timeout_s: int, max_connections: int
    ) -> None:
        """Raises RuntimeError where the port cannot be had; port 0 takes a free one."""
        # gRPC ends no request that does not come to its end, only the connection: told to come anew after
        # half of the time, and closed after the other half.
        half_ms = request_timeout_s * 500
        options = (
            *_OPTIONS,
            ("grpc.server_handshake_timeout_ms", min(request_timeout_s, _HANDSHAKE_S) * 1000),
            ("grpc.max_connection_age_ms", half_ms),
            ("grpc.max_connection_age_grace_ms", half_ms),
            ("grpc.max_allowed_incoming_connections", max_connections),
        )
        self._threads = _Threads(_THREADS, thread_name_prefix="tracekit-collector-grpc")
        self._refusing = ThreadPoolExecutor(1, thread_name_prefix="tracekit-collector-grpc-refusing")
        handlers = (_Exports(intake, self._threads, self._refusing),)
        self._server = create_server(
            self._threads, handlers, (), options, _THREADS + 2 * MAX_WAITING, None, False
        )
        self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        self._server.start()

    def stop(self) -> None:
        """Finish what is under way, for a second at most, and give the port back."""
        self._server.stop(_GRACE_S).wait()
        self._threads.shutdown()
        self._refusing.shutdown()


class _Threads(ThreadPoolExecutor):
    """Threads that know how many calls wait for one."""

    def __init__(self, most: int, thread_name_prefix: str) -> None:
        super().__init__(most, thread_name_prefix)
        self._counting = threading.Lock()
        self.waiting = 0

    def submit(self, function: Any, /, *given: Any, **named: Any) -> Future[Any]:
        with self._counting:
            self.waiting += 1
        return super().submit(self._begin, function, given, named)

    def _begin(self, function: Any, given: Any, named: Any) -> Any:
        with self._counting:
            self.waiting -= 1
        return function(*given, **named)


class _Exports(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """What is to be done with a call; asked before it waits for a thread."""

    def __init__(self, intake: Intake, threads: _Threads, refusing: ThreadPoolExecutor) -> None:
        self._intake = intake
        self._threads = threads
        self._refusing = refusing

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        signal = _METHODS.get(call.method)
        if signal is None:
            return None
        until = time.monotonic() + MAX_WAIT_S
        export = partial(_export, self._intake, signal, until)
        if self._threads.waiting >= MAX_WAITING:
            export = partial(_export, self._intake, signal, 0.0)
            export.experimental_thread_pool = self._refusing  # type: ignore[attr-defined]  # gRPC's name for it
        return grpc.unary_unary_rpc_method_handler(export)


def _export(
    intake: Intake, signal: Signal, until: float, body: bytes, context: grpc.ServicerContext
) -> bytes:
    if not context.is_active():
        return b""  # the sender has given up, and sends it again
    try:
        if time.monotonic() > until:
            refusal = busy("too much is under way at once")
            intake.refuse(signal, refusal)
            raise refusal
        return intake.take_in(signal, body, "protobuf")
    except Refusal as refusal:
        status = encode_status(refusal.code, refusal.reason, "protobuf", refusal.retry_after_s)
        context.set_trailing_metadata(((_DETAILS, status),))
        context.abort(_CODES[refusal.code], refusal.reason)
        raise  # abort has raised already
