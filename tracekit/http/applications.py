"""Applications: FastAPI's, each with contrib's middleware put around its stack, and taken off again."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from tracekit.guard import shielded

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from fastapi import FastAPI
    from opentelemetry.trace import Span
    from starlette.types import ASGIApp

    Hook = Callable[[Span, MutableMapping[str, Any]], None]

_BUILD: Final = "build_middleware_stack"
_SEEN: Final = "_tracekit_stack"


class _Stack:
    """How an application builds its middleware stack, and the one that it has.

    contrib has it built anew whenever it is switched on or off; the application's middlewares may
    hold state, so while `kept` it gets the stack that there is.
    """

    __slots__ = ("_build", "_own", "current", "kept")

    def __init__(self, app: FastAPI) -> None:
        self._own = vars(app).get(_BUILD)
        self._build: Callable[[], ASGIApp] = app.build_middleware_stack
        self.current: ASGIApp | None = app.middleware_stack
        self.kept = False

    def __call__(self) -> ASGIApp | None:
        if not self.kept:
            self.current = self._build()
        return self.current

    def put_back(self, app: FastAPI) -> None:
        """Let the application build as it did before."""
        if vars(app).get(_BUILD) is not self:
            return
        if self._own is None:
            delattr(app, _BUILD)
        else:
            setattr(app, _BUILD, self._own)


class Applications:
    """Those that we had contrib instrument; `on_request` is called with each SERVER span."""

    def __init__(self, on_request: Hook) -> None:
        self._on_request = on_request
        self._undo: list[Callable[[], None]] = []

    def own(self, app: FastAPI) -> None:
        """Have contrib make the application's SERVER spans, unless it does already."""
        stack = app.middleware_stack
        if stack is not None and vars(app).get(_SEEN) is stack:
            return
        if stack is None and getattr(app, "_is_instrumented_by_opentelemetry", False):
            return  # contrib will be in the stack once that is built
        around, contrib = _contrib_in(stack)
        if contrib is None:
            self._instrument(app)
        elif around is not None and contrib.duration_histogram_new is None:
            self._renew(around, contrib)
        vars(app)[_SEEN] = app.middleware_stack

    def give_back(self) -> None:
        """Take contrib off again, the last first. Every application has the stack it had before."""
        while self._undo:
            with shielded("undoing an application's instrumentation"):
                self._undo.pop()()

    def _instrument(self, app: FastAPI) -> None:
        # Switched on when its stack was there already, or off again behind our back: to no effect.
        vars(app).pop("_is_instrumented_by_opentelemetry", None)
        stack = _Stack(app)
        setattr(app, _BUILD, stack)
        self._undo.append(functools.partial(_take_off, weakref.ref(app), stack))
        FastAPIInstrumentor.instrument_app(
            app, server_request_hook=self._on_request, exclude_spans=["receive", "send"]
        )
        if stack.current is not None:
            stack.kept = True
            app.middleware_stack = app.build_middleware_stack()
            stack.kept = False

    def _renew(self, around: _Around, contrib: OpenTelemetryMiddleware) -> None:
        """Put one that speaks the stable names in the place of one made before they were asked for."""
        around.app = renewed = _renewed(contrib)

        def put_back() -> None:
            if around.app is renewed:
                around.app = contrib

        self._undo.append(put_back)


class _Around(Protocol):
    app: object


def _take_off(reference: weakref.ref[FastAPI], stack: _Stack) -> None:
    app = reference()
    if app is not None:
        stack.kept = True
        FastAPIInstrumentor.uninstrument_app(app)
        stack.put_back(app)
        vars(app).pop(_SEEN, None)


def _contrib_in(stack: object) -> tuple[_Around | None, OpenTelemetryMiddleware | None]:
    """contrib's middleware in the stack, and what stands around it."""
    around: object = None
    while stack is not None:
        if isinstance(stack, OpenTelemetryMiddleware):
            return cast("_Around | None", around), stack
        around, stack = stack, getattr(stack, "app", None)
    return None, None


def _renewed(old: OpenTelemetryMiddleware) -> OpenTelemetryMiddleware:
    excluded: list[Literal["receive", "send"]] = []
    if old.exclude_receive_span:
        excluded.append("receive")
    if old.exclude_send_span:
        excluded.append("send")
    new = OpenTelemetryMiddleware(
        old.app,
        excluded_urls=old.excluded_urls,
        default_span_details=old.default_span_details,
        server_request_hook=old.server_request_hook,
        client_request_hook=old.client_request_hook,
        client_response_hook=old.client_response_hook,
        tracer=old.tracer,
        meter=old.meter,
        http_capture_headers_server_request=old.http_capture_headers_server_request,
        http_capture_headers_server_response=old.http_capture_headers_server_response,
        exclude_spans=excluded,
    )
    new.http_capture_headers_sanitize_fields = old.http_capture_headers_sanitize_fields
    return new
