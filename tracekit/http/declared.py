"""Declarative clients of HTTP, uplink and descanso: the CLIENT span has the declared path's name.

They ask through requests, httpx or aiohttp, whose instrumentor makes the span. Around the declared call its
template stands in the context, which names the span (`tracekit/tracing/templates.py`).
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from tracekit.guard import shielded
from tracekit.patching import is_coroutine_function
from tracekit.tracing.templates import declared

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tracekit.patching import Function, Patches


def install_uplink(patches: Patches) -> None:
    """Let the calls of uplink's consumers name their requests."""
    patches.wrap("uplink.builder:CallFactory.__call__", functools.partial(_naming, _of_uplink))


def install_descanso(patches: Patches) -> None:
    """Let the methods of descanso's clients name their requests."""
    for kind in ("BoundSyncMethod", "BoundAsyncMethod"):
        patches.wrap(f"descanso.bound_method:{kind}.__call__", functools.partial(_naming, _of_descanso))


def _naming(template_of: Callable[[Any], object], original: Function) -> Function:
    """The call of a declared method."""

    @functools.wraps(original)
    def call(method: object, *args: Any, **kwargs: Any) -> Any:
        template = found(method)
        if template is None:
            return original(method, *args, **kwargs)
        with declared(template):
            result = original(method, *args, **kwargs)
        return _awaited(template, result) if inspect.iscoroutine(result) else result

    @functools.wraps(original)
    async def call_later(method: object, *args: Any, **kwargs: Any) -> Any:
        template = found(method)
        if template is None:
            return await original(method, *args, **kwargs)
        with declared(template):
            return await original(method, *args, **kwargs)

    def found(method: object) -> str | None:
        with shielded("the declared path of a request"):
            template = template_of(method)
            return template if isinstance(template, str) else None
        return None

    return call_later if is_coroutine_function(original) else call


async def _awaited(template: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with declared(template):
        return await coroutine


def _of_uplink(method: Any) -> object:
    """None where the whole URL is an argument."""
    return method._request_definition._uri  # noqa: SLF001 - it has no public name


def _of_descanso(method: Any) -> object:
    """None where a function makes the URL: it may give any."""
    transformers = [*method._spec.request_transformers, *method._client.request_transformers]  # noqa: SLF001 - the same
    templates = [one.original_template for one in transformers if type(one).__name__ == "Url"]
    return templates[-1] if templates else None
