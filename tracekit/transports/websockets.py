"""`websockets`: each message of a connection, as client and as server, by asyncio and by threads.

What a message brings came with it where both ends have the extension (`tracekit/messaging/websocket.py`);
from any other end it has none, and is an entry. The destination is the path that was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from tracekit import semconv
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain
from tracekit.messaging.websocket import MOST, Frames, can_carry, carrying, frames_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_ASYNCIO: Final = "websockets.asyncio.connection:Connection"
_SYNC: Final = "websockets.sync.connection:Connection"


class Websockets(Plain):
    """Its connections, of either end. A message is known by the very object that a call gave.

    A message that is sent in parts goes without context; so do all of a connection after
    `recv_streaming()`.
    """

    system: ClassVar = "websocket"
    package: ClassVar = "websockets"
    is_plain: ClassVar = True
    hooks: ClassVar[Sequence[Hook]] = (
        Hook(f"{_ASYNCIO}.send", "send", "send"),
        Hook(f"{_ASYNCIO}.recv", "receive", "receive"),
        Hook(f"{_ASYNCIO}.__aiter__", "receive", "receive", "iterate"),
        Hook(f"{_SYNC}.send", "send", "send"),
        Hook(f"{_SYNC}.recv", "receive", "receive"),
        Hook(f"{_SYNC}.__iter__", "receive", "receive", "iterate"),
    )

    def client(self, client: Any) -> Facts:
        uri: Any = getattr(client.protocol, "uri", None)  # a server's has none
        return {} if uri is None else {semconv.SERVER_ADDRESS: uri.host, semconv.SERVER_PORT: uri.port}

    def outgoing(self, call: Call) -> Sequence[Message]:
        message: Any = call["message"]
        if isinstance(message, dict):
            return ()  # the client will say what is wrong with it
        can = _frames(call) is None or can_carry(message)
        return [Message(_path(call), room=MOST, slots=None if can else 0)]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        if _frames(call) is None:
            return call  # nobody at the other end would read it
        return {**call, "message": carrying(call["message"], headers[0] or ())}

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        if call is None or not self.records(result):
            return ()
        frames = _frames(call)
        return [Message(_path(call), () if frames is None else frames.last, is_entry=frames is None)]

    def records(self, result: object) -> Sequence[object]:
        return [result] if isinstance(result, (str, bytes)) and result else ()

    def key(self, record: Any) -> Hashable | None:
        return id(record) if len(record) > 1 else None  # Python has one object for all of one letter


def _frames(call: Call) -> Frames | None:
    connection: Any = call["self"]
    return frames_of(connection.protocol.extensions)


def _path(call: Call) -> str:
    connection: Any = call["self"]
    path: str = urlsplit(connection.request.path).path
    return path
