"""Looks: calls that show messages and take none, so that nothing was received.

What `stamp` put among a message's own fields is taken out here too, or an application would find there what
it never wrote. Who goes on to process what was shown does so in its flow.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from tracekit.guard import shielded
from tracekit.messaging.calls import is_coroutine, is_suppressed
from tracekit.patching import Names

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tracekit.messaging.engine import Engine
    from tracekit.messaging.transport import Call, Hook, Transport
    from tracekit.patching import Function


def looking(engine: Engine, transport: Transport, hook: Hook, function: Function) -> Function:
    """A call that shows messages."""
    names = Names(function, hook.parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if is_suppressed():
            return result
        with shielded(hook.name):
            bound = names.bind(args, kwargs)
            if bound is not None:
                client = bound["self"]
                look = _Look(engine, transport, hook, bound)
                if is_coroutine(result):
                    return _looked(look, result)
                if result is not client or not engine.queues.put(transport, client, look):
                    look(result)
        return result

    return call


class _Look:
    """One such call. Called with what it gave."""

    __slots__ = ("_engine", "_hook", "_transport", "call")

    def __init__(self, engine: Engine, transport: Transport, hook: Hook, call: Call) -> None:
        self._engine = engine
        self._transport = transport
        self._hook = hook
        self.call = call

    def __call__(self, answer: object, error: BaseException | None = None) -> None:
        if error is None:
            with shielded(self._hook.name):
                self._engine.look(self._transport, self.call.get("self"), answer, self.call)


async def _looked(look: _Look, awaited: Coroutine[Any, Any, Any]) -> Any:
    """The rest of such a call that is done once it was awaited."""
    result = await awaited
    look(result)
    return result
