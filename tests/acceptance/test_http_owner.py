"""Exactly one SERVER span for a request to FastAPI, whatever else is switched on, in any order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import fastapi
import fastapi.applications
import pytest
from fastapi import FastAPI as Early
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import SpanKind

from tests.acceptance.http_rig import Telemetry, ask, attributes, serving, telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

Step = Callable[["Setting"], None]


class Setting:
    """What the steps of one order act on."""

    def __init__(self, native: bool) -> None:
        self.native = native
        self.app: FastAPI | None = None
        self.telemetry: Telemetry | None = None
        self.ends = ExitStack()

    @property
    def made(self) -> FastAPI:
        assert self.app is not None
        return self.app


@pytest.fixture(autouse=True)
def contrib_is_off_in_the_end() -> Iterator[None]:
    yield
    if FastAPIInstrumentor().is_instrumented_by_opentelemetry:
        FastAPIInstrumentor().uninstrument()


def routes(app: FastAPI) -> FastAPI:
    @app.get("/orders/{number}")
    async def order(number: int) -> int:
        return number

    return app


def make(setting: Setting) -> None:
    kind = fastapi.FastAPI  # as it is named now: contrib puts a class of its own there
    setting.app = routes(kind(telemetry={"tracing": setting.native, "metrics": setting.native}))


def make_early(setting: Setting) -> None:
    setting.app = routes(Early(telemetry={"tracing": setting.native, "metrics": setting.native}))


def configure(setting: Setting) -> None:
    setting.telemetry = setting.ends.enter_context(telemetry())


def switch_on(_: Setting) -> None:
    FastAPIInstrumentor().instrument()


def instrument(setting: Setting) -> None:
    FastAPIInstrumentor.instrument_app(setting.made)


def serve(setting: Setting) -> None:
    with serving(setting.made) as url:
        assert ask(f"{url}/orders/7") == (200, "7")


def wrap_outside(setting: Setting) -> None:
    setting.made.add_middleware(OpenTelemetryMiddleware)


ORDERS: dict[str, list[Step]] = {
    "configure, make": [configure, make],
    "make, configure": [make, configure],
    "early import": [configure, make_early],
    "serve, configure": [make, serve, configure],
    "contrib, configure, make": [switch_on, configure, make],
    "configure, contrib, make": [configure, switch_on, make],
    "contrib, make, configure": [switch_on, make, configure],
    "contrib, make, serve, configure": [switch_on, make, serve, configure],
    "configure, make, contrib": [configure, make, switch_on],
    "configure, make early, contrib": [configure, make_early, switch_on],
    "make, instrument_app, configure": [make, instrument, configure],
    "make, configure, instrument_app": [make, configure, instrument],
    "make, instrument_app, serve, configure": [make, instrument, serve, configure],
    "make, serve, instrument_app, configure": [make, serve, instrument, configure],
    "make, serve, configure, instrument_app": [make, serve, configure, instrument],
    "configure, make, serve, instrument_app": [configure, make, serve, instrument],
    "middleware, configure": [make, wrap_outside, configure],
    "configure, middleware": [configure, make, wrap_outside],
}


@pytest.mark.parametrize("native", [True, False], ids=["native on", "native off"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_request_gives_exactly_one_server_span(order: str, native: bool) -> None:
    setting = Setting(native)
    with setting.ends:
        for step in ORDERS[order]:
            step(setting)
        assert setting.telemetry is not None
        before = len(setting.telemetry.spans(SpanKind.SERVER))

        serve(setting)

        (span,) = setting.telemetry.spans(SpanKind.SERVER)[before:]
        found = attributes(span)
        assert (span.parent, found["http.route"]) == (None, "/orders/{number}")
        assert found["http.request.method"] == "GET"
        assert "http.method" not in found


def test_a_mounted_application_adds_none() -> None:
    outer = Early()
    outer.mount("/shop", routes(Early()))

    with telemetry() as found, serving(outer) as url:
        assert ask(f"{url}/shop/orders/7") == (200, "7")

    assert [span.kind for span in found.spans()] == [SpanKind.SERVER]


def test_undoing_gives_the_application_back_as_it_was() -> None:
    app = routes(Early())
    serve_once = Setting(native=True)
    serve_once.app = app
    serve(serve_once)
    call, stack = fastapi.applications.FastAPI.__call__, app.middleware_stack

    with telemetry():
        serve(serve_once)
        assert app.middleware_stack is not stack

    assert fastapi.applications.FastAPI.__call__ is call
    assert app.middleware_stack is stack
    assert "build_middleware_stack" not in vars(app)


def test_it_can_be_done_again() -> None:
    setting = Setting(native=True)
    setting.app = routes(Early())
    for _ in range(3):
        with telemetry() as found:
            serve(setting)
        assert found.server_span().name == "GET /orders/{number}"


def test_what_the_application_instrumented_stays_so_after_undoing() -> None:
    setting = Setting(native=False)
    setting.app = routes(Early(telemetry={"tracing": False}))
    instrument(setting)
    with telemetry():
        serve(setting)

    with telemetry() as found:
        serve(setting)

    assert getattr(setting.app, "_is_instrumented_by_opentelemetry", False)
    assert found.server_span().name == "GET /orders/{number}"


def test_middlewares_of_the_application_are_made_once() -> None:
    made: list[object] = []

    class Counts:
        def __init__(self, app: Any) -> None:
            self.app = app
            made.append(self)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    setting = Setting(native=True)
    setting.app = routes(Early())
    setting.app.add_middleware(Counts)
    serve(setting)
    with telemetry():
        serve(setting)
    serve(setting)

    assert len(made) == 1


def test_without_contrib_fastapi_s_own_telemetry_is_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.fastapi", None)
    monkeypatch.delitem(sys.modules, "tracekit.http.applications", raising=False)

    with telemetry() as found, serving(routes(Early())) as url:
        ask(f"{url}/orders/7")

    scope = found.server_span().instrumentation_scope
    assert scope is not None
    assert scope.name == "fastapi"
    (point,) = found.points("tracekit.flow.duration")
    assert dict(point.attributes) == {"tracekit.flow.end": "request", "tracekit.flow.origin": "orders"}
