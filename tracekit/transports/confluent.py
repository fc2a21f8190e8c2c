"""Kafka through confluent-kafka: classes in C, the broker's answer by a callback, errors as messages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging.transport import (
    Answered,
    Call,
    Facts,
    Headers,
    Hook,
    Message,
    Plain,
    Telling,
    broker_at,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG_APPEND_TIME: Final = 2
_MS: Final = 1_000_000
_MAX_BYTES: Final = 1_000_000
"""`message.max.bytes` where the configuration says nothing. Source: librdkafka, CONFIGURATION.md."""
_AROUND: Final = 100
_CLIENT_ID: Final = "rdkafka"
"""`client.id` where the configuration says nothing. Source: the same."""
_MADE: Final = ("self", "conf", "**further")
_PRODUCE: Final = (
    *("self", "topic", "value", "key", "partition", "callback", "on_delivery", "timestamp", "headers"),
)
_POLL: Final = ("self", "timeout")
_CONSUME: Final = ("self", "num_messages", "timeout")
_COMMIT: Final = ("self", "message", "offsets", "asynchronous")
_SERIALIZING: Final = "confluent_kafka.serializing_producer:SerializingProducer"
_DESERIALIZING: Final = "confluent_kafka.deserializing_consumer:DeserializingConsumer"
_ASYNC: Final = "confluent_kafka.aio"


class Confluent(Plain):
    """confluent-kafka 2: `Producer`, `Consumer`, their (de)serializing kin, and their asyncio kin.

    The asyncio producer takes no headers (it refuses them): what it sends has a span, and no context.
    """

    system: ClassVar = "kafka"
    package: ClassVar = "confluent_kafka"
    aliases: ClassVar[Sequence[str]] = ("cimpl",)
    contrib: ClassVar = "opentelemetry.instrumentation.confluent_kafka:ConfluentKafkaInstrumentor"
    hooks: ClassVar[Sequence[Hook]] = (
        Hook("confluent_kafka:Producer.__init__", "send", "send", "make", parameters=_MADE),
        Hook("confluent_kafka:Consumer.__init__", "receive", "poll", "make", parameters=_MADE),
        Hook(
            "confluent_kafka:Producer.produce",
            "send",
            "send",
            callback="callback|on_delivery",
            parameters=_PRODUCE,
        ),
        Hook("confluent_kafka:Consumer.poll", "receive", "poll", parameters=_POLL),
        Hook("confluent_kafka:Consumer.consume", "receive", "poll", parameters=_CONSUME),
        Hook("confluent_kafka:Consumer.commit", "settle", "commit", parameters=_COMMIT),
        Hook(f"{_SERIALIZING}.__init__", "send", "send", "make"),
        Hook(f"{_SERIALIZING}.produce", "send", "send", callback="on_delivery"),
        Hook(f"{_DESERIALIZING}.__init__", "receive", "poll", "make"),
        Hook(f"{_DESERIALIZING}.poll", "receive", "poll"),
        Hook(f"{_DESERIALIZING}.commit", "settle", "commit", parameters=_COMMIT),
        Hook(f"{_ASYNC}:AIOProducer.__init__", "send", "send", "make"),
        Hook(f"{_ASYNC}:AIOProducer.produce", "send", "send"),
        Hook(f"{_ASYNC}:AsyncSerializingProducer.produce", "send", "send"),
        Hook(f"{_ASYNC}:AIOConsumer.__init__", "receive", "poll", "make"),
        Hook(f"{_ASYNC}:AIOConsumer.poll", "receive", "poll", parameters=_POLL),
        Hook(f"{_ASYNC}:AIOConsumer.consume", "receive", "poll", parameters=_CONSUME),
        Hook(f"{_ASYNC}:AIOConsumer.commit", "settle", "commit", parameters=_COMMIT),
        Hook(f"{_ASYNC}:AsyncDeserializingConsumer.poll", "receive", "poll"),
        Hook(f"{_ASYNC}:AsyncDeserializingConsumer.consume", "receive", "poll"),
        # They have a client that blocks, for their threads: what is called there belongs to the call.
        Hook(f"{_ASYNC}._common:async_call", "receive", "poll", "carry", "blocking_task"),
    )

    def made(self, call: Call) -> Facts:
        config = _config(call)
        facts: dict[str, str | int | bool] = {
            semconv.MESSAGING_CLIENT_ID: str(config.get("client.id") or _CLIENT_ID)
        }
        if config.get("group.id"):
            facts[semconv.MESSAGING_CONSUMER_GROUP_NAME] = str(config["group.id"])
        servers = config.get("bootstrap.servers") or config.get("metadata.broker.list") or ""
        return {**facts, **broker_at(str(servers))}

    def telling(self, call: Call | None) -> Telling:
        if call is None:
            return Telling(None, "named")
        config = _config(call)
        only_failures = str(config.get("delivery.report.only.error", False)).lower() in ("true", "t", "1")
        return Telling(config.get("on_delivery"), "failures" if only_failures else "all")

    def outgoing(self, call: Call) -> Sequence[Message]:
        if "topic" not in call:
            offsets: Any = call.get("offsets") or ()
            message: Any = call.get("message")
            topics = {each.topic for each in offsets} or ({message.topic()} if message is not None else set())
            return [Message(topic) for topic in sorted(topics)] or [Message("")]
        topic, headers = call["topic"], call.get("headers")
        if not isinstance(topic, str) or not _are_headers(headers):
            return ()  # the client will say what is wrong with it
        if any(kind.__name__ == "AIOProducer" for kind in type(call["self"]).__mro__):
            return [Message(topic, room=0)]
        return [Message(topic, tuple(_pairs(headers)), room=_room(call))]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        pairs = [(name, text.encode() if isinstance(text, str) else text) for name, text in headers[0] or ()]
        return {**call, "headers": dict(pairs) if isinstance(call.get("headers"), dict) else pairs}

    def is_oversized(self, error: BaseException) -> bool:
        code: Any = getattr(error.args[0], "code", None) if error.args else None
        kafka_error: Any = sys.modules["confluent_kafka"].KafkaError
        return code is not None and code() == kafka_error.MSG_SIZE_TOO_LARGE

    def told(self, arguments: Sequence[Any]) -> tuple[object, BaseException | None]:
        error, message = arguments
        return message, None if error is None else sys.modules["confluent_kafka"].KafkaException(error)

    def listen(self, result: Any, answered: Answered) -> bool:
        # A commit that waits: what became of each partition stands in its answer.
        failed = [one.error for one in result if one.error] if isinstance(result, list) else []
        if failed:
            answered(None, sys.modules["confluent_kafka"].KafkaException(failed[0]))
        return bool(failed)

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
    stamped = stamp_ms * _MS if kind else None
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


def _config(call: Call) -> dict[str, Any]:
    """What a client is made with: in a dict, by further keywords, or both."""
    given: Any = call.get("conf") or call.get("producer_conf") or call.get("consumer_conf") or {}
    further: Any = call.get("further") or {}
    return {**given, **further}


def _are_headers(given: Any) -> bool:
    """Whether the client takes these headers. We must not mend what it refuses."""
    if given is None:
        return True
    pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list) else [None]
    return all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and (pair[1] is None or isinstance(pair[1], (bytes, str)))
        for pair in pairs
    )


def _pairs(headers: Any) -> list[tuple[str, str | bytes]]:
    """Headers as pairs. A value may be None."""
    return [*headers.items()] if isinstance(headers, dict) else [*(headers or ())]


def _room(call: Call) -> int | None:
    """Bytes left; None where a serializer, or the configuration, alone knows."""
    used = _AROUND
    for name in ("key", "value"):
        part: Any = call.get(name)
        if part is not None and not isinstance(part, (bytes, str)):
            return None
        used += len(part.encode() if isinstance(part, str) else part or b"")
    used += sum(len(name) + len(value or b"") + 10 for name, value in _pairs(call.get("headers")))
    return _MAX_BYTES - used if used <= _MAX_BYTES else None
