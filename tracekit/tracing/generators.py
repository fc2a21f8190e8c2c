"""Generators with a span of their own, which never leaks into whoever iterates them."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, ParamSpec, TypeVar, cast

from opentelemetry import context as otel
from opentelemetry import trace

from tracekit import semconv
from tracekit.carried import Carried
from tracekit.guard import shielded
from tracekit.tracing.errors import outcome

P = ParamSpec("P")
G = TypeVar("G")


_REGULAR = (StopIteration, StopAsyncIteration, GeneratorExit)


class _Life:
    """A generator, its span, and the context in which its every step runs."""

    __slots__ = ("_ended", "_span", "context", "inner")

    def __init__(self) -> None:
        self.context = contextvars.copy_context()
        self.inner: Any = None
        self._ended = False
        self._span: trace.Span = trace.INVALID_SPAN

    def begin(self, name: str, inner: Any) -> None:
        self.inner = inner
        with shielded("the span of a generator"):
            self._span = trace.get_tracer("tracekit", schema_url=semconv.SCHEMA_URL).start_span(name)
            self.context.run(otel.attach, trace.set_span_in_context(self._span))

    def end(self, error: BaseException | None = None) -> None:
        """The generator is over: it returned, was closed, or raised `error`."""
        if self._ended:
            return
        self._ended = True
        with shielded("the span of a generator"):
            try:
                if error is not None and not isinstance(error, _REGULAR):
                    outcome(self._span, error)
            finally:
                self._span.end()

    def step(self, run: Callable[..., Any], *args: Any) -> Any:
        if self.inner.gi_running:  # it is called from within, or by another thread, and says so itself
            return run(*args)
        try:
            return self.context.run(run, *args)
        except BaseException as error:
            if self.inner.gi_frame is None:  # else it was only used wrongly, and goes on
                self.end(error)
            raise

    async def astep(self, awaitable: Awaitable[Any]) -> Any:
        if self.inner.ag_running:
            return await awaitable
        try:
            return await Carried(awaitable, self.context)
        except BaseException as error:
            if self.inner.ag_frame is None:
                self.end(error)
            raise

    def __del__(self) -> None:
        # A forgotten generator is closed as it is let go; an async one by its event loop, in a task, which
        # takes the context that is current here.
        self.context.run(delattr, self, "inner")
        self.end()


class _Traced(Generator[Any, Any, Any]):
    def __init__(self, life: _Life) -> None:
        self._life = life

    def __next__(self) -> Any:
        return self._life.step(self._life.inner.__next__)

    def send(self, value: Any) -> Any:
        return self._life.step(self._life.inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._life.step(self._life.inner.throw, *error)

    def close(self) -> None:
        self._life.step(self._life.inner.close)
        self._life.end()


class _AsyncTraced(AsyncGenerator[Any, Any]):
    def __init__(self, life: _Life) -> None:
        self._life = life

    async def asend(self, value: Any) -> Any:
        return await self._life.astep(self._life.inner.asend(value))

    async def athrow(self, *error: Any) -> Any:
        return await self._life.astep(self._life.inner.athrow(*error))

    async def aclose(self) -> None:
        await self._life.astep(self._life.inner.aclose())
        self._life.end()


def traced_generator(function: Callable[P, G]) -> Callable[P, G]:
    """The generator function, with a span from its call to its end.

    The span is current inside the generator only: around each step, never in the body of whoever
    iterates, nor after it was left early, from whatever task. Works for `yield` in `def` and in
    `async def`; what the generator raises is the span's error, and is raised on. The span's name is
    the function's. The generator runs in a copy of its caller's context: what it sets in context
    variables stays inside. What a function gives that is no generator is given as it is.

        @tracekit.traced_generator
        async def rows(query):
            async for row in database.stream(query):
                yield row
    """
    name = function.__qualname__

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> G:
        life = _Life()
        made: Any = function(*args, **kwargs)
        if not inspect.isgenerator(made) and not inspect.isasyncgen(made):
            return cast("G", made)
        life.begin(name, made)
        return cast("G", _Traced(life) if inspect.isgenerator(made) else _AsyncTraced(life))

    return call
