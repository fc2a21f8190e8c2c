"""Background tasks: each runs in the context in which it was added, inside its own span.

A route that is a plain function runs in a thread with a copy of the context, and what it set there
(baggage, a span) was gone for its tasks (opentelemetry-python-contrib#3586).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel
from opentelemetry import trace

from tracekit.guard import shielded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.background import BackgroundTask

    from tracekit.patching import Function, Patches

    Run = Callable[[BackgroundTask], Awaitable[None]]

_CAPTURED: Final = "_tracekit_context"


def install(patches: Patches) -> None:
    """Let Starlette's background tasks keep the context in which they are made."""
    patches.wrap("starlette.background:BackgroundTask.__init__", _capturing)
    patches.wrap("starlette.background:BackgroundTask.__call__", _returning)


def _capturing(original: Function) -> Function:
    def initialize(task: BackgroundTask, *args: Any, **kwargs: Any) -> None:
        original(task, *args, **kwargs)
        with shielded("the context of a background task"):
            vars(task)[_CAPTURED] = otel.get_current()

    return initialize


def _returning(original: Run) -> Run:
    async def run(task: BackgroundTask) -> None:
        captured = vars(task).get(_CAPTURED)
        if captured is None:
            return await original(task)
        # Whoever traces tasks has made this one's span in the context of the request: it stays the
        # current one.
        token = otel.attach(trace.set_span_in_context(trace.get_current_span(), captured))
        try:
            return await original(task)
        finally:
            otel.detach(token)

    return run
