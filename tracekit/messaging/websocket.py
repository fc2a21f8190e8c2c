"""Context in the frames of a WebSocket: an extension of the protocol that both ends agree on.

A WebSocket's message has no headers, and its payload is the application's. What the protocol has for such
is extension data before the payload, told by a bit that is reserved for extensions (RFC 6455, sections 5.2
and 9). A client offers `tracekit-context` in the handshake; a server that has it too accepts, any other
ignores it. From then on the first frame of a message may have RSV2 set: then it begins with a block of
headers, which the other end takes off before anybody sees the payload. A message without context goes as
ever.

The block: its length in two bytes, then lines `name=value` in UTF-8. Why so: `RATIONALE.md`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracekit.messaging.transport import Headers

EXTENSION: Final = "tracekit-context"
IN_SCOPE: Final = "tracekit.websocket"
"""Where an ASGI server's scope has the connection's `Frames`."""
MOST: Final = 4_096
"""Bytes of headers on one message."""

_LENGTH: Final = 2
_AROUND: Final = _LENGTH + MOST
_FIRST: Final = (1, 2)  # opcodes: of text and of binary data; what continues a message is 0
_CONTROL: Final = 8


class _Text(str):
    """A text with headers on its way to the frame that takes them."""

    headers: Headers

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        data = _Data(super().encode(encoding, errors))
        data.headers = self.headers
        return data


class _Data(bytes):
    headers: Headers


def _with(data: Any, headers: Headers) -> Any:
    data.headers = headers
    return data


def can_carry(data: object) -> bool:
    """Whether headers can go with a message: not where the application gives it in parts."""
    return type(data) in (str, bytes, bytearray, memoryview)


def carrying(data: object, headers: Headers) -> object:
    """The same data, with headers on the way to its frame."""
    return _with(_Text(data) if isinstance(data, str) else _Data(data), headers)  # type: ignore[call-overload]  # `can_carry` has looked


class Frames:
    """The extension on one connection. `last`: the headers of the message that was taken last."""

    name = EXTENSION

    def __init__(self, is_on: Callable[[], bool]) -> None:
        self._is_on = is_on
        self._arrived: deque[Headers] = deque()  # of messages in the client's own queue, which is bounded
        self._last: Headers = ()
        self._is_lost = False

    @property
    def last(self) -> Headers:
        return self._last if self._is_on() else ()

    def take(self) -> None:
        """The application takes the next message."""
        self._last = self._arrived.popleft() if self._arrived else ()

    def lose(self) -> None:
        """Messages are taken in parts from now on: nobody knows any more which are whose headers."""
        self._is_lost, self._last = True, ()
        self._arrived.clear()

    def encode(self, frame: Any) -> Any:
        """The frame as it is sent."""
        if frame.opcode not in _FIRST or not isinstance(frame.data, _Data):
            return frame
        lines = [f"{name}={value}" for name, value in _texts(frame.data.headers)]
        block = "\n".join(lines).encode()
        if not block or len(block) > MOST:
            return frame
        data = b"".join((len(block).to_bytes(_LENGTH), block, frame.data))
        return replace(frame, data=data, rsv2=True)

    def decode(self, frame: Any, *, max_size: int | None = None) -> Any:
        """The frame as it was before it was sent."""
        if frame.opcode >= _CONTROL:
            return frame
        headers: Headers = ()
        if frame.opcode in _FIRST and frame.rsv2:
            end = _LENGTH + int.from_bytes(bytes(frame.data[:_LENGTH]))
            if end > min(len(frame.data), _AROUND):
                from websockets.exceptions import ProtocolError

                raise ProtocolError(f"{EXTENSION}: a block of headers that is longer than its frame")
            block = bytes(frame.data[_LENGTH:end]).decode("utf-8", "replace")
            headers = [
                (name, value) for name, _, value in (line.partition("=") for line in block.split("\n"))
            ]
            frame = replace(frame, data=frame.data[end:], rsv2=False)
        if max_size is not None and len(frame.data) > max_size - _AROUND:
            from websockets.exceptions import PayloadTooBig

            raise PayloadTooBig(len(frame.data), max_size - _AROUND)
        if frame.opcode in _FIRST and self._is_on() and not self._is_lost:
            self._arrived.append(headers)
        return frame


class Factory:
    """What offers the extension for one connection, as client and as server."""

    name = EXTENSION

    def __init__(self, protocol: Any, is_on: Callable[[], bool]) -> None:
        self._protocol = protocol
        self._is_on = is_on

    def get_request_params(self) -> Sequence[object]:
        return ()

    def process_response_params(self, params: Sequence[object], accepted: Sequence[Any]) -> Frames:
        """The client's, of a server that has accepted."""
        if params or frames_of(accepted) is not None:
            from websockets.exceptions import NegotiationError

            raise NegotiationError(f"{EXTENSION}: once, and without parameters")
        # A peer's headers are no part of what the application limits; `decode` holds its limit.
        protocol = self._protocol
        for limit in ("max_message_size", "max_fragment_size"):
            if (size := getattr(protocol, limit)) is not None:
                setattr(protocol, limit, size + _AROUND)
        return Frames(self._is_on)

    def process_request_params(
        self, params: Sequence[object], accepted: Sequence[Any]
    ) -> tuple[list[object], Frames]:
        """The server's, of a client that offers it."""
        return [], self.process_response_params(params, accepted)


def frames_of(extensions: Sequence[Any]) -> Frames | None:
    """Ours among a connection's extensions."""
    return next((one for one in extensions if isinstance(one, Frames)), None)


def _texts(headers: Headers) -> Sequence[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else value.decode("utf-8", "replace"))
        for name, value in headers
        if "\n" not in name and (b"\n" if isinstance(value, bytes) else "\n") not in value  # type: ignore[operator]  # of its own kind
    ]
