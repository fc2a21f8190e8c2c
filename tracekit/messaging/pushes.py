"""Pushes: a client that hands messages to a handler of the application, each in a scope of its own.

Where the handler is given to the client, it is wrapped; where it is a method of some object of the
application, the call that hands the message over is.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from tracekit.guard import shielded, swallow
from tracekit.messaging.calls import is_coroutine, is_suppressed, outside_of_calls
from tracekit.patching import Names

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tracekit.messaging.engine import Engine
    from tracekit.messaging.processing import Process
    from tracekit.messaging.transport import Call, Hook, Transport
    from tracekit.patching import Function


def registering(engine: Engine, transport: Transport, hook: Hook, function: Function) -> Function:
    """A registration of a handler, whose every call is the processing of one message."""
    names = Names(function, hook.parameters)

    @functools.wraps(function)
    def register(*args: Any, **kwargs: Any) -> Any:
        with shielded(hook.name):
            bound = names.bind(args, kwargs)
            handler: Any = bound.get(hook.callback) if bound is not None else None
            if bound is not None and callable(handler) and not _is_its_own(handler, transport):
                handling = _handling(engine, transport, hook, handler, bound)
                args, kwargs = names.unbind({**bound, hook.callback: handling}, len(args))
        return function(*args, **kwargs)

    return register


def _is_its_own(handler: object, transport: Transport) -> bool:
    """Whether the handler is the client's: what it hands on to the application is hooked there."""
    owner = getattr(handler, "__self__", None)
    return type(owner).__module__.partition(".")[0] == transport.package.partition(".")[0]


def _handling(
    engine: Engine, transport: Transport, hook: Hook, handler: Function, registered: Call
) -> Function:
    alike = functools.wraps(
        handler, assigned=[name for name in functools.WRAPPER_ASSIGNMENTS if hasattr(handler, name)]
    )

    def begun(args: tuple[Any, ...]) -> Process | None:
        return _begun(engine, transport, hook, args[0] if len(args) == 1 else args, registered)

    def handle(*args: Any, **kwargs: Any) -> Any:
        turn = begun(args)
        return handler(*args, **kwargs) if turn is None else _run(turn, handler, *args, **kwargs)

    async def handle_async(*args: Any, **kwargs: Any) -> Any:
        # Not before it runs: a task that is cancelled earlier never does, and processes nothing.
        turn = begun(args)
        result = handler(*args, **kwargs)
        return await (result if turn is None else _rest(turn, result))

    # Clients ask a handler what it is.
    return alike(handle_async if inspect.iscoroutinefunction(handler) else handle)


def delivering(engine: Engine, transport: Transport, hook: Hook, function: Function) -> Function:
    """The client's own function that hands one message to its handlers."""
    names = Names(function, hook.parameters)

    @functools.wraps(function)
    def deliver(*args: Any, **kwargs: Any) -> Any:
        bound = names.bind(args, kwargs)
        turn = None if bound is None else _begun(engine, transport, hook, bound, bound)
        return function(*args, **kwargs) if turn is None else _run(turn, function, *args, **kwargs)

    return deliver


def _begun(engine: Engine, transport: Transport, hook: Hook, given: Any, call: Call) -> Process | None:
    """The processing of the message that was handed over; None where it is none, or nothing is wanted."""
    try:
        if engine.is_installed and not is_suppressed():
            return engine.pushed(transport, hook.name, given, call)
    except Exception as error:  # noqa: BLE001 - the shield of a hot path
        swallow(hook.name, error)
    return None


def _run(turn: Process, function: Function, *args: Any, **kwargs: Any) -> Any:
    turn.enter()
    try:
        result = outside_of_calls(function, *args, **kwargs)
    except BaseException as error:
        _end(turn, error)
        raise
    if is_coroutine(result):
        turn.pause()
        return _rest(turn, result)
    _end(turn)
    return result


async def _rest(turn: Process, awaited: Coroutine[Any, Any, Any]) -> Any:
    """The rest of a handler that is done once it was awaited."""
    turn.enter()
    try:
        result = await awaited
    except BaseException as error:
        _end(turn, error)
        raise
    _end(turn)
    return result


def _end(turn: Process, error: BaseException | None = None) -> None:
    with shielded("the end of a handler"):
        turn.leave()  # first: also where the span cannot be ended
        if not turn.is_taken:
            turn.end(error)
