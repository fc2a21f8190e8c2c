"""confluent-kafka on the embedded Kafka."""

from __future__ import annotations

import asyncio
import importlib
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, NoReturn, cast

import tracekit
from tracekit.transports.confluent import Confluent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.brokers import Kafka

_MAX_REQUEST: int = 4_096
_AROUND: int = 36
"""What librdkafka adds to a value without a key; one byte more is refused (see `full`)."""


class ConfluentRig:
    """confluent-kafka as plainly as it is used: `produce`, `flush`, and a loop over what it is asked for."""

    transport = Confluent()

    def __init__(self, kafka: Kafka) -> None:
        self._settings = {"bootstrap.servers": kafka.broker.address, "log_level": 0}
        self.destination = kafka.topic()
        self._sender: Any = None
        self._reader: Any = None

    # Looked up when a client is made, as a program does that imports the module and not the class.

    @property
    def _client(self) -> Any:
        return importlib.import_module("confluent_kafka")

    @property
    def _producer(self) -> Any:
        if self._sender is None:
            settings = {**self._settings, "message.max.bytes": _MAX_REQUEST}
            self._sender = self._client.Producer(settings)
        return self._sender

    @property
    def _consumer(self) -> Any:
        if self._reader is None:
            self._reader = self._client.Consumer(
                {
                    **self._settings,
                    "group.id": f"tests-{self.destination}",
                    "auto.offset.reset": "earliest",
                }
            )
            self._reader.subscribe([self.destination])
        return self._reader

    def send(self, body: bytes, headers: object = None) -> None:
        self._producer.produce(self.destination, body, headers=headers)
        self._producer.flush(10)

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        return list(pairs)

    def consume(self, handle: Callable[[object], None]) -> None:
        with tracekit.consuming(self._consumer) as messages:
            for message in messages:
                handle(message)
                break

    def body(self, record: object) -> bytes:
        return cast("bytes", cast("Any", record).value())

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        return cast("Any", record).headers() or []

    def full(self) -> tuple[bytes, object]:
        return b"x" * (_MAX_REQUEST - _AROUND), None

    def fail_to_send(self, error: Exception) -> None:
        # By the asyncio producer: what a serializer raises, the others raise as an error of their own.
        class Failing(Executor):
            def submit(self, *_: object, **__: object) -> NoReturn:
                raise error

        async def send() -> None:
            # The client leaves the message's own future to nobody, with the same error.
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            aio: Any = importlib.import_module("confluent_kafka.aio")
            producer = aio.AIOProducer({**self._settings}, executor=Failing(), batch_size=1, buffer_timeout=0)
            await producer.produce(self.destination, value=b"one")

        asyncio.run(send())

    def close(self) -> None:
        """Close the clients."""
        for client in filter(None, (self._sender, self._reader)):
            client.close()
