"""Applications: FastAPI's, each with contrib's middleware put around its stack, and taken off again."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

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
        self._stacks: list[tuple[weakref.ref[FastAPI], _Stack]] = []

    def own(self, app: FastAPI) -> None:
        """Have contrib make the application's SERVER spans, unless it does already."""
        stack = app.middleware_stack
        if stack is not None and vars(app).get(_SEEN) is stack:
            return
        if stack is None and getattr(app, "_is_instrumented_by_opentelemetry", False):
            return  # contrib will be in the stack once that is built
        if not _has_contrib(stack):
            self._instrument(app)
        vars(app)[_SEEN] = app.middleware_stack

    def give_back(self) -> None:
        """Take contrib off again, the last first. Every application has the stack it had before."""
        while self._stacks:
            reference, stack = self._stacks.pop()
            app = reference()
            if app is not None:
                stack.kept = True
                FastAPIInstrumentor.uninstrument_app(app)
                stack.put_back(app)
                vars(app).pop(_SEEN, None)

    def _instrument(self, app: FastAPI) -> None:
        # Switched on when its stack was there already, or off again behind our back: to no effect.
        vars(app).pop("_is_instrumented_by_opentelemetry", None)
        stack = _Stack(app)
        setattr(app, _BUILD, stack)
        self._stacks.append((weakref.ref(app), stack))
        FastAPIInstrumentor.instrument_app(
            app, server_request_hook=self._on_request, exclude_spans=["receive", "send"]
        )
        if stack.current is not None:
            stack.kept = True
            app.middleware_stack = app.build_middleware_stack()
            stack.kept = False


def _has_contrib(stack: object) -> bool:
    while stack is not None:
        if isinstance(stack, OpenTelemetryMiddleware):
            return True
        stack = getattr(stack, "app", None)
    return False
