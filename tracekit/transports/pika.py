"""RabbitMQ through pika: headers are a table among the properties, and a message is a tuple."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging import rabbitmq
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_BLOCKING: Final = "pika.adapters.blocking_connection:BlockingChannel"
_CHANNEL: Final = "pika.channel:Channel"
_DELIVERIES: Final = ("Deliver", "GetOk")
_NS: Final = 1_000_000_000


class Pika(Plain):
    """pika 1: the blocking channel (handlers, `basic_get`, the loop over `consume`) and the callback one.

    A message is `(method, properties, body)`. A send ends with the broker's answer where the channel waits
    for it: the blocking one, after `confirm_delivery()`.
    """

    system: ClassVar = "rabbitmq"
    package: ClassVar = "pika"
    contrib: ClassVar = "opentelemetry.instrumentation.pika:PikaInstrumentor"
    hooks: ClassVar[Sequence[Hook]] = (
        *(Hook(f"{channel}.basic_publish", "send", "publish") for channel in (_BLOCKING, _CHANNEL)),
        Hook(f"{_BLOCKING}.basic_consume", "process", "process", "callback", "on_message_callback"),
        Hook(f"{_CHANNEL}.basic_consume", "process", "process", "callback", "on_message_callback"),
        Hook(f"{_CHANNEL}.basic_get", "process", "process", "callback", "callback"),
        Hook(f"{_BLOCKING}.basic_get", "receive", "get"),
        Hook(f"{_BLOCKING}.consume", "process", "process", "iterate"),
        *(
            Hook(f"{channel}.basic_{verb}", "settle", verb)
            for channel in (_BLOCKING, _CHANNEL)
            for verb in ("ack", "nack", "reject")
        ),
    )

    def client(self, client: Any) -> Facts:
        parameters: Any = _parameters(client)
        facts = {semconv.SERVER_ADDRESS: parameters.host, semconv.SERVER_PORT: parameters.port}
        if name := (parameters.client_properties or {}).get("connection_name"):
            facts[semconv.MESSAGING_CLIENT_ID] = str(name)
        return facts

    def outgoing(self, call: Call) -> Sequence[Message]:
        if "exchange" not in call:
            return [Message("", attributes=rabbitmq.settling(call.get("delivery_tag"), call.get("requeue")))]
        exchange, key, properties = call["exchange"], call.get("routing_key"), call.get("properties")
        headers: Any = getattr(properties, "headers", None) or {}
        if not (isinstance(exchange, str) and isinstance(key, str) and isinstance(headers, dict)):
            return ()  # the client will say what is wrong with it
        return [
            Message(
                rabbitmq.destination(exchange, key),
                tuple(headers.items()),
                id=getattr(properties, "message_id", None) or None,
                room=_room(call["self"], properties) if headers else None,
                attributes=rabbitmq.facts(key, getattr(properties, "correlation_id", None)),
            )
        ]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        given: Any = call.get("properties")
        properties = sys.modules["pika.spec"].BasicProperties() if given is None else copy.copy(given)
        properties.headers = dict(headers[0] or ())
        return {**call, "properties": properties}

    def receipt(self, message: Message) -> Hashable | None:
        return message.attributes.get(semconv.MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG)

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        queue = str((call or {}).get("queue") or "")
        return [_message(record, queue) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[object]:
        found = result if isinstance(result, list) else [result]
        # A handler is given the channel too.
        return [
            one[-3:]
            for one in found
            if isinstance(one, tuple) and len(one) in (3, 4) and type(one[-3]).__name__ in _DELIVERIES
        ]

    def key(self, record: Any) -> Hashable | None:
        method = record[0]
        return id(method), method.delivery_tag, method.exchange, method.routing_key


def _message(record: Any, queue: str) -> Message:
    method, properties, _ = record
    seconds = properties.timestamp
    return rabbitmq.delivered(
        method, queue, properties, seconds * _NS if isinstance(seconds, int) and seconds else None
    )


def _parameters(channel: Any) -> Any:
    """The settings of its connection. A blocking channel has another one within."""
    return getattr(channel, "_impl", channel).connection.params


def _room(channel: object, properties: Any) -> int | None:
    """Bytes left in the one frame that all properties must fit in; None where the client cannot tell."""
    try:
        used = sum(len(piece) for piece in properties.encode())
    except Exception:  # noqa: BLE001 - it will say itself what it cannot encode
        return None
    return rabbitmq.room(_parameters(channel).frame_max, used)
