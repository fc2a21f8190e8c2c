"""Generators with a span of their own, which never leaks into whoever iterates them."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from opentelemetry import context as otel
from opentelemetry import trace

from tracekit import semconv
from tracekit.carried import Carried
from tracekit.guard import shielded
from tracekit.tracing.errors import outcome

if TYPE_CHECKING:
    from types import TracebackType

P = ParamSpec("P")
G = TypeVar("G")


class _Life:
    """A generator's span, and the context in which its every step runs."""

    __slots__ = ("_ended", "_span", "context")

    def __init__(self, name: str) -> None:
        self.context = contextvars.copy_context()
        self._ended = False
        self._span: trace.Span = trace.INVALID_SPAN
        with shielded("the span of a generator"):
            self._span = trace.get_tracer("tracekit", schema_url=semconv.SCHEMA_URL).start_span(name)
            self.context.run(otel.attach, trace.set_span_in_context(self._span))

    def end(self, error: BaseException | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        with shielded("the span of a generator"):
            try:
                if error is not None and not isinstance(error, GeneratorExit):
                    outcome(self._span, error)
            finally:
                self._span.end()

    def step(self, run: Callable[..., Any], *args: Any) -> Any:
        try:
            return self.context.run(run, *args)
        except StopIteration:
            self.end()
            raise
        except BaseException as error:
            self.end(error)
            raise

    async def astep(self, awaitable: Awaitable[Any]) -> Any:
        try:
            return await Carried(awaitable, self.context)
        except StopAsyncIteration:
            self.end()
            raise
        except BaseException as error:
            self.end(error)
            raise


class _Traced(Generator[Any, Any, Any]):
    def __init__(self, name: str, make: Callable[[], Generator[Any, Any, Any]]) -> None:
        self._life = _Life(name)
        self._inner: Generator[Any, Any, Any] = self._life.step(make)

    def send(self, value: Any) -> Any:
        return self._life.step(self._inner.send, value)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        error = kind if isinstance(kind, BaseException) else value if value is not None else kind()
        return self._life.step(self._inner.throw, error)

    def close(self) -> None:
        try:
            self._life.step(self._inner.close)
        finally:
            self._life.end()

    def __del__(self) -> None:
        self.close()


class _AsyncTraced(AsyncGenerator[Any, Any]):
    def __init__(self, name: str, make: Callable[[], AsyncGenerator[Any, Any]]) -> None:
        self._life = _Life(name)
        self._inner: AsyncGenerator[Any, Any] = self._life.step(make)

    async def asend(self, value: Any) -> Any:
        return await self._life.astep(self._inner.asend(value))

    async def athrow(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        error = kind if isinstance(kind, BaseException) else value if value is not None else kind()
        return await self._life.astep(self._inner.athrow(error))

    async def aclose(self) -> None:
        try:
            await self._life.astep(self._inner.aclose())
        finally:
            self._life.end()

    def __del__(self) -> None:
        self._life.end()


def traced_generator(function: Callable[P, G]) -> Callable[P, G]:
    """The generator function, with a span from its call to its end.

    The span is current inside the generator only: around each step, never in the body of whoever
    iterates, nor after it was left early, from whatever task. Works for `yield` in `def` and in
    `async def`; what the generator raises is the span's error, and is raised on. The span's name is
    the function's.

        @tracekit.traced_generator
        async def rows(query):
            async for row in database.stream(query):
                yield row
    """
    name = function.__qualname__
    wrapper: Callable[..., Any] = _AsyncTraced if inspect.isasyncgenfunction(function) else _Traced

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> G:
        return cast("G", wrapper(name, lambda: function(*args, **kwargs)))

    return call
