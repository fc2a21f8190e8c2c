"""Clients of HTTP through contrib's instrumentors, and hosts that are not trusted.

An instrumentor that the application switched on itself stays its own where it has hooks; else it is
switched on anew, for the stable names.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from opentelemetry import context as otel

from tracekit.guard import shielded
from tracekit.http.names import stable_names
from tracekit.http.urls import hide_secrets
from tracekit.pathway import HEADER
from tracekit.tracing.baggage import BAGGAGE
from tracekit.tracing.trust import Trust, giving_little
from tracekit.tracing.w3c import TRACESTATE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from requests import PreparedRequest

    from tracekit.patching import Function, Patches

_NOT_FOR_STRANGERS = (HEADER, BAGGAGE, TRACESTATE)


class _Instrumentor(Protocol):
    @property
    def is_instrumented_by_opentelemetry(self) -> bool: ...
    def instrument(self) -> None: ...
    def uninstrument(self) -> None: ...


class _HttpxRequest(Protocol):
    @property
    def url(self) -> Any: ...
    @property
    def headers(self) -> MutableMapping[str, str]: ...


def install_httpx(patches: Patches, trust: Trust, package: str = "httpx") -> None:
    """Let httpx (or httpx2, which is the same by another name) make CLIENT spans, sync and async."""
    httpx: Any = importlib.import_module(package)
    contrib: Any = importlib.import_module("opentelemetry.instrumentation.httpx")

    def hooks() -> Mapping[str, object]:
        wrapper = getattr(vars(httpx.HTTPTransport)["handle_request"], "_self_wrapper", None)
        asynchronous = getattr(vars(httpx.AsyncHTTPTransport)["handle_async_request"], "_self_wrapper", None)
        return {**getattr(wrapper, "keywords", {}), **getattr(asynchronous, "keywords", {})}

    stable_names(patches)
    hide_secrets(patches, "opentelemetry.instrumentation.httpx")
    _own(getattr(contrib, f"{package.upper()}ClientInstrumentor")(), hooks, patches)
    if trust.hosts:
        patches.wrap(f"{package}:HTTPTransport.handle_request", lambda original: _guarded(original, trust))
        patches.wrap(
            f"{package}:AsyncHTTPTransport.handle_async_request",
            lambda original: _guarded_async(original, trust),
        )


def install_aiohttp(patches: Patches, trust: Trust) -> None:
    """Let sessions of aiohttp that are made from now on make CLIENT spans."""
    import aiohttp
    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor

    def hooks() -> Mapping[str, object]:
        made: Any = getattr(vars(aiohttp.ClientSession)["__init__"], "_self_wrapper", None)
        # It keeps its tracer in what it makes of these.
        return {"tracer": None, **(inspect.getclosurevars(made).nonlocals if made is not None else {})}

    stable_names(patches)
    hide_secrets(patches, "opentelemetry.instrumentation.aiohttp_client")
    _own(AioHttpClientInstrumentor(), hooks, patches)
    if trust.hosts:
        patches.wrap(
            "aiohttp.client_reqrep:ClientRequest.__init__", lambda original: _guarded_request(original, trust)
        )


def install_requests(patches: Patches, trust: Trust) -> None:
    """Let requests make CLIENT spans."""
    import requests
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    def hooks() -> Mapping[str, object]:
        return inspect.getclosurevars(requests.Session.send).nonlocals

    stable_names(patches)
    hide_secrets(patches, "opentelemetry.instrumentation.requests")
    _own(RequestsInstrumentor(), hooks, patches)
    if trust.hosts:
        patches.wrap("requests:Session.send", lambda original: _guarded_send(original, trust))


def _own(instrumentor: _Instrumentor, settings: Callable[[], Mapping[str, object]], patches: Patches) -> None:
    """Switch it on; one that was switched on before is switched on anew where nothing is lost by it."""
    if instrumentor.is_instrumented_by_opentelemetry:
        if not _is_plain(settings):
            return
        instrumentor.uninstrument()
        patches.after_undo(instrumentor.instrument)
    instrumentor.instrument()
    patches.on_undo(lambda: _switch_off(instrumentor))


def _switch_off(instrumentor: _Instrumentor) -> None:
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def _is_plain(settings: Callable[[], Mapping[str, object]]) -> bool:
    """Whether it was switched on without hooks: those cannot be told to it again."""
    with shielded("the settings of an instrumentor"):
        found = settings()
        return "tracer" in found and not any(
            value is not None for name, value in found.items() if name.endswith("_hook")
        )
    return False


# -- hosts that are not trusted ---------------------------------------------------------------------


def _guarded(original: Function, trust: Trust) -> Function:
    """The transport's call; a host that is not trusted gets no more than a `traceparent` from it."""

    def handle_request(transport: object, request: _HttpxRequest) -> object:
        call = original.__get__(transport)  # contrib's wrapper has to know whose method it is
        if not _is_stranger(trust, request):
            return call(request)
        token = otel.attach(giving_little())
        try:
            return call(request)
        finally:
            otel.detach(token)

    return handle_request


def _guarded_async(original: Function, trust: Trust) -> Callable[..., Awaitable[object]]:
    async def handle_async_request(transport: object, request: _HttpxRequest) -> object:
        call = original.__get__(transport)
        if not _is_stranger(trust, request):
            return await call(request)
        token = otel.attach(giving_little())
        try:
            return await call(request)
        finally:
            otel.detach(token)

    return handle_async_request


def _guarded_request(original: Function, trust: Trust) -> Function:
    """The making of each request of a call, also of those that a redirect asks for."""

    def make(request: Any, *args: Any, **kwargs: Any) -> None:
        original(request, *args, **kwargs)
        _is_stranger(trust, request)

    return make


def _is_stranger(trust: Trust, request: _HttpxRequest) -> bool:
    """Whether the host is not trusted; what a redirect copied from the request before is taken off."""
    with shielded("the trust in a host"):
        if trust.gives(request.url.host):
            return False
        _take_off(request.headers)
        return True
    return False


def _take_off(headers: MutableMapping[str, str]) -> None:
    for name in _NOT_FOR_STRANGERS:
        headers.pop(name, None)


def _guarded_send(original: Function, trust: Trust) -> Function:
    def send(session: object, request: PreparedRequest, **kwargs: Any) -> object:
        stranger = False
        with shielded("the trust in a host"):
            host = urlsplit(request.url or "").hostname or ""
            stranger = not trust.gives(host)
            if stranger:
                _take_off(request.headers)
        if not stranger:
            return original(session, request, **kwargs)
        token = otel.attach(giving_little())
        try:
            return original(session, request, **kwargs)
        finally:
            otel.detach(token)

    return send
