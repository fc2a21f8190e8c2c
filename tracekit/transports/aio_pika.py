"""RabbitMQ through aio-pika: messages are objects that settle themselves, a queue gives iterators."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging import rabbitmq
from tracekit.messaging.transport import Answered, Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_MESSAGE: Final = "aio_pika.message:IncomingMessage"
_NS: Final = 1_000_000_000
_ID_BYTES: Final = 33
"""Of the id that the client gives to messages without one. Source: aiormq, `Channel.basic_publish`."""


class AioPika(Plain):
    """aio-pika 10: `Exchange.publish`, and queues by handler, by `get()` and by iterator.

    A send ends with the broker's answer. A message that it gave back, as no queue takes it, was not sent.
    """

    system: ClassVar = "rabbitmq"
    package: ClassVar = "aio_pika"
    contrib: ClassVar = "opentelemetry.instrumentation.aio_pika:AioPikaInstrumentor"
    hooks: ClassVar[Sequence[Hook]] = (
        Hook("aio_pika.exchange:Exchange.publish", "send", "publish"),
        Hook("aio_pika.queue:Queue.consume", "process", "process", "callback", "callback"),
        Hook("aio_pika.queue:Queue.get", "receive", "get"),
        Hook("aio_pika.queue:Queue.iterator", "process", "process", "iterate"),
        Hook("aio_pika.robust_queue:RobustQueue.iterator", "process", "process", "iterate"),
        Hook(f"{_MESSAGE}.process", "process", "process", "block"),
        *(Hook(f"{_MESSAGE}.{verb}", "settle", verb) for verb in ("ack", "nack", "reject")),
    )

    def client(self, client: Any) -> Facts:
        # A message has the connection below that of its queue; both know where they lead.
        is_below = type(client).__module__.startswith("aiormq")
        url: Any = client.url if is_below else client.channel._connection.url  # noqa: SLF001 - no public way
        return {semconv.SERVER_ADDRESS: url.host, semconv.SERVER_PORT: url.port or rabbitmq.PORT}

    def owner(self, record: Any) -> object:
        return record._IncomingMessage__channel.connection  # noqa: SLF001 - the public way raises when closed

    def outgoing(self, call: Call) -> Sequence[Message]:
        client: Any = call["self"]
        if "message" not in call:
            return [Message("", attributes=rabbitmq.settling(client.delivery_tag, call.get("requeue")))]
        message: Any = call["message"]
        key, headers = call.get("routing_key"), getattr(message, "headers", None)
        if not (isinstance(key, str) and isinstance(headers, dict)):
            return ()  # the client will say what is wrong with it
        return [
            Message(
                rabbitmq.destination(client.name, key),
                tuple(headers.items()),
                id=message.message_id or None,
                room=_room(client, message) if headers else None,
                attributes=rabbitmq.facts(key, message.correlation_id),
            )
        ]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        message = _copied(call["message"])
        object.__setattr__(message, "headers", dict(headers[0] or ()))  # also of one that is locked
        return {**call, "message": message}

    def listen(self, result: Any, answered: Answered) -> bool:
        if type(result).__name__ != "DeliveredMessage":
            return False
        answered(None, sys.modules["aio_pika.exceptions"].PublishError(result, result.delivery))
        return True

    def is_nothing(self, error: BaseException) -> bool:
        return type(error).__name__ == "QueueEmpty"

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        queue = getattr((call or {}).get("self"), "name", "")
        return [_message(record, queue) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[object]:
        found = result if isinstance(result, list) else [result]
        return [one for one in found if type(one).__name__ == "IncomingMessage"]

    def key(self, record: Any) -> Hashable | None:
        return id(record), record.delivery_tag, record.exchange, record.routing_key


def _copied(message: Any) -> object:
    """The same message again. Its own `__copy__` makes a plain one of the application's class."""
    copied = object.__new__(type(message))
    in_dict, in_slots = state if isinstance(state := message.__getstate__(), tuple) else (state, None)
    for name, value in {**(in_dict or {}), **(in_slots or {})}.items():
        object.__setattr__(copied, name, value)
    return copied


def _message(record: Any, queue: str) -> Message:
    stamped = record.timestamp
    return rabbitmq.delivered(
        record, queue, record, None if stamped is None else int(stamped.timestamp()) * _NS
    )


def _room(exchange: Any, message: Any) -> int | None:
    """Bytes left in the one frame that all properties must fit in; None where the client cannot tell."""
    try:
        used = len(message.properties.marshal()) + (0 if message.message_id else _ID_BYTES)
        tune: Any = exchange.channel._connection.transport.connection.connection_tune  # noqa: SLF001 - as above
    except Exception:  # noqa: BLE001 - it will say itself what it cannot encode, or that it is not connected
        return None
    return rabbitmq.room(tune.frame_max, used)
