"""Blocks: what a message of the client's own gives for its processing, `async with message.process():`.

The client settles the message where its block ends, by how it ended. The block is the message's scope where
it has none yet; inside of its scope (a handler, the turn of a loop) it says only that the work failed.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from tracekit.guard import shielded
from tracekit.messaging.calls import is_suppressed
from tracekit.messaging.processing import Process, current_process

if TYPE_CHECKING:
    from types import TracebackType

    from tracekit.messaging.engine import Engine
    from tracekit.messaging.transport import Transport
    from tracekit.patching import Function


def blocking(engine: Engine, transport: Transport, function: Function) -> Function:
    """What gives a block in which the message that it is called on is processed."""

    @functools.wraps(function)
    def give(*args: Any, **kwargs: Any) -> Any:
        block = function(*args, **kwargs)
        with shielded("a block"):
            if not is_suppressed():
                return Block(engine, transport, args[0], block)
        return block

    return give


class Block:
    """The client's own block, and around it the scope of the message, by `async with`."""

    def __init__(self, engine: Engine, transport: Transport, record: object, block: Any) -> None:
        self._engine = engine
        self._transport = transport
        self._record = record
        self._block = block
        self._turn: Process | None = None
        self._is_ours = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._block, name)

    async def __aenter__(self) -> Any:
        with shielded("the start of a block"):
            self._begin()
        try:
            return await self._block.__aenter__()
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        try:
            return await self._block.__aexit__(kind, error, trace)
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._end(error)

    def _begin(self) -> None:
        turn = current_process()
        if turn is not None and turn.record is self._record and not turn.ended:
            self._turn = turn
        elif self._engine.is_installed:
            turn = self._engine.processing(self._transport, self._record)
            if turn is not None:
                turn.enter()
                self._turn, self._is_ours = turn, True

    def _end(self, error: BaseException | None) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            with shielded("the end of a block"):
                if self._is_ours:
                    turn.leave()  # first: also where the span cannot be ended
                if self._is_ours or error is not None:
                    turn.end(error)
