"""OTLP over gRPC: the three Export services, on bytes.

On gRPC's core, for `grpc.server` gives each call a thread before its message is there, and says of those for
which it has none what OTLP takes for the end: RESOURCE_EXHAUSTED without RetryInfo. `grpc.aio` shares one
queue among all event loops of a process, the application's too.

Bounds: one message as `intake` has it; how many are received at once, and who waits for that, as `line` has
it; `AT_ONCE` are handed to the intake. Who is turned away, or loses its turn, is told to come again. Of calls
that wait, gRPC's core holds 64 KiB each, 100 of a connection.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from grpc._cython import cygrpc

from tracekit.collector.intake import MAX_REQUEST_BYTES, Refusal, busy
from tracekit.collector.line import Call, Line
from tracekit.collector.seldom import Seldom
from tracekit.collector.via import HEADER, Via
from tracekit.otlp import INTERNAL, UNIMPLEMENTED, encode_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracekit.collector.intake import Intake
    from tracekit.otlp import Signal

_METHODS: Final[dict[bytes, Signal]] = {
    b"/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    b"/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
    b"/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
}
AT_ONCE: Final = 8
_LOOK_S: Final = 0.1
_GRACE_S: Final = 1.0
_HANDSHAKE_S: Final = 5  # for so long a crowd that says nothing keeps others out; they try again for longer
_DETAILS: Final = "grpc-status-details-bin"  # where gRPC carries a google.rpc.Status
_OK: Final = 0
_NO_FLAGS: Final = 0
_IDENTITY_AND_GZIP: Final = 1 << 0 | 1 << 2
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_AND_GZIP),
    ("grpc.so_reuseport", 0),  # else two collectors share a port, and each sees half of a flow
    ("grpc.max_concurrent_streams", 100),
    # Else the core widens the windows of all calls, up to megabytes each, of those too that wait for a turn.
    ("grpc.http2.bdp_probe", 0),
)


class GrpcServer:
    """A gRPC server on a port of its own; started when made.

    One thread hears of all that happens to calls; `AT_ONCE` others hand messages to the intake.
    """

    def __init__(
        self, intake: Intake, host: str, port: int, request_timeout_s: int, max_connections: int
    ) -> None:
        """Raises RuntimeError where the port cannot be had; port 0 takes a free one."""
        # The core ends no call that does not come to its end, only the connection: told to come anew after
        # half of the time, and closed after the other half. So we end the call, after half of it.
        half_ms = request_timeout_s * 500
        options = (
            *_OPTIONS,
            ("grpc.server_handshake_timeout_ms", min(request_timeout_s, _HANDSHAKE_S) * 1000),
            ("grpc.max_connection_age_ms", half_ms),
            ("grpc.max_connection_age_grace_ms", half_ms),
            ("grpc.max_allowed_incoming_connections", max_connections),
        )
        self._intake = intake
        self._message_timeout_s = request_timeout_s / 2
        self._lock = threading.RLock()  # of all that follows
        self._line: Line[_Call] = Line()
        self._due = 0  # what the core will yet tell
        self._is_stopping = False
        self._is_over = False
        self._looked_at_s = 0.0
        self._failing = Seldom("the collector fails at a call over gRPC, and goes on")
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tracekit-collector-grpc-intake")
        self._events = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(options, False)
        self._server.register_completion_queue(self._events)
        self.port: int = self._server.add_http2_port(f"{host}:{port}".encode())
        if self.port == 0:
            raise RuntimeError("gRPC does not get it")
        self._server.start()
        self._ask_for_a_call()
        self._thread = threading.Thread(target=self._run, name="tracekit-collector-grpc", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is under way, for a second at most, and give the port back."""
        with self._lock:
            self._is_stopping = True
            self._due += 1
            self._server.shutdown(self._events, _nothing)
        self._thread.join(_GRACE_S)
        if self._thread.is_alive():
            with self._lock:
                self._server.cancel_all_calls()
            self._thread.join()
        self._threads.shutdown()

    # -- what the core tells ----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            event = self._events.poll(time.time() + _LOOK_S)
            with self._lock:
                if event.completion_type != cygrpc.CompletionType.queue_timeout:
                    self._due -= 1
                    self._try(event.tag, event)
                event = None  # what it refers to keeps the core from ending
                if self._is_stopping and self._due == 0:
                    self._is_over = True
                    self._server.destroy()
                    return
                self._try(self._look)

    def _try(self, do: Callable[..., None], *given: Any) -> None:
        try:
            do(*given)
        except Exception as error:  # noqa: BLE001 - the thread serves all the others too
            self._failing.say(type(error).__name__, error)

    def _ask_for_a_call(self) -> None:
        with self._lock:
            if not self._is_stopping:
                self._due += 1
                self._server.request_call(self._events, self._events, self._begin)

    def _begin(self, event: Any) -> None:
        self._ask_for_a_call()
        if not event.success:
            return
        signal = _METHODS.get(event.call_details.method)
        passed = (value for name, value in event.invocation_metadata if name == HEADER)
        call = _Call(event.call, signal, Via(", ".join(passed), "2"))
        self._start(call, partial(self._end, call), cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS))
        if signal is None:
            self._answer(call, UNIMPLEMENTED, f"there is no {event.call_details.method.decode('latin-1')}")
            return
        if (too_many := self._line.add(call, time.monotonic())) is not None:
            self._refuse(too_many, busy("too much is under way at once"))
        self._go_on()

    def _read(self, call: _Call, event: Any) -> None:
        message: bytes | None = event.batch_operations[0].message()
        if call.is_over:
            return
        if message is None:
            self._answer(call, UNIMPLEMENTED, "a call brings one message; this one brought none")
            return
        call.message = message
        self._line.come_whole(call, len(message))
        self._threads.submit(self._export, call)
        self._go_on()

    def _end(self, call: _Call, event: Any) -> None:
        if event.batch_operations[0].cancelled():
            self._leave(call)

    # -- what becomes of a call -------------------------------------------------------------------

    def _look(self) -> None:
        """Turn away who has waited for too long, and who has a turn and does not send."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < _LOOK_S:
            return
        self._looked_at_s = now_s
        for call in self._line.waited_too_long(now_s):
            self._refuse(call, busy("too much is under way at once"))
        self._go_on()
        slow = [*self._line.slower_than(self._message_timeout_s, now_s), *self._line.cut(now_s)]
        for call in dict.fromkeys(slow):
            self._refuse(call, busy("the message did not come in time"))

    def _go_on(self) -> None:
        while (call := self._line.next(time.monotonic())) is not None:
            self._start(call, partial(self._read, call), cygrpc.ReceiveMessageOperation(_NO_FLAGS))

    def _export(self, call: _Call) -> None:
        answer = self._taken_in(call)  # its message is let go of before the next one is received
        if isinstance(answer, Refusal):
            self._answer_refusal(call, answer)
        elif answer is not None:
            self._answer(call, _OK, "", answer)

    def _taken_in(self, call: _Call) -> bytes | Refusal | None:
        """The answer; None where nobody waits for one."""
        message, call.message = call.message, b""
        assert call.signal is not None
        if call.is_over:
            return None  # the sender has given up, and sends it again
        try:
            return self._intake.take_in(call.signal, message, "protobuf", call.via)
        except Refusal as refusal:
            return refusal.with_traceback(None)  # that would hold the message
        except CancelledError:
            return busy("the collector stops")
        except Exception as error:  # noqa: BLE001 - who sent it waits for an answer
            self._failing.say(type(error).__name__, error)
            return Refusal(500, INTERNAL, "the collector failed at this request; its log says how")

    def _refuse(self, call: _Call, refusal: Refusal) -> None:
        self._intake.refuse(call.signal, refusal)
        self._answer_refusal(call, refusal)

    def _answer_refusal(self, call: _Call, refusal: Refusal) -> None:
        status = encode_status(refusal.code, refusal.reason, "protobuf", refusal.retry_after_s)
        self._answer(call, refusal.code, refusal.reason, status=status)

    def _answer(
        self, call: _Call, code: int, reason: str, answer: bytes | None = None, status: bytes | None = None
    ) -> None:
        further = None if status is None else ((_DETAILS, status),)
        operations = [
            cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
            cygrpc.SendStatusFromServerOperation(further, code, reason.encode(), _NO_FLAGS),
        ]
        if answer is not None:
            operations.append(cygrpc.SendMessageOperation(answer, _NO_FLAGS))
        with self._lock:
            if not call.is_over and not self._is_over:
                self._start(call, _nothing, *operations)
            self._leave(call)

    def _leave(self, call: _Call) -> None:
        call.is_over = True
        call.message = b""  # where no thread has it yet, none wants it now
        self._line.remove(call)
        self._go_on()

    def _start(self, call: _Call, told: Callable[[Any], None], *operations: Any) -> None:
        self._due += 1
        call.core.start_server_batch(operations, told)


class _Call(Call):
    """One call, as gRPC's core has it."""

    def __init__(self, core: Any, signal: Signal | None, via: Via) -> None:
        super().__init__(core.peer())
        self.core = core
        self.signal = signal
        self.via = via
        self.message = b""
        self.is_over = False


def _nothing(_event: Any) -> None:
    """Told where there is nothing to do."""
