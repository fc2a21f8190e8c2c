"""CollectorServer: OTLP over HTTP and gRPC on two ports, and pages on a third, on threads of its own."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
from itertools import combinations
from typing import TYPE_CHECKING, Final, Self

from tracekit.collector.app import LOOPBACK, create_app
from tracekit.collector.intake import Intake
from tracekit.collector.listener import Listener
from tracekit.collector.memory import MemoryStore
from tracekit.collector.rpc import GrpcServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from starlette.types import ASGIApp

    from tracekit.collector.forward import Forwarder
    from tracekit.collector.store import Store

MAX_CONNECTIONS: Final = 250  # of each kind: many a process may open 1,024 files in all
REQUEST_TIMEOUT_S: Final = 30
_MAX_CONNECTIONS_ALONE: Final = 1000
_FILES: Final = 8192
_OTHER_FILES: Final = 250  # the store's, the listeners' own, and those accepted in place of others


_HTTP_PORT: Final = "--http-port"
_GRPC_PORT: Final = "--grpc-port"
_PAGES_PORT: Final = "--port"


class CollectorError(RuntimeError):
    """The collector could not start; the text says why, and what to do."""


class PortTakenError(CollectorError):
    """Another process has a port that it was to listen on."""


def connections_alone() -> int:
    """How many connections of each kind a process may have that does nothing else: 1,000 at most.

    Raises its limit of open files for that, as far as it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES:
        soft = _FILES if hard < 0 else min(_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files = _FILES if soft < 0 else soft
    return max(1, min(_MAX_CONNECTIONS_ALONE, (files - _OTHER_FILES) // 3))


class CollectorServer:
    """Receives OTLP into a store, between `start` and `stop` or within a `with` block.

    Port 0 takes a free one, then named by `http_port`, `grpc_port` and `pages_port`. `host` is a name or an
    address of IPv4. `pages` are the query API and what shows it; without them there is no third port. Each
    has an event loop of its own, so that slow questions hold up no telemetry. The process's logging and
    signal handlers stay as they are.

    What is accepted goes on to `forward`, from `start` to `stop`.

    Bounds, beside those of a request (`intake`, `app`, `rpc`) and of a connection (`listener`):
    `max_connections` of each kind. One that is slower than `request_timeout_s` seconds, whether it sends or
    reads or idles, is closed; an exporter opens another.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        host: str = "127.0.0.1",
        pages: ASGIApp | None = None,
        pages_port: int = 0,
        forward: Forwarder | None = None,
        request_timeout_s: int = REQUEST_TIMEOUT_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.store: Store = MemoryStore() if store is None else store
        self.host = host
        self.http_port = http_port
        self.grpc_port = grpc_port
        self.pages_port = pages_port
        self._pages = pages
        self._forward = forward
        self._intake: Intake | None = None
        self._listeners: dict[str, Listener] = {}
        self._request_timeout_s = request_timeout_s
        self._max_connections = max_connections
        self._running: contextlib.ExitStack | None = None

    @property
    def http_endpoint(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` wants for http/protobuf, without a path."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` wants for grpc."""
        return f"http://{self.host}:{self.grpc_port}"

    @property
    def pages_endpoint(self) -> str:
        """Where the pages are, without a path."""
        return f"http://{self.host}:{self.pages_port}"

    def start(self) -> None:
        """Listen on all ports; ready when it returns. Raises CollectorError where a port is taken."""
        if self._running is not None:
            raise CollectorError("this collector is running already; stop it first, or make another one")
        self._check_ports()
        with contextlib.ExitStack() as started:
            listening = started.enter_context(_bound(self.host, self.http_port, _HTTP_PORT))
            # All ports are taken before anything listens on one.
            pages = self._pages and (
                self._pages,
                started.enter_context(_bound(self.host, self.pages_port, _PAGES_PORT)),
            )
            with _bound(self.host, self.grpc_port, _GRPC_PORT) as probe:
                grpc_port = probe.getsockname()[1]
            if self._forward is not None:
                started.callback(self._forward.stop)  # last of all, for the others hand it what they took
            self._listeners = {}
            self._intake = intake = Intake(self.store, self._forward)
            started.callback(intake.close)
            try:
                grpc_server = GrpcServer(
                    intake, self.host, grpc_port, self._request_timeout_s, self._max_connections
                )
            except RuntimeError as error:
                raise _taken(self.host, grpc_port, _GRPC_PORT, str(error)) from error
            started.callback(grpc_server.stop)
            hosts = LOOPBACK if self.host in LOOPBACK else None
            started.callback(self._listener(create_app(intake, hosts), listening, "http").stop)
            if pages:
                started.callback(self._listener(*pages, "pages").stop)
                self.pages_port = pages[1].getsockname()[1]
            if self._forward is not None:
                self._check_forward(self._forward, listening.getsockname()[1], grpc_server.port)
                self._forward.start()
            started.callback(intake.close)  # before all others, for they wait for it
            self.http_port, self.grpc_port = listening.getsockname()[1], grpc_server.port
            self._running = started.pop_all()

    def status(self) -> Mapping[str, object]:
        """What it refused since it started, and what became of what was forwarded (None: nothing is).

        `refused` counts requests by HTTP status, over gRPC too; `connections` those that made room for
        others, or found none.
        """
        return {
            "refused": {} if self._intake is None else self._intake.refused,
            "connections": {name: listener.refused for name, listener in self._listeners.items()},
            "forward": None if self._forward is None else self._forward.status(),
        }

    def _check_ports(self) -> None:
        # Two sockets may be bound to one port while none of them listens.
        ports = {_HTTP_PORT: self.http_port, _GRPC_PORT: self.grpc_port}
        if self._pages:
            ports[_PAGES_PORT] = self.pages_port
        for (one, port), (other, same) in combinations(ports.items(), 2):
            if port and port == same:
                raise CollectorError(
                    f"{one} and {other} are both {port}: give each a port of its own (0 takes a free one)"
                )

    def _check_forward(self, forward: Forwarder, *ports: int) -> None:
        host, port = forward.address
        if port in ports and host in {self.host, "127.0.0.1", "localhost", "::1"}:
            raise CollectorError(
                f"the collector would forward to itself ({forward.endpoint}), without end: name another one"
            )

    def _listener(self, app: ASGIApp, listening: socket.socket, name: str) -> Listener:
        self._listeners[name] = Listener(
            app,
            listening,
            name=f"tracekit-collector-{name}",
            request_timeout_s=self._request_timeout_s,
            max_connections=self._max_connections,
        )
        return self._listeners[name]

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


def _bound(host: str, port: int, option: str) -> socket.socket:
    """A socket that has the port, which this option names; its listener starts later."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise _not_to_be_had(host, port, option, error) from error
    return bound


def _not_to_be_had(host: str, port: int, option: str, error: OSError | OverflowError) -> CollectorError:
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    if number == errno.EADDRINUSE:
        return _taken(host, port, option, reason)
    if isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return CollectorError(
            f"{host} is no IPv4 address of this machine ({reason}): leave --host out for this machine only, "
            "or give it 0.0.0.0 for all addresses that this machine has"
        )
    if number == errno.EACCES:
        return CollectorError(
            f"this user may not listen on port {port}: give it one from 1024 on with {option} "
            "(0 takes a free one)"
        )
    return CollectorError(f"the collector cannot listen on {host} port {port}: {reason}")


def _taken(host: str, port: int, option: str, reason: str) -> PortTakenError:
    return PortTakenError(
        f"the collector cannot listen on {host} port {port}: {reason}. Perhaps another collector runs there: "
        f"stop it, or give this one another port with {option} (0 takes a free one)"
    )
