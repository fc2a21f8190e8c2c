"""FastAPI as server: one SERVER span a request, whoever else traces it, and the end of a flow.

contrib's instrumentation owns the span and FastAPI's own telemetry stands down for it, as it does by
itself where it finds contrib's middleware in an application's stack. So that middleware is put there
when an application is first called, whenever it was made; one that has it already is left as it is.
Where contrib cannot be had, FastAPI's own stays the owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan

from tracekit import semconv
from tracekit.guard import shielded
from tracekit.http import background
from tracekit.http.asgi import make_safe
from tracekit.http.lifespan import flushing
from tracekit.http.names import stable_names
from tracekit.messaging.nesting import unleaked
from tracekit.tracing.arrivals import Arrivals
from tracekit.tracing.propagator import Arrival

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from fastapi import FastAPI
    from opentelemetry.trace import Span

    from tracekit.http.applications import Applications
    from tracekit.patching import Patches
    from tracekit.tracing.trust import Trust

    Scope = MutableMapping[str, Any]  # ASGI's: a mapping that servers fill
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[FastAPI, Scope, Receive, Send], Awaitable[None]]

CONTRIB: Final = "opentelemetry.instrumentation.fastapi"

_ARRIVAL: Final = "tracekit.arrival"  # in the scope of a request: an application around this one has it
_NATIVE: Final = "fastapi.telemetry"  # in the scope of a request: FastAPI's own telemetry stands down


def install(patches: Patches, service: str, trust: Trust, flush: Callable[[], object]) -> None:
    """Let every FastAPI application of this process be traced, those that exist already too.

    `flush` is called, in a thread, when a server has ended its application.
    """
    stable_names(patches)
    applications = _contrib(patches)
    served = _Served(Arrivals(service, trust), applications, flush)
    background.install(patches)
    patches.wrap("fastapi.applications:FastAPI.__call__", served.around)
    if applications is not None:
        patches.on_undo(applications.give_back)  # first of all: contrib wraps what we have wrapped


def _contrib(patches: Patches) -> Applications | None:
    try:
        from tracekit.http.applications import Applications
    except ImportError:
        return None
    make_safe(patches)
    return Applications(_complete)


def _complete(span: Span, scope: Scope) -> None:
    """What contrib leaves out: ASGI has no method for a WebSocket, whose handshake is a request too."""
    with shielded("the span of a WebSocket"):
        if scope["type"] == "websocket":
            method = "GET" if str(scope.get("http_version", "1.1")).startswith("1") else "CONNECT"
            span.set_attribute(semconv.HTTP_REQUEST_METHOD, method)
            name = span.name if isinstance(span, ReadableSpan) else ""
            if name.startswith("HTTP "):
                span.update_name(f"{method} {name.removeprefix('HTTP ')}")
    with shielded("the link to a caller who is not trusted"):
        arrival = scope.get(_ARRIVAL)
        if isinstance(arrival, Arrival) and arrival.caller is not None:
            span.add_link(arrival.caller)


class _Request:
    """A request while it is served: the context it starts in, and how it ended."""

    __slots__ = ("arrival", "context", "failure", "status")

    def __init__(self, arrival: Arrival | None, context: Context) -> None:
        self.arrival = arrival
        self.context = context
        self.status = 0
        self.failure: BaseException | None = None

    def sending(self, send: Send) -> Send:
        """The server's `send`, with the status read as it passes."""

        async def send_on(message: Message) -> None:
            if isinstance(message, dict) and message.get("type") == "http.response.start":
                self.status = message.get("status", 0)
            await send(message)

        return send_on


class _Served:
    """What is done around every call of an application."""

    def __init__(
        self, arrivals: Arrivals, applications: Applications | None, flush: Callable[[], object]
    ) -> None:
        self._arrivals = arrivals
        self._flush = flush
        self._applications = applications

    def around(self, original: Application) -> Application:
        """The application's `__call__`, with ours before and after it."""

        async def __call__(app: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: N807 - it is called by this name
            request: _Request | None = None
            with shielded("the start of a request"):
                request = self._start(app, scope)
            if request is None:
                ended = flushing(send, self._flush) if scope["type"] == "lifespan" else send
                return await original(app, scope, receive, ended)
            token = otel.attach(request.context)
            try:
                return await original(app, scope, receive, request.sending(send))
            except BaseException as error:
                request.failure = error
                raise
            finally:
                otel.detach(token)
                with shielded("the end of a request"):
                    self._end(request)

        return __call__

    def _start(self, app: FastAPI, scope: Scope) -> _Request | None:
        """None where there is nothing to do around it: no request, or one that is served already."""
        kind = scope["type"]
        if _ARRIVAL in scope:  # mounted in an application that is traced
            if self._applications is not None:
                scope.setdefault(_NATIVE, None)
            return None
        if self._applications is not None:
            self._applications.own(app)
        if kind not in ("http", "websocket"):
            return None
        context = _clean(otel.get_current())
        if trace.get_current_span(context) is not trace.INVALID_SPAN:
            scope[_ARRIVAL] = None  # called from within the process: part of what calls it
            return _Request(None, context)
        path: str = scope["path"]
        root = (app.root_path or scope.get("root_path", "")).rstrip("/")
        arrival, context = self._arrivals.begin(
            context, path, path.removeprefix(root), may_end=kind == "http"
        )
        scope[_ARRIVAL] = arrival
        return _Request(arrival, context)

    def _end(self, request: _Request) -> None:
        failure = request.failure
        if request.arrival is None or not (failure is None or isinstance(failure, Exception)):
            return  # cancelled: neither done nor failed
        failed = str(request.status) if request.status >= 500 else ""
        self._arrivals.end(request.arrival, type(failure).__name__ if failure is not None else failed)


def _clean(context: Context) -> Context:
    """The context that a request may start in: without a scope that leaked into the server's.

    A span that has ended is never a parent; with it goes whatever else was left there.
    """
    context = unleaked(context)
    span = trace.get_current_span(context)
    if isinstance(span, ReadableSpan) and span.end_time is not None:
        return Context()
    return context
