"""WebSockets of Starlette and FastAPI: each message of a connection, both ways.

What a message brings came with it where the server has the extension (`tracekit/messaging/websocket.py`);
a browser's has none, and is an entry. The destination is the route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain
from tracekit.messaging.websocket import IN_SCOPE, MOST, Frames, can_carry, carrying

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_WEBSOCKET: Final = "starlette.websockets:WebSocket"


class Starlette(Plain):
    """Starlette's WebSocket. A message is known by the very object that a call gave."""

    system: ClassVar = "websocket"
    package: ClassVar = "starlette"
    is_plain: ClassVar = True
    hooks: ClassVar[Sequence[Hook]] = (
        Hook(f"{_WEBSOCKET}.send", "send", "send"),
        *(
            Hook(f"{_WEBSOCKET}.receive{kind}", "receive", "receive")
            for kind in ("_text", "_bytes", "_json", "")
        ),
        *(
            Hook(f"{_WEBSOCKET}.iter_{kind}", "receive", "receive", "iterate")
            for kind in ("text", "bytes", "json")
        ),
    )

    def client(self, client: Any) -> Facts:
        host, port = client.scope.get("server") or ("", None)
        facts: dict[str, str | int | bool] = {semconv.SERVER_ADDRESS: host} if host else {}
        return {**facts, semconv.SERVER_PORT: port} if host and port else facts

    def outgoing(self, call: Call) -> Sequence[Message]:
        message: Any = call["message"]
        if message.get("type") != "websocket.send":
            return ()
        can = _frames(call) is None or can_carry(message.get(_part(message)))
        return [Message(_route(call), room=MOST, slots=None if can else 0)]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        if _frames(call) is None:
            return call  # to a browser: nobody there would read it
        message: Any = call["message"]
        part = _part(message)
        return {**call, "message": {**message, part: carrying(message[part], headers[0] or ())}}

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        if call is None or not self.records(result):
            return ()
        frames = _frames(call)
        return [Message(_route(call), () if frames is None else frames.last, is_entry=frames is None)]

    def records(self, result: object) -> Sequence[object]:
        if isinstance(result, dict) and str(result.get("type")).startswith("websocket."):
            return [result[_part(result)]] if result["type"] == "websocket.receive" else ()
        return [result] if isinstance(result, (str, bytes, dict, list)) and result else ()

    def key(self, record: object) -> Hashable | None:
        return _place(record)


def _frames(call: Call) -> Frames | None:
    websocket: Any = call["self"]
    frames: Frames | None = websocket.scope.get(IN_SCOPE)
    return frames


def _part(message: Any) -> str:
    return "bytes" if message.get("bytes") is not None else "text"


def _route(call: Call) -> str:
    """The route as it was declared: a path may be another one for each connection."""
    websocket: Any = call["self"]
    scope = websocket.scope
    return str(getattr(scope.get("route"), "path", None) or scope["path"])


def _place(record: object) -> Hashable | None:
    """Where the object is: Python has one for all texts of one letter."""
    return id(record) if isinstance(record, (dict, list)) or len(record) > 1 else None  # type: ignore[arg-type]  # `records` has looked
