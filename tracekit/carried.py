"""Context carried to where Python does not carry it: threads, executors, callbacks, other tasks."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar, cast, overload

from opentelemetry import context as otel
from opentelemetry.context import Context

P = ParamSpec("P")
T = TypeVar("T")

# asyncio keeps only weak references to tasks: a detached one would be collected in mid-work.
_detached: set[asyncio.Task[object]] = set()


class Carried(Awaitable[T]):
    """A coroutine, or the like, whose every step runs in one context, in whatever task awaits it."""

    __slots__ = ("_awaitable", "_context")

    def __init__(self, awaitable: Awaitable[T], context: contextvars.Context) -> None:
        self._awaitable = awaitable
        self._context = context

    def __await__(self) -> Generator[object, object, T]:
        steps = self._awaitable.__await__()
        step = functools.partial(steps.send, None)
        try:
            while True:
                try:
                    waiting_for = self._context.run(step)
                except StopIteration as end:
                    return cast("T", end.value)
                try:
                    step = functools.partial(steps.send, (yield waiting_for))
                except BaseException as error:  # noqa: BLE001 - a cancellation goes to the one who waits
                    step = functools.partial(steps.throw, error)
        finally:
            del step  # it may hold the error that leaves here, and its traceback this frame


def carry(function: Callable[P, T]) -> Callable[P, T]:
    """The function, bound to the caller's context: it runs there in whatever thread or task.

    Works for plain and async functions, and for plain ones that give a coroutine; takes, gives and
    raises what the function does. Calls may overlap; what one changes in the context, the next does
    not see.

        pool.submit(tracekit.carry(charge), order)
        future.add_done_callback(tracekit.carry(notify))
    """
    captured = contextvars.copy_context()
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> object:
            own = captured.copy()
            return await Carried(own.run(function, *args, **kwargs), own)

        return cast("Callable[P, T]", run_async)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        own = captured.copy()
        result = own.run(function, *args, **kwargs)
        # What else can be awaited has more to it: a task can be cancelled, a connection entered by `with`.
        return cast("T", _awaiting(Carried(result, own))) if inspect.iscoroutine(result) else result

    return run


async def _awaiting(awaitable: Awaitable[T]) -> T:
    """A coroutine: a task is made of nothing else."""
    return await awaitable


class ContextExecutor(ThreadPoolExecutor):
    """A thread pool whose calls run in the context of whoever submitted them.

    A `ThreadPoolExecutor` in all else, its arguments included. Serves `submit`, `map` and
    `loop.run_in_executor(executor, …)`.

        with tracekit.ContextExecutor(max_workers=4) as pool:
            charged = pool.submit(charge, order)
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(carry(fn), *args, **kwargs)


@overload
def spawn_detached(target: Coroutine[object, object, T]) -> asyncio.Task[T]: ...
@overload
def spawn_detached(target: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> threading.Thread: ...
def spawn_detached(
    target: Coroutine[object, object, object] | Callable[..., object], *args: object, **kwargs: object
) -> asyncio.Task[object] | threading.Thread:
    """Start a worker that belongs to no flow, and give back its task or thread.

    For a worker that outlives the request that happens to start it: without this, everything it
    does later joins that request's trace. A coroutine becomes a task of the running loop, a function
    a daemon thread. Span and baggage are left behind, other context variables are kept. Raises
    RuntimeError for a coroutine where no loop runs.

        tracekit.spawn_detached(drain(jobs))         # in a coroutine
        tracekit.spawn_detached(drain_forever, jobs)  # anywhere
    """
    own = contextvars.copy_context()
    own.run(otel.attach, Context())
    if isinstance(target, Coroutine):
        task = asyncio.get_running_loop().create_task(target, context=own)
        _detached.add(task)
        task.add_done_callback(_detached.discard)
        return task
    thread = threading.Thread(target=own.run, args=(functools.partial(target, *args, **kwargs),), daemon=True)
    thread.start()
    return thread
