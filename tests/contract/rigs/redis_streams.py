"""redis-py on Redis, its client for threads and the one for asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import tracekit
from tracekit.transports.redis_streams import RedisStreams

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

Pairs: TypeAlias = "list[tuple[str, bytes]]"

GROUP: Final = "tests"
_PATIENCE_S: Final = 20
_names = itertools.count(1)


class RedisRig:
    """As plainly as it is used: `xadd`, `xreadgroup`, and `xack` of what was handled."""

    transport = RedisStreams()

    def __init__(self, url: str) -> None:
        import redis

        self.destination = f"orders-{next(_names)}"
        self.closing = ExitStack()
        self.url = url
        self._reader: Any = redis.Redis.from_url(url)
        self.closing.callback(self._reader.close)
        self._reader.xgroup_create(self.destination, GROUP, "0", mkstream=True)
        self._client: Any = None

    @property
    def client(self) -> Any:
        """Made when it is first needed."""
        import redis

        if self._client is None:
            self._client = redis.Redis.from_url(self.url)
            self.closing.callback(self._client.close)
        return self._client

    def send(self, body: bytes, headers: object = None) -> None:
        self.client.xadd(self.destination, fields(body, headers))

    def headers_of(self, pairs: Pairs) -> object:
        return dict(pairs)

    def consume(self, handle: Callable[[object], None]) -> None:
        record = only(self.client.xreadgroup(GROUP, "me", {self.destination: ">"}, count=1, block=5000))
        with tracekit.process(record):
            handle(record)
        self.client.xack(self.destination, GROUP, record[0])

    def body(self, record: Any) -> bytes:
        body: bytes = record[1][b"body"]
        return body

    def headers(self, record: Any) -> Pairs:
        # As they are in the stream: who reads with tracekit gets the payload alone.
        ((_, fields),) = self._reader.execute_command("XRANGE", self.destination, record[0], record[0])
        return [(name.decode(), value) for name, value in fields.items() if name != b"body"]

    def full(self) -> None:
        return None

    def fail_to_send(self, error: Exception) -> None:
        self.client.xadd(self.destination, {"body": failing(error)})

    def close(self) -> None:
        self.closing.close()


class RedisAsyncRig(RedisRig):
    """The same with the client for asyncio, in an event loop of its own thread."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="redis-rig")
        self._thread.start()
        self.closing.callback(self._end)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def client(self) -> Any:
        """Made when it is first needed."""
        import redis.asyncio

        if self._client is None:
            self._client = redis.asyncio.Redis.from_url(self.url)
            self.closing.callback(lambda: self.run(self._client.aclose()))
        return self._client

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What it gives, in the context of who waits for it."""
        context = contextvars.copy_context()

        async def ran() -> Any:
            return await self._loop.create_task(work, context=context)

        return asyncio.run_coroutine_threadsafe(ran(), self._loop).result(_PATIENCE_S)

    def send(self, body: bytes, headers: object = None) -> None:
        async def send() -> None:
            await self.client.xadd(self.destination, fields(body, headers))

        self.run(send())

    def consume(self, handle: Callable[[object], None]) -> None:
        async def consume() -> None:
            record = only(
                await self.client.xreadgroup(GROUP, "me", {self.destination: ">"}, count=1, block=5000)
            )
            async with tracekit.process(record):
                await asyncio.to_thread(handle, record)  # which may send, and wait for that
            await self.client.xack(self.destination, GROUP, record[0])

        self.run(consume())

    def fail_to_send(self, error: Exception) -> None:
        async def send() -> None:
            await self.client.xadd(self.destination, {"body": failing(error)})

        self.run(send())


def fields(body: bytes, headers: object) -> dict[Any, Any]:
    """An entry of this body, with headers beside it."""
    return {"body": body, **cast("Mapping[str, bytes]", headers or {})}


def only(read: Any) -> Any:
    """The one entry that was read, in either protocol's shape."""
    ((_, found),) = read.items() if isinstance(read, dict) else read
    ((record,),) = found if isinstance(read, dict) else (found,)
    return record


def failing(error: Exception) -> float:
    """A value that the client cannot write."""

    class Failing(float):
        def __repr__(self) -> str:
            raise error

    return Failing()
