"""ActiveMQ through stomp.py: headers are text, and a handler is whatever object listens to the connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Sequence

_MS: Final = 1_000_000
# 2010 to 2100: a timestamp that its sender made up may be any number.
_SINCE_MS: Final = 1_262_304_000_000
_UNTIL_MS: Final = 4_102_444_800_000
_MAX_LINE: Final = 10_240
_MAX_HEADERS: Final = 1_000
"""Source: ActiveMQ Classic, StompWireFormat. What is over them closes the connection."""
_AROUND: Final = 3  # destination, content-length, content-type
_LONGEST_NAME: Final = len("tracekit-flow:\n")
_ESCAPES: Final = {":": 1, "\\": 1, "\n": 1, "\r": 1}
# The client does not escape, the broker does the other way: what has one arrives as something else.
_ESCAPES_OF_1_0: Final = {"\\": _MAX_LINE}
_MADE_BY_BROKER: Final = ":-1:"
"""In the id of a message that came by STOMP: the broker made it, and its timestamp, in the sender's stead."""
_PROTOCOL: Final = "stomp.protocol:Protocol"


class Stomp(Plain):
    """stomp.py 9, in all versions of the protocol: `send`, `on_message`, `ack` and `nack`.

    A send ends once the client took it: without a receipt, nobody hears more.
    """

    system: ClassVar = "activemq"
    package: ClassVar = "stomp"
    hooks: ClassVar[Sequence[Hook]] = (
        Hook(f"{_PROTOCOL}10.send", "send", "send"),
        Hook(f"{_PROTOCOL}11.send", "send", "send"),
        Hook(
            "stomp.transport:BaseTransport.notify",
            "process",
            "process",
            "deliver",
            only="frame_type=message",
        ),
        *(Hook(f"{_PROTOCOL}{version}.ack", "settle", "ack") for version in (10, 11, 12)),
        *(Hook(f"{_PROTOCOL}{version}.nack", "settle", "nack") for version in (11, 12)),
    )

    def client(self, client: Any) -> Facts:
        connection: Any = getattr(client, "transport", client)
        hosts: Any = getattr(connection, "_Transport__host_and_ports", ())
        if len(hosts) != 1:  # of several, nobody knows here which one answers
            return {}
        ((host, port),) = hosts
        return {semconv.SERVER_ADDRESS: str(host), semconv.SERVER_PORT: int(port)}

    def outgoing(self, call: Call) -> Sequence[Message]:
        if "destination" not in call:
            return [Message("")]  # the message in process: what it is called differs with the version
        client: Any = call["self"]
        destination, given = call["destination"], call.get("headers")
        if not isinstance(destination, str) or not isinstance(given, Mapping | None):
            return ()  # the client will say what is wrong with it
        named: Any = call.get("keyword_headers") or {}
        merged: Mapping[str, object] = {**(given or {}), **named}
        used = sum(len(value) if isinstance(value, tuple) else 1 for value in merged.values())
        return [
            Message(
                destination,
                [(name, value) for name, value in merged.items() if isinstance(value, str)],
                slots=max(0, _MAX_HEADERS - _AROUND - used),
                most=_MAX_LINE - _LONGEST_NAME,
                escapes=_ESCAPES if client.version != "1.0" else _ESCAPES_OF_1_0,
            )
        ]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        ours = dict(headers[0] or ())
        given: Any = call.get("headers") or {}
        named: Any = call.get("keyword_headers") or {}
        kept = {name: value for name, value in named.items() if name not in ours}
        return {**call, "headers": {**given, **ours}, "keyword_headers": kept}

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        return [_message(record.headers) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[Any]:
        frames = result.get("frame") if isinstance(result, Mapping) else result
        frames = frames if isinstance(frames, list | tuple) else [frames]
        return [one for one in frames if type(one).__name__ == "Frame" and _is_message(one)]


def _is_message(frame: Any) -> bool:
    # Who browses a queue is told of its end in the same way.
    return bool(frame.cmd == "MESSAGE" and frame.headers.get("browser") != "end")


def _message(headers: Mapping[str, str]) -> Message:
    id_, stamp = headers.get("message-id", ""), headers.get("timestamp", "")
    stamped_ms = int(stamp) if stamp.isascii() and stamp.isdecimal() else 0
    stamped = stamped_ms * _MS if _SINCE_MS <= stamped_ms <= _UNTIL_MS else None
    by_broker = _MADE_BY_BROKER in id_
    facts: dict[str, str | int | bool] = {}
    if "correlation-id" in headers:
        facts[semconv.MESSAGING_MESSAGE_CONVERSATION_ID] = headers["correlation-id"]
    is_again = headers.get("redelivered") == "true"
    if is_again:
        facts[semconv.REDELIVERED] = True
    return Message(
        headers.get("destination", ""),
        [*headers.items()],
        id=id_ or None,
        published_at_ns=stamped if by_broker else None,
        sent_at_ns=None if by_broker else stamped,
        delivery_attempt=None if is_again else 1,  # it says that there was one before, not how many
        attributes=facts,
    )
