"""Declarative clients of HTTP: uplink and descanso over requests, httpx and aiohttp; a real server."""

# uplink ships no types, and a declared method has no body.
# mypy: disable-error-code="misc,untyped-decorator,empty-body"

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import aiohttp
import descanso.bound_method
import httpx
import pytest
import requests
import uplink
import uplink.builder
from descanso import RestBuilder
from descanso.http.aiohttp import AiohttpClient
from descanso.http.httpx import AsyncHttpxClient, HttpxClient
from descanso.http.requests import RequestsClient
from fastapi import FastAPI, HTTPException
from fastapi.responses import RedirectResponse
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind

from tests.acceptance.http_rig import attributes, parent_of, serving, telemetry
from tracekit.model import Kind
from tracekit.tracing.processors import ShieldedSampler
from tracekit.tracing.templates import declared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.http_rig import Telemetry
    from tracekit.testing import Captured

rest = RestBuilder()


@pytest.fixture
def server() -> Iterator[str]:
    app = FastAPI()

    @app.get("/orders/{number}")
    async def order(number: int) -> int:
        if number == 404:
            raise HTTPException(404)
        return number

    @app.get("/orders")
    async def orders(page: int = 0) -> list[int]:
        return [page]

    @app.get("/moved/{number}")
    async def moved(number: int) -> RedirectResponse:
        return RedirectResponse(f"/orders/{number}")

    @app.get("/api/orders/{number}")
    async def versioned(number: int) -> int:
        return number

    with serving(app) as url:
        yield url


@pytest.fixture
def seen() -> Iterator[Telemetry]:
    with telemetry() as found:
        yield found


class Uplink(uplink.Consumer):
    @uplink.returns.json
    @uplink.get("/orders/{number}")
    def order(self, number: int) -> Any: ...

    @uplink.get("/orders/{number}")
    def response(self, number: int) -> Any: ...

    @uplink.args(page=uplink.Query)
    @uplink.get("/orders")
    def orders(self, page: int) -> Any: ...

    @uplink.get("/moved/{number}")
    def moved(self, number: int) -> Any: ...

    @uplink.get("orders/{number}{?page}")
    def relative(self, number: int, page: int) -> Any: ...

    @uplink.args(url=uplink.Url)
    @uplink.get
    def whole(self, url: str) -> Any: ...


class Orders:
    @rest.get("/orders/{number}")
    def order(self, number: int) -> int: ...

    @rest.get(lambda number: f"/orders/{number}")
    def made(self, number: int) -> int: ...

    @rest.get("/moved/{number}")
    def moved(self, number: int) -> int: ...


class OverRequests(Orders, RequestsClient): ...


class OverHttpx(Orders, HttpxClient): ...


class OrdersLater:
    @rest.get("/orders/{number}")
    async def order(self, number: int) -> int: ...


class OverAsyncHttpx(OrdersLater, AsyncHttpxClient): ...


class OverAiohttp(OrdersLater, AiohttpClient): ...


def by_uplink(url: str, number: int) -> Any:
    with requests.Session() as session:
        return Uplink(url, client=session).order(number)


def by_uplink_over_aiohttp(url: str, number: int) -> Any:
    async def main() -> Any:
        async with aiohttp.ClientSession() as session:
            # Not `returns.json`: for that uplink makes a loop of its own, which it does not close.
            return await (await Uplink(url, client=session).response(number)).json()

    return asyncio.run(main())


def by_descanso_over_requests(url: str, number: int) -> Any:
    with requests.Session() as session:
        return OverRequests(url, session).order(number)


def by_descanso_over_httpx(url: str, number: int) -> Any:
    with httpx.Client() as session:
        return OverHttpx(url, session).order(number)


def by_descanso_over_async_httpx(url: str, number: int) -> Any:
    async def main() -> Any:
        async with httpx.AsyncClient() as session:
            return await OverAsyncHttpx(url, session).order(number)

    return asyncio.run(main())


def by_descanso_over_aiohttp(url: str, number: int) -> Any:
    async def main() -> Any:
        async with aiohttp.ClientSession() as session:
            return await OverAiohttp(url, session).order(number)

    return asyncio.run(main())


CLIENTS = (
    by_uplink,
    by_uplink_over_aiohttp,
    by_descanso_over_requests,
    by_descanso_over_httpx,
    by_descanso_over_async_httpx,
    by_descanso_over_aiohttp,
)


def names(found: Telemetry) -> list[tuple[str, object]]:
    return [(span.name, attributes(span).get("url.template")) for span in found.spans(SpanKind.CLIENT)]


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_declared_request_is_named_by_its_template(ask: Any, server: str, seen: Telemetry) -> None:
    answer = ask(server, 5)

    assert answer == 5
    assert names(seen) == [("GET /orders/{number}", "/orders/{number}")]


@pytest.mark.parametrize("ask", CLIENTS)
def test_the_server_s_span_is_below_the_named_one(ask: Any, server: str, seen: Telemetry) -> None:
    ask(server, 5)

    (client,) = seen.spans(SpanKind.CLIENT)
    (below,) = seen.spans(SpanKind.SERVER)
    assert parent_of(below, seen.spans()) is client


@pytest.mark.parametrize("ask", CLIENTS[2:])
def test_an_error_arrives_as_the_client_raised_it(ask: Any, server: str, seen: Telemetry) -> None:
    with pytest.raises(descanso.ClientError):
        ask(server, 404)

    assert names(seen) == [("GET /orders/{number}", "/orders/{number}")]


@pytest.mark.parametrize("ask", CLIENTS)
def test_all_that_is_emitted_keeps_to_the_conventions(ask: Any, server: str, flows: Captured) -> None:
    ask(server, 5)  # and the fixture `conventions` looks

    flows.wait_for(
        lambda: any(span.name == "GET /orders/{number}" and span.kind is Kind.CLIENT for span in flows.spans),
        says="the named span",
    )


def test_an_error_is_the_same_object(seen: Telemetry) -> None:
    gone = RuntimeError("gone")

    class Gone(requests.Session):
        def request(self, *_: Any, **__: Any) -> Any:
            raise gone

    with pytest.raises(RuntimeError) as raised:
        Uplink("http://127.0.0.1:1", client=Gone()).order(5)

    assert raised.value is gone
    assert seen.spans() == []


def test_a_path_without_variables_is_a_template_too(server: str, seen: Telemetry) -> None:
    with requests.Session() as session:
        Uplink(server, client=session).orders(page=2)

    assert names(seen) == [("GET /orders", "/orders")]


def test_a_template_relative_to_a_base_url_begins_with_a_slash(server: str, seen: Telemetry) -> None:
    with requests.Session() as session:
        Uplink(f"{server}/api/", client=session).relative(5, 2)

    assert names(seen) == [("GET /orders/{number}", "/orders/{number}")]


def test_an_absolute_url_is_named_by_its_path(server: str, seen: Telemetry) -> None:
    class Elsewhere(uplink.Consumer):
        @uplink.get(server + "/orders/{number}")
        def order(self, number: int) -> Any: ...

    with requests.Session() as session:
        Elsewhere("http://elsewhere.invalid", client=session).order(5)

    assert names(seen) == [("GET /orders/{number}", "/orders/{number}")]


def test_a_url_that_is_an_argument_has_no_template(server: str, seen: Telemetry) -> None:
    with requests.Session() as session:
        Uplink(server, client=session).whole(f"{server}/orders/5")

    assert names(seen) == [("GET", None)]


def test_a_url_that_a_function_makes_has_no_template(server: str, seen: Telemetry) -> None:
    with requests.Session() as session:
        OverRequests(server, session).made(5)

    assert names(seen) == [("GET", None)]


def test_what_a_redirect_asks_for_is_not_named_by_the_first_template(server: str, seen: Telemetry) -> None:
    with httpx.Client(follow_redirects=True) as session:
        OverHttpx(server, session).moved(5)

    assert names(seen) == [("GET /moved/{number}", "/moved/{number}"), ("GET", None)]


def test_a_request_beside_a_declared_one_is_not_named_by_it(server: str, seen: Telemetry) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as session:
            later = OverAsyncHttpx(server, session).order(5)
            await session.get(f"{server}/orders/6")
            await later
            await session.get(f"{server}/orders/7")

    asyncio.run(main())

    assert [name for name, _ in names(seen)] == ["GET", "GET /orders/{number}", "GET"]


def test_spans_of_other_kinds_and_clients_keep_their_names(seen: Telemetry) -> None:
    from opentelemetry import trace

    tracer = trace.get_tracer("a database")
    with declared("/orders/{number}"):
        tracer.start_span("SELECT", kind=SpanKind.CLIENT, attributes={"db.system.name": "sqlite"}).end()
        tracer.start_span("work").end()

    assert [span.name for span in seen.spans()] == ["SELECT", "work"]


def test_a_sampler_is_asked_by_the_declared_name() -> None:
    asked: list[tuple[str, Any]] = []

    class Asked(Sampler):
        def should_sample(
            self, context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None, *rest: Any
        ) -> Any:
            asked.append((name, dict(attributes)))
            return ALWAYS_ON.should_sample(context, trace_id, name, kind, attributes, *rest)

        def get_description(self) -> str:
            return "Asked"

    sent = {"http.request.method": "GET", "url.full": "http://shop/orders/5?a=1"}
    with declared("/orders/{number}"):
        ShieldedSampler(Asked()).should_sample(None, 1, "GET", SpanKind.CLIENT, sent)

    assert asked == [("GET /orders/{number}", {**sent, "url.template": "/orders/{number}"})]


def test_undo_restores_the_very_same_functions() -> None:
    owners = (
        uplink.builder.CallFactory,
        descanso.bound_method.BoundSyncMethod,
        descanso.bound_method.BoundAsyncMethod,
    )
    before = [vars(owner)["__call__"] for owner in owners]

    with telemetry():
        between = [vars(owner)["__call__"] for owner in owners]

    assert all(one is not other for one, other in zip(before, between, strict=True))
    assert [vars(owner)["__call__"] for owner in owners] == before


def test_a_method_still_says_that_it_gives_a_coroutine(seen: Telemetry) -> None:
    assert asyncio.iscoroutinefunction(descanso.bound_method.BoundAsyncMethod.__call__)
    coroutine: Any = OverAsyncHttpx("http://127.0.0.1:1", httpx.AsyncClient()).order(5)
    assert inspect.iscoroutine(coroutine)
    coroutine.close()
