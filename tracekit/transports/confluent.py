"""Kafka through confluent-kafka: classes in C, the broker's answer by a callback, errors as messages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG_APPEND_TIME: Final = 2
_MS: Final = 1_000_000
_MAX_BYTES: Final = 1_000_000
"""`message.max.bytes` where the configuration says nothing. Source: librdkafka, CONFIGURATION.md."""
_AROUND: Final = 100
_PRODUCE: Final = (
    *("self", "topic", "value", "key", "partition", "callback", "on_delivery", "timestamp", "headers"),
)
_COMMIT: Final = ("self", "message", "offsets", "asynchronous")


class Confluent(Plain):
    """confluent-kafka 2: `Producer`, `Consumer`, their (de)serializing kin, and the asyncio producer.

    The asyncio producer takes no headers (it refuses them): what it sends has a span, and no context.
    """

    system: ClassVar = "kafka"
    package: ClassVar = "confluent_kafka"
    aliases: ClassVar = ("cimpl",)
    contrib: ClassVar = "opentelemetry.instrumentation.confluent_kafka:ConfluentKafkaInstrumentor"
    hooks: ClassVar[Sequence[Hook]] = (
        Hook("confluent_kafka:Producer.__init__", "send", "make", "make", parameters=("self", "conf")),
        Hook("confluent_kafka:Consumer.__init__", "receive", "poll", "make", parameters=("self", "conf")),
        Hook(
            "confluent_kafka:Producer.produce", "send", "send", "call", "callback|on_delivery", "", _PRODUCE
        ),
        Hook("confluent_kafka:Consumer.poll", "receive", "poll", parameters=("self", "timeout")),
        Hook(
            "confluent_kafka:Consumer.consume",
            "receive",
            "poll",
            parameters=("self", "num_messages", "timeout"),
        ),
        Hook("confluent_kafka:Consumer.commit", "settle", "commit", parameters=_COMMIT),
        Hook(
            "confluent_kafka.serializing_producer:SerializingProducer.produce",
            "send",
            "send",
            callback="on_delivery",
        ),
        Hook("confluent_kafka.serializing_producer:SerializingProducer.__init__", "send", "make", "make"),
        Hook("confluent_kafka.deserializing_consumer:DeserializingConsumer.poll", "receive", "poll"),
        Hook(
            "confluent_kafka.deserializing_consumer:DeserializingConsumer.__init__", "receive", "poll", "make"
        ),
        Hook("confluent_kafka.aio:AIOProducer.produce", "send", "send"),
    )

    def made(self, call: Call) -> Facts:
        config: Any = call["conf"]
        facts: dict[str, str | int | bool] = {}
        for key, name in (
            ("client.id", semconv.MESSAGING_CLIENT_ID),
            ("group.id", semconv.MESSAGING_CONSUMER_GROUP_NAME),
        ):
            if config.get(key):
                facts[name] = str(config[key])
        servers = str(config.get("bootstrap.servers") or config.get("metadata.broker.list") or "").split(",")
        if len(servers) == 1 and servers[0]:  # of several, nobody knows here which one answers
            host, _, port = servers[0].rpartition(":")
            facts[semconv.SERVER_ADDRESS] = host.strip("[]") or port
            if host and port.isdecimal():
                facts[semconv.SERVER_PORT] = int(port)
        return facts

    def outgoing(self, call: Call) -> Sequence[Message]:
        if "topic" not in call:
            offsets: Any = call.get("offsets") or ()
            message: Any = call.get("message")
            topics = {each.topic for each in offsets} or ({message.topic()} if message is not None else set())
            return [Message(topic) for topic in sorted(topics)] or [Message("")]
        topic, headers = call["topic"], call.get("headers")
        if not isinstance(topic, str):
            return ()  # the client will say what is wrong with it
        if "kwargs" in call or "args" in call:
            return [Message(topic, room=0)]  # of the asyncio producer
        return [Message(topic, tuple(_pairs(headers)), room=_room(call))]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        pairs = [(name, text.encode() if isinstance(text, str) else text) for name, text in headers[0] or ()]
        return {**call, "headers": dict(pairs) if isinstance(call.get("headers"), dict) else pairs}

    def is_oversized(self, error: BaseException) -> bool:
        code: Any = getattr(error.args[0], "code", None) if error.args else None
        kafka_error: Any = sys.modules["confluent_kafka"].KafkaError
        return code is not None and code() == kafka_error.MSG_SIZE_TOO_LARGE

    def listen(self, result: Any, answered: Any) -> bool:
        if not hasattr(type(result), "add_done_callback"):
            return False

        def done(future: Any) -> None:
            error = None if future.cancelled() else future.exception()
            answered(None if error else future.result(), error)

        result.add_done_callback(done)
        return True

    def told(self, arguments: Sequence[Any]) -> tuple[object, BaseException | None]:
        error, message = arguments
        return message, None if error is None else sys.modules["confluent_kafka"].KafkaException(error)

    def answer(self, call: Call, result: Any) -> Facts:
        return {} if "topic" not in call or result is None else _place(result)

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        return [_message(record) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[object]:
        found = result if isinstance(result, list) else [result]
        return [one for one in found if type(one).__name__ == "Message" and one.error() is None]


def _message(record: Any) -> Message:
    facts = dict(_place(record))
    if record.value() is None:
        facts[semconv.MESSAGING_KAFKA_MESSAGE_TOMBSTONE] = True
    kind, stamp_ms = record.timestamp()
    stamped = stamp_ms * _MS if kind and stamp_ms > 0 else None
    by_broker = kind == _LOG_APPEND_TIME
    return Message(
        record.topic(),
        tuple(_pairs(record.headers())),
        published_at_ns=stamped if by_broker else None,
        sent_at_ns=None if by_broker else stamped,
        attributes=facts,
    )


def _place(record: Any) -> Facts:
    facts: dict[str, str | int | bool] = {semconv.MESSAGING_DESTINATION_PARTITION_ID: str(record.partition())}
    if record.offset() is not None and record.offset() >= 0:
        facts[semconv.MESSAGING_KAFKA_OFFSET] = record.offset()
    return facts


def _pairs(headers: Any) -> list[tuple[str, str | bytes]]:
    """Headers as pairs; those without a value have no text for us."""
    found = headers.items() if isinstance(headers, dict) else headers or ()
    return [(name, b"" if value is None else value) for name, value in found]


def _room(call: Call) -> int | None:
    """Bytes left; None where a serializer alone knows how large it gets."""
    used = _AROUND
    for name in ("key", "value"):
        part: Any = call.get(name)
        if part is not None and not isinstance(part, (bytes, str)):
            return None
        used += len(part or b"")
    used += sum(len(name) + len(value) + 10 for name, value in _pairs(call.get("headers")))
    return _MAX_BYTES - used
