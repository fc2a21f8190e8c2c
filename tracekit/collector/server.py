"""CollectorServer: OTLP over HTTP and gRPC on two ports, on threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tracekit.collector.app import LOOPBACK, create_app
from tracekit.collector.memory import MemoryStore
from tracekit.collector.rpc import GrpcServer

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.types import ASGIApp

    from tracekit.collector.store import Store

MAX_CONNECTIONS: Final = 250  # of each kind: many a process may open 1,024 files in all
REQUEST_TIMEOUT_S: Final = 30
_GRACE_S: Final = 1


class CollectorError(RuntimeError):
    """The collector could not start; the text says why, and what to do."""


class CollectorServer:
    """Receives OTLP into a store, between `start` and `stop` or within a `with` block.

    Port 0 takes a free one, then named by `http_port` and `grpc_port`. `host` is a name or an address of
    IPv4. The process's logging and signal handlers stay as they are.

    Bounds, beside those of a request (`app`, `rpc`): `MAX_CONNECTIONS` of each kind. One that
    is slower than `request_timeout_s` seconds, whether it sends or reads or idles, is closed; an exporter
    opens another.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        host: str = "127.0.0.1",
        request_timeout_s: int = REQUEST_TIMEOUT_S,
    ) -> None:
        self.store: Store = MemoryStore() if store is None else store
        self.host = host
        self.http_port = http_port
        self.grpc_port = grpc_port
        self._request_timeout_s = request_timeout_s
        self._running: contextlib.ExitStack | None = None

    @property
    def http_endpoint(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` wants for http/protobuf, without a path."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` wants for grpc."""
        return f"http://{self.host}:{self.grpc_port}"

    def start(self) -> None:
        """Listen on both ports; ready when it returns. Raises CollectorError where a port is taken."""
        if self._running is not None:
            raise CollectorError("this collector is running already; stop it first, or make another one")
        with contextlib.ExitStack() as started:
            listening = started.enter_context(_bound(self.host, self.http_port))
            with _bound(self.host, self.grpc_port) as probe:
                grpc_port = probe.getsockname()[1]
            grpc_server = _grpc_server(self.store, self.host, grpc_port, self._request_timeout_s)
            started.callback(grpc_server.stop)
            hosts = LOOPBACK if self.host in LOOPBACK else None
            http = _HttpThread(create_app(self.store, hosts), listening, self._request_timeout_s)
            started.callback(http.stop)
            self.http_port, self.grpc_port = listening.getsockname()[1], grpc_server.port
            self._running = started.pop_all()

    def stop(self) -> None:
        """Finish what is under way, for a second at most, and give ports and threads back."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port; its listener starts later."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise _not_to_be_had(host, port, str(error)) from error
    return bound


def _grpc_server(store: Store, host: str, port: int, request_timeout_s: int) -> GrpcServer:
    try:
        return GrpcServer(store, host, port, request_timeout_s, MAX_CONNECTIONS)
    except RuntimeError as error:
        raise _not_to_be_had(host, port, str(error)) from error


def _not_to_be_had(host: str, port: int, reason: str) -> CollectorError:
    return CollectorError(
        f"the collector cannot listen on {host} port {port}: {reason}. Perhaps another collector runs there: "
        "stop it, or give this one another port (0 takes a free one)"
    )


class _Config(uvicorn.Config):
    def configure_logging(self) -> None:
        """Leave the loggers alone: the application may run uvicorn too, and they are its own then."""


class _Connection(H11Protocol):
    """A connection that is cut where it takes too long until the next answer, whatever it is waiting for.

    uvicorn limits how long it may idle after an answer, and nothing else: a sender that is silent from the
    start, or in the middle of a request, would stay. Its other protocol takes headers without end.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def on_response_complete(self) -> None:
        self._late.cancel()
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)


class _Http(uvicorn.Server):
    """uvicorn that says when it is ready, and stops when told, not when it next looks."""

    def __init__(self, config: uvicorn.Config, ready: Future[None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell_to_stop(self) -> None:
        # A loop that is closed takes no calls: then it has stopped already.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._told.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready.set_result(None)

    async def main_loop(self) -> None:
        await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, which looks every tenth of a second whether all is done."""
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_GRACE_S)
        # Not cancelled, for uvicorn would log that as an error: with their connections gone they end.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)
        await asyncio.sleep(0)


class _HttpThread:
    """The HTTP server on a thread of its own, from when it is made until `stop`."""

    def __init__(self, app: ASGIApp, listening: socket.socket, request_timeout_s: int) -> None:
        config = _Config(
            app,
            interface="asgi3",
            http=_Connection,
            timeout_keep_alive=request_timeout_s,
            lifespan="off",
            ws="none",
            loop="asyncio",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        ready: Future[None] = Future()
        self._server = _Http(config, ready)
        self._thread = threading.Thread(
            target=self._run, args=(listening, ready), name="tracekit-collector-http", daemon=True
        )
        self._thread.start()
        ready.result()

    def _run(self, listening: socket.socket, ready: Future[None]) -> None:
        try:
            asyncio.run(self._server.serve([listening]))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    def stop(self) -> None:
        self._server.tell_to_stop()
        self._thread.join()
