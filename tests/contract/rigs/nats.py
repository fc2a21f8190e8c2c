"""nats-py on NATS: a subscription that is iterated, and a pull consumer of JetStream's."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, cast

import tracekit
from tracekit.transports.nats import Nats

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_names = itertools.count(1)
_PATIENCE_S: Final = 10


class NatsRig:
    """The core of NATS, as plainly as it is used. It sends in a loop of its own: a handler may send."""

    transport = Nats()

    def __init__(self, url: str) -> None:
        self._url = url
        self.destination = f"orders-{next(_names)}"
        self._sending = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._sending.run_forever, name="nats-rig")
        self._thread.start()
        self._receiving = asyncio.Runner()
        self._connections: dict[str, Any] = {}
        self.subscription: Any = None

    def close(self) -> None:
        """Leave the server."""
        if "send" in self._connections:
            self._sent(self._connections["send"].close())
        self._sending.call_soon_threadsafe(self._sending.stop)
        self._thread.join()
        self._sending.close()
        if "receive" in self._connections:
            self._receiving.run(self._connections["receive"].close())
        self._receiving.close()

    def _sent(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._sending).result(_PATIENCE_S)

    async def connection(self, name: str) -> Any:
        """That for sending or receiving, made when it is first needed."""
        import nats

        if name not in self._connections:
            self._connections[name] = await nats.connect(self._url)
        return self._connections[name]

    async def subscribe(self) -> Any:
        """What receives, made once: the core keeps nothing for who comes later."""
        connection = await self.connection("receive")
        subscription = await connection.subscribe(self.destination)
        await connection.flush()
        return subscription

    def send(self, body: bytes, headers: object = None) -> None:
        if self.subscription is None:
            self.subscription = "under way"
            self.subscription = self._receiving.run(self.subscribe())
        self._sent(self.publish(body, headers))

    async def publish(self, body: bytes, headers: object) -> None:
        connection = await self.connection("send")
        await connection.publish(self.destination, body, headers=cast("dict[str, str] | None", headers))
        await connection.flush()

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        return {name: value.decode() for name, value in pairs}

    def consume(self, handle: Callable[[object], None]) -> None:
        async def work() -> None:
            async with asyncio.timeout(_PATIENCE_S):
                await self.receive(handle)

        self._receiving.run(work(), context=copy_context())

    async def receive(self, handle: Callable[[object], None]) -> None:
        async for message in self.subscription.messages:
            handle(message)
            break

    def body(self, record: object) -> bytes:
        return cast("bytes", cast("Any", record).data)

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        found: dict[str, str] = cast("Any", record).headers or {}
        return [(name, value.encode()) for name, value in found.items()]

    def full(self) -> tuple[bytes, object]:
        async def most() -> int:
            return int((await self.connection("send")).max_payload)

        return b"x" * self._sent(most()), None

    def fail_to_send(self, error: Exception) -> None:
        class Failing(str):
            __slots__ = ()

            def strip(self, *_: object) -> str:
                raise error

        self.send(b"one", {"shop": Failing("north")})


class JetStreamRig(NatsRig):
    """A stream, whose messages are pulled and acknowledged."""

    async def subscribe(self) -> Any:
        context = (await self.connection("receive")).jetstream()
        await context.add_stream(name=self.destination, subjects=[self.destination])
        return await context.pull_subscribe(self.destination, durable="billing")

    async def publish(self, body: bytes, headers: object) -> None:
        context = (await self.connection("send")).jetstream()
        await context.publish(self.destination, body, headers=cast("dict[str, str] | None", headers))

    async def receive(self, handle: Callable[[object], None]) -> None:
        (message,) = await self.subscription.fetch(1)
        async with tracekit.process(message):
            handle(message)
        await message.ack()
