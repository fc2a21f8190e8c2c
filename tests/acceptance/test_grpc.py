"""gRPC on both sides, in process: unary and streaming, blocking and by asyncio."""

from __future__ import annotations

import asyncio
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel

from tests.conventions.checker import violations
from tracekit.model import Kind, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tracekit.model import Span
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")
SERVICE = "shop.Orders"
PATIENCE_S = 10


class Orders:
    """The handlers of a service, by their kinds."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def place(self, request: bytes, context: Any) -> bytes:
        self.seen += [("span", trace.get_current_span().get_span_context().span_id)]
        self.seen += [("baggage", dict(baggage.get_all()))]
        self.seen += [("metadata", context.invocation_metadata())]
        if request == b"refuse":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
        if request == b"break":
            raise LookupError("a bug")
        with tracer.start_as_current_span("work"):
            return b"placed " + request

    def watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(3):
            with tracer.start_as_current_span(f"work {number}"):
                yield b"%d" % number

    def collect(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b",".join(requests)

    def chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield request.upper()


class AsyncOrders:
    async def place(self, request: bytes, context: Any) -> bytes:
        if request == b"refuse":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
        if request == b"break":
            raise LookupError("a bug")
        with tracer.start_as_current_span("work"):
            await asyncio.sleep(0)
            return b"placed " + request

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            with tracer.start_as_current_span(f"work {number}"):
                await asyncio.sleep(0)
            yield b"%d" % number

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()


def handlers(orders: Any) -> Any:
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Place": grpc.unary_unary_rpc_method_handler(orders.place),
            "Watch": grpc.unary_stream_rpc_method_handler(orders.watch),
            "Collect": grpc.stream_unary_rpc_method_handler(orders.collect),
            "Chat": grpc.stream_stream_rpc_method_handler(orders.chat),
        },
    )


@contextmanager
def serving(orders: Orders, **options: Any) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(4), **options)
    server.add_generic_rpc_handlers((handlers(orders),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(PATIENCE_S)


@pytest.fixture
def orders(flows: Captured) -> Iterator[tuple[Orders, Any, int]]:
    """The handlers, a channel to them, and its port."""
    service = Orders()
    with serving(service) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service, channel, port


def of_kind(flows: Captured, kind: Kind, number: int = 1) -> list[Span]:
    flows.wait_for(
        lambda: sum(span.kind is kind for span in flows.spans) >= number, says=f"{number} spans of {kind}"
    )
    return [span for span in flows.spans if span.kind is kind]


def test_a_call_is_a_span_on_either_side_of_one_flow(
    orders: tuple[Orders, Any, int], flows: Captured
) -> None:
    service, channel, port = orders
    with tracer.start_as_current_span("request"):
        assert channel.unary_unary(f"/{SERVICE}/Place")(b"7") == b"placed 7"
    flow = flows.wait_for_flow("request", f"{SERVICE}/Place", f"{SERVICE}/Place", "work")
    (client,), (server,) = of_kind(flows, Kind.CLIENT), of_kind(flows, Kind.SERVER)

    flow.assert_no_orphans()
    assert server.parent_id == client.span_id
    assert dict(client.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/Place",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": port,
        "tracekit.flow.id": flow.id,
    }
    assert dict(server.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/Place",
        "rpc.response.status_code": "OK",
        "tracekit.flow.id": flow.id,
    }
    assert service.seen[0] == ("span", int(server.span_id, 16))
    assert violations(flows.spans) == []
    for name in ("rpc.client.call.duration", "rpc.server.call.duration"):
        (point,) = flows.metrics[name]
        assert (point.count, point.unit) == (1, "s")


@pytest.mark.parametrize(
    ("request_", "code", "fails_server"),
    [(b"refuse", grpc.StatusCode.NOT_FOUND, False), (b"break", grpc.StatusCode.UNKNOWN, True)],
)
def test_a_status_that_is_no_success_is_the_client_s_error_and_the_server_s_where_it_is_to_blame(
    orders: tuple[Orders, Any, int], flows: Captured, request_: bytes, code: Any, *, fails_server: bool
) -> None:
    _, channel, _ = orders
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/Place")(request_)
    (client,), (server,) = of_kind(flows, Kind.CLIENT), of_kind(flows, Kind.SERVER)

    assert raised.value.code() is code
    assert (client.status, client.attributes["error.type"]) == (Status.ERROR, code.name)
    assert server.attributes["rpc.response.status_code"] == code.name
    assert server.status is (Status.ERROR if fails_server else Status.UNSET)
    assert [event.name for event in server.events] == (["exception"] if fails_server else [])


@pytest.mark.parametrize("way", ["with_call", "future"])
def test_every_way_to_call_gives_what_it_gives(
    orders: tuple[Orders, Any, int], flows: Captured, way: str
) -> None:
    _, channel, _ = orders
    called = channel.unary_unary(f"/{SERVICE}/Place")
    if way == "with_call":
        answer, call = called.with_call(b"7", timeout=PATIENCE_S)
    else:
        call = called.future(b"7", timeout=PATIENCE_S)
        answer = call.result()
    (client,) = of_kind(flows, Kind.CLIENT)

    assert answer == b"placed 7"
    assert call.code() is grpc.StatusCode.OK
    assert isinstance(call, grpc.Call)
    assert client.attributes["rpc.response.status_code"] == "OK"


def test_streams_give_the_real_call_and_their_spans_end_with_them(
    orders: tuple[Orders, Any, int], flows: Captured
) -> None:
    _, channel, _ = orders
    before = trace.get_current_span()
    watching = channel.unary_stream(f"/{SERVICE}/Watch")(b"7")
    assert isinstance(watching, grpc.Call)
    assert watching.initial_metadata() == ()
    for number, answer in enumerate(watching):
        assert (answer, trace.get_current_span()) == (b"%d" % number, before)
    assert channel.stream_unary(f"/{SERVICE}/Collect")(iter([b"a", b"b"])) == b"a,b"
    assert [*channel.stream_stream(f"/{SERVICE}/Chat")(iter([b"a", b"b"]))] == [b"A", b"B"]

    clients, servers = of_kind(flows, Kind.CLIENT, 3), of_kind(flows, Kind.SERVER, 3)
    assert sorted(span.name for span in clients) == [
        f"{SERVICE}/{name}" for name in ("Chat", "Collect", "Watch")
    ]
    assert {span.parent_id for span in servers} == {span.span_id for span in clients}
    (watch,) = [span for span in servers if span.name.endswith("Watch")]
    works = [span for span in flows.spans if span.name.startswith("work")]
    assert {span.parent_id for span in works} == {watch.span_id}
    assert len(works) == 3


def test_a_stream_that_is_cancelled_ends_its_spans(orders: tuple[Orders, Any, int], flows: Captured) -> None:
    _, channel, _ = orders
    watching = channel.unary_stream(f"/{SERVICE}/Watch")(b"7")
    next(watching)
    watching.cancel()

    (client,) = of_kind(flows, Kind.CLIENT)
    assert client.attributes["rpc.response.status_code"] == "CANCELLED"
    of_kind(flows, Kind.SERVER)


def test_metadata_goes_out_as_it_was_given_repeated_keys_included(
    orders: tuple[Orders, Any, int], flows: Captured
) -> None:
    service, channel, _ = orders
    given = [("k", "1"), ("k", "2"), ("raw-bin", b"\x00\xff")]
    channel.unary_unary(f"/{SERVICE}/Place")(b"7", metadata=given)
    came = [(name, value) for what, found in service.seen if what == "metadata" for name, value in found]

    assert given == [("k", "1"), ("k", "2"), ("raw-bin", b"\x00\xff")]
    assert [pair for pair in came if pair[0] in ("k", "raw-bin")] == given
    assert [name for name, _ in came].count("traceparent") == 1


def test_case_08_beside_much_metadata_of_the_application_ours_gives_way(
    orders: tuple[Orders, Any, int], flows: Captured
) -> None:
    service, channel, _ = orders
    token = otel.attach(baggage.set_baggage("story", "x" * 500))
    try:
        channel.unary_unary(f"/{SERVICE}/Place")(b"7", metadata=[("theirs", "x" * 7_000)])
    finally:
        otel.detach(token)
    ((_, came),) = [found for found in service.seen if found[0] == "metadata"]

    ours = {name for name, _ in came} & {"traceparent", "tracekit-flow", "baggage"}
    assert ours == {"traceparent", "tracekit-flow"}
    assert flows.dropped == {"size": 1}


def test_baggage_comes_along(orders: tuple[Orders, Any, int], flows: Captured) -> None:
    service, channel, _ = orders
    token = otel.attach(baggage.set_baggage("tenant", "acme"))
    try:
        channel.unary_unary(f"/{SERVICE}/Place")(b"7")
    finally:
        otel.detach(token)

    assert ("baggage", {"tenant": "acme"}) in service.seen


@pytest.mark.parametrize("value", ["", "nonsense", "00-0-0-0", "x" * 2_000])
def test_a_context_that_nobody_can_read_is_none(
    orders: tuple[Orders, Any, int], flows: Captured, value: str
) -> None:
    _, channel, _ = orders
    metadata = [("traceparent", value), ("tracekit-flow", value), ("baggage", value)]
    assert channel.unary_unary(f"/{SERVICE}/Place")(b"7", metadata=metadata) == b"placed 7"
    (server,) = of_kind(flows, Kind.SERVER)

    assert server.parent_id is None


def test_an_interceptor_of_the_application_stands_inside_of_the_span(flows: Captured) -> None:
    seen: list[Any] = []

    class Own(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            seen.append(details.method)
            return continuation(details)

    with (
        serving(Orders(), interceptors=[Own()]) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        assert channel.unary_unary(f"/{SERVICE}/Place")(b"7") == b"placed 7"
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(f"/{SERVICE}/Nothing")(b"7")
    of_kind(flows, Kind.SERVER)

    assert seen == [f"/{SERVICE}/Place", f"/{SERVICE}/Nothing"]
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_by_asyncio_it_is_the_same(flows: Captured) -> None:
    async def calls() -> list[Any]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handlers(AsyncOrders()),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        found: list[Any] = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with tracer.start_as_current_span("request"):
                placing = channel.unary_unary(f"/{SERVICE}/Place")(
                    b"7", metadata=grpc.aio.Metadata(("k", "1"), ("k", "2"))
                )
                found += [isinstance(placing, grpc.aio.UnaryUnaryCall), await placing]
                watching = channel.unary_stream(f"/{SERVICE}/Watch")(b"7")
                found += [[answer async for answer in watching]]
                found += [await channel.stream_unary(f"/{SERVICE}/Collect")(iter([b"a", b"b"]))]
                chatting = channel.stream_stream(f"/{SERVICE}/Chat")(iter([b"a"]))
                found += [[answer async for answer in chatting]]
            for request in (b"refuse", b"break"):
                try:
                    await channel.unary_unary(f"/{SERVICE}/Place")(request)
                except grpc.aio.AioRpcError as error:
                    found.append(error.code().name)
        await server.stop(None)
        return found

    assert asyncio.run(calls()) == [
        *(True, b"placed 7", [b"0", b"1", b"2"], b"a,b", [b"A"], "NOT_FOUND", "UNKNOWN")
    ]
    clients, servers = of_kind(flows, Kind.CLIENT, 6), of_kind(flows, Kind.SERVER, 6)
    codes = ["OK"] * 4 + ["NOT_FOUND", "UNKNOWN"]
    assert sorted(str(span.attributes["rpc.response.status_code"]) for span in clients) == sorted(codes)
    assert sorted(str(span.attributes["rpc.response.status_code"]) for span in servers) == sorted(codes)
    assert {span.parent_id for span in servers} == {span.span_id for span in clients}
    works = [span for span in flows.spans if span.name.startswith("work")]
    assert {span.parent_id for span in works} <= {span.span_id for span in servers}
    assert len(works) == 4
    assert violations(flows.spans) == []
