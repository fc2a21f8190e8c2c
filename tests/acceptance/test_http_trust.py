"""Trust over HTTP: what is not taken from a route, and not given to a host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from opentelemetry import baggage, propagate
from opentelemetry import context as otel

from tests.acceptance.http_rig import (
    FLOW,
    HEADER,
    PARENT,
    TRACE,
    ask,
    attributes,
    serving,
    telemetry,
    trace_id,
)
from tracekit.context import with_pathway
from tracekit.pathway import Pathway

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

BROUGHT = (
    ("traceparent", PARENT),
    ("tracestate", "a=1"),
    ("baggage", "tier=gold"),
    ("tracekit-flow", HEADER),
)
OURS = {"traceparent", "tracestate", "baggage", "tracekit-flow"}


def service(elsewhere: str = "") -> FastAPI:
    """A service that tells which context headers it got, and the baggage it has."""
    app = FastAPI()

    def got(request: Request) -> dict[str, Any]:
        return {
            "headers": sorted(OURS.intersection(request.headers.keys())),
            "baggage": dict(baggage.get_all()),
        }

    @app.get("/webhooks/stripe")
    @app.get("/orders")
    async def orders(request: Request) -> dict[str, Any]:
        return got(request)

    @app.get("/moved")
    async def moved() -> RedirectResponse:
        return RedirectResponse(f"{elsewhere}/orders")

    return app


def test_a_route_that_is_not_trusted_begins_a_new_trace_that_links_to_its_caller() -> None:
    with telemetry({"/webhooks/*": "none"}) as found, serving(service()) as url:
        _, answer = ask(f"{url}/webhooks/stripe", *BROUGHT)

    span = found.server_span()
    assert span.parent is None
    assert trace_id(span) != TRACE
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE]
    assert attributes(span)["tracekit.flow.id"] == trace_id(span)
    assert '"baggage":{}' in answer
    assert (
        '"headers":["baggage","tracekit-flow","traceparent","tracestate"]' in answer
    )  # the caller's, as sent


def test_other_routes_go_on() -> None:
    with telemetry({"/webhooks/*": "none"}) as found, serving(service()) as url:
        _, answer = ask(f"{url}/orders", *BROUGHT)

    span = found.server_span()
    assert (trace_id(span), attributes(span)["tracekit.flow.id"], span.links) == (TRACE, FLOW, ())
    assert '"baggage":{"tier":"gold"}' in answer


@pytest.mark.parametrize("path", ["/webhooks/stripe", "/api/webhooks/stripe"])
def test_a_route_is_told_without_the_prefix_of_a_proxy(path: str) -> None:
    app = service()
    app.root_path = "/api"

    with telemetry({"/webhooks/*": "none"}) as found, serving(app) as url:
        ask(f"{url}{path}", *BROUGHT)

    assert trace_id(found.server_span()) != TRACE


def test_what_arrived_untrusted_is_still_the_end_of_a_flow() -> None:
    with telemetry({"/webhooks/*": "none"}) as found:
        with serving(service()) as url:
            ask(f"{url}/webhooks/stripe", *BROUGHT)
        (point,) = found.points("tracekit.flow.duration")

    assert point.attributes["tracekit.flow.origin"] == "orders"


def in_flow() -> Context:
    return baggage.set_baggage("tier", "gold", with_pathway(Pathway(FLOW, origin_ns=1), otel.Context()))


def by_httpx(url: str) -> Any:
    return httpx.get(url, follow_redirects=True).json()


def by_async_httpx(url: str) -> Any:
    async def get() -> Any:
        async with httpx.AsyncClient(follow_redirects=True) as client:
            return (await client.get(url)).json()

    return asyncio.run(get())


def by_httpx2(url: str) -> Any:
    return httpx2.get(url, follow_redirects=True).json()


def by_async_httpx2(url: str) -> Any:
    async def get() -> Any:
        async with httpx2.AsyncClient(follow_redirects=True) as client:
            return (await client.get(url)).json()

    return asyncio.run(get())


def by_aiohttp(url: str) -> Any:
    async def get() -> Any:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.json()

    return asyncio.run(get())


def by_requests(url: str) -> Any:
    return requests.get(url, timeout=10).json()


CLIENTS = [by_httpx, by_async_httpx, by_httpx2, by_async_httpx2, by_aiohttp, by_requests]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("trust", "given"),
    [
        (None, ["baggage", "tracekit-flow", "traceparent"]),
        ({"127.0.0.1": "none"}, ["traceparent"]),
        ({"*": "none"}, ["traceparent"]),
        ({"*": "none", "127.0.0.1": "internal"}, ["baggage", "tracekit-flow", "traceparent"]),
        ({"api.partner.example": "none"}, ["baggage", "tracekit-flow", "traceparent"]),
    ],
    ids=str,
)
def test_a_host_gets_what_it_is_trusted_with(
    client: Callable[[str], Any], trust: dict[str, str] | None, given: list[str]
) -> None:
    with telemetry(trust), serving(service()) as url:
        token = otel.attach(in_flow())
        try:
            answer = client(f"{url}/orders")
        finally:
            otel.detach(token)

    assert answer["headers"] == given


@pytest.mark.parametrize("client", CLIENTS)
def test_a_redirect_to_a_host_that_is_not_trusted_gives_it_no_more(client: Callable[[str], Any]) -> None:
    with telemetry({"127.0.0.1": "none"}), serving(service()) as partner, serving(service(partner)) as own:
        token = otel.attach(in_flow())
        try:
            answer = client(f"{own.replace('127.0.0.1', 'localhost')}/moved")
        finally:
            otel.detach(token)

    assert answer["headers"] == ["traceparent"]


def test_a_trust_that_cannot_be_meant_fails_at_the_start_and_changes_nothing() -> None:
    before = propagate.get_global_textmap()

    with pytest.raises(ValueError, match="'none' or 'internal'"), telemetry({"/webhooks/*": "nobody"}):
        pass

    assert propagate.get_global_textmap() is before
