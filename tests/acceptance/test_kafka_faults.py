"""Kafka when it does not go well: brokers that refuse and hang up, handlers that are cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from threading import Event, current_thread, main_thread
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
from tracekit.testing import capture
from tracekit.transports.kafka_python import KafkaPython

if TYPE_CHECKING:
    from tests.acceptance.kafka_rig import Topic
    from tests.brokers import Kafka
    from tracekit.testing import Captured

PRODUCE, FETCH = 0, 1
NOT_LEADER, TOPIC_AUTHORIZATION_FAILED, MESSAGE_TOO_LARGE = 6, 29, 10
RETRY: tuple[str, dict[str, str]] = ("tracekit.messaging.retry", {})


@pytest.mark.parametrize(
    ("errors", "retries", "moments"),
    [
        ([], None, 0),
        ([NOT_LEADER], 1, 1),
        ([NOT_LEADER] * 3, 3, 3),
        ([DISCONNECT], 1, 1),
        ([NOT_LEADER, DISCONNECT, NOT_LEADER], 3, 3),
        ([NOT_LEADER] * 10, 10, 8),
    ],
    ids=["not at all", "not leader", "not leader thrice", "disconnect", "both", "not leader ten times"],
)
def test_reliability_case_16_a_send_that_is_tried_again_is_one_span_and_ends_well(
    kafka: Kafka, flows: Captured, errors: list[int], retries: int | None, moments: int
) -> None:
    with embedded_broker(["orders"], partitions=1) as broker:
        producer = kafka.producer(**broker.settings, retry_backoff_ms=50, reconnect_backoff_ms=10)
        producer.partitions_for("orders")
        broker.fail(PRODUCE, *errors)
        answer = answered(producer.send("orders", b"an order"))
        producer.close()

    span = the(flows, "send orders")
    assert (span.kind, span.status) == (PRODUCER, Status.UNSET)
    assert span.attributes.get("tracekit.messaging.retries") == retries
    assert [(event.name, event.attributes) for event in span.events] == [RETRY] * moments
    times = [span.start_ns, *(event.time_ns for event in span.events), span.end_ns or 0]
    assert times == sorted(times)
    assert flows.flow().retries == (retries or 0)
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
        producer = kafka.producer(**broker.settings, retry_backoff_ms=50)
        producer.partitions_for("orders")
        broker.fail(PRODUCE, NOT_LEADER, error)
        future = producer.send("orders", b"an order")
        with pytest.raises(KafkaError) as raised:
            future.get(DEADLINE_S)
        producer.close()

    span = the(flows, "send orders")
    assert type(raised.value).__name__ == name
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, name)
    assert span.attributes["tracekit.messaging.retries"] == 1
    assert [event.name for event in span.events] == [RETRY[0], "exception"]


def test_reliability_case_16_a_batch_that_is_sent_again_in_halves_is_a_retry_of_each_message(
    kafka: Kafka, flows: Captured
) -> None:
    with embedded_broker(["orders"], partitions=1) as broker:
        producer = kafka.producer(**broker.settings, retry_backoff_ms=50, linger_ms=500)
        producer.partitions_for("orders")
        broker.fail(PRODUCE, MESSAGE_TOO_LARGE, NOT_LEADER)
        futures = [producer.send("orders", value) for value in (b"one", b"two", b"three")]
        offsets = [answered(future).offset for future in futures]
        producer.close()

    told = {
        span.attributes["messaging.kafka.offset"]: span.attributes["tracekit.messaging.retries"]
        for span in named(flows, "send orders")
    }
    assert told == dict(zip(offsets, (2, 2, 1), strict=True))  # the first half met the other error too


@pytest.mark.parametrize(("error", "retries"), [(NOT_LEADER, 2), (TOPIC_AUTHORIZATION_FAILED, 1)])
@pytest.mark.parametrize("is_retry_first", [True, False], ids=["retry first", "send first"])
def test_reliability_case_16_a_retry_before_its_send_has_returned_is_not_lost(
    kafka: Kafka,
    flows: Captured,
    monkeypatch: pytest.MonkeyPatch,
    is_retry_first: bool,
    error: int,
    retries: int,
) -> None:
    listen = KafkaPython.listen
    sender_is_there, first_listens = Event(), Event()

    def in_order(self: KafkaPython, result: Any, answered: Any) -> bool:
        """Both wait until they would have listened at the same time, and then listen in that order."""
        is_retry = current_thread() is not main_thread()
        if is_retry:
            sender_is_there.set()
        assert (sender_is_there if is_retry is is_retry_first else first_listens).wait(DEADLINE_S)
        is_told = listen(self, result, answered)
        first_listens.set()
        return is_told

    monkeypatch.setattr(KafkaPython, "listen", in_order)
    with embedded_broker(["orders"], partitions=1) as broker:
        producer = kafka.producer(**broker.settings, retry_backoff_ms=50)
        producer.partitions_for("orders")
        broker.fail(PRODUCE, NOT_LEADER, error)
        future = producer.send("orders", b"an order")
        producer.close()

    span = the(flows, "send orders")
    assert future.is_done
    assert span.attributes["tracekit.messaging.retries"] == retries
    assert [event.name for event in span.events][:retries] == [RETRY[0]] * retries


@pytest.mark.shield
def test_reliability_case_16_a_client_with_other_private_names_costs_the_retries_and_no_send(
    kafka: Kafka, flows: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renamed(self: KafkaPython, call: object) -> tuple[object, ...]:
        raise AttributeError("_record_futures")

    monkeypatch.setattr(KafkaPython, "resent", renamed)
    with embedded_broker(["orders"], partitions=1) as broker:
        producer = kafka.producer(**broker.settings, retry_backoff_ms=50)
        producer.partitions_for("orders")
        broker.fail(PRODUCE, NOT_LEADER, NOT_LEADER)
        answer = answered(producer.send("orders", b"an order"))
        producer.close()

    span = the(flows, "send orders")
    assert (span.status, span.events) == (Status.UNSET, ())
    assert span.attributes["messaging.kafka.offset"] == answer.offset
    assert "tracekit.messaging.retries" not in span.attributes
    assert flows.dropped == {"internal": 2}


@pytest.mark.shield
def test_reliability_case_16_a_client_without_the_hooks_of_retries_is_traced_all_the_same(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [
        replace(hook, target=f"{hook.target}_by_another_name") if hook.scope == "retry" else hook
        for hook in KafkaPython.hooks
    ]
    monkeypatch.setattr(KafkaPython, "hooks", gone)
    with capture("shop") as seen:
        topic.send()
        record = topic.record()
        with tracekit.process(record):
            pass
        flow = seen.wait_for_flow(f"send {topic.name}", f"process {topic.name}")

    flow.assert_complete()
    assert seen.dropped == {"internal": 2}


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
