"""Kafka through aiokafka: a send is awaited, and gives a future with the broker's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain, broker_at

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG_APPEND_TIME: Final = 1
_MS: Final = 1_000_000
# Of an empty message: the client's own estimate of what goes around key, value and headers.
_RECORD_OVERHEAD: Final = 100
_PRODUCER: Final = "aiokafka.producer.producer:AIOKafkaProducer"
_CONSUMER: Final = "aiokafka.consumer.consumer:AIOKafkaConsumer"


class AioKafka(Plain):
    """aiokafka: `send` (and so `send_and_wait`), batches, `getone`, `getmany`, `async for` and commits."""

    system: ClassVar = "kafka"
    package: ClassVar = "aiokafka"
    contrib: ClassVar = "opentelemetry.instrumentation.aiokafka:AIOKafkaInstrumentor"
    hooks: ClassVar[Sequence[Hook]] = (
        Hook(f"{_PRODUCER}.send", "send", "send"),
        Hook(f"{_PRODUCER}.create_batch", "create", "create", "gather"),
        Hook("aiokafka.producer.message_accumulator:BatchBuilder.append", "create", "create", "add"),
        Hook(f"{_PRODUCER}.send_batch", "send", "send", "batch"),
        Hook(f"{_CONSUMER}.__aiter__", "process", "process", "iterate"),
        Hook(f"{_CONSUMER}.getone", "receive", "poll"),
        Hook(f"{_CONSUMER}.getmany", "receive", "poll"),
        Hook(f"{_CONSUMER}.commit", "settle", "commit"),
    )

    # By private names: the client has no others for what it was given.

    def client(self, client: Any) -> Facts:
        connection = getattr(client, "client", None) or client._client  # noqa: SLF001
        facts: dict[str, str | int | bool] = {semconv.MESSAGING_CLIENT_ID: str(connection._client_id)}  # noqa: SLF001
        if getattr(client, "_group_id", None):
            facts[semconv.MESSAGING_CONSUMER_GROUP_NAME] = str(client._group_id)  # noqa: SLF001
        return {**facts, **broker_at(connection._bootstrap_servers)}  # noqa: SLF001

    def outgoing(self, call: Call) -> Sequence[Message]:
        client: Any = call["self"]
        headers: Any = call.get("headers") or []
        batch: Any = call.get("batch")
        if batch is not None:
            return [Message(str(call["topic"]))] * int(batch.record_count())
        if "client" in call:
            return [Message("", headers, room=_room_in_batch(call))] if _are_headers(headers) else ()
        if "topic" not in call:  # a commit: of these offsets, or of all that was read
            offsets: Any = call.get("offsets") or client.assignment()
            return [Message(topic) for topic in sorted({partition.topic for partition in offsets})]
        topic = call["topic"]
        if not isinstance(topic, str) or not _are_headers(headers):
            return ()  # the client will say what is wrong with it
        return [Message(topic, headers, room=_room(client, client._max_request_size, call))]  # noqa: SLF001

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        own = headers[0] or ()
        pairs = [(name, text.encode() if isinstance(text, str) else text) for name, text in own]
        return {**call, "headers": pairs}

    def is_oversized(self, error: BaseException) -> bool:
        return type(error).__name__ == "MessageSizeTooLargeError"

    def gathered(self, call: Call) -> object | None:
        return call["batch"]

    def answer(self, call: Call, result: Any) -> Facts:
        if "topic" not in call or result is None:  # a commit; or nobody answers, with acks=0
            return {}
        return _place(result.partition, -1 if "batch" in call else result.offset)

    def answers(self, call: Call, result: Any) -> Sequence[Facts | str]:
        batch: Any = call["batch"]
        if result is None:
            return ()
        return [_place(result.partition, result.offset + place) for place in range(batch.record_count())]

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        return [_message(record) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[object]:
        if type(result).__name__ == "ConsumerRecord":
            return [result]
        if isinstance(result, dict):
            return [record for records in result.values() for record in records]
        return result if isinstance(result, list) else ()


def _message(record: Any) -> Message:
    facts = dict(_place(record.partition, record.offset))
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


def _place(partition: int, offset: int) -> Facts:
    facts: dict[str, str | int | bool] = {semconv.MESSAGING_DESTINATION_PARTITION_ID: str(partition)}
    if offset >= 0:
        facts[semconv.MESSAGING_KAFKA_OFFSET] = offset
    return facts


def _are_headers(given: object) -> bool:
    """Whether the client takes these headers. We must not mend what it refuses."""
    return isinstance(given, list) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and (pair[1] is None or isinstance(pair[1], bytes))
        for pair in given
    )


def _room(client: Any, most: int, call: Call) -> int | None:
    """Bytes left of so many; None where a serializer alone knows how large the message gets."""
    used = _RECORD_OVERHEAD
    for name in ("key", "value"):
        part: Any = call.get(name)
        if part is None:
            continue
        if getattr(client, f"_{name}_serializer") is not None or not isinstance(part, (bytes, bytearray)):
            return None
        used += len(part)
    headers: Any = call.get("headers") or ()
    used += sum(len(name) + len(value or b"") + 10 for name, value in headers)
    return most - used


def _room_in_batch(call: Call) -> int | None:
    """Bytes left in the batch: ours must not be why this message is refused. A first one always fits."""
    batch: Any = call["self"]
    client: Any = call["client"]
    left = client._message_accumulator._batch_size - batch.size()  # noqa: SLF001
    return _room(client, left, call) if batch.record_count() else None
