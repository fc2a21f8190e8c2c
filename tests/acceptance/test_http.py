"""HTTP end to end: real servers on loopback, httpx and requests as clients, telemetry in memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import httpx2
import opentelemetry
import pytest
import requests
from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability as Stability
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import SpanKind

from tests.acceptance.http_rig import (
    FLOW,
    HEADER,
    PARENT,
    TRACE,
    ask,
    attributes,
    context_of,
    flow_ids,
    parent_of,
    serving,
    telemetry,
    trace_id,
)
from tracekit import context as ours
from tracekit import guard
from tracekit.http.names import stable_names
from tracekit.patching import Patches
from tracekit.pathway import Pathway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
LONG_BUCKETS = (*BUCKETS, 30, 60, 300, 1800, 7200)


def shop() -> FastAPI:
    """What most cases need of an application."""
    app = FastAPI()

    @app.get("/orders/{number}")
    async def order(number: int) -> int:
        return number

    @app.get("/seen")
    async def seen() -> dict[str, Any]:
        return {"flow": ours.flow_id(), "baggage": dict(baggage.get_all())}

    @app.get("/crash")
    async def crash() -> None:
        raise KeyError("no such order")

    @app.get("/unavailable")
    async def unavailable() -> None:
        raise HTTPException(503)

    @app.get("/publish")
    async def publish() -> None:
        checkpoint = ours.checkpoint_of()
        assert checkpoint is not None
        checkpoint.sent = True

    return app


def front(back: str) -> FastAPI:
    """A service that asks another one, by each client."""
    app = FastAPI()

    @app.get("/by-httpx")
    async def by_httpx() -> Any:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{back}/seen")).json()

    @app.get("/by-httpx-in-a-thread")
    def by_httpx_in_a_thread() -> Any:
        return httpx.get(f"{back}/seen").json()

    @app.get("/by-httpx2")
    async def by_httpx2() -> Any:
        async with httpx2.AsyncClient() as client:
            return (await client.get(f"{back}/seen")).json()

    @app.get("/by-aiohttp")
    async def by_aiohttp() -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"{back}/seen") as answer:
            return await answer.json()

    @app.get("/by-requests")
    def by_requests() -> Any:
        return requests.get(f"{back}/seen", timeout=10).json()

    return app


WAYS = ["/by-httpx", "/by-httpx-in-a-thread", "/by-httpx2", "/by-aiohttp", "/by-requests"]


# -- spans, names and metrics -----------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_call_across_two_services_is_one_trace_and_one_flow(way: str) -> None:
    with telemetry() as found, serving(shop()) as back, serving(front(back)) as url:
        _, answer = ask(f"{url}{way}")

    entry, call, answered = found.spans()
    assert [one.kind for one in (entry, call, answered)] == [
        SpanKind.SERVER,
        SpanKind.CLIENT,
        SpanKind.SERVER,
    ]
    assert [one.name for one in (entry, call, answered)] == [f"GET {way}", "GET", "GET /seen"]
    assert [parent_of(one, found.spans()) for one in (entry, call, answered)] == [None, entry, call]
    assert flow_ids(found.spans()) == {trace_id(entry)}
    assert f'"flow":"{trace_id(entry)}"' in answer


@pytest.mark.parametrize("way", WAYS)
def test_the_flow_that_a_request_brings_goes_on(way: str) -> None:
    with telemetry() as found, serving(shop()) as back, serving(front(back)) as url:
        ask(
            f"{url}{way}",
            ("traceparent", PARENT),
            ("tracestate", "a@b@c=1"),
            ("baggage", "tier=gold"),
            ("tracekit-flow", HEADER),
        )

    assert flow_ids(found.spans()) == {FLOW}
    assert {trace_id(span) for span in found.spans()} == {TRACE}
    assert {context_of(span).trace_state.to_header() for span in found.spans()} == {"a@b@c=1"}


def test_behind_a_service_that_knows_only_traceparent_the_flow_is_the_trace() -> None:
    with telemetry() as found, serving(shop()) as url:
        ask(f"{url}/seen", ("traceparent", PARENT))

    assert flow_ids(found.spans()) == {TRACE}


def test_the_names_are_the_stable_ones() -> None:
    with telemetry() as found, serving(shop()) as url:
        requests.get(f"{url}/orders/7", timeout=10)
        httpx.get(f"{url}/orders/7")

    port = int(url.rpartition(":")[2])
    server = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/orders/{number}",
        "url.path": "/orders/7",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": port,
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
    }
    client = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.full": f"{url}/orders/7",
        "server.address": "127.0.0.1",
        "server.port": port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": port,
        "network.protocol.version": "1.1",
    }
    varying = {"client.port", "user_agent.original", "tracekit.flow.id"}
    for kind, expected in ((SpanKind.SERVER, server), (SpanKind.CLIENT, client)):
        for span in found.spans(kind):
            assert {k: v for k, v in attributes(span).items() if k not in varying} == expected


def test_the_metrics_are_those_of_the_conventions_in_seconds() -> None:
    with telemetry() as found, serving(shop()) as url:
        requests.get(f"{url}/orders/7", timeout=10)
        httpx.get(f"{url}/orders/7")

        (served,) = found.points("http.server.request.duration")
        called = found.points("http.client.request.duration")
        assert found.points("http.server.duration") == found.points("http.client.duration") == []

    assert [(one.count, one.explicit_bounds, one.sum < 5) for one in (served, *called)] == [
        (2, BUCKETS, True),
        (1, BUCKETS, True),  # one of each instrumentor's
        (1, BUCKETS, True),
    ]
    assert dict(served.attributes) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/orders/{number}",
        "network.protocol.version": "1.1",
        "url.scheme": "http",
    }


def test_the_address_is_the_one_that_was_asked_for() -> None:
    app = shop()

    async def within_the_process() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            await client.get("http://t/orders/7")
            await client.get("https://shop.example:8443/orders/7")
            await client.get("http://t/orders/7", headers={"host": "a b@:x"})

    with telemetry() as found:
        asyncio.run(within_the_process())

    seen = [attributes(one) for one in found.spans()]
    addresses = [(one["server.address"], one.get("server.port")) for one in seen]
    assert addresses == [("t", 80), ("shop.example", 8443), ("t", None)]


@pytest.mark.parametrize("get", [requests.get, httpx.get])
@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("page=2&q=token+ring", "page=2&q=token+ring"),
        ("access_token=abc&page=2", "access_token=REDACTED&page=2"),
        ("page=2&API_KEY=abc", "page=2&API_KEY=REDACTED"),
        ("X-Amz-Signature=abc&X-Amz-Date=1", "X-Amz-Signature=REDACTED&X-Amz-Date=1"),
        ("user%5Bpassword%5D=abc&client_secret=abc", "user%5Bpassword%5D=REDACTED&client_secret=REDACTED"),
        # The four that the conventions name.
        ("AWSAccessKeyId=abc&Signature=abc", "AWSAccessKeyId=REDACTED&Signature=REDACTED"),
        ("token%5B%5D=abc&user%5Btoken%5D%5B%5D=abc", "token%5B%5D=REDACTED&user%5Btoken%5D%5B%5D=REDACTED"),
        ("token+=abc&password1=abc&key%20=1", "token+=REDACTED&password1=REDACTED&key%20=1"),
        ("sig=abc&config=1", "sig=REDACTED&config=1"),
        ("X-Goog-Signature=abc", "X-Goog-Signature=REDACTED"),
    ],
)
def test_secrets_in_a_url_are_on_no_span(query: str, shown: str, get: Any) -> None:
    with telemetry() as found, serving(shop()) as url:
        assert get(f"{url.replace('//', '//me:abc@')}/orders/7?{query}", timeout=10).status_code == 200

    (client,) = found.spans(SpanKind.CLIENT)
    full = f"{url.replace('//', '//REDACTED:REDACTED@')}/orders/7?{shown}"
    assert (attributes(client)["url.full"], attributes(found.server_span())["url.query"]) == (full, shown)


def test_the_user_s_own_choice_of_names_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup")
    monkeypatch.setattr(Stability, "_initialized", False)
    modes = dict(Stability._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING)
    try:
        with telemetry() as found, serving(shop()) as url:
            ask(f"{url}/orders/7")
    finally:
        Stability._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING.clear()
        Stability._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING.update(modes)

    assert {"http.method", "http.request.method"} <= attributes(found.server_span()).keys()


def test_without_contrib_there_is_nothing_to_rename_and_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("opentelemetry.instrumentation", "opentelemetry.instrumentation._semconv"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(opentelemetry, "__path__", [])

    stable_names(Patches())

    assert (guard.dropped(), caplog.messages) == ({}, [])


def test_the_environment_that_child_processes_inherit_is_left_alone() -> None:
    program = "import os; print(os.environ.get('OTEL_SEMCONV_STABILITY_OPT_IN'))"
    with telemetry():
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert child.stdout.strip() == str(os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN"))


def test_clients_that_the_application_instrumented_speak_the_stable_names_until_undone() -> None:
    HTTPXClientInstrumentor().instrument()
    RequestsInstrumentor().instrument()
    try:
        with telemetry() as found, serving(shop()) as url:
            httpx.get(f"{url}/orders/7")
            requests.get(f"{url}/orders/7", timeout=10)
        assert HTTPXClientInstrumentor().is_instrumented_by_opentelemetry
        assert RequestsInstrumentor().is_instrumented_by_opentelemetry
    finally:
        HTTPXClientInstrumentor().uninstrument()
        RequestsInstrumentor().uninstrument()

    assert ["url.full" in attributes(span) for span in found.spans(SpanKind.CLIENT)] == [True, True]


def test_clients_that_the_application_gave_hooks_keep_them() -> None:
    hooked: list[str] = []
    HTTPXClientInstrumentor().instrument(request_hook=lambda span, request: hooked.append("httpx"))
    RequestsInstrumentor().instrument(request_hook=lambda span, request: hooked.append("requests"))
    try:
        with telemetry() as found, serving(shop()) as url:
            httpx.get(f"{url}/orders/7")
            requests.get(f"{url}/orders/7", timeout=10)
    finally:
        HTTPXClientInstrumentor().uninstrument()
        RequestsInstrumentor().uninstrument()

    assert hooked == ["httpx", "requests"]
    assert len(found.spans(SpanKind.CLIENT)) == 2


def test_undoing_gives_the_clients_back_as_they_were() -> None:
    before = (
        vars(httpx.HTTPTransport)["handle_request"],
        vars(httpx.AsyncHTTPTransport)["handle_async_request"],
        vars(requests.Session)["send"],
    )
    with telemetry({"partner.example": "none"}):
        pass

    assert before == (
        vars(httpx.HTTPTransport)["handle_request"],
        vars(httpx.AsyncHTTPTransport)["handle_async_request"],
        vars(requests.Session)["send"],
    )


# -- where a flow ends ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "error"),
    [("/orders/7", {}), ("/crash", {"error.type": "KeyError"}), ("/unavailable", {"error.type": "503"})],
)
@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_an_entry_request_that_sends_nothing_on_is_the_end_of_its_flow(
    path: str, error: dict[str, str], sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with telemetry() as found:
        with serving(shop()) as url:  # it is recorded after the answer
            ask(f"{url}{path}")
        (point,) = found.points("tracekit.flow.duration") or [None]

    assert point is not None
    assert point.explicit_bounds == LONG_BUCKETS
    assert (point.count, 0 < point.sum < 5) == (1, True)
    assert dict(point.attributes) == {
        "tracekit.flow.end": "request",
        "tracekit.flow.origin": "orders",
        **error,
    }


@pytest.mark.parametrize(
    ("path", "header"),
    [("/publish", "nothing"), ("/orders/7", "tracekit-flow")],
    ids=["published", "brought"],
)
def test_a_flow_that_goes_on_or_began_elsewhere_does_not_end_with_the_request(path: str, header: str) -> None:
    with telemetry() as found:
        with serving(shop()) as url:
            ask(f"{url}{path}", (header, HEADER))
        assert found.points("tracekit.flow.duration") == []


# -- hostile headers --------------------------------------------------------------------------------


def test_case_3_two_traceparents_begin_a_new_trace_without_the_state() -> None:
    other = PARENT.replace(TRACE, TRACE[::-1])
    with telemetry() as found, serving(shop()) as url:
        ask(f"{url}/orders/7", ("traceparent", PARENT), ("traceparent", other), ("tracestate", "a=1"))

    span = found.server_span()
    assert span.parent is None
    assert trace_id(span) not in (TRACE, TRACE[::-1])
    assert len(context_of(span).trace_state) == 0
    assert guard.dropped() == {"invalid_context": 1}


@pytest.mark.parametrize(
    ("state", "kept"),
    [("foo@=1", "foo@=1"), ("a@b@c=1", "a@b@c=1"), ("a=1,a=2", "a=1"), (f"{'z' * 257}=1", ""), ("A=1", "")],
)
def test_case_4_the_parent_is_kept_whatever_the_state_is(state: str, kept: str) -> None:
    with telemetry() as found, serving(shop()) as url:
        ask(f"{url}/orders/7", ("traceparent", PARENT), ("tracestate", state))

    assert trace_id(found.server_span()) == TRACE
    assert context_of(found.server_span()).trace_state.to_header() == kept


def test_case_5_many_baggage_headers_are_read_within_one_limit(caplog: pytest.LogCaptureFixture) -> None:
    headers = [("baggage", f"secret{number:03}={'v' * 90}") for number in range(200)]
    with telemetry() as found, serving(shop()) as url, caplog.at_level(logging.INFO, "tracekit"):
        status, answer = ask(f"{url}/seen", *headers)

    assert (status, answer.count("secret")) == (200, 81)
    assert len(found.spans(SpanKind.SERVER)) == 1
    assert [record for record in caplog.records if "secret" in record.getMessage()] == []
    assert guard.dropped() == {"invalid_baggage": 1}


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", "tracekit-flow", "user-agent"])
@pytest.mark.parametrize("value", [b"\xff\xfe\\", b"caf\xe9", b"\xc3\xa9", b"x" * 20_000, b"\\", b""])
def test_no_header_changes_what_the_caller_gets(name: str, value: bytes) -> None:
    with telemetry() as found, serving(shop()) as url:
        assert ask(f"{url}/orders/7", (name, value)) == (200, "7")

    assert attributes(found.server_span())["http.response.status_code"] == 200


@pytest.mark.parametrize("host", [b"\xff\\", b"a b", b"[::1", b"shop:x", b"x" * 20_000, b"shop:99999"])
def test_no_host_changes_what_the_caller_gets(host: bytes) -> None:
    with telemetry() as found:
        sent = call(shop(), {**HTTP, "headers": [(b"host", host)], "server": ("127.0.0.1", 80)}, [{}])

    assert sent[1]["body"] == b"7"
    assert attributes(found.server_span())["server.address"] == "127.0.0.1"


@pytest.mark.parametrize("query", [b"a=\xff", b"a=\\", b"a=%ff", b"a=\xc3\xa9", b"\x00"])
def test_no_query_changes_what_the_caller_gets(query: bytes) -> None:
    with telemetry() as found:
        sent = call(shop(), {**HTTP, "query_string": query}, [{}])

    assert sent[1]["body"] == b"7"
    assert "url.query" in attributes(found.server_span())


# -- context ----------------------------------------------------------------------------------------


def test_a_request_starts_outside_of_a_scope_that_leaked_into_the_server() -> None:
    with telemetry() as found:
        leaked = trace.get_tracer("tests").start_span("process orders")
        context = ours.with_pathway(
            Pathway("f" * 32), baggage.set_baggage("a", "1", trace.set_span_in_context(leaked))
        )
        leaked.end()

        async def serve() -> str:
            otel.attach(context)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(shop())) as client:
                return (await client.get("http://t/seen")).text

        answer = asyncio.run(serve())

    span = found.server_span()
    assert span.parent is None
    assert attributes(span)["tracekit.flow.id"] == trace_id(span)
    assert f'"flow":"{trace_id(span)}","baggage":{{}}' in answer


@pytest.mark.parametrize("route", ["/plain", "/async"])
def test_a_background_task_runs_in_the_context_in_which_it_was_added(route: str) -> None:
    seen: list[tuple[object, ...]] = []
    app = FastAPI()
    tracer = trace.get_tracer("tests")

    def look(name: str) -> None:
        seen.append((name, baggage.get_baggage("tier"), ours.flow_id()))
        with tracer.start_as_current_span(f"in {name}"):
            pass

    async def look_async(name: str) -> None:
        look(name)

    def add(tasks: BackgroundTasks) -> None:
        token = otel.attach(baggage.set_baggage("tier", "gold"))
        try:
            tasks.add_task(look, "a function")
            tasks.add_task(look_async, "a coroutine")
        finally:
            otel.detach(token)

    @app.get("/plain")
    def plain(tasks: BackgroundTasks) -> None:
        add(tasks)

    @app.get("/async")
    async def asynchronous(tasks: BackgroundTasks) -> None:
        add(tasks)

    with telemetry() as found, serving(app) as url:
        ask(f"{url}{route}")

    entry, *rest = found.spans()
    assert seen == [("a function", "gold", trace_id(entry)), ("a coroutine", "gold", trace_id(entry))]
    assert [one.name for one in rest] == [
        "BackgroundTask look",
        "in a function",
        "BackgroundTask look_async",
        "in a coroutine",
    ]
    parents = [parent_of(one, found.spans()) for one in rest]
    assert parents == [entry, rest[0], entry, rest[2]]
    assert flow_ids(found.spans()) == {trace_id(entry)}


@pytest.mark.parametrize("path", ["/plain", "/async"])
@pytest.mark.parametrize("leaves_early", [False, True], ids=["read whole", "left early"])
def test_a_stream_leaks_nothing_into_the_next_request(
    path: str, leaves_early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop()
    flows: list[str | None] = []

    def lines() -> Iterator[bytes]:
        for _ in range(50):
            flows.append(ours.flow_id())
            yield b"x" * 65_536

    async def lines_async() -> AsyncIterator[bytes]:
        for line in lines():
            yield line

    @app.get("/plain")
    def plain() -> StreamingResponse:
        return StreamingResponse(lines())

    @app.get("/async")
    async def asynchronous() -> StreamingResponse:
        return StreamingResponse(lines_async())

    with telemetry() as found, serving(app) as url, httpx.Client() as client:
        with client.stream("GET", f"{url}{path}", headers={"traceparent": PARENT}) as answer:
            for _ in answer.iter_raw():
                if leaves_early:
                    break
        ask(f"{url}/orders/7")

    *_, last = found.spans(SpanKind.SERVER)
    assert (last.name, last.parent) == ("GET /orders/{number}", None)
    assert attributes(last)["tracekit.flow.id"] == trace_id(last)
    assert len(set(flows)) == 1
    assert trace_id(last) not in flows
    assert "Failed to detach context" not in caplog.text


def test_a_request_from_within_a_span_of_the_process_is_part_of_it() -> None:
    with telemetry() as found:

        async def call() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(shop())) as client:
                with trace.get_tracer("tests").start_as_current_span("test"):
                    await client.get("http://t/orders/7")

        asyncio.run(call())

    outer, inner = found.spans()
    assert parent_of(inner, [outer]) is outer
    assert flow_ids(found.spans()) == {trace_id(outer)}


# -- the application comes first ----------------------------------------------------------------------


def call(app: Any, scope: dict[str, Any], received: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the application sends, called as a server calls it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return received.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


HTTP: dict[str, Any] = {
    "type": "http",
    "method": "GET",
    "path": "/orders/7",
    "headers": [],
    "query_string": b"",
}


def test_a_websocket_has_one_server_span_and_its_messages_theirs() -> None:
    app = FastAPI()

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(str(ours.flow_id()))
        await socket.close()

    scope = {"type": "websocket", "path": "/live", "headers": [], "query_string": b"", "scheme": "ws"}
    with telemetry() as found:
        sent = call(app, scope, [{"type": "websocket.connect"}])

    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    span, message = found.spans()
    assert (span.name, span.kind, sent[1]["text"]) == ("GET /live", SpanKind.SERVER, trace_id(span))
    assert (message.name, message.kind) == ("send /live", SpanKind.PRODUCER)
    assert found.points("tracekit.flow.duration") == []


def test_the_lifespan_of_an_application_is_not_traced() -> None:
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        steps.append("started")
        yield
        steps.append("stopped")

    with telemetry() as found, serving(FastAPI(lifespan=lifespan)):
        pass

    assert (steps, found.spans()) == (["started", "stopped"], [])


def test_the_application_s_exception_arrives_as_the_same_object() -> None:
    boom = RuntimeError("boom")
    app = FastAPI()

    @app.get("/orders/7")
    async def order() -> None:
        raise boom

    with telemetry() as found, pytest.raises(RuntimeError) as caught:
        call(app, dict(HTTP), [{"type": "http.request", "body": b""}])

    assert caught.value is boom
    assert attributes(found.server_span())["http.response.status_code"] == 500


def test_a_cancelled_request_stays_cancelled_and_ends_no_flow() -> None:
    app = FastAPI()

    @app.get("/orders/7")
    async def order() -> None:
        raise asyncio.CancelledError

    with telemetry() as found:
        with pytest.raises(asyncio.CancelledError):
            call(app, dict(HTTP), [{"type": "http.request", "body": b""}])
        assert found.points("tracekit.flow.duration") == []


@pytest.mark.shield
@pytest.mark.parametrize("broken", ["_start", "_end"])
def test_a_failure_of_ours_changes_nothing_for_the_caller(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(f"tracekit.http.server._Served.{broken}", fail)
    with telemetry(), serving(shop()) as url:
        assert ask(f"{url}/orders/7") == (200, "7")

    assert guard.dropped()["internal"] >= 1


def test_malformed_messages_of_the_application_reach_the_server_as_they_are() -> None:
    app = FastAPI()

    async def odd(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "odd": 1})

    app.mount("/orders", odd)
    with telemetry():
        sent = call(app, dict(HTTP), [{"type": "http.request", "body": b""}])

    assert sent[1] == {"type": "http.response.body", "body": b"", "odd": 1}
