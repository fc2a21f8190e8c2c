"""App: OTLP over HTTP, as an ASGI application.

A router, not the class `Starlette`: other people's instrumentation puts a traced subclass in its place.
Starlette's own tracing is a middleware that one must add; we do not.

No CORS, and an exact content type: so no page in a browser can send anything here without asking first,
and the answer is no. The Host header is checked too, against names that are made to point at loopback.

Bounds: one body as `intake` has it, on the wire and inflated; all bodies that are not answered yet
`MAX_HELD_BYTES`. What does not fit in gets a 503, and may be sent again.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route, Router

from tracekit.collector.intake import MAX_REQUEST_BYTES, take_in
from tracekit.otlp import (
    INVALID_ARGUMENT,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    OtlpError,
    encode_status,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator

    from starlette.requests import Request

    from tracekit.collector.store import Store
    from tracekit.otlp import Encoding, Signal

MAX_HELD_BYTES: Final = 64 * 1024 * 1024
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})

_CONTENT_TYPES: Final[dict[Encoding, str]] = {
    "protobuf": "application/x-protobuf",
    "json": "application/json",
}
_ENCODINGS: Final = {content_type: encoding for encoding, content_type in _CONTENT_TYPES.items()}
_PATHS: Final[dict[str, Signal]] = {"/v1/traces": "traces", "/v1/logs": "logs", "/v1/metrics": "metrics"}
_PORT: Final = re.compile(r":\d+$")
_GZIP_WINDOW: Final = 31  # zlib's number for a gzip header and trailer around the largest window
_SMALL: Final = 256 * 1024  # decoded at once; more would hold up other requests
_MAX_READ_AWAY: Final = 64 * 1024 * 1024
_SLICE: Final = 256 * 1024  # inflated at once: zlib holds its output twice while it returns it


def create_app(store: Store, hosts: Collection[str] | None = LOOPBACK) -> Router:
    """The application. `hosts` are the names by which it may be called; None: by any."""
    room = _Room()
    return Router(
        [
            Route(path, _endpoint(store, signal, hosts, room), methods=["POST"])
            for path, signal in _PATHS.items()
        ],
        redirect_slashes=False,
    )


class _Refusal(Exception):  # noqa: N818 (it is an answer)
    """A request that is not taken in, with the status to say so."""

    def __init__(self, http_status: int, code: int, reason: str) -> None:
        super().__init__(reason)
        self.http_status = http_status
        self.code = code
        self.reason = reason


class _Room:
    """What all requests share that are not answered yet: the bytes that they hold, and one turn to decode."""

    def __init__(self) -> None:
        self._left = MAX_HELD_BYTES
        # Two would share one interpreter: they would be done no sooner, and take twice the memory.
        self.turn = asyncio.Lock()

    @contextmanager
    def taking(self) -> Iterator[Callable[[int], None]]:
        """A function that takes so many bytes, or raises _Refusal; given back at the end of the block."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self._left:
                raise _Refusal(503, UNAVAILABLE, "too much is under way at once; send it again")
            taken += size
            self._left -= size

        try:
            yield take
        finally:
            self._left += taken


def _endpoint(
    store: Store, signal: Signal, hosts: Collection[str] | None, room: _Room
) -> Callable[[Request], Awaitable[Response]]:
    async def export(request: Request) -> Response:
        encoding: Encoding = "json"
        chunks = request.stream()
        try:
            try:
                _check_host(request, hosts)
                encoding = _encoding(request)
                with room.taking() as take:
                    body = await _body(request, chunks, take)
                    return _response(await _taken_in(store, signal, body, encoding, request, room), encoding)
            except _Refusal as refusal:
                store.count_refused(signal, 1)
                answer = _refusal(refusal, encoding)
            except OtlpError as error:  # counted already
                answer = _refusal(_Refusal(400, INVALID_ARGUMENT, str(error)), encoding)
            # Out of the `except`: an error's traceback holds the body.
            await _read_away(chunks)
            return answer
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it

    return export


async def _taken_in(
    store: Store, signal: Signal, body: bytes, encoding: Encoding, request: Request, room: _Room
) -> bytes:
    if len(body) <= _SMALL:
        return take_in(store, signal, body, encoding)
    async with room.turn:
        if await request.is_disconnected():  # and will send it again
            raise ClientDisconnect
        return await asyncio.to_thread(take_in, store, signal, body, encoding)


def _refusal(refusal: _Refusal, encoding: Encoding) -> Response:
    return _response(encode_status(refusal.code, refusal.reason, encoding), encoding, refusal.http_status)


def _response(body: bytes, encoding: Encoding, http_status: int = 200) -> Response:
    return Response(body, http_status, media_type=_CONTENT_TYPES[encoding])


def _check_host(request: Request, hosts: Collection[str] | None) -> None:
    if hosts is None:
        return
    if _PORT.sub("", request.headers.get("host", "").lower()) not in hosts:
        raise _Refusal(403, PERMISSION_DENIED, f"call this collector as one of {', '.join(sorted(hosts))}")


def _encoding(request: Request) -> Encoding:
    said = request.headers.getlist("content-type")
    encoding = _ENCODINGS.get(said[0].partition(";")[0].strip().lower()) if len(said) == 1 else None
    if encoding is None:
        raise _Refusal(415, INVALID_ARGUMENT, f"the content type must be {' or '.join(_ENCODINGS)}")
    return encoding


async def _body(request: Request, chunks: AsyncIterator[bytes], take: Callable[[int], None]) -> bytes:
    """The body, inflated. Both sizes are limited while it comes in, so no more than that is ever held."""
    said = [value.strip().lower() for value in request.headers.getlist("content-encoding")]
    if said not in ([], ["identity"], ["gzip"]):
        raise _Refusal(415, INVALID_ARGUMENT, "the content encoding must be gzip or none")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_REQUEST_BYTES:
        raise _too_large()
    body = _Gzipped(take) if said == ["gzip"] else _Plain(take)
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > MAX_REQUEST_BYTES:
            raise _too_large()
        body.add(chunk)
    return body.whole()


async def _read_away(chunks: AsyncIterator[bytes]) -> None:
    """Take what is still under way, and keep nothing: who is cut off while sending reads no answer."""
    left = _MAX_READ_AWAY
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            return


def _too_large() -> _Refusal:
    return _Refusal(413, RESOURCE_EXHAUSTED, f"more than {MAX_REQUEST_BYTES} bytes; send smaller batches")


class _Plain:
    """A body as it comes.

    Kept in pieces of middle size: in one, it would be moved as it grows, and then be there twice; as they
    come, each byte of a sender who sends them singly would take forty.
    """

    def __init__(self, take: Callable[[int], None]) -> None:
        self._take = take
        self._pieces: list[bytearray] = []

    def add(self, chunk: bytes) -> None:
        self._take(len(chunk))
        if self._pieces and len(self._pieces[-1]) < _SLICE:
            self._pieces[-1] += chunk
        else:
            self._pieces.append(bytearray(chunk))

    def whole(self) -> bytes:
        return b"".join(self._pieces)


class _Gzipped(_Plain):
    """A body that comes as gzip, kept inflated: one member, nothing after it."""

    def __init__(self, take: Callable[[int], None]) -> None:
        super().__init__(take)
        self._size = 0
        self._gzip = zlib.decompressobj(_GZIP_WINDOW)

    def add(self, chunk: bytes) -> None:
        while True:
            try:
                piece = self._gzip.decompress(chunk, _SLICE)
            except zlib.error:
                raise _Refusal(400, INVALID_ARGUMENT, "the body is no gzip") from None
            self._size += len(piece)
            if self._size > MAX_REQUEST_BYTES:
                raise _too_large()
            super().add(piece)
            if self._gzip.unused_data:
                raise _Refusal(400, INVALID_ARGUMENT, "something follows the gzip member")
            chunk = self._gzip.unconsumed_tail
            if not chunk and len(piece) < _SLICE:
                return

    def whole(self) -> bytes:
        if not self._gzip.eof:
            raise _Refusal(400, INVALID_ARGUMENT, "the gzip member is cut off")
        return super().whole()
