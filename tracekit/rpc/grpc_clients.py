"""gRPC as client: a span from the call to its end, whatever kind it is, and the real call is given back.

Its metadata goes out as the application gave it, repeated keys included, with ours after it as far as there
is room: beyond 8 KiB servers refuse a call.
"""

from __future__ import annotations

import functools
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from tracekit import context as ours
from tracekit import semconv
from tracekit.guard import count_drop, shielded
from tracekit.messaging import creation
from tracekit.messaging.calls import is_suppressed
from tracekit.messaging.transport import Message
from tracekit.patching import Names
from tracekit.rpc.grpc_calls import address, code_name, duration, ended, method_name
from tracekit.tracing.errors import outcome
from tracekit.tracing.trust import giving_little
from tracekit.tracing.w3c import TRACEPARENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span

    from tracekit.patching import Function, Patches
    from tracekit.tracing.trust import Trust

_SOFT_LIMIT: Final = 8 * 1024 - 700
"""Beyond 8 KiB servers refuse a call, some of the time. Less what gRPC itself sends, with room for names."""
_OURS: Final = 2 * 1024
_AROUND: Final = 32
"""Bytes that a pair counts for beside its text. Source: RFC 9113, 6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE."""
_BLOCKING: Final = ("_UnaryUnaryMultiCallable", "_StreamUnaryMultiCallable")
_STREAMING: Final = (
    *("_UnaryStreamMultiCallable", "_SingleThreadedUnaryStreamMultiCallable", "_StreamStreamMultiCallable"),
)
_ASYNC: Final = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")


def install(patches: Patches, trust: Trust) -> None:
    """Let every channel of this process make CLIENT spans, those that exist already too."""
    calls = _Calls(trust)
    for name in _BLOCKING:
        for method in ("__call__", "with_call"):
            patches.wrap(f"grpc._channel:{name}.{method}", calls.blocking)
        patches.wrap(f"grpc._channel:{name}.future", calls.going_on)
    for name in _STREAMING:
        patches.wrap(f"grpc._channel:{name}.__call__", calls.going_on)
    for name in _ASYNC:
        patches.wrap(f"grpc.aio._channel:{name}MultiCallable.__call__", calls.asynchronous)


class _Call:
    """A call under way: its span, and what its metrics say."""

    def __init__(self, span: Span, labels: dict[str, Any], durations: Histogram) -> None:
        self.span = span
        self._labels = labels
        self._durations = durations
        self._start_ns = time.time_ns()
        self._is_over = False

    def end(self, code: str, error: BaseException | None = None) -> None:
        """It ended with this code; with an `error` that is none of gRPC's, before it began."""
        if self._is_over:
            return
        self._is_over = True
        failure = ended(self.span, code, is_server=False)
        if error is not None:
            failure = outcome(self.span, error)
        labels = {**self._labels, semconv.RPC_RESPONSE_STATUS_CODE: code}
        if failure:
            labels[semconv.ERROR_TYPE] = failure
        with _current(self.span):
            self._durations.record((time.time_ns() - self._start_ns) / 1e9, labels)
        self.span.end()


class _Calls:
    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._tracer = trace.get_tracer("tracekit", schema_url=semconv.SCHEMA_URL)
        self._durations = duration("client")

    def blocking(self, function: Function) -> Function:
        """A call that is over when it returns."""
        names = Names(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            begun, args, kwargs = self._begun(names, args, kwargs, _target)
            if begun is None:
                return function(*args, **kwargs)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                with shielded("the end of a call"):
                    _failed(begun, error)
                raise
            with shielded("the end of a call"):
                begun.end("OK")
            return result

        return call

    def going_on(self, function: Function) -> Function:
        """A call that gives the call itself: a future, or the stream of its answers."""
        return self._given(function, _target, _hear)

    def asynchronous(self, function: Function) -> Function:
        """A call of grpc.aio, which gives the call itself."""
        return self._given(function, _async_target, _hear_async)

    def _given(self, function: Function, target_of: Function, hear: Callable[[Any, _Call], None]) -> Function:
        names = Names(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            begun, args, kwargs = self._begun(names, args, kwargs, target_of)
            if begun is None:
                return function(*args, **kwargs)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                with shielded("the end of a call"):
                    _failed(begun, error)
                raise
            with shielded("the end of a call"):
                hear(result, begun)
            return result

        return call

    def _begun(
        self, names: Names, args: tuple[Any, ...], kwargs: dict[str, Any], target_of: Function
    ) -> tuple[_Call | None, tuple[Any, ...], dict[str, Any]]:
        """The call under way, and its arguments with our metadata; None where nothing is wanted of us."""
        with shielded("the start of a call"):
            call = names.bind(args, kwargs)
            if call is not None and not is_suppressed():
                callable_: Any = call["self"]
                labels = {
                    semconv.RPC_SYSTEM_NAME: "grpc",
                    semconv.RPC_METHOD: method_name(callable_._method),  # noqa: SLF001 - it says it nowhere else
                    **address(target_of(callable_)),
                }
                name = str(labels[semconv.RPC_METHOD])
                span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=labels)
                begun = _Call(span, labels, self._durations)
                given: Any = call.get("metadata")
                metadata = self._metadata(given, span, str(labels[semconv.SERVER_ADDRESS]))
                if metadata is not None:
                    args, kwargs = names.unbind({**call, "metadata": metadata}, len(args))
                return begun, args, kwargs
        return None, args, kwargs

    def _metadata(self, given: Any, span: Span, host: str) -> Any:
        """The application's metadata with our headers after it; None where none of ours goes with it."""
        own = [*given] if given is not None else []
        if any(str(name).lower() == TRACEPARENT for name, _ in own):
            return None
        context = trace.set_span_in_context(span)
        if not self._trust.gives(host):
            context = giving_little(context)
        headers = ours.headers_of(context)
        used = sum(len(name) + len(value) + _AROUND for name, value in own)
        room = min(_OURS, _SOFT_LIMIT - used)
        left_out = creation.trim(headers, Message("", room=room), None)
        if left_out:
            count_drop("size", "context that does not fit on a call", len(left_out))
            span.set_attribute(semconv.DROP_REASON, "size")
        if not headers:
            return None
        return _joined(given, own, [*headers.items()])


def _joined(given: Any, own: Sequence[tuple[str, Any]], headers: Sequence[tuple[str, str]]) -> Any:
    """In the form that was given: grpc.aio's Metadata, or pairs."""
    if type(given).__name__ == "Metadata":
        return type(given)(*own, *headers)
    return (*own, *headers)


def _failed(call: _Call, error: BaseException) -> None:
    code: Any = getattr(error, "code", None)
    if callable(code):
        call.end(code_name(code()))
    else:
        call.end("UNKNOWN" if isinstance(error, Exception) else "CANCELLED", error)


def _hear(call: Any, begun: _Call) -> None:
    """Hear of the end of a call, which may be over."""

    def over() -> None:
        with shielded("the end of a call"):
            begun.end(code_name(call.code()))

    if not call.add_callback(over):
        over()


def _hear_async(call: Any, begun: _Call) -> None:
    def over(done: Any) -> None:
        with shielded("the end of a call"):
            begun.end(code_name(_said(done)))

    call.add_done_callback(over)


def _said(done: Any) -> Any:
    """The code of a call that is done: a coroutine tells it, which then has nothing to wait for."""
    asking = done.code()
    try:
        asking.send(None)
    except StopIteration as told:
        return told.value
    except BaseException:  # noqa: BLE001 - a call that was cancelled raises that
        return 1
    finally:
        asking.close()
    return 2


def _target(callable_: Any) -> str | bytes:
    target: str | bytes = callable_._target  # noqa: SLF001 - it says it nowhere else
    return target


def _async_target(callable_: Any) -> str | bytes:
    target: str | bytes = callable_._channel.target  # noqa: SLF001 - as above
    return target


@contextmanager
def _current(span: Span) -> Iterator[None]:
    token = otel.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        otel.detach(token)
