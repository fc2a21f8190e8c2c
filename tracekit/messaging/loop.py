"""The loop over a consumer: each of its turns is the processing of one message.

An iterator class, not a generator: what it attaches is visible in the body, and CPython frees it at
once on `break`, `return` and exceptions, which ends the turn. Only one kept in a variable can leak.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from tracekit.guard import swallow
from tracekit.messaging.calls import awaited_inner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from tracekit.messaging.engine import Engine, Turn
    from tracekit.messaging.transport import Call, Message, Transport


class InUse:
    """The engine that `configure()` installed: it may change while a loop is open."""

    def __init__(self) -> None:
        self.engine: Engine | None = None


in_use = InUse()


class Turns:
    """The turns of a loop over a client, one open at most."""

    __slots__ = (
        "__weakref__",
        "_call",
        "_client",
        "_engine",
        "_is_entered",
        "_source",
        "_transport",
        "_turn",
    )

    def __init__(
        self, engine: Engine, transport: Transport, client: object, source: Any, call: Call | None = None
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._client = client
        self._source = source
        self._call = call
        self._turn: Turn | None = None
        self._is_entered = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)  # kafka-python's consumer is its own iterator

    def __del__(self) -> None:
        self._end()

    @property
    def place(self) -> object:
        """Where one turn is open at most: on the client."""
        return self._client

    def is_over(self, client: object) -> bool:
        """Whether the client is its own iterator, so that what is received from it is the loop's."""
        return self._source is client

    def _is_ours(self) -> bool:
        """Whether an engine is there that knows the client."""
        return in_use.engine is self._engine or self._follow(in_use.engine)

    def _follow(self, engine: Engine | None) -> bool:
        """Go on with the engine that took the place of ours; False where none knows the client."""
        transport = engine.adopt(self, self._transport) if engine is not None else None
        if engine is None or transport is None:
            return False
        self._engine, self._transport = engine, transport
        return True

    def _begin(self, record: Any, messages: Sequence[Message]) -> None:
        if len(messages) == 1:  # else nothing was delivered: an end of partition, a heartbeat
            try:
                turn = self._engine.turn(self._transport, messages[0], record, self._client)
                turn.may_leak = not self._is_entered
                turn.enter()
                self._turn = turn
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow("the turn of a loop", error)

    def leak(self) -> None:
        """End the turn that nobody ended, with a mark: the client goes on without this loop."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.leave()
            if turn.is_taken:
                return
            turn.left = False  # nobody said where it ended: it is no place to go on from
            turn.end(leaked=True)

    def _end(self, error: BaseException | None = None) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            try:
                turn.leave()  # first: also where the span cannot be ended
                if not turn.is_taken:
                    turn.end(error)
            except Exception as failure:  # noqa: BLE001 - the shield of a hot path
                swallow("the turn of a loop", failure)


class ConsumerLoop(Turns):
    """An iterator over the client's own; entered by `with`, it also knows how its body ended."""

    __slots__ = ()

    def __iter__(self) -> ConsumerLoop:
        return self

    def __next__(self) -> Any:
        self._end()
        if not self._is_ours():
            return next(self._source)
        record, messages = self._engine.fetched(self._transport, self._client, self._source, self._call)
        self._begin(record, messages)
        return record

    def __enter__(self) -> ConsumerLoop:
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)


class AsyncConsumerLoop(Turns):
    """The same by `async for` and `async with`; what is entered so is the client's own iterator too."""

    __slots__ = ()

    @property
    def place(self) -> object:
        """Iterators of one client may be at work side by side: two tasks on a queue."""
        return self._source

    def __aiter__(self) -> AsyncConsumerLoop:
        return self

    async def __anext__(self) -> Any:
        self._end()
        if not self._is_ours():
            return await self._source.__anext__()
        engine = self._engine
        record, messages = await engine.fetched_async(self._transport, self._client, self._source, self._call)
        self._begin(record, messages)
        return record

    async def __aenter__(self) -> AsyncConsumerLoop:
        self._is_entered = True
        if self._is_block():
            await self._source.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._end(error)
        if self._is_block():
            return bool(await awaited_inner(self._source.__aexit__(kind, error, trace)))
        return None

    def _is_block(self) -> bool:
        """Whether the client's own iterator is one to be entered; a client that is its own is not ours to."""
        return self._source is not self._client and isinstance(self._source, AbstractAsyncContextManager)
