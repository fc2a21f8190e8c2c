"""Kafka through kafka-python: headers are pairs of text and bytes, the answer is a future."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeGuard

from tracekit import semconv
from tracekit.messaging.transport import Answered, Call, Facts, Headers, Hook, Message, Plain, broker_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LOG_APPEND_TIME: Final = 1
_MS: Final = 1_000_000
_HEADERS: Final = (list, type(None))
_BYTES: Final = (bytes, bytearray, memoryview)
_HEADERS_SINCE: Final = (0, 11)
# A record of an empty message: the client's own estimate of what goes around key, value and headers.
_RECORD_OVERHEAD: Final = 100


class KafkaPython(Plain):
    """kafka-python 3: `KafkaProducer.send`, `KafkaConsumer.poll`, iteration and commits."""

    system: ClassVar = "kafka"
    package: ClassVar = "kafka"
    contrib: ClassVar = "opentelemetry.instrumentation.kafka:KafkaInstrumentor"
    hooks: ClassVar[Sequence[Hook]] = (
        Hook("kafka.producer.kafka:KafkaProducer.send", "send", "send"),
        Hook("kafka.producer.future:FutureRecordMetadata.add_callback", "send", "send", "carry", "f"),
        Hook("kafka.producer.future:FutureRecordMetadata.add_errback", "send", "send", "carry", "f"),
        Hook("kafka.producer.producer_batch:ProducerBatch.retry", "send", "send", "retry"),
        # A batch too large for the broker is sent again in halves, without a call of `retry`.
        Hook(
            "kafka.producer.record_accumulator:RecordAccumulator.split_and_reenqueue", "send", "send", "retry"
        ),
        Hook("kafka.consumer.group:KafkaConsumer.__iter__", "process", "process", "iterate"),
        Hook("kafka.consumer.group:KafkaConsumer.__next__", "receive", "poll"),
        Hook("kafka.consumer.group:KafkaConsumer.poll", "receive", "poll"),
        Hook("kafka.consumer.group:KafkaConsumer.commit", "settle", "commit"),
        Hook("kafka.consumer.group:KafkaConsumer.commit_async", "settle", "commit"),
    )

    def client(self, client: Any) -> Facts:
        config: Mapping[str, Any] = client.config
        facts: dict[str, str | int | bool] = {semconv.MESSAGING_CLIENT_ID: str(config["client_id"])}
        if config.get("group_id"):
            facts[semconv.MESSAGING_CONSUMER_GROUP_NAME] = str(config["group_id"])
        return {**facts, **broker_at(config["bootstrap_servers"])}

    def outgoing(self, call: Call) -> Sequence[Message]:
        client: Any = call["self"]
        if "topic" not in call:  # a commit: of these offsets, or of all that was read
            offsets: Any = call.get("offsets") or client.assignment()
            topics = sorted({partition.topic for partition in offsets})
            return [Message(topic) for topic in topics] or [Message("")]
        topic, headers = call["topic"], call.get("headers")
        if not isinstance(topic, str) or not _are_headers(headers):
            return ()  # the client will say what is wrong with it
        return [Message(topic, tuple(headers or ()), room=_room(client.config, call))]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        own = headers[0] or ()
        pairs = [(name, text.encode() if isinstance(text, str) else text) for name, text in own]
        return {**call, "headers": pairs}

    def is_oversized(self, error: BaseException) -> bool:
        return type(error).__name__ == "MessageSizeTooLargeError"

    def listen(self, result: Any, answered: Answered) -> bool:
        Future: Any = sys.modules["kafka.future"].Future  # noqa: N806 - a class
        if not isinstance(result, Future):
            return False
        # By the base class: this callback is ours, and needs nobody's context.
        Future.add_callback(result, answered)
        Future.add_errback(result, functools.partial(answered, None))
        return True

    def resent(self, call: Call) -> Sequence[tuple[object, Sequence[object]]]:
        # By private names: the client has no others for it.
        batch: Any = call.get("batch", call["self"])
        return [
            (future, future._callbacks)  # noqa: SLF001
            for future in batch._record_futures  # noqa: SLF001
            if not future.is_done
        ]

    def answer(self, call: Call, result: Any) -> Facts:
        if "topic" not in call or result is None:
            return {}
        client: Any = call["self"]
        facts: dict[str, str | int | bool] = {
            semconv.MESSAGING_DESTINATION_PARTITION_ID: str(result.partition)
        }
        # Where nobody answers, the client makes an offset up: a record's place in its batch.
        if result.offset is not None and result.offset >= 0 and client.config["acks"] != 0:
            facts[semconv.MESSAGING_KAFKA_OFFSET] = result.offset
        return facts

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        return [_message(record) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[object]:
        if type(result).__name__ == "ConsumerRecord":
            return [result]
        if isinstance(result, dict):
            return [record for records in result.values() for record in records]
        return result if isinstance(result, list) else ()


def _message(record: Any) -> Message:
    facts: dict[str, str | int | bool] = {
        semconv.MESSAGING_DESTINATION_PARTITION_ID: str(record.partition),
        semconv.MESSAGING_KAFKA_OFFSET: record.offset,
    }
    if record.value is None:
        facts[semconv.MESSAGING_KAFKA_MESSAGE_TOMBSTONE] = True
    stamped = None if record.timestamp is None else record.timestamp * _MS
    by_broker = record.timestamp_type == _LOG_APPEND_TIME
    return Message(
        record.topic,
        record.headers or (),
        published_at_ns=stamped if by_broker else None,
        sent_at_ns=None if by_broker else stamped,
        attributes=facts,
    )


def _are_headers(given: object) -> TypeGuard[list[tuple[str, bytes]] | None]:
    """Whether the client takes these headers. We must not mend what it refuses."""
    return given is None or (
        isinstance(given, list)
        and all(
            isinstance(pair, tuple)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], bytes)
            for pair in given
        )
    )


def _room(config: Mapping[str, Any], call: Call) -> int | None:
    """Bytes left under `max_request_size`; None where a serializer alone knows how large it gets."""
    if config["api_version"] < _HEADERS_SINCE:
        return 0
    used = _RECORD_OVERHEAD
    for name in ("key", "value"):
        part = call.get(name)
        if part is None:
            continue
        if config[f"{name}_serializer"] is not None or not isinstance(part, _BYTES):
            return None
        used += len(part)
    headers: Any = call.get("headers") or ()
    used += sum(len(name) + len(value) + 10 for name, value in headers)
    return int(config["max_request_size"]) - used
