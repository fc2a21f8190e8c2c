"""Listener: an ASGI application on one port, on a thread and an event loop of its own.

Whoever comes may be hostile, or hang. Bounds: `max_connections`; where they are all taken, a new one takes
the place of the one that has kept us waiting longest, and is refused only where we are at work for all of
them. A connection that is slower than `request_timeout_s` is cut, whether it idles, sends or reads; while
we are at work for it, it may wait. Of what is no body 64 KiB are read, and 32 requests ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp, Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

SENDS_NO_MORE: Final = "tracekit.sends_no_more"
"""In the state of a request: its sender has closed its side, and may be gone altogether. Who waits to receive
when that happens is given an empty piece of the body."""
_GRACE_S: Final = 1
_MAX_HEADER_BYTES: Final = 64 * 1024
_MAX_AHEAD: Final = 32
_BACKLOG: Final = 128  # accepted at a time, so these may be open beside the connections that they replace


class Listener:
    """Listens from when it is made until `stop`."""

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        name: str,
        request_timeout_s: float,
        max_connections: int,
    ) -> None:
        self._seats = _Seats(request_timeout_s, max_connections)

        async def to_the_end(scope: Scope, receive: Receive, send: Send) -> None:
            # The end of the loop cancels what is under way; uvicorn would log that as an error.
            with contextlib.suppress(asyncio.CancelledError):
                await app(scope, receive, send)

        config = _Config(
            to_the_end,
            interface="asgi3",
            http=functools.partial(_Connection, self._seats),  # type: ignore[arg-type]  # made by calling it
            backlog=_BACKLOG,
            lifespan="off",
            ws="none",
            loop="auto",  # uvloop where it is: a third less
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        ready: Future[None] = Future()
        self._server = _Server(config, ready)
        self._thread = threading.Thread(target=self._run, args=(listening, ready), name=name, daemon=True)
        self._thread.start()
        ready.result()

    @property
    def refused(self) -> int:
        """How many connections were refused or cut for a new one."""
        return self._seats.refused

    def _run(self, listening: socket.socket, ready: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
                runner.run(self._server.serve([listening]))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    def stop(self) -> None:
        """Finish what is under way, for a second at most."""
        self._server.tell_to_stop()
        self._thread.join()


class _Config(uvicorn.Config):
    def configure_logging(self) -> None:
        """Leave the loggers alone: the application may run uvicorn too, and they are its own then."""


class _Seats:
    """What the connections of a listener share: the bounds, and which of them keep us waiting."""

    def __init__(self, request_timeout_s: float, most: int) -> None:
        self.request_timeout_s = request_timeout_s
        self.most = most
        self.waiting: dict[_Connection, None] = {}  # in the order in which the waiting began
        self.refused = 0


class _Transport(asyncio.Transport):
    """A transport that does nothing once it is closed, as asyncio's own; uvloop's raises then."""

    def __init__(self, inner: asyncio.Transport) -> None:
        super().__init__()
        self._inner = inner

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._inner.is_closing():
            self._inner.write(data)

    def pause_reading(self) -> None:
        if not self._inner.is_closing():
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        if not self._inner.is_closing():
            self._inner.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()


class _Connection(HttpToolsProtocol):
    """uvicorn's connection, with bounds.

    uvicorn limits how long it may idle after an answer, and nothing else: a sender that is silent from the
    start, or in the middle of a request, would stay, and headers would be kept without end.
    """

    def __init__(self, seats: _Seats, **given: Any) -> None:
        super().__init__(**given)
        self._seats = seats
        self._late: asyncio.TimerHandle | None = None
        self._slow_reader: asyncio.TimerHandle | None = None
        self._pending = 0  # bytes since the last piece of a body, or the last request
        self._is_whole = False  # the request that came last
        self._due: deque[RequestResponseCycle] = deque()  # those not answered yet, as they came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        seats = self._seats
        if len(self.connections) >= seats.most:
            seats.refused += 1
            if not seats.waiting:
                super().connection_made(_Transport(transport))
                self._refuse(503, "too many connections; come again", b"retry-after: 2\r\n")
                return
            longest = next(iter(seats.waiting))
            longest.wait_no_more()
            longest.transport.abort()
        super().connection_made(_Transport(transport))
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # offered another protocol, we stay with this one
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, NotImplementedError):
                self._refuse(501, "of transfer codings there is only chunked here")
            else:
                self._refuse(400, "this is no HTTP/1.1 request")
            return
        if self._pending > _MAX_HEADER_BYTES:
            self._refuse(431, f"more than {_MAX_HEADER_BYTES} bytes of headers")

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MAX_AHEAD:
            raise OverflowError
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and b",".join(codings).strip().lower() != b"chunked":
            raise NotImplementedError
        super().on_headers_complete()
        self._due.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        self._is_whole = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._pending = 0
        self._is_whole = True
        self.wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._due.popleft()
        super().on_response_complete()
        self._unset_keepalive_if_required()  # ours is stricter
        if self.cycle.response_complete or not self._is_whole:
            self._wait()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's, which uvicorn narrows
        """Stay for the answers to what came whole, and close then; who streams is told, and ends it."""
        if not self._due or (len(self._due) == 1 and self._due[0].more_body):
            return False
        if self._due[-1].more_body:
            self._due.pop()
            self.pipeline.popleft()  # where the latest stands
        self.cycle = self._due[-1]
        self.cycle.keep_alive = False
        self._is_whole = True
        self.wait_no_more()
        for cycle in self._due:
            cycle.scope["state"][SENDS_NO_MORE] = True
            cycle.message_event.set()  # so whoever waits to receive looks
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._slow_reader = self.loop.call_later(self._seats.request_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self.wait_no_more()
        self._read_again()
        for cycle in self._due:  # uvicorn tells the latest alone
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
            del self._seats.waiting[self]

    def _wait(self) -> None:
        self.wait_no_more()
        self._late = self.loop.call_later(self._seats.request_timeout_s, self.transport.abort)
        self._seats.waiting[self] = None

    def _read_again(self) -> None:
        if self._slow_reader is not None:
            self._slow_reader.cancel()
            self._slow_reader = None

    def _refuse(self, status: int, text: str, further: bytes = b"") -> None:
        """Answer and close; where an earlier answer is due, that would be taken for it: only close."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle and not cycle.response_complete and (cycle.response_started or not cycle.more_body):
            self.transport.abort()
            return
        body = text.encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\n" % (status, http.HTTPStatus(status).phrase.encode())
            + further
            + b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()


class _Server(uvicorn.Server):
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
        # Not cancelled, for uvicorn would log that as an error: with their connections gone they end. What
        # does not, within another second, the end of the loop cancels.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_GRACE_S)
        await asyncio.sleep(0)
