"""Queues inside one process: the item carries the context of whoever put it there."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from opentelemetry import context as otel

from tracekit import context as ours
from tracekit.guard import shielded
from tracekit.messaging.calls import is_suppressed
from tracekit.messaging.nesting import sound
from tracekit.messaging.processing import Process
from tracekit.messaging.scope import engine_in_use
from tracekit.messaging.transport import Facts, Headers, Message

if TYPE_CHECKING:
    from types import TracebackType

Item = TypeVar("Item")
SYSTEM: Final = "python_queue"
"""`messaging.system` of these queues: a value of ours, for which the conventions have none."""


class _Put(Generic[Item]):
    """An item as it lies in the queue: with the context that was current at `put`, and when that was.

    In Unix ns; None where it was put without us. A priority queue compares the items.
    """

    __slots__ = ("at_ns", "headers", "item")

    def __init__(self, item: Item, headers: Headers = (), at_ns: int | None = None) -> None:
        self.item = item
        self.headers = headers
        self.at_ns = at_ns

    def __lt__(self, other: Any) -> Any:
        return self.item < _put(other).item

    def __gt__(self, other: Any) -> Any:
        return self.item > _put(other).item


def _put(found: Any) -> _Put[Any]:
    """What lay in the queue; an item that was put without us lies there bare."""
    return found if isinstance(found, _Put) else _Put(found)


class _InProcess:
    """The queue, as far as processing asks a transport: there is no client behind it."""

    system: ClassVar = SYSTEM
    processing: ClassVar = "process"

    def client(self, client: object) -> Facts:
        return {}


class _Taken(Generic[Item]):
    """One item, from its taking to the end of its block."""

    def __init__(self, owner: TracedQueue[Item], timeout_s: float | None) -> None:
        self._owner = owner
        self._timeout_s = timeout_s
        self._process: Process | None = None

    def __enter__(self) -> Item:
        return self._begin(_put(self._owner.inner.get(timeout=self._timeout_s)))

    async def __aenter__(self) -> Item:
        async with asyncio.timeout(self._timeout_s):
            found = await self._owner.inner.get()
        return self._begin(_put(found))

    def _begin(self, put: _Put[Item]) -> Item:
        with shielded("an item of a queue"):
            engine = engine_in_use()
            if engine is not None and not is_suppressed():
                is_entry = not put.headers
                message = Message(self._owner.name, put.headers, published_at_ns=put.at_ns, is_entry=is_entry)
                self._process = Process(engine, _InProcess(), message, put.item)
                self._process.enter()
        return put.item

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with shielded("an item of a queue"):
            if self._process is not None:
                self._process.leave()
                self._process.end(error)
        self._owner.inner.task_done()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class TracedQueue(Generic[Item]):
    """A `queue.Queue` or `asyncio.Queue` whose items stay in the flow of whoever put them there.

    `inner` is the queue; without one, a new `queue.Queue`. `name` is the destination's. `put` and
    `put_nowait` are the queue's own (awaitable where the queue's are). `item()` takes one and is the
    block in which it is processed: a process span, with the wait; afterwards `task_done()` is called.
    `get` takes one without a scope. All else, and what is raised, is the queue's own. An item that was
    put into `inner` itself is in no flow yet.

        jobs = tracekit.TracedQueue(asyncio.Queue(), name="mails")
        await jobs.put(mail)  # in a request
        async with jobs.item() as mail:  # in the worker: in that request's flow
            await send(mail)
    """

    def __init__(self, inner: Any = None, *, name: str = "queue") -> None:
        self.inner: Any = queue.Queue() if inner is None else inner
        self.name = name

    def put(self, item: Item, *args: Any, **kwargs: Any) -> Any:
        """As the queue's own `put`."""
        return self.inner.put(_Put(item, self._context(), time.time_ns()), *args, **kwargs)

    def put_nowait(self, item: Item) -> None:
        """As the queue's own `put_nowait`."""
        self.inner.put_nowait(_Put(item, self._context(), time.time_ns()))

    def item(self, timeout_s: float | None = None) -> _Taken[Item]:
        """The next item, as a block: `with` for a `queue.Queue`, `async with` for an `asyncio.Queue`.

        Raises `queue.Empty` or `TimeoutError` after `timeout_s` seconds without one.
        """
        return _Taken(self, timeout_s)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """As the queue's own `get`: the item, in no scope."""
        found = self.inner.get(*args, **kwargs)
        return _item(found) if isinstance(found, Awaitable) else _put(found).item

    def get_nowait(self) -> Item:
        """As the queue's own `get_nowait`: the item, in no scope."""
        put: _Put[Item] = _put(self.inner.get_nowait())
        return put.item

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # qsize, empty, full, join, task_done, shutdown

    def _context(self) -> Headers:
        with shielded("the context of an item"):
            context = sound(otel.get_current())
            checkpoint = ours.checkpoint_of(context)
            if checkpoint is not None:
                checkpoint.sent = True
            return list(ours.headers_of(ours.with_step(f"send {SYSTEM} {self.name}", context)).items())
        return ()


async def _item(found: Awaitable[Any]) -> Any:
    return _put(await found).item
