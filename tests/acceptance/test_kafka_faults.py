"""Kafka when it does not go well: brokers that refuse and hang up, handlers that are cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaError
from opentelemetry import context as otel
from opentelemetry import trace
from tracekit_demo.broker import DISCONNECT, embedded_broker

import tracekit
from tests.acceptance.kafka_rig import DEADLINE_S, PRODUCER, answered, context_headers, named, points, the
from tracekit.model import Status

if TYPE_CHECKING:
    from tests.acceptance.kafka_rig import Topic
    from tests.brokers import Kafka
    from tracekit.testing import Captured

PRODUCE, FETCH = 0, 1
NOT_LEADER, TOPIC_AUTHORIZATION_FAILED, MESSAGE_TOO_LARGE = 6, 29, 10


@pytest.mark.parametrize(
    "errors",
    [[NOT_LEADER], [NOT_LEADER, NOT_LEADER, NOT_LEADER], [DISCONNECT], [NOT_LEADER, DISCONNECT, NOT_LEADER]],
    ids=["not leader", "not leader thrice", "disconnect", "both"],
)
def test_reliability_case_16_a_send_that_is_tried_again_is_one_span_and_ends_well(
    kafka: Kafka, flows: Captured, errors: list[int]
) -> None:
    with embedded_broker(["orders"], partitions=1) as broker:
        producer = kafka.producer(**broker.settings, retry_backoff_ms=10, reconnect_backoff_ms=10)
        producer.partitions_for("orders")
        broker.fail(PRODUCE, *errors)
        answer = answered(producer.send("orders", b"an order"))
        producer.close()

    span = the(flows, "send orders")
    assert (span.kind, span.status, span.events) == (PRODUCER, Status.UNSET, ())
    assert span.attributes["messaging.kafka.offset"] == answer.offset
    assert "error.type" not in span.attributes
    ((labels, number, _),) = points(flows, "messaging.client.sent.messages")
    assert ("error.type" in labels, number) == (False, 1)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (TOPIC_AUTHORIZATION_FAILED, "TopicAuthorizationFailedError"),
        (MESSAGE_TOO_LARGE, "MessageSizeTooLargeError"),
    ],
)
def test_reliability_case_16_what_the_broker_refuses_is_an_error_once_the_future_fails(
    kafka: Kafka, flows: Captured, error: int, name: str
) -> None:
    with embedded_broker(["orders"], partitions=1) as broker:
        producer = kafka.producer(**broker.settings, retry_backoff_ms=10)
        producer.partitions_for("orders")
        broker.fail(PRODUCE, NOT_LEADER, error)
        future = producer.send("orders", b"an order")
        with pytest.raises(KafkaError) as raised:
            future.get(DEADLINE_S)
        producer.close()

    span = the(flows, "send orders")
    assert type(raised.value).__name__ == name
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, name)


def test_reliability_case_16_a_message_that_is_fetched_again_is_one_processing(
    kafka: Kafka, flows: Captured
) -> None:
    with embedded_broker(["orders"], partitions=1) as broker:
        producer = kafka.producer(**broker.settings)
        answered(producer.send("orders", b"an order"))
        consumer = kafka.consumer("orders", **broker.settings, reconnect_backoff_ms=10)
        broker.fail(FETCH, NOT_LEADER, DISCONNECT)
        with tracekit.process(next(consumer)):
            pass
        producer.close()
        consumer.close()

    sent = the(flows, "send orders")
    processed = the(flows, "process orders")
    assert (processed.trace_id, processed.status) == (sent.trace_id, Status.UNSET)


def test_reliability_case_15_a_message_whose_task_is_cancelled_is_ended_and_not_acknowledged(
    topic: Topic, flows: Captured
) -> None:
    topic.put(b"one", b"two", headers=context_headers())
    consumer = topic.consumer(enable_auto_commit=False)
    one, two = topic.polled(2, consumer)
    spans: dict[str, Any] = {}

    async def handle(record: Any, entered: asyncio.Event, go_on: asyncio.Event) -> None:
        async with tracekit.process(record):
            entered.set()
            await go_on.wait()
            spans[record.value.decode()] = trace.get_current_span()

    async def main() -> None:
        before = otel.get_current()
        entered, go_on = [asyncio.Event(), asyncio.Event()], asyncio.Event()
        tasks = [
            asyncio.create_task(handle(record, event, go_on))
            for record, event in zip((one, two), entered, strict=True)
        ]
        for event in entered:
            await event.wait()
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert otel.get_current() is before
        go_on.set()  # the other one goes on in its own context
        await tasks[1]

    asyncio.run(main())

    first, second = named(flows, f"process {topic.name}")
    if first.attributes["messaging.kafka.offset"] != one.offset:
        first, second = second, first
    assert (first.status, first.attributes.get("tracekit.cancelled")) == (Status.UNSET, True)
    assert "tracekit.cancelled" not in second.attributes
    assert list(spans) == ["two"]
    assert f"{spans['two'].get_span_context().span_id:016x}" == second.span_id
    assert consumer.committed(TopicPartition(topic.name, 0)) is None
