"""aiokafka on the embedded Kafka, on an event loop of the rig's own, in the thread of the test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tracekit.transports.aiokafka import AioKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.brokers import Kafka

_MAX_REQUEST: int = 4_096


class AioKafkaRig:
    """aiokafka as plainly as it is used: `send_and_wait`, and an `async for` left after one message."""

    transport = AioKafka()

    def __init__(self, kafka: Kafka) -> None:
        self._address = kafka.broker.address
        self.destination = kafka.topic()
        self._loop = asyncio.new_event_loop()
        self._clients: list[Any] = []
        self._sender: Any = None
        self._reader: Any = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the context of the caller."""
        return self._loop.run_until_complete(work)

    async def _started(self, kind: Any, *topics: str, **settings: Any) -> Any:
        client = kind(*topics, bootstrap_servers=self._address, **settings)
        self._clients.append(client)
        await client.start()
        return client

    async def _producer(self) -> Any:
        if self._sender is None:
            self._sender = await self._started(AIOKafkaProducer, max_request_size=_MAX_REQUEST)
        return self._sender

    async def _consumer(self) -> Any:
        if self._reader is None:
            self._reader = await self._started(
                AIOKafkaConsumer,
                self.destination,
                group_id=f"tests-{self.destination}",
                auto_offset_reset="earliest",
            )
        return self._reader

    def send(self, body: bytes, headers: object = None) -> None:
        async def send() -> None:
            await (await self._producer()).send_and_wait(self.destination, body, headers=headers)

        if not self._loop.is_running():
            self.run(send())
            return
        task = self._loop.create_task(send())  # from within a handler: awaited before the turn ends
        self._sends.append(task)

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        return list(pairs)

    def consume(self, handle: Callable[[object], None]) -> None:
        self._sends: list[asyncio.Task[None]] = []

        async def consume() -> None:
            async for record in await self._consumer():
                handle(record)
                await asyncio.gather(*self._sends)
                break

        self.run(consume())

    def body(self, record: object) -> bytes:
        return cast("bytes", cast("Any", record).value)

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        return [*cast("Any", record).headers]

    def full(self) -> tuple[bytes, object]:
        # The client's own estimate of what goes around a value: see AIOKafkaProducer._serialize.
        from aiokafka.record.default_records import DefaultRecordBatchBuilder

        around = int(DefaultRecordBatchBuilder.estimate_size_in_bytes(None, b"x" * _MAX_REQUEST, []))
        return b"x" * (2 * _MAX_REQUEST - around), None

    def fail_to_send(self, error: Exception) -> None:
        def fail(value: object) -> bytes:
            raise error

        async def send() -> None:
            producer = await self._started(AIOKafkaProducer, value_serializer=fail)
            await producer.send(self.destination, b"one")

        self.run(send())

    def close(self) -> None:
        """Stop the clients and the loop."""
        for client in self._clients:
            self.run(client.stop())
        self._loop.close()
