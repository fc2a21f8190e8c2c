"""WebSockets: FastAPI behind a real uvicorn, `websockets` as client; a chat message is one flow both ways."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import starlette.websockets
import uvicorn
import websockets
import websockets.asyncio.connection
import websockets.client
import websockets.server
import websockets.sync.client
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from opentelemetry import trace
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

import tracekit
from tests.acceptance.http_rig import telemetry
from tracekit.messaging.websocket import EXTENSION, MOST
from tracekit.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tracekit.model import Span
    from tracekit.testing import Captured

SEEN: list[Any] = []
"""What the application's handlers were given."""


def chat() -> FastAPI:
    app = FastAPI()

    @app.websocket("/iter/{room}")
    async def by_iter(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            SEEN.append(text)
            trace.get_tracer("chat").start_span("work").end()
            await websocket.send_text(text.upper())

    @app.websocket("/json/{room}")
    async def by_json(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        async for said in websocket.iter_json():
            SEEN.append(said)
            await websocket.send_json({"heard": said})

    @app.websocket("/process/{kind}")
    async def by_process(websocket: WebSocket, kind: str) -> None:
        await websocket.accept()
        try:
            while True:
                message = await getattr(websocket, f"receive_{kind}")()
                SEEN.append(message)
                with tracekit.process(message):
                    trace.get_tracer("chat").start_span("work").end()
                    await getattr(websocket, f"send_{kind}")(message)
        except WebSocketDisconnect:
            pass

    return app


@contextmanager
def serving(app: Any, **settings: Any) -> Iterator[str]:
    """The application behind uvicorn and its own choice of a WebSocket implementation."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready.set()

    server = Server(uvicorn.Config(app, port=0, log_config=None, **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def url(flows: Captured) -> Iterator[str]:
    SEEN.clear()
    with serving(chat()) as address:
        yield address


def spans(flows: Captured, *names: str) -> Sequence[Span]:
    """The spans of these names, one of each."""
    flows.wait_for(lambda: {*names} <= {span.name for span in flows.spans}, says=", ".join(names))
    found = []
    for name in names:
        (span,) = [one for one in flows.spans if one.name == name]
        found.append(span)
    return found


def talk(url: str, *messages: Any, **settings: Any) -> list[Any]:
    """What comes back for each message, in a flow of its own."""

    async def main() -> list[Any]:
        answers = []
        async with websockets.connect(url, **settings) as connection:
            for message in messages:
                with trace.get_tracer("chat").start_as_current_span(f"say {str(message)[:9]}"):
                    await connection.send(message)
                answers.append(await connection.recv())
        return answers

    return asyncio.run(main())


def flow_of(span: Span) -> object:
    return span.attributes.get("tracekit.flow.id")


def test_a_handshake_carries_the_context(url: str, flows: Captured) -> None:
    async def main() -> None:
        with trace.get_tracer("chat").start_as_current_span("join"):
            async with websockets.connect(f"{url}/iter/a"):
                pass

    asyncio.run(main())

    join, served = spans(flows, "join", "GET /iter/{room}")
    assert (served.kind, served.parent_id, served.trace_id) == (Kind.SERVER, join.span_id, join.trace_id)


def test_a_message_is_processed_in_the_flow_that_sent_it(url: str, flows: Captured) -> None:
    assert talk(f"{url}/iter/a", "one", "two") == ["ONE", "TWO"]

    flows.wait_for(
        lambda: sum(span.name == "process /iter/{room}" for span in flows.spans) == 2, says="two messages"
    )
    said = {flow_of(span) for span in flows.spans if span.name.startswith("say ")}
    processed = [span for span in flows.spans if span.name == "process /iter/{room}"]
    sent = {span.span_id: span for span in flows.spans if span.name == "send /iter/a"}
    assert {flow_of(span) for span in processed} == said
    assert len(said) == 2
    assert {link.span_id for span in processed for link in span.links} == {*sent}
    assert {span.kind for span in processed} == {Kind.CONSUMER}
    assert {span.kind for span in sent.values()} == {Kind.PRODUCER}


def test_each_of_many_at_once_keeps_its_own_flow(url: str, flows: Captured) -> None:
    async def main() -> list[Any]:
        async with websockets.connect(f"{url}/iter/a") as connection:
            for number in range(50):
                with trace.get_tracer("chat").start_as_current_span(f"say {number}"):
                    await connection.send(f"said {number}")
                if number % 7 == 0:
                    await connection.ping()
            return [await connection.recv() for _ in range(50)]

    assert asyncio.run(main()) == [f"SAID {number}" for number in range(50)]

    flows.wait_for(
        lambda: sum(span.name == "process /iter/{room}" for span in flows.spans) == 50, says="all messages"
    )
    started = sorted(flows.spans, key=lambda span: span.start_ns)
    said = [flow_of(span) for span in started if span.name.startswith("say ")]
    assert [flow_of(span) for span in started if span.name == "process /iter/{room}"] == said
    assert [flow_of(span) for span in started if span.name == "send /iter/{room}"] == said


def test_an_answer_is_in_the_flow_of_its_message(url: str, flows: Captured) -> None:
    async def main() -> None:
        async with websockets.connect(f"{url}/iter/a") as connection:
            with trace.get_tracer("chat").start_as_current_span("ask"):
                await connection.send("how are you")
            async for answer in connection:
                assert answer == "HOW ARE YOU"
                trace.get_tracer("chat").start_span("read").end()
                break

    asyncio.run(main())

    names = ("ask", "send /iter/a", "process /iter/{room}", "work", "send /iter/{room}")
    ask, *parts, back, read = spans(flows, *names, "process /iter/a", "read")
    assert {flow_of(span) for span in (ask, *parts, back, read)} == {flow_of(ask)}
    assert [link.span_id for link in back.links] == [parts[-1].span_id]
    assert read.parent_id == back.span_id


@pytest.mark.parametrize(("kind", "message"), [("text", "a text"), ("bytes", b"some \x00\xff bytes")])
def test_a_message_that_was_received_is_processed_by_process(
    kind: str, message: Any, url: str, flows: Captured
) -> None:
    assert talk(f"{url}/process/{kind}", message) == [message]

    say, processed, work = spans(flows, f"say {str(message)[:9]}", "process /process/{kind}", "work")
    assert flow_of(processed) == flow_of(say)
    assert work.parent_id == processed.span_id


def test_json_is_processed_by_process(url: str, flows: Captured) -> None:
    (answer,) = talk(f"{url}/process/json", '{"a": [1, 2]}')

    assert json.loads(answer) == {"a": [1, 2]}
    say, processed = spans(flows, 'say {"a": [1,', "process /process/{kind}")
    assert flow_of(processed) == flow_of(say)


def test_json_is_processed_in_its_turn_of_a_loop(url: str, flows: Captured) -> None:
    talk(f"{url}/json/a", '{"a": 1}')

    say, processed, sent = spans(flows, 'say {"a": 1}', "process /json/{room}", "send /json/{room}")
    assert flow_of(processed) == flow_of(say) == flow_of(sent)
    assert sent.parent_id == processed.span_id


def test_recv_of_the_client_is_processed_by_process(url: str, flows: Captured) -> None:
    async def main() -> None:
        async with websockets.connect(f"{url}/iter/a") as connection:
            with trace.get_tracer("chat").start_as_current_span("ask"):
                await connection.send("hello")
            with tracekit.process(await connection.recv()):
                trace.get_tracer("chat").start_span("read").end()

    asyncio.run(main())

    ask, back, read = spans(flows, "ask", "process /iter/a", "read")
    assert flow_of(back) == flow_of(ask)
    assert read.parent_id == back.span_id


def test_by_threads_it_is_the_same(url: str, flows: Captured) -> None:
    with websockets.sync.client.connect(f"{url}/iter/a") as connection:
        with trace.get_tracer("chat").start_as_current_span("ask"):
            connection.send("hello")
        for answer in connection:
            assert answer == "HELLO"
            break

    ask, processed, back = spans(flows, "ask", "process /iter/{room}", "process /iter/a")
    assert flow_of(processed) == flow_of(back) == flow_of(ask)


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("message", ["", "x", "grüße ☃", "long " * 50_000])
def test_messages_go_through_unchanged_and_of_their_own_types(
    message: str, compression: Any, url: str, flows: Captured
) -> None:
    (answer,) = talk(f"{url}/process/text", message, compression=compression)

    assert (answer, type(answer)) == (message, str)
    assert (SEEN, [type(one) for one in SEEN]) == ([message], [str])


@pytest.mark.parametrize("message", [bytearray(b"abc"), memoryview(b"abc")])
def test_what_the_caller_owns_is_not_touched(message: Any, url: str, flows: Captured) -> None:
    assert talk(f"{url}/process/bytes", message) == [b"abc"]
    assert bytes(message) == b"abc"
    assert [type(one) for one in SEEN] == [bytes]


def test_a_message_in_parts_arrives_whole_and_is_counted_as_without_context(
    url: str, flows: Captured
) -> None:
    assert talk(f"{url}/iter/a", ["in ", "three ", "parts"]) == ["IN THREE PARTS"]

    flows.wait_for(lambda: any(span.name == "process /iter/{room}" for span in flows.spans), says="it")
    assert sum(flows.dropped.values()) > 0


def test_a_message_at_the_receiver_s_limit_is_not_refused_for_our_headers(flows: Captured) -> None:
    SEEN.clear()
    with serving(chat(), ws_max_size=1_000) as url:
        assert talk(f"{url}/process/text", "x" * 1_000, compression=None) == ["x" * 1_000]
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            talk(f"{url}/process/text", "x" * 1_001, compression=None)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@pytest.mark.filterwarnings("ignore")  # uvicorn's and websockets' own: it is their older implementation
def test_a_server_without_the_extension_ignores_the_offer(flows: Captured) -> None:
    SEEN.clear()
    with serving(chat(), ws="websockets") as url:
        assert talk(f"{url}/iter/a", "hello") == ["HELLO"]

    say, processed = spans(flows, "say hello", "process /iter/{room}")
    assert flow_of(processed) != flow_of(say)


def test_a_client_without_the_extension_is_served_as_ever(url: str, flows: Captured) -> None:
    from websockets.asyncio.client import ClientConnection

    class Plain(ClientConnection):
        def __init__(self, protocol: Any, **settings: Any) -> None:
            protocol.available_extensions = None
            super().__init__(protocol, **settings)

    assert talk(f"{url}/iter/a", "hello", create_connection=Plain) == ["HELLO"]

    (processed,) = spans(flows, "process /iter/{room}")
    assert processed.links == ()
    assert [span.name for span in flows.spans if "tracekit.messaging.context" in span.attributes] == []
    assert flows.dropped == {}


class Hostile:
    """An end that agreed on the extension, and then sends what it likes."""

    name = EXTENSION

    def __init__(self, block: bytes) -> None:
        self._block = block

    def encode(self, frame: Any) -> Any:
        return replace(frame, data=self._block + frame.data, rsv2=True) if frame.opcode == 1 else frame

    def decode(self, frame: Any, *, max_size: int | None = None) -> Any:
        end = 2 + int.from_bytes(frame.data[:2]) if frame.rsv2 else 0
        return replace(frame, data=frame.data[end:], rsv2=False)


async def say_hostilely(url: str, block: bytes) -> Any:
    async with websockets.connect(f"{url}/iter/a", compression=None) as connection:
        hostile: Any = Hostile(block)
        connection.protocol.extensions = [hostile]
        await connection.send("hello")
        return await connection.recv()


@pytest.mark.parametrize("block", [b"\xff\xff", b"\x00\x09"])
def test_a_block_that_has_no_end_ends_the_connection_as_the_protocol_says(
    block: bytes, url: str, flows: Captured
) -> None:
    with pytest.raises(websockets.ConnectionClosedError) as closed:
        asyncio.run(say_hostilely(url, block))

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1002


@pytest.mark.parametrize(
    "block", [b"", b"=", b"\n\n", b"traceparent=\xff\xfe\n=\n\ntracekit-flow=1;2", b"traceparent"]
)
def test_a_block_without_context_is_a_message_without(block: bytes, url: str, flows: Captured) -> None:
    asyncio.run(say_hostilely(url, len(block).to_bytes(2) + block))

    assert SEEN == ["hello"]


def test_a_host_that_is_not_trusted_is_offered_nothing() -> None:
    asked: list[Any] = []
    app = FastAPI()

    @app.websocket("/")
    async def hear(websocket: WebSocket) -> None:
        asked.append(dict(websocket.headers))
        await websocket.accept()

    with (
        telemetry({"127.0.0.1": "none"}),
        serving(app) as url,
        trace.get_tracer("a").start_as_current_span("a"),
    ):

        async def main() -> None:
            async with websockets.connect(url):
                pass

        asyncio.run(main())

    (headers,) = asked
    assert EXTENSION not in headers["sec-websocket-extensions"]
    assert "tracekit-flow" not in headers
    assert "traceparent" in headers


def test_a_route_that_is_not_trusted_takes_no_context() -> None:
    with telemetry({"/iter/*": "none"}), serving(chat()) as url:

        async def main() -> object:
            async with websockets.connect(f"{url}/iter/a") as connection:
                await connection.send("hello")
                await connection.recv()
                return [one.name for one in connection.protocol.extensions]

        assert asyncio.run(main()) == ["permessage-deflate"]


def test_undo_restores_the_very_same_functions() -> None:
    owners = (
        *(
            (starlette.websockets.WebSocket, name)
            for name in ("send", "receive", "receive_text", "iter_json")
        ),
        *(
            (websockets.asyncio.connection.Connection, name)
            for name in ("send", "recv", "recv_streaming", "__aiter__")
        ),
        *((websockets.client.ClientProtocol, name) for name in ("__init__", "send_request")),
        *((websockets.server.ServerProtocol, name) for name in ("__init__", "accept")),
        *((WebSocketsSansIOProtocol, name) for name in ("run_asgi", "receive")),
    )
    before = [vars(owner)[name] for owner, name in owners]

    with telemetry():
        between = [vars(owner)[name] for owner, name in owners]

    assert not any(one is other for one, other in zip(before, between, strict=True))
    assert [vars(owner)[name] for owner, name in owners] == before


def test_a_connection_that_was_open_at_the_undo_goes_on() -> None:
    async def main(undo: Callable[[], object], url: str) -> list[Any]:
        async with websockets.connect(f"{url}/iter/a") as connection:
            await connection.send("before")
            answers = [await connection.recv()]
            undo()
            await connection.send("after")
            answers.append(await connection.recv())
            return answers

    with telemetry() as found, serving(chat()) as url:
        assert asyncio.run(main(found.handle.undo, url)) == ["BEFORE", "AFTER"]


def test_more_headers_than_a_message_may_have_are_left_out(url: str, flows: Captured) -> None:
    from opentelemetry import baggage
    from opentelemetry import context as otel

    async def main() -> Any:
        token = otel.attach(baggage.set_baggage("much", "x" * MOST))
        try:
            async with websockets.connect(f"{url}/iter/a") as connection:
                with trace.get_tracer("chat").start_as_current_span("ask"):
                    await connection.send("hello")
                return await connection.recv()
        finally:
            otel.detach(token)

    assert asyncio.run(main()) == "HELLO"

    ask, processed = spans(flows, "ask", "process /iter/{room}")
    assert flow_of(processed) == flow_of(ask)
