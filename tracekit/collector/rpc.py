"""OTLP over gRPC: the three Export services, on bytes.

Bounds: one message as `intake` has it, and so many at once as there are threads, for gRPC reads a message
only once a thread waits for it. `MAX_WAITING` more wait for theirs; further ones are refused, and may be
sent again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import grpc

# Not `grpc.server`: other people's instrumentation puts a function that traces in its place.
from grpc._server import create_server

from tracekit.collector.intake import MAX_REQUEST_BYTES, Refusal
from tracekit.otlp import encode_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracekit.collector.intake import Intake
    from tracekit.otlp import Signal

_SERVICES: Final[dict[str, Signal]] = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "traces",
    "opentelemetry.proto.collector.logs.v1.LogsService": "logs",
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "metrics",
}
_THREADS: Final = 4
MAX_WAITING: Final = 100
_GRACE_S: Final = 1.0
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
            ("grpc.server_handshake_timeout_ms", request_timeout_s * 1000),
            ("grpc.max_connection_age_ms", half_ms),
            ("grpc.max_connection_age_grace_ms", half_ms),
            ("grpc.max_allowed_incoming_connections", max_connections),
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tracekit-collector-grpc")
        self._server = create_server(
            self._threads, _handlers(intake), (), options, _THREADS + MAX_WAITING, None, False
        )
        self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        self._server.start()

    def stop(self) -> None:
        """Finish what is under way, for a second at most, and give the port back."""
        self._server.stop(_GRACE_S).wait()
        self._threads.shutdown()


def _handlers(intake: Intake) -> tuple[grpc.GenericRpcHandler, ...]:
    return tuple(
        grpc.method_handlers_generic_handler(
            service, {"Export": grpc.unary_unary_rpc_method_handler(_export(intake, signal))}
        )
        for service, signal in _SERVICES.items()
    )


def _export(intake: Intake, signal: Signal) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return intake.take_in(signal, body, "protobuf")
        except Refusal as refusal:
            status = encode_status(refusal.code, refusal.reason, "protobuf", refusal.retry_after_s)
            context.set_trailing_metadata(((_DETAILS, status),))
            context.abort(_CODES[refusal.code], refusal.reason)
            raise  # abort has raised already

    return export
