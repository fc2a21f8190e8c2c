"""aio-pika on RabbitMQ: the default exchange, and a queue's iterator."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, cast

from tests.contract.rigs.pika import full_header
from tracekit.transports.aio_pika import AioPika

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.integration.servers.rabbitmq import RabbitMQ

_names = itertools.count(1)
_PATIENCE_S: Final = 10
_OTHERS: Final = 35
"""Bytes of the properties that the client sets itself: delivery mode, priority, message id."""


class AioPikaRig:
    """aio-pika as plainly as it is used. What it sends, it sends in a loop of its own: a handler may send."""

    transport = AioPika()

    def __init__(self, broker: RabbitMQ) -> None:
        self._broker = broker
        self.destination = f"async-orders-{next(_names)}"
        self._sending = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._sending.run_forever, daemon=True)
        self._thread.start()
        self._receiving = asyncio.Runner()
        self._channels: dict[str, Any] = {}
        self._connections: list[Any] = []
        self._frame_max = 0

    def close(self) -> None:
        """Leave the broker."""

        async def leave(name: str) -> None:
            if name in self._channels:
                await self._channels[name][0].close()

        self._sent(leave("send"))
        self._sending.call_soon_threadsafe(self._sending.stop)
        self._thread.join()
        self._sending.close()
        self._receiving.run(leave("receive"))
        self._receiving.close()

    def _sent(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._sending).result(_PATIENCE_S)

    async def _channel(self, name: str) -> Any:
        """The channel for sending or receiving, with its connection; made when it is first needed."""
        import aio_pika

        if name not in self._channels:
            connection = await aio_pika.connect(self._broker.url)
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=1)
            await channel.declare_queue(self.destination)
            self._channels[name] = connection, channel
            below: Any = connection.transport
            self._frame_max = below.connection.connection_tune.frame_max
        return self._channels[name][1]

    def send(self, body: bytes, headers: object = None) -> None:
        import aio_pika

        self.publish(aio_pika.Message(body, headers=cast("Any", headers)))

    def publish(self, message: Any) -> None:
        async def work() -> None:
            channel = await self._channel("send")
            await channel.default_exchange.publish(message, self.destination)

        self._sent(work())

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        return {name: value.decode() for name, value in pairs}

    def consume(self, handle: Callable[[object], None]) -> None:
        async def work() -> None:
            queue = await (await self._channel("receive")).get_queue(self.destination)
            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        handle(message)
                    break

        self._receiving.run(work(), context=copy_context())

    def body(self, record: object) -> bytes:
        return cast("bytes", cast("Any", record).body)

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        found: dict[str, str] = cast("Any", record).headers
        return [(name, value.encode()) for name, value in found.items()]

    def full(self) -> tuple[bytes, object]:
        self._sent(self._channel("send"))
        return b"one", full_header(self._frame_max, _OTHERS)

    def fail_to_send(self, error: Exception) -> None:
        import aio_pika

        class Failing(aio_pika.Message):
            @property
            def properties(self) -> Any:
                raise error

        self.publish(Failing(b"one"))
