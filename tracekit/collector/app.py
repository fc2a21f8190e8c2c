"""App: OTLP over HTTP, as an ASGI application.

A plain function: three paths need no framework, and other people's instrumentation puts traced classes in
the places of Starlette's.

No CORS, and an exact content type: so no page in a browser can send anything here without asking first,
and the answer is no. The Host header is checked too, against names that are made to point at loopback.

Bounds: one body as `intake` has it, on the wire and inflated; all bodies that are not answered yet
`MAX_HELD_BYTES`. What does not fit in gets a 503, and may be sent again; where somebody has sent next to
nothing for `PATIENCE_S`, so does he, and what he had sent makes room.
"""

from __future__ import annotations

import re
import time
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from tracekit.collector.intake import MAX_REQUEST_BYTES, Refusal, busy
from tracekit.collector.via import HEADER, Via
from tracekit.otlp import (
    INVALID_ARGUMENT,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    encode_status,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from tracekit.collector.intake import Intake
    from tracekit.otlp import Encoding, Signal

    _Headers: TypeAlias = dict[bytes, str]

MAX_HELD_BYTES: Final = 64 * 1024 * 1024
PATIENCE_S: Final = 0.5
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})

_ENCODINGS: Final[dict[str, Encoding]] = {"application/x-protobuf": "protobuf", "application/json": "json"}
_CONTENT_TYPES: Final = {encoding: content_type.encode() for content_type, encoding in _ENCODINGS.items()}
_PATHS: Final[dict[str, Signal]] = {"/v1/traces": "traces", "/v1/logs": "logs", "/v1/metrics": "metrics"}
_READ: Final = (
    ". To read what came: `tracekit flows`, or the API at the other port that `tracekit serve` names"
)
_PORT: Final = re.compile(r":\d+$")
_GZIP_WINDOW: Final = 31  # zlib's number for a gzip header and trailer around the largest window
_MAX_READ_AWAY: Final = 64 * 1024 * 1024
_SLICE: Final = 256 * 1024  # inflated at once: zlib holds its output twice while it returns it
_SMALL: Final = 4096
_STEP: Final = 64 * 1024  # who sends less is not seen to go on


def create_app(
    intake: Intake,
    hosts: Collection[str] | None = LOOPBACK,
    *,
    now_s: Callable[[], float] = time.monotonic,
) -> ASGIApp:
    """The application. `hosts` are the names by which it may be called; None: by any."""
    room = _Room(now_s)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        encoding = _ENCODINGS.get(headers.get(b"content-type", "").partition(";")[0].strip().lower())
        chunks = _chunks(receive)
        try:
            try:
                with room.share() as share:
                    answer = await _taken_in(intake, scope, headers, encoding, hosts, chunks, share)
            except Refusal as error:
                refusal = error.with_traceback(None)  # that would hold the body
            else:
                await _send(send, 200, answer, encoding)
                return
            if b"expect" not in headers:
                await _read_away(chunks)
            await _send_refusal(send, refusal, encoding, headers)
        except _GoneError:
            return  # nobody is there to read an answer

    return app


async def _taken_in(
    intake: Intake,
    scope: Scope,
    headers: _Headers,
    encoding: Encoding | None,
    hosts: Collection[str] | None,
    chunks: AsyncIterator[bytes],
    share: _Share,
) -> bytes:
    """The answer's body. Raises Refusal, which is counted then."""
    signal = _PATHS.get(scope["path"])
    try:
        if signal is None:
            raise Refusal(404, UNIMPLEMENTED, f"there is nothing here; send to {', '.join(_PATHS)}{_READ}")
        if scope["method"] != "POST":
            raise Refusal(405, UNIMPLEMENTED, f"programs send {signal} here, by POST{_READ}")
        _check_host(headers, hosts)
        if encoding is None:
            raise Refusal(415, INVALID_ARGUMENT, f"the content type must be {' or '.join(_ENCODINGS)}")
        request = await _body(headers, chunks, share)
    except Refusal as refusal:
        intake.refuse(signal, refusal)
        raise
    via = Via(headers.get(HEADER.encode(), ""), scope["http_version"])
    return await intake.take_in_async(signal, request, encoding, via)


class _GoneError(Exception):
    """The sender has gone."""


class _Room:
    """What all requests share that are not answered yet: the bytes that they hold."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._left = MAX_HELD_BYTES
        self._coming: dict[_Share, None] = {}  # bodies that are not whole; first who went on longest ago

    @contextmanager
    def share(self) -> Iterator[_Share]:
        """A request's; given back at the end of the block."""
        share = _Share(self, self._now_s())
        self._coming[share] = None
        try:
            yield share
        finally:
            self._coming.pop(share, None)
            self._left += share.taken
            share.pieces.clear()  # whoever still has the share

    def take(self, share: _Share, size: int) -> None:
        if size > self._left:
            self._cut(share, size)
        if size > self._left:
            raise busy("too much is under way at once")
        share.taken += size
        self._left -= size

    def go_on(self, share: _Share) -> None:
        share.since_s = self._now_s()
        self._coming[share] = self._coming.pop(share)

    def come_whole(self, share: _Share) -> None:
        del self._coming[share]

    def _cut(self, asking: _Share, size: int) -> None:
        """Make room for so many bytes, as far as others have kept us waiting."""
        too_long_ago_s = self._now_s() - PATIENCE_S
        for share in list(self._coming):
            if size <= self._left or share.since_s > too_long_ago_s:
                return
            if share is not asking:
                del self._coming[share]
                self._left += share.taken
                share.cut()


class _Share:
    """What one request holds while it is not answered: the pieces of its body."""

    def __init__(self, room: _Room, since_s: float) -> None:
        self._room = room
        self._came = 0  # since it was last seen to go on
        self._is_cut = False
        self.since_s = since_s
        self.taken = 0
        self.pieces: list[bytes | bytearray] = []

    def receive(self, size: int) -> None:
        """So many bytes came. Raises Refusal where it was cut meanwhile."""
        if self._is_cut:
            raise busy("the body came too slowly, and others wanted its place")
        self._came += size
        if self._came >= _STEP:
            self._came = 0
            self._room.go_on(self)

    def take(self, size: int) -> None:
        """Hold so many bytes more. Raises Refusal where there is no room."""
        self._room.take(self, size)

    def come_whole(self) -> None:
        """Nothing more is waited for. Raises Refusal as `receive` does."""
        self.receive(0)
        self._room.come_whole(self)

    def cut(self) -> None:
        self._is_cut = True
        self.taken = 0
        self.pieces.clear()


def _headers(scope: Scope) -> _Headers:
    """The headers by name; one that is there twice is no single value that we know."""
    found: _Headers = {}
    for name, value in scope["headers"]:
        said = value.decode("latin-1")
        found[name] = f"{found[name]}, {said}" if name in found else said
    return found


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _send(
    send: Send,
    status: int,
    body: bytes,
    encoding: Encoding | None,
    further: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    headers = [
        (b"content-type", _CONTENT_TYPES[encoding or "json"]),
        (b"content-length", b"%d" % len(body)),
        *further,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_refusal(send: Send, refusal: Refusal, encoding: Encoding | None, headers: _Headers) -> None:
    further = []
    if refusal.retry_after_s is not None:
        further.append((b"retry-after", b"%d" % refusal.retry_after_s))
    if refusal.http_status == 405:
        further.append((b"allow", b"POST"))
    if b"expect" in headers:
        further.append((b"connection", b"close"))  # its body is asked for no more
    body = encode_status(refusal.code, refusal.reason, encoding or "json", refusal.retry_after_s)
    await _send(send, refusal.http_status, body, encoding, further)


def _check_host(headers: _Headers, hosts: Collection[str] | None) -> None:
    if hosts is not None and _PORT.sub("", headers.get(b"host", "").lower()) not in hosts:
        raise Refusal(403, PERMISSION_DENIED, f"call this collector as one of {', '.join(sorted(hosts))}")


async def _body(headers: _Headers, chunks: AsyncIterator[bytes], share: _Share) -> bytes:
    """The body, inflated. Both sizes are limited while it comes in, so no more than that is ever held."""
    said = headers.get(b"content-encoding", "identity").strip().lower()
    if said not in ("identity", "gzip"):
        raise Refusal(415, INVALID_ARGUMENT, "the content encoding must be gzip or none")
    length = headers.get(b"content-length", "")
    if length.isdecimal() and int(length) > MAX_REQUEST_BYTES:
        raise _too_large()
    body = _Gzipped(share) if said == "gzip" else _Plain(share)
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > MAX_REQUEST_BYTES:
            raise _too_large()
        share.receive(len(chunk))
        body.add(chunk)
    share.come_whole()
    return body.whole()


async def _read_away(chunks: AsyncIterator[bytes]) -> None:
    """Take what is still under way, and keep nothing: who is cut off while sending reads no answer."""
    left = _MAX_READ_AWAY
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            return


def _too_large() -> Refusal:
    return Refusal(413, RESOURCE_EXHAUSTED, f"more than {MAX_REQUEST_BYTES} bytes; send smaller batches")


class _Plain:
    """A body as it comes, in pieces: in one, it would be moved as it grows, and then be there twice.

    Small ones are put together: each byte of a sender who sends them singly would take forty.
    """

    def __init__(self, share: _Share) -> None:
        self._share = share

    def add(self, chunk: bytes) -> None:
        self._share.take(len(chunk))
        pieces = self._share.pieces
        if len(chunk) > _SMALL:
            pieces.append(chunk)
        elif pieces and isinstance(last := pieces[-1], bytearray) and len(last) < _SLICE:
            last += chunk
        else:
            pieces.append(bytearray(chunk))

    def whole(self) -> bytes:
        """The body, given away: it is held no more."""
        pieces, self._share.pieces = self._share.pieces, []
        return b"".join(pieces)


class _Gzipped(_Plain):
    """A body that comes as gzip, kept inflated: one member, nothing after it."""

    def __init__(self, share: _Share) -> None:
        super().__init__(share)
        self._size = 0
        self._gzip = zlib.decompressobj(_GZIP_WINDOW)

    def add(self, chunk: bytes) -> None:
        while True:
            try:
                piece = self._gzip.decompress(chunk, _SLICE)
            except zlib.error:
                raise Refusal(400, INVALID_ARGUMENT, "the body is no gzip") from None
            self._size += len(piece)
            if self._size > MAX_REQUEST_BYTES:
                raise _too_large()
            super().add(piece)
            if self._gzip.unused_data:
                raise Refusal(400, INVALID_ARGUMENT, "something follows the gzip member")
            chunk = self._gzip.unconsumed_tail
            if not chunk and len(piece) < _SLICE:
                return

    def whole(self) -> bytes:
        if not self._gzip.eof:
            raise Refusal(400, INVALID_ARGUMENT, "the gzip member is cut off")
        return super().whole()
