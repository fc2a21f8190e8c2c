"""aiokafka: coroutines that give futures, batches that are put together, and tasks that are cancelled."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import suppress_instrumentation

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    PRODUCER,
    SPAN,
    TRACE,
    context_headers,
    context_on,
    links_of,
    measures,
    named,
    parent_of,
    points,
    the,
    where,
)
from tracekit.model import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.brokers import Kafka
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.topic()


class Clients:
    """Clients on one topic, within one event loop."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._address = kafka.broker.address
        self.topic = topic

    @asynccontextmanager
    async def producer(self, **settings: Any) -> AsyncIterator[Any]:
        async with AIOKafkaProducer(bootstrap_servers=self._address, **settings) as producer:
            yield producer

    @asynccontextmanager
    async def consumer(self, **settings: Any) -> AsyncIterator[Any]:
        given = {"group_id": f"tests-{self.topic}", "auto_offset_reset": "earliest", **settings}
        async with AIOKafkaConsumer(self.topic, bootstrap_servers=self._address, **given) as consumer:
            yield consumer

    async def put(self, *values: bytes, headers: Any = None) -> None:
        """Have messages come from a service that is not traced."""
        with suppress_instrumentation():
            async with self.producer() as producer:
                for value in values or (b"an order",):
                    await producer.send_and_wait(self.topic, value, headers=headers, partition=0)

    async def on_the_wire(self, number: int = 1) -> Sequence[Any]:
        """The messages that are in the topic, read by somebody who is not traced."""
        with suppress_instrumentation():
            async with self.consumer(group_id=None) as consumer:
                return [await consumer.getone() for _ in range(number)]


@pytest.fixture
def clients(kafka: Kafka, topic: str) -> Clients:
    return Clients(kafka, topic)


# -- sends --------------------------------------------------------------------------------------------


def test_case_04_a_send_ends_with_the_answer_and_not_with_its_coroutine(
    clients: Clients, flows: Captured
) -> None:
    async def main() -> tuple[Any, Any]:
        async with clients.producer(linger_ms=300) as producer:
            future = await producer.send(clients.topic, b"an order")
            before = flows.spans
            return before, await future

    before, answer = asyncio.run(main())

    (span,) = flows.spans
    assert before == ()
    assert span.attributes["messaging.kafka.offset"] == answer.offset
    assert (span.end_ns or 0) - span.start_ns >= 200_000_000


def test_a_send_that_nobody_acknowledges_ends_without_a_place(clients: Clients, flows: Captured) -> None:
    async def main() -> object:
        async with clients.producer(acks=0) as producer:
            return await producer.send_and_wait(clients.topic, b"an order")

    answer = asyncio.run(main())

    (span,) = flows.spans
    assert (answer, span.status) == (None, Status.UNSET)
    assert "messaging.kafka.offset" not in span.attributes


def test_case_06_what_the_application_raises_inside_a_send_arrives_as_the_same_object(
    clients: Clients, flows: Captured
) -> None:
    error = RuntimeError("no such order")

    def fail(value: object) -> bytes:
        raise error

    async def main() -> None:
        async with clients.producer(value_serializer=fail) as producer:
            await producer.send(clients.topic, {"order": 7})

    with pytest.raises(RuntimeError) as raised:
        asyncio.run(main())

    (span,) = flows.spans
    assert raised.value is error
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "RuntimeError")


def test_a_failed_future_that_nobody_asks_is_still_reported_by_asyncio(
    kafka: Kafka, clients: Clients, flows: Captured
) -> None:
    reports: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, found: reports.append(found["message"]))
        async with clients.producer() as producer:
            await producer.partitions_for(clients.topic)
            kafka.broker.fail(0, 29)
            await producer.send(clients.topic, b"an order")
            await producer.flush()
        gc.collect()

    asyncio.run(main())

    (span,) = flows.spans
    assert span.attributes["error.type"] == "TopicAuthorizationFailedError"
    assert reports == ["Future exception was never retrieved"]


def test_a_send_that_is_cancelled_is_no_failure(clients: Clients, flows: Captured) -> None:
    async def main() -> None:
        async with clients.producer(linger_ms=300) as producer:
            future = await producer.send(clients.topic, b"an order")
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future

    asyncio.run(main())

    (span,) = flows.spans
    assert (span.status, span.attributes["tracekit.cancelled"]) == (Status.UNSET, True)
    assert "error.type" not in span.attributes
    assert not [
        each for each in measures(flows, "messaging.client.sent.messages") if "error.type" in each.attributes
    ]


FORMS: dict[str, Callable[[Any, str], Any]] = {
    "positional": lambda producer, name: producer.send(name, b"v", b"k", 0, None, [("tenant", b"north")]),
    "keyword": lambda producer, name: producer.send(name, b"v", headers=[("tenant", b"north")]),
    "all keywords": lambda producer, name: producer.send(topic=name, value=b"v", headers=[]),
    "positional None": lambda producer, name: producer.send(name, b"v", None, None, None, None),
    "None": lambda producer, name: producer.send(name, value=b"v", headers=None),
    "empty tuple": lambda producer, name: producer.send(name, value=b"v", headers=()),
    "omitted": lambda producer, name: producer.send(name, b"v"),
    "tombstone": lambda producer, name: producer.send(name, key=b"k"),
    "and wait": lambda producer, name: producer.send_and_wait(name, b"v", headers=[("tenant", None)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_case_09_context_travels_in_every_form_that_the_client_accepts(
    clients: Clients, form: str, flows: Captured
) -> None:
    async def main() -> Any:
        async with clients.producer() as producer:
            answer = await FORMS[form](producer, clients.topic)
            if form != "and wait":
                await answer
        return (await clients.on_the_wire())[0]

    record = asyncio.run(main())

    traceparents = [value.decode().split("-")[1:3] for name, value in record.headers if name == "traceparent"]
    assert traceparents == [[*where(the(flows, f"send {clients.topic}"))]]
    if form == "and wait":
        assert record.headers[0] == ("tenant", None)


# -- batches ------------------------------------------------------------------------------------------


def test_each_message_of_a_batch_is_created_where_it_is_added(clients: Clients, flows: Captured) -> None:
    async def main() -> tuple[Any, Any]:
        async with clients.producer() as producer:
            batch = producer.create_batch()
            for number in range(2):
                with tracer.start_as_current_span(f"order {number}"):
                    assert batch.append(key=None, value=b"an order", timestamp=None) is not None
            added = batch.append(timestamp=None, key=None, value=b"third", headers=context_headers())
            assert added is not None
            with tracer.start_as_current_span("job"):
                future = await producer.send_batch(batch, clients.topic, partition=2)
                answer = await future
        return answer, await clients.on_the_wire(3)

    answer, records = asyncio.run(main())

    created, send = named(flows, f"create {clients.topic}"), the(flows, f"send {clients.topic}")
    assert [span.kind for span in (*created, send)] == [PRODUCER, PRODUCER, CLIENT]
    assert [parent_of(span) for span in created] == [
        where(the(flows, f"order {number}")) for number in (0, 1)
    ]
    assert [context_on(record) for record in records] == [*map(where, created), (TRACE, SPAN)]
    assert links_of(send) == [*map(where, created), (TRACE, SPAN)]
    assert parent_of(send) == where(the(flows, "job"))
    assert send.attributes["messaging.batch.message_count"] == 3
    assert "messaging.kafka.offset" not in send.attributes
    assert [
        (span.attributes["messaging.destination.partition.id"], span.attributes["messaging.kafka.offset"])
        for span in created
    ] == [("2", answer.offset), ("2", answer.offset + 1)]
    assert [number for _, number, _ in points(flows, "messaging.client.sent.messages")] == [3]
    assert {span.end_ns for span in created} == {send.end_ns}


def test_a_message_that_fits_without_our_headers_is_added_without_them(
    clients: Clients, flows: Captured
) -> None:
    async def main() -> tuple[int, int, Sequence[Any]]:
        async with clients.producer(max_batch_size=1_000) as producer:
            batch = producer.create_batch()
            number = 0
            while batch.append(timestamp=None, key=None, value=b"x" * 100) is not None:
                number += 1
            size = batch.size()
            await (await producer.send_batch(batch, clients.topic, partition=0))
        return number, size, await clients.on_the_wire(number)

    number, size, records = asyncio.run(main())

    assert 1_000 - size < 110  # one more is refused without us, too
    assert len(named(flows, f"create {clients.topic}")) == number
    assert records[0].headers != ()
    assert records[-1].headers == ()
    assert flows.dropped.keys() == {"size"}


def test_a_batch_that_fails_fails_each_of_its_messages(
    kafka: Kafka, clients: Clients, flows: Captured
) -> None:
    async def main() -> None:
        async with clients.producer() as producer:
            await producer.partitions_for(clients.topic)
            batch = producer.create_batch()
            for _ in range(2):
                batch.append(timestamp=None, key=None, value=b"an order")
            kafka.broker.fail(0, 29)
            future = await producer.send_batch(batch, clients.topic, partition=0)
            with pytest.raises(Exception, match="Authorization"):
                await future

    asyncio.run(main())

    spans = [*named(flows, f"create {clients.topic}"), the(flows, f"send {clients.topic}")]
    assert [(span.status, span.attributes["error.type"]) for span in spans] == [
        (Status.ERROR, "TopicAuthorizationFailedError")
    ] * 3


def test_a_message_that_a_batch_has_no_room_for_leaves_no_span(clients: Clients, flows: Captured) -> None:
    async def main() -> None:
        async with clients.producer(max_batch_size=400) as producer:
            batch = producer.create_batch()
            assert batch.append(timestamp=None, key=None, value=b"first") is not None
            assert batch.append(timestamp=None, key=None, value=b"x" * 400) is None
            await (await producer.send_batch(batch, clients.topic, partition=0))

    asyncio.run(main())

    assert [span.name for span in flows.spans] == [f"create {clients.topic}", f"send {clients.topic}"]


# -- loops --------------------------------------------------------------------------------------------


def test_case_18_a_second_task_does_not_see_the_turn_of_the_first(clients: Clients, flows: Captured) -> None:
    seen: list[object] = []

    async def main() -> None:
        await clients.put(headers=context_headers(baggage="tenant=north"))
        begun, done = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            await begun.wait()
            seen.append((trace.get_current_span().get_span_context().is_valid, dict(baggage.get_all())))
            done.set()

        async with clients.consumer() as consumer:
            task = asyncio.create_task(other())
            async for _ in consumer:
                begun.set()
                await done.wait()
                seen.append(dict(baggage.get_all()))
                break
            await task

    asyncio.run(main())

    assert seen == [(False, {}), {"tenant": "north"}]


@pytest.mark.parametrize("way", ["getone", "getmany", "anext", "aiter"])
def test_case_49_a_leaked_turn_ends_with_the_next_thing_received(
    clients: Clients, way: str, flows: Captured
) -> None:
    async def main() -> None:
        await clients.put(b"first", b"second", headers=context_headers())
        async with clients.consumer() as consumer:
            before = otel.get_current()
            kept = aiter(consumer)
            async for _ in kept:
                break
            assert otel.get_current() != before
            if way == "getone":
                await consumer.getone()
            elif way == "getmany":
                await consumer.getmany(timeout_ms=5_000)
            elif way == "anext":
                await consumer.__anext__()
            else:
                aiter(consumer)
            assert otel.get_current() == before
            del kept

    asyncio.run(main())

    turn = the(flows, f"process {clients.topic}")
    assert turn.attributes["tracekit.leaked"] is True


def test_case_49_a_plain_loop_that_is_left_has_ended_its_turn(clients: Clients, flows: Captured) -> None:
    async def main() -> None:
        await clients.put(headers=context_headers())
        async with clients.consumer() as consumer:
            before = otel.get_current()
            async for _ in consumer:
                break
            assert otel.get_current() == before

    asyncio.run(main())

    turn = the(flows, f"process {clients.topic}")
    assert (turn.status, turn.attributes.get("tracekit.leaked")) == (Status.UNSET, None)


def test_the_loop_ends_where_the_consumer_is_stopped(clients: Clients, flows: Captured) -> None:
    async def main() -> int:
        await clients.put(b"first")
        number = 0
        async with clients.consumer() as consumer:
            async for _ in consumer:
                number += 1
                await consumer.stop()
        return number

    assert asyncio.run(main()) == 1
    assert the(flows, f"process {clients.topic}").status is Status.UNSET


def test_messages_of_one_partition_are_fetched_as_without_us(clients: Clients, flows: Captured) -> None:
    async def main() -> tuple[bytes, bytes]:
        await clients.put(b"first", b"second")
        async with clients.consumer() as consumer:
            partition = TopicPartition(clients.topic, 0)
            first = await consumer.getone(partition)
            several = await consumer.getmany(partition, timeout_ms=5_000, max_records=1)
            return first.value, several[partition][0].value

    assert asyncio.run(main()) == (b"first", b"second")
    assert [number for _, number, _ in points(flows, "messaging.client.consumed.messages")] == [2]


@pytest.mark.parametrize("form", ["plain", "consuming"])
def test_case_15_a_task_that_is_cancelled_in_mid_message_says_so(
    clients: Clients, form: str, flows: Captured
) -> None:
    """Case 15 of section 8 in transports-and-reliability.md."""
    offsets: list[object] = []

    async def main() -> None:
        await clients.put(headers=context_headers())
        begun = asyncio.Event()

        async def consume(consumer: Any) -> None:
            before = otel.get_current()
            try:
                if form == "plain":
                    async for record in consumer:
                        async with tracekit.process(record):
                            begun.set()
                            await asyncio.sleep(60)
                else:
                    async with tracekit.consuming(consumer) as messages:
                        async for _ in messages:
                            begun.set()
                            await asyncio.sleep(60)
            finally:
                if form == "consuming":
                    assert otel.get_current() == before

        async with clients.consumer(enable_auto_commit=False) as consumer:
            task = asyncio.create_task(consume(consumer))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            offsets.append(await consumer.committed(TopicPartition(clients.topic, 0)))

    asyncio.run(main())

    turn = the(flows, f"process {clients.topic}")
    assert (turn.status, turn.attributes["tracekit.cancelled"]) == (Status.UNSET, True)
    assert "error.type" not in turn.attributes
    assert offsets == [None]
    assert [span.name for span in flows.spans if span.name.startswith("commit")] == []


def test_case_26_a_commit_of_given_offsets_says_whose(clients: Clients, flows: Captured) -> None:
    async def main() -> None:
        await clients.put()
        async with clients.consumer() as consumer:
            async for record in consumer:
                await consumer.commit({TopicPartition(record.topic, record.partition): record.offset + 1})
                break

    asyncio.run(main())

    commit = the(flows, f"commit {clients.topic}")
    assert (commit.kind, parent_of(commit)) == (CLIENT, where(the(flows, f"process {clients.topic}")))
