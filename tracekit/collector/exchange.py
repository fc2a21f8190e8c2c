"""Exchange: answers over HTTP that have an end, in time and in bytes.

http.client waits anew for each piece of an answer, and passes over as many a "100 Continue" and as many
trailers as come. Here an answer is over by a deadline, its head is `MAX_HEAD_BYTES` at most, with those that
went before it, and what follows, framing and trailers included, is bounded by who reads it.
"""

from __future__ import annotations

import http.client
import io
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of status lines and headers; of these http.client takes a hundred."""
# A TLS record: of more, a socket of TLS waits for each record anew.
_PIECE: Final = 16 * 1024


class TooLongError(http.client.HTTPException):
    """More came than anybody reads."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """So many seconds from when it was set; `until` is the moment on the monotonic clock."""

    seconds: float
    until: float

    @classmethod
    def within(cls, seconds: float) -> Deadline:
        return cls(seconds, time.monotonic() + seconds)

    def left_s(self) -> float:
        """The seconds that are left. Raises TimeoutError where none are."""
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no end within {self.seconds:g} s")
        return left_s


class Answer(http.client.HTTPResponse):
    """An answer with an end; of its body `max_bytes` may come."""

    def __init__(
        self, sock: socket.socket, *given: Any, deadline: Deadline, max_bytes: int, **named: Any
    ) -> None:
        super().__init__(sock, *given, **named)
        self._max_bytes = max_bytes
        self._source = _Source(sock, self.fp.detach(), deadline)
        self.fp = io.BufferedReader(self._source)

    def begin(self) -> None:
        super().begin()
        self._source.left = self._max_bytes

    def allow(self, deadline: Deadline, max_bytes: int) -> None:
        """What follows has until then, and so many bytes: for streams, which have no end."""
        self._source.silence_s = None
        self._source.deadline = deadline
        self._source.left = max_bytes


class _Source(io.RawIOBase):
    """What a socket gives, until a deadline and for so many bytes; silent as long as its timeout."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, deadline: Deadline) -> None:
        super().__init__()
        self._sock = sock
        self.silence_s = sock.gettimeout()
        self._raw = raw
        self.deadline = deadline
        self.left = MAX_HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any, /) -> int | None:
        left_s = self.deadline.left_s()
        self._sock.settimeout(left_s if self.silence_s is None else min(left_s, self.silence_s))
        try:
            size = self._raw.readinto(room)
        except TimeoutError:
            self.deadline.left_s()  # which says it in words
            raise
        self.left -= size or 0
        if self.left < 0:
            raise TooLongError("more came than an answer may have")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


def bound(connection: http.client.HTTPConnection, deadline: Deadline, max_bytes: int) -> None:
    """Give the next answers on a connection an end."""
    connection.response_class = cast(
        "type[http.client.HTTPResponse]", partial(Answer, deadline=deadline, max_bytes=max_bytes)
    )


def pieces(connection: http.client.HTTPConnection, body: bytes, deadline: Deadline) -> Iterator[memoryview]:
    """A body, to be sent piece by piece until a deadline; its length goes into a header."""
    whole = memoryview(body)
    for at in range(0, len(body), _PIECE):
        connection.sock.settimeout(deadline.left_s())
        yield whole[at : at + _PIECE]
