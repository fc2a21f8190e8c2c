"""One program, three clients of Kafka: what tests have each of them do, in the caller's context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import confluent_kafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

import tracekit

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from tests.brokers import Kafka

DEADLINE_S = 10
CLIENT_ID = "shop"
Place: TypeAlias = "tuple[int, int]"
"""Partition and offset."""
Body: TypeAlias = Callable[[Any], None]
Form: TypeAlias = Literal["plain", "consuming"]


class KafkaPythonClient:
    """By kafka-python."""

    refusal = "TopicAuthorizationFailedError"
    too_large = "MessageSizeTooLargeError"

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.address = kafka.broker.address
        self._made: dict[str, Any] = {}

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _producer(self, **settings: Any) -> Any:
        key = f"producer {settings}"
        return self._once(key, lambda: self.kafka.producer(client_id=CLIENT_ID, **settings))

    def _consumer(self, topic: str) -> Any:
        return self._once(topic, lambda: self.kafka.consumer(topic, client_id=CLIENT_ID))

    def start(self) -> None:
        """Make the producer now."""
        self._producer()

    def send(self, topic: str, value: bytes = b"an order", most: int = 1_000_000, **options: Any) -> Place:
        """Send one message; where the broker put it. `most` is the largest that the client takes."""
        answer = self._producer(max_request_size=most).send(topic, value, **options).get(DEADLINE_S)
        return answer.partition, answer.offset

    def send_all(self, topic: str, number: int) -> Sequence[Place]:
        """Send so many, and wait for all answers only then."""
        futures = [self._producer().send(topic, b"an order") for _ in range(number)]
        answers = [future.get(DEADLINE_S) for future in futures]
        return [(answer.partition, answer.offset) for answer in answers]

    def loop(
        self, topic: str, body: Body, number: int = 1, form: Form = "plain", *, commits: bool = False
    ) -> None:
        """A loop over the consumer, left after so many messages; each turn may commit."""
        consumer = self._consumer(topic)
        if form == "consuming":
            with tracekit.consuming(consumer) as messages:
                self._turns(consumer, messages, body, number, commits=commits)
        else:
            self._turns(consumer, consumer, body, number, commits=commits)

    def _turns(self, consumer: Any, messages: Any, body: Body, number: int, *, commits: bool) -> None:
        left = number
        for record in messages:
            body(record)
            if commits:
                consumer.commit()
            left -= 1
            if not left:
                break

    def polled(self, topic: str, number: int) -> Any:
        """So many messages, as the client's call for several gives them."""
        found: list[Any] = []
        while len(found) < number:
            for records in self._consumer(topic).poll(timeout_ms=DEADLINE_S * 1_000).values():
                found += records
        return found

    def poll_nothing(self, topic: str) -> None:
        """Ask where nothing is."""
        assert not self._consumer(topic).poll(timeout_ms=200)

    def commit(self, topic: str) -> None:
        """Commit what was read."""
        self._consumer(topic).commit()

    def headers(self, record: Any) -> list[tuple[str, bytes]]:
        """The headers of a message, repeated ones included."""
        return [*record.headers]

    def value(self, record: Any) -> bytes:
        """Its body."""
        body: bytes = record.value
        return body

    def close(self) -> None:
        """Its clients are closed by the fixture that made them."""


class AioKafkaClient(KafkaPythonClient):
    """By aiokafka, on a loop of its own."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(kafka)
        self.event_loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the context of the caller."""
        return self.event_loop.run_until_complete(work)

    async def _started(self, client: Any) -> Any:
        await client.start()
        return client

    def _producer(self, **settings: Any) -> Any:
        async def make() -> Any:
            return await self._started(
                AIOKafkaProducer(bootstrap_servers=self.address, client_id=CLIENT_ID, **settings)
            )

        return self._once(f"producer {settings}", lambda: self.run(make()))

    def _consumer(self, topic: str) -> Any:
        async def make() -> Any:
            return await self._started(
                AIOKafkaConsumer(
                    topic,
                    bootstrap_servers=self.address,
                    client_id=CLIENT_ID,
                    group_id=f"tests-{topic}",
                    auto_offset_reset="earliest",
                )
            )

        return self._once(topic, lambda: self.run(make()))

    def send(self, topic: str, value: bytes = b"an order", most: int = 1_000_000, **options: Any) -> Place:
        answer = self.run(self._producer(max_request_size=most).send_and_wait(topic, value, **options))
        return answer.partition, answer.offset

    def send_all(self, topic: str, number: int) -> Sequence[Place]:
        producer = self._producer()

        async def send() -> list[Any]:
            return await asyncio.gather(*[await producer.send(topic, b"an order") for _ in range(number)])

        return [(answer.partition, answer.offset) for answer in self.run(send())]

    def loop(
        self, topic: str, body: Body, number: int = 1, form: Form = "plain", *, commits: bool = False
    ) -> None:
        consumer = self._consumer(topic)

        async def turns(messages: Any) -> None:
            left = number
            async for record in messages:
                body(record)
                if commits:
                    await consumer.commit()
                left -= 1
                if not left:
                    break

        async def consume() -> None:
            if form == "consuming":
                async with tracekit.consuming(consumer) as messages:
                    await turns(messages)
            else:
                await turns(consumer)

        self.run(consume())

    def polled(self, topic: str, number: int) -> Any:
        found: list[Any] = []
        while len(found) < number:
            got = self.run(self._consumer(topic).getmany(timeout_ms=DEADLINE_S * 1_000))
            for records in got.values():
                found += records
        return found

    def poll_nothing(self, topic: str) -> None:
        assert not self.run(self._consumer(topic).getmany(timeout_ms=200))

    def commit(self, topic: str) -> None:
        self.run(self._consumer(topic).commit())

    def close(self) -> None:
        for client in self._made.values():
            self.run(client.stop())
        self.event_loop.close()


class ConfluentClient(KafkaPythonClient):
    """By confluent-kafka."""

    refusal = "KafkaException"
    too_large = "KafkaException"

    @property
    def settings(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.address, "client.id": CLIENT_ID, "log_level": 0}

    def _producer(self, **settings: Any) -> Any:
        named = {"message.max.bytes": most} if (most := settings.get("max_request_size")) else {}
        # As a program does that imports the module, and not the class.
        return self._once(f"producer {named}", lambda: confluent_kafka.Producer({**self.settings, **named}))

    def _consumer(self, topic: str) -> Any:
        def make() -> Any:
            consumer = confluent_kafka.Consumer(
                {**self.settings, "group.id": f"tests-{topic}", "auto.offset.reset": "earliest"}
            )
            consumer.subscribe([topic])
            return consumer

        return self._once(topic, make)

    def send(self, topic: str, value: bytes = b"an order", most: int = 1_000_000, **options: Any) -> Place:
        producer = self._producer(max_request_size=most)
        (answer,) = self._answers(
            producer, lambda tell: producer.produce(topic, value, on_delivery=tell, **options)
        )
        return answer

    def send_all(self, topic: str, number: int) -> Sequence[Place]:
        producer = self._producer()

        def send(tell: Any) -> None:
            for _ in range(number):
                producer.produce(topic, b"an order", on_delivery=tell)

        return self._answers(producer, send)

    def _answers(self, producer: Any, send: Callable[[Any], None]) -> Sequence[Place]:
        answers: list[Any] = []
        send(lambda error, message: answers.append((error, message)))
        producer.flush(DEADLINE_S)
        for error, _ in answers:
            if error is not None:
                raise confluent_kafka.KafkaException(error)
        return [(message.partition(), message.offset()) for _, message in answers]

    def loop(
        self, topic: str, body: Body, number: int = 1, form: Form = "plain", *, commits: bool = False
    ) -> None:
        # It has no loop of its own. A plain one asks, and says what it works on.
        consumer = self._consumer(topic)
        if form == "consuming":
            with tracekit.consuming(consumer) as messages:
                self._turns(consumer, messages, body, number, commits=commits)
            return
        for _ in range(number):
            while (message := consumer.poll(1)) is None:
                pass
            with tracekit.process(message):
                body(message)
                if commits:
                    consumer.commit()

    def polled(self, topic: str, number: int) -> Any:
        return self._consumer(topic).consume(number, timeout=DEADLINE_S)

    def poll_nothing(self, topic: str) -> None:
        assert self._consumer(topic).poll(0.2) is None

    def commit(self, topic: str) -> None:
        self._consumer(topic).commit(asynchronous=False)

    def headers(self, record: Any) -> list[tuple[str, bytes]]:
        return record.headers() or []

    def value(self, record: Any) -> bytes:
        body: bytes = record.value()
        return body

    def close(self) -> None:
        with ExitStack() as closing:
            for client in self._made.values():
                closing.callback(client.close)


Client: TypeAlias = "KafkaPythonClient | AioKafkaClient | ConfluentClient"
CLIENTS: dict[str, type[KafkaPythonClient]] = {
    "kafka-python": KafkaPythonClient,
    "aiokafka": AioKafkaClient,
    "confluent": ConfluentClient,
}
