"""confluent-kafka: classes in C, callbacks, serializers, threads, asyncio, and `tracekit.wrap`."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest
from confluent_kafka import Consumer as EarlyConsumer
from confluent_kafka import Producer as EarlyProducer
from confluent_kafka import aio
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    PRODUCER,
    SPAN,
    TRACE,
    context_headers,
    links_of,
    named,
    parent_of,
    points,
    the,
    where,
)
from tracekit.model import Status
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.brokers import Kafka
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")
DEADLINE_S = 10


class Clients:
    """Clients on one topic. `confluent_kafka.X` is looked up when one is made, `EarlyX` was before."""

    def __init__(self, kafka: Kafka) -> None:
        self.broker = kafka.broker
        self.topic = kafka.topic()
        self.settings = {"bootstrap.servers": kafka.broker.address, "log_level": 0}
        self._closing = ExitStack()

    def closed(self, client: Any) -> Any:
        self._closing.callback(client.close)
        return client

    def producer(self, kind: Any = None, **settings: Any) -> Any:
        made = (kind or confluent_kafka.Producer)({**self.settings, **settings})
        return self.closed(made)

    @property
    def reading(self) -> dict[str, Any]:
        return {**self.settings, "group.id": f"tests-{self.topic}", "auto.offset.reset": "earliest"}

    def consumer(self, kind: Any = None, **settings: Any) -> Any:
        consumer = self.closed((kind or confluent_kafka.Consumer)({**self.reading, **settings}))
        consumer.subscribe([self.topic])
        return consumer

    def put(self, *values: bytes, headers: Any = None) -> None:
        """Have messages come from a service that is not traced."""
        with suppress_instrumentation():
            producer = EarlyProducer(self.settings)
            for value in values or (b"an order",):
                producer.produce(self.topic, value, headers=headers, partition=0)
            producer.flush(DEADLINE_S)
            producer.close()

    def on_the_wire(self, number: int = 1) -> Any:
        """The messages that are in the topic, read by somebody who is not traced."""
        with suppress_instrumentation():
            consumer = self.consumer(EarlyConsumer, **{"group.id": f"wire-{self.topic}"})
            found = consumer.consume(number, timeout=DEADLINE_S)
        assert len(found) == number
        return found

    def close(self) -> None:
        self._closing.close()


@pytest.fixture
def clients(kafka: Kafka) -> Iterator[Clients]:
    made = Clients(kafka)
    yield made
    made.close()


def polled(consumer: Any) -> Any:
    """The next message; errors are none."""
    while (message := consumer.poll(1)) is None or message.error():
        pass
    return message


def contexts(message: Any) -> list[tuple[str, str]]:
    """Trace and span ids of the creation contexts on a message."""
    found = [value.decode() for name, value in message.headers() or () if name == "traceparent"]
    return [(value.split("-")[1], value.split("-")[2]) for value in found]


# -- sends, and who is told ---------------------------------------------------------------------------


FORMS: dict[str, Callable[[Any, str], Any]] = {
    "positional": lambda producer, name: producer.produce(name, b"v", b"k", 0, None, None, 0, [("a", b"b")]),
    "keyword": lambda producer, name: producer.produce(name, b"v", headers=[("a", b"b")]),
    "all keywords": lambda producer, name: producer.produce(topic=name, value=b"v", key="k", headers=[]),
    "dict": lambda producer, name: producer.produce(name, "text", headers={"a": "b"}),
    "positional None": lambda producer, name: producer.produce(name, b"v", None, 0, None, None, 0, None),
    "None": lambda producer, name: producer.produce(name, b"v", headers=None, on_delivery=None),
    "omitted": lambda producer, name: producer.produce(name, b"v"),
    "tombstone": lambda producer, name: producer.produce(name, key=b"k"),
    "callback": lambda producer, name: producer.produce(name, b"v", callback=lambda *_: None),
}


@pytest.mark.parametrize("form", FORMS)
def test_case_09_context_travels_in_every_form_that_the_client_accepts(
    clients: Clients, form: str, flows: Captured
) -> None:
    producer = clients.producer()

    FORMS[form](producer, clients.topic)
    producer.flush(DEADLINE_S)

    (message,) = clients.on_the_wire()
    span = the(flows, f"send {clients.topic}")
    assert contexts(message) == [where(span)]
    assert span.attributes["messaging.kafka.offset"] == message.offset()


def test_case_07_headers_without_a_value_stay_without_one(clients: Clients, flows: Captured) -> None:
    producer = clients.producer()
    headers = {"tenant": None, "empty": b""}

    producer.produce(clients.topic, b"v", headers=headers)
    producer.flush(DEADLINE_S)

    (message,) = clients.on_the_wire()
    assert headers == {"tenant": None, "empty": b""}
    assert message.headers()[:2] == [("tenant", None), ("empty", b"")]


def test_case_05_an_error_in_the_callback_is_an_error_of_the_send(clients: Clients, flows: Captured) -> None:
    clients.put()
    heard: list[Any] = []
    producer = clients.producer()
    clients.broker.fail(0, 29)

    producer.produce(clients.topic, b"v", on_delivery=lambda error, message: heard.append(error.name()))
    producer.flush(DEADLINE_S)

    (span,) = flows.spans
    assert heard == ["TOPIC_AUTHORIZATION_FAILED"]
    assert (span.kind, span.status, span.attributes["error.type"]) == (
        PRODUCER,
        Status.ERROR,
        "KafkaException",
    )
    assert "TOPIC_AUTHORIZATION_FAILED" in span.status_message


def test_case_47_a_callback_runs_in_the_context_of_its_send(clients: Clients, flows: Captured) -> None:
    producer = clients.producer()
    heard: list[object] = []

    with tracer.start_as_current_span("A") as caller:
        producer.produce(clients.topic, b"v", on_delivery=lambda *_: heard.append(trace.get_current_span()))
    with tracer.start_as_current_span("B") as other:
        while not heard:
            producer.poll(0.1)
        assert trace.get_current_span() is other

    assert heard == [caller]


def test_a_callback_that_raises_is_heard_where_it_was_before(clients: Clients, flows: Captured) -> None:
    producer = clients.producer()
    error = RuntimeError("no such order")

    def fail(*_: object) -> None:
        raise error

    producer.produce(clients.topic, b"v", on_delivery=fail)
    with pytest.raises(RuntimeError) as raised:
        producer.flush(DEADLINE_S)

    assert raised.value is error
    assert the(flows, f"send {clients.topic}").status is Status.UNSET


@pytest.mark.parametrize("by", ["conf", "keyword", "serializing"])
def test_a_callback_for_all_sends_is_still_called(clients: Clients, by: str, flows: Captured) -> None:
    heard: list[object] = []

    def tell(error: object, message: Any) -> None:
        heard.append((error, message.value(), trace.get_current_span()))

    if by == "conf":
        producer = clients.producer(on_delivery=tell)
    elif by == "keyword":
        producer = clients.closed(confluent_kafka.Producer(clients.settings, on_delivery=tell))
    else:
        producer = clients.producer(confluent_kafka.SerializingProducer, on_delivery=tell)

    with tracer.start_as_current_span("job") as caller:
        producer.produce(clients.topic, value=b"v")
    producer.flush(DEADLINE_S)

    span = the(flows, f"send {clients.topic}")
    assert heard == [(None, b"v", caller)]
    assert isinstance(span.attributes["messaging.kafka.offset"], int)


def test_where_only_failures_are_told_a_send_ends_with_its_call(clients: Clients, flows: Captured) -> None:
    producer = clients.producer(**{"delivery.report.only.error": True})

    producer.produce(clients.topic, b"v", on_delivery=lambda *_: None)

    assert [span.name for span in flows.spans] == [f"send {clients.topic}"]
    producer.flush(DEADLINE_S)
    assert contexts(clients.on_the_wire()[0]) == [where(flows.spans[0])]


def test_a_client_keeps_what_it_was_given_to_itself_alone(clients: Clients, flows: Captured) -> None:
    """Spans hold no message, and a callback no span, once the answer is there."""
    producer = clients.producer()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(200):
            producer.produce(clients.topic, b"v")
        producer.flush(DEADLINE_S)
        flows.wait_for(lambda: len(flows.spans) == 200, says="200 spans")
        told = [one for one in gc.get_objects() if type(one).__name__ == "_Told"]
    finally:
        gc.enable()
    assert before
    assert told == []


def test_a_message_above_the_default_limit_carries_context(clients: Clients, flows: Captured) -> None:
    producer = clients.producer(**{"message.max.bytes": 5_000_000})

    producer.produce(clients.topic, bytes(1_040_000))
    assert flows.dropped == {}
    producer.purge()
    producer.flush(DEADLINE_S)

    assert the(flows, f"send {clients.topic}").attributes.get("tracekit.messaging.context") is None


# -- serializers --------------------------------------------------------------------------------------


def test_case_33_the_serializing_clients_carry_context(clients: Clients, flows: Captured) -> None:
    producer = clients.producer(
        confluent_kafka.SerializingProducer,
        **{"value.serializer": lambda value, context: str(value["order"]).encode()},
    )
    consumer = clients.consumer(
        confluent_kafka.DeserializingConsumer,
        **{"value.deserializer": lambda value, context: {"order": int(value)}},
    )

    with tracer.start_as_current_span("job"):
        producer.produce(clients.topic, key=b"k", value={"order": 7})
    producer.flush(DEADLINE_S)
    message = polled(consumer)
    with tracekit.process(message):
        consumer.commit(message)

    send, turn = the(flows, f"send {clients.topic}"), the(flows, f"process {clients.topic}")
    assert message.value() == {"order": 7}
    assert (send.attributes["messaging.client.id"], parent_of(turn)) == ("rdkafka", where(send))
    assert turn.attributes["messaging.consumer.group.name"] == f"tests-{clients.topic}"
    assert parent_of(the(flows, f"commit {clients.topic}")) == where(turn)
    assert [number for _, number, _ in points(flows, "messaging.client.consumed.messages")] == [1]


def test_what_a_serializer_raises_arrives_as_without_us(clients: Clients, flows: Captured) -> None:
    error = ValueError("no such order")

    def fail(value: object, context: object) -> bytes:
        raise error

    producer = clients.producer(confluent_kafka.SerializingProducer, **{"value.serializer": fail})

    with pytest.raises(confluent_kafka.error.ValueSerializationError) as raised:
        producer.produce(clients.topic, value=b"v")

    (span,) = flows.spans
    assert raised.value.exception is error
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ValueSerializationError")


# -- what is no message -------------------------------------------------------------------------------


def test_case_48_the_end_of_a_partition_is_no_message(clients: Clients, flows: Captured) -> None:
    clients.put()
    consumer = clients.consumer(**{"enable.partition.eof": True})
    ends: list[object] = []
    values: list[bytes] = []

    with tracekit.consuming(consumer) as messages:
        for message in messages:
            if message.error():
                assert trace.get_current_span().get_span_context().is_valid is False
                ends.append(message.error().code())
            else:
                values.append(message.value())
            if ends and values:
                break
    while (end := consumer.poll(5)) is None or not end.error():
        pass
    with tracekit.process(end):
        pass

    assert set(ends) == {confluent_kafka.KafkaError._PARTITION_EOF}
    assert [span.name for span in flows.spans] == [f"process {clients.topic}"]
    assert [number for _, number, _ in points(flows, "messaging.client.consumed.messages")] == [1]


def test_case_20_a_batch_with_an_end_of_partition_in_it_counts_its_messages(
    clients: Clients, flows: Captured
) -> None:
    clients.put(b"first", b"second", headers=context_headers())
    consumer = clients.consumer(**{"enable.partition.eof": True})
    found: list[Any] = []
    while len([one for one in found if not one.error()]) < 2 or not any(one.error() for one in found):
        found += consumer.consume(5, timeout=1)

    with tracekit.process_batch(found):
        pass

    (span,) = flows.spans
    assert (span.kind, span.attributes["messaging.batch.message_count"]) == (CONSUMER, 2)
    assert [where(link) for link in span.links] == [(TRACE, SPAN)]


# -- threads and asyncio ------------------------------------------------------------------------------


def test_case_32_a_poll_in_a_thread_and_the_work_in_the_task(
    clients: Clients, flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    clients.put(*[b"an order"] * 1_000, headers=context_headers())
    consumer = clients.consumer()

    async def main() -> None:
        for _ in range(1_000):
            message = await asyncio.to_thread(polled, consumer)
            with tracekit.process(message), tracer.start_as_current_span("work"):
                await asyncio.sleep(0)

    before = otel.get_current()
    with caplog.at_level(logging.DEBUG, "opentelemetry"):
        asyncio.run(main())

    turns, work = named(flows, f"process {clients.topic}"), named(flows, "work")
    assert otel.get_current() == before
    assert (len(turns), {parent_of(turn) for turn in turns}) == (1_000, {(TRACE, SPAN)})
    assert [parent_of(each) for each in work] == [where(turn) for turn in turns]
    assert [line for line in caplog.messages if "etach" in line] == []


def test_case_33_the_asyncio_clients(clients: Clients, flows: Captured) -> None:
    answers: list[Any] = []

    async def main() -> None:
        async with aio.AIOProducer({**clients.settings}) as producer:
            with tracer.start_as_current_span("job"):
                future = await producer.produce(clients.topic, value=b"an order", partition=3)
                assert flows.spans == ()
            await producer.flush()
            answers.append(await future)
        clients.put(headers=context_headers())
        async with aio.AIOConsumer(clients.reading) as consumer:
            await consumer.subscribe([clients.topic])
            left = 2
            async with tracekit.consuming(consumer) as messages:
                async for _ in messages:
                    await consumer.commit(asynchronous=False)
                    left -= 1
                    if not left:
                        break

    asyncio.run(main())

    send, turns = the(flows, f"send {clients.topic}"), named(flows, f"process {clients.topic}")
    commits = named(flows, f"commit {clients.topic}")
    assert parent_of(send) == where(the(flows, "job"))
    assert send.attributes["messaging.kafka.offset"] == answers[0].offset()
    assert send.attributes["messaging.destination.partition.id"] == "3"
    assert sorted(map(parent_of, turns), key=str) == [(TRACE, SPAN), None]
    assert [(commit.kind, parent_of(commit)) for commit in commits] == [
        (CLIENT, where(turn)) for turn in turns
    ]
    assert {turn.attributes["messaging.consumer.group.name"] for turn in turns} == {f"tests-{clients.topic}"}
    assert [number for _, number, _ in points(flows, "messaging.client.consumed.messages")] == [2]


def test_case_33_the_asyncio_producer_says_that_it_takes_no_headers(
    clients: Clients, flows: Captured
) -> None:
    """As of 2.16 it refuses them: there is nowhere to put a context, and the loss is told."""

    async def main() -> None:
        async with aio.AIOProducer({**clients.settings}) as producer:
            with pytest.raises(NotImplementedError):
                await producer.produce(clients.topic, value=b"v", headers=[("a", b"b")])
            await producer.produce(clients.topic, value=b"v")
            await producer.flush()

    asyncio.run(main())

    refused, sent = named(flows, f"send {clients.topic}")
    assert refused.attributes["error.type"] == "NotImplementedError"
    assert (sent.status, sent.attributes["tracekit.messaging.context"]) == (Status.UNSET, "skipped")
    assert flows.dropped.keys() == {"size"}
    assert clients.on_the_wire()[0].headers() is None


def test_the_asyncio_deserializing_consumer(clients: Clients, flows: Captured) -> None:
    async def main() -> object:
        clients.put(b"7", headers=context_headers())
        making: Any = aio.AsyncDeserializingConsumer(
            {**clients.reading, "value.deserializer": lambda value, context: int(value)}
        )
        async with await making as consumer:
            await consumer.subscribe([clients.topic])
            while (message := await consumer.poll(1)) is None:
                pass
            async with tracekit.process(message):
                return message.value()

    assert asyncio.run(main()) == 7
    turn = the(flows, f"process {clients.topic}")
    assert parent_of(turn) == (TRACE, SPAN)
    assert turn.attributes["messaging.consumer.group.name"] == f"tests-{clients.topic}"
    assert [number for _, number, _ in points(flows, "messaging.client.consumed.messages")] == [1]


# -- clients that were there before -------------------------------------------------------------------


def test_case_33_an_early_producer_sends_context_through_wrap(clients: Clients) -> None:
    early = clients.producer(EarlyProducer)

    with capture("shop") as seen:
        producer = tracekit.wrap(early)
        heard: list[Any] = []
        producer.produce(clients.topic, b"first", on_delivery=lambda _, message: heard.append(message))
        producer.produce(clients.topic, b"second")
        producer.flush(DEADLINE_S)
        seen.wait_for(lambda: len(seen.spans) == 2, says="2 spans")
        spans = seen.spans

    messages = {message.value(): message for message in clients.on_the_wire(2)}
    told = next(span for span in spans if "messaging.kafka.offset" in span.attributes)
    assert told.attributes["messaging.kafka.offset"] == heard[0].offset()
    assert contexts(messages[b"first"]) == [where(told)]
    assert contexts(messages[b"second"]) == [where(span) for span in spans if span is not told]


def test_an_early_producer_s_callback_for_all_sends_is_still_called(clients: Clients) -> None:
    heard: list[object] = []
    early = clients.producer(EarlyProducer, on_delivery=lambda error, message: heard.append(message.value()))

    with capture("shop"):
        producer = tracekit.wrap(early)
        producer.produce(clients.topic, b"v")
        producer.flush(DEADLINE_S)

    assert heard == [b"v"]


def test_an_early_consumer_loops_through_wrap(clients: Clients) -> None:
    clients.put(headers=context_headers())
    early = clients.consumer(EarlyConsumer)

    with capture("shop") as seen:
        consumer = tracekit.wrap(early)
        with tracekit.consuming(consumer) as messages:
            for message in messages:
                consumer.commit(message)
                break
        turn, commit = (the(seen, f"{what} {clients.topic}") for what in ("process", "commit"))
        counted = [number for _, number, _ in points(seen, "messaging.client.consumed.messages")]

    assert (links_of(turn), parent_of(commit), counted) == ([(TRACE, SPAN)], where(turn), [1])


def test_a_serializing_producer_made_before_configure_sends_context(clients: Clients) -> None:
    early = clients.producer(confluent_kafka.SerializingProducer)

    with capture("shop") as seen:
        early.produce(clients.topic, value=b"v")
        (span,) = seen.spans
    early.flush(DEADLINE_S)

    assert contexts(clients.on_the_wire()[0]) == [where(span)]


def test_a_class_of_the_application_s_is_traced_through_wrap(clients: Clients) -> None:
    class Ours(EarlyProducer):  # type: ignore[misc]  # the client ships types that mypy is told not to follow
        def order(self, number: int) -> None:
            self.produce(clients.topic, str(number))

    early = clients.producer(Ours)

    with capture("shop") as seen:
        producer = tracekit.wrap(early)
        producer.produce(clients.topic, b"v")
        producer.order(7)  # by itself, of which nobody knows
        producer.flush(DEADLINE_S)
        names = [span.name for span in seen.spans]

    assert names == [f"send {clients.topic}"]
    assert isinstance(producer, Ours)


@pytest.mark.parametrize("kind", ["wrapped", "made here"])
def test_case_34_every_public_attribute_of_the_originals_works(
    clients: Clients, kind: str, flows: Captured
) -> None:
    clients.put()
    stored = {"enable.auto.offset.store": False}
    if kind == "wrapped":
        producer = tracekit.wrap(clients.producer(EarlyProducer))
        consumer = tracekit.wrap(clients.consumer(EarlyConsumer, **stored))
    else:
        producer, consumer = clients.producer(), clients.consumer(**stored)
    message = polled(consumer)
    (partition,) = [one for one in consumer.assignment() if one.partition == message.partition()]

    for client, original in ((producer, EarlyProducer), (consumer, EarlyConsumer)):
        public = {name for name in dir(original) if not name.startswith("_")}
        assert public <= set(dir(client))
        assert all(callable(getattr(client, name)) for name in public)
        assert isinstance(client, original)
    assert isinstance(producer, confluent_kafka.Producer)
    assert isinstance(consumer, confluent_kafka.Consumer)
    assert (len(producer), bool(producer)) == (0, True)
    producer.produce(clients.topic, b"v")
    assert len(producer) >= 1
    assert producer.poll(0) >= 0
    assert producer.flush(DEADLINE_S) == 0
    assert clients.topic in producer.list_topics(clients.topic, DEADLINE_S).topics
    assert clients.topic in consumer.list_topics(timeout=DEADLINE_S).topics
    assert consumer.position([partition])[0].offset == message.offset() + 1
    assert consumer.get_watermark_offsets(partition)[1] >= 1
    assert consumer.memberid()
    assert consumer.consumer_group_metadata() is not None
    assert consumer.commit(message, asynchronous=False)[0].offset == message.offset() + 1
    assert consumer.committed([partition])[0].offset == message.offset() + 1
    consumer.store_offsets(message)
    consumer.pause([partition])
    consumer.resume([partition])
    consumer.seek(confluent_kafka.TopicPartition(clients.topic, message.partition(), 0))
    consumer.unassign()
    consumer.unsubscribe()
    with producer as entered:
        assert entered is producer


def test_the_class_that_stands_in_is_the_class_to_all_who_ask(clients: Clients, flows: Captured) -> None:
    class Ours(confluent_kafka.Producer):  # type: ignore[misc]  # as above
        pass

    assert issubclass(confluent_kafka.SerializingProducer, confluent_kafka.Producer)
    assert isinstance(clients.producer(EarlyProducer), confluent_kafka.Producer)
    assert not isinstance(clients.producer(), Ours)
    assert isinstance(clients.producer(Ours), Ours)
    assert (confluent_kafka.Producer.__name__, confluent_kafka.Producer.__module__) == ("Producer", "cimpl")
    assert confluent_kafka.Producer.__doc__ == EarlyProducer.__doc__


def test_nothing_is_left_of_us_where_nothing_is_configured(clients: Clients) -> None:
    with capture("shop"):
        producer = clients.producer()
        wrapped = tracekit.wrap(clients.producer(EarlyProducer))

    assert confluent_kafka.Producer is EarlyProducer
    for client in (producer, wrapped):
        client.produce(clients.topic, b"v", headers=[("a", b"b")], partition=0)
        client.flush(DEADLINE_S)
    assert clients.on_the_wire()[0].headers() == [("a", b"b")]


def test_consuming_asks_also_where_nothing_is_configured(clients: Clients) -> None:
    clients.put(b"first", b"second")

    with tracekit.consuming(clients.consumer()) as messages:
        values = [message.value() for message in itertools.islice(messages, 2)]

    assert values == [b"first", b"second"]
