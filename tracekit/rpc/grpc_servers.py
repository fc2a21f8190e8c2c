"""gRPC as server: a SERVER span from a call's arrival to its end, current in the handler."""

from __future__ import annotations

import functools
import inspect
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from tracekit import semconv
from tracekit.guard import shielded
from tracekit.messaging.nesting import unleaked
from tracekit.patching import Names
from tracekit.rpc.grpc_calls import code_name, duration, ended, method_name
from tracekit.tracing.arrivals import Arrivals
from tracekit.tracing.errors import record_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from opentelemetry.context import Context

    from tracekit.patching import Function, Patches
    from tracekit.tracing.trust import Trust

_KINDS: Final = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def install(patches: Patches, service: str, trust: Trust) -> None:
    """Let every server that is made from now on be traced: by an interceptor, before the application's."""
    import grpc
    import grpc.aio

    serving = _Serving(service, trust)

    class Interceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            return serving.handler(continuation(details), details)

    class AsyncInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return serving.handler(await continuation(details), details)

    patches.wrap("grpc._server:_Server.__init__", functools.partial(_with, Interceptor()))
    patches.wrap("grpc.aio._server:Server.__init__", functools.partial(_with, AsyncInterceptor()))


def _with(interceptor: object, function: Function) -> Function:
    """The making of a server, with this interceptor before those of the application."""
    names = Names(function)

    @functools.wraps(function)
    def make(*args: Any, **kwargs: Any) -> Any:
        with shielded("an interceptor"):
            call = names.bind(args, kwargs)
            if call is not None:
                theirs: Any = call.get("interceptors") or ()
                args, kwargs = names.unbind({**call, "interceptors": (interceptor, *theirs)}, len(args))
        return function(*args, **kwargs)

    return make


class _Serving:
    """The calls that this process serves."""

    def __init__(self, service: str, trust: Trust) -> None:
        self.arrivals = Arrivals(service, trust)
        self.tracer = trace.get_tracer("tracekit", schema_url=semconv.SCHEMA_URL)
        self.durations = duration("server")

    def handler(self, handler: Any, details: Any) -> Any:
        """The application's handler, its work in a span; as it is where it has none for the call."""
        with shielded("the handler of a call"):
            if handler is not None:
                kind = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
                behavior = getattr(handler, kind)
                begin = functools.partial(_Served, self, details)
                return _Handler(handler, kind, _around(begin, behavior, streams=kind.endswith("stream")))
        return handler


class _Handler:
    """A handler with one of its behaviors in the place of another, and all else its own."""

    def __init__(self, handler: Any, kind: str, behavior: Function) -> None:
        self._handler = handler
        setattr(self, kind, behavior)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


class _Served:
    """One call while it is served."""

    def __init__(self, serving: _Serving, details: Any, servicer_context: Any) -> None:
        self._serving = serving
        self._context = servicer_context
        self._is_over = False
        self._start_ns = time.time_ns()
        method = method_name(details.method)
        self._labels = {semconv.RPC_SYSTEM_NAME: "grpc", semconv.RPC_METHOD: method}
        carrier = _carrier(details.invocation_metadata or ())
        self._arrival, context = serving.arrivals.begin(unleaked(otel.get_current()), f"/{method}")
        with _attached(context):
            extracted = propagate.extract(carrier, context)
        self.span = serving.tracer.start_span(
            method, extracted, SpanKind.SERVER, self._labels, _links(self._arrival.caller)
        )
        self.context: Context = trace.set_span_in_context(self.span, extracted)

    def end(self, error: BaseException | None = None) -> None:
        """It ended: well, by a status that the handler set, or by what it raised."""
        if self._is_over:
            return
        self._is_over = True
        code = code_name(_code_of(self._context))
        if error is not None and code == "OK":
            # What a handler raises that set no status is an UNKNOWN; a cancelled one was cancelled.
            code = "UNKNOWN" if isinstance(error, Exception) else "CANCELLED"
            if isinstance(error, Exception):
                record_error(self.span, error)
        failure = ended(self.span, code, is_server=True)
        labels = {**self._labels, semconv.RPC_RESPONSE_STATUS_CODE: code}
        if failure:
            labels[semconv.ERROR_TYPE] = failure
        with _attached(self.context):
            self._serving.durations.record((time.time_ns() - self._start_ns) / 1e9, labels)
            if code != "CANCELLED":
                self._serving.arrivals.end(self._arrival, failure)
        self.span.end()


def _around(begin: Callable[[Any], _Served], behavior: Function, *, streams: bool) -> Function:
    """A behavior, its work in a span. What the application raises goes on as the same object."""
    if inspect.iscoroutinefunction(behavior):

        @functools.wraps(behavior)
        async def answer_async(request: Any, context: Any) -> Any:
            served = _begun(begin, context)
            if served is None:
                return await behavior(request, context)
            with _served(served):
                return await behavior(request, context)

        return answer_async
    if inspect.isasyncgenfunction(behavior):

        @functools.wraps(behavior)
        async def stream_async(request: Any, context: Any) -> AsyncIterator[Any]:
            served = _begun(begin, context)
            answers = behavior(request, context)
            if served is None:
                async for answer in answers:
                    yield answer
                return
            try:
                while True:
                    with _attached(served.context):  # never over a `yield`: it may be closed elsewhere
                        try:
                            answer = await anext(answers)
                        except StopAsyncIteration:
                            break
                    yield answer
            except BaseException as error:
                served.end(error)
                raise
            finally:
                await answers.aclose()
                served.end()

        return stream_async

    @functools.wraps(behavior)
    def answer(request: Any, context: Any) -> Any:
        served = _begun(begin, context)
        if served is None:
            return behavior(request, context)
        if not streams:
            with _served(served):
                return behavior(request, context)
        try:
            with _attached(served.context):
                answers = behavior(request, context)
        except BaseException as error:
            served.end(error)
            raise
        return _stream(served, iter(answers))

    return answer


def _stream(served: _Served, answers: Iterator[Any]) -> Iterator[Any]:
    try:
        while True:
            with _attached(served.context):
                try:
                    answer = next(answers)
                except StopIteration:
                    break
            yield answer
    except BaseException as error:
        served.end(error)
        raise
    finally:
        if hasattr(answers, "close"):
            answers.close()
        served.end()


def _begun(begin: Callable[[Any], _Served], context: Any) -> _Served | None:
    with shielded("the start of a call"):
        return begin(context)
    return None


@contextmanager
def _served(served: _Served) -> Iterator[None]:
    with _attached(served.context):
        try:
            yield
        except BaseException as error:
            with shielded("the end of a call"):
                served.end(error)
            raise
    with shielded("the end of a call"):
        served.end()


@contextmanager
def _attached(context: Context) -> Iterator[None]:
    token = otel.attach(context)
    try:
        yield
    finally:
        otel.detach(token)


def _carrier(metadata: Any) -> dict[str, list[str]]:
    """Metadata as the propagators read headers: each name with all of its values that are text."""
    carrier: dict[str, list[str]] = {}
    for name, value in metadata:
        if isinstance(value, str):
            carrier.setdefault(name, []).append(value)
    return carrier


def _links(caller: trace.SpanContext | None) -> list[trace.Link]:
    return [] if caller is None else [trace.Link(caller)]


def _code_of(context: Any) -> Any:
    with shielded("the status of a call"):
        return context.code()
    return None
