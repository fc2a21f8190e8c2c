"""RabbitMQ by aio-pika: exchanges, handlers in tasks, iterators, and messages that settle themselves."""

from __future__ import annotations

import asyncio
import copy
import inspect
import warnings
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import QueueEmpty
from opentelemetry import baggage, trace
from opentelemetry import context as otel

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    PRODUCER,
    SPAN,
    TRACE,
    TRACEPARENT,
    links_of,
    named,
    parent_of,
    points,
    the,
    where,
)
from tests.acceptance.rabbitmq_rig import DEADLINE_S, EXCHANGE, ID, Rabbit, untimed
from tests.integration.servers.rabbitmq import rabbitmq
from tracekit.model import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.integration.servers.rabbitmq import RabbitMQ
    from tracekit.model import Span
    from tracekit.testing import Captured

pytestmark = pytest.mark.server
tracer = trace.get_tracer("tests")
Message = AbstractIncomingMessage


@pytest.fixture
def rabbit(rabbitmq_broker: RabbitMQ) -> Iterator[Rabbit]:
    """A queue of the test's own, and a service that is not traced, by pika."""
    with closing(Rabbit(rabbitmq_broker)) as clients:
        yield clients


class Shop:
    """The exchange and the queue of a test, by aio-pika."""

    def __init__(self, channel: Any, exchange: Any, queue: Any, key: str) -> None:
        self.channel = channel
        self.exchange = exchange
        self.queue = queue
        self.key = key

    async def publish(self, body: bytes = b"an order", headers: Any = None, **properties: Any) -> Any:
        """Publish a message as an application does."""
        return await self.exchange.publish(
            aio_pika.Message(body, headers=headers, **properties), routing_key=self.key
        )

    async def handle(self, handler: Callable[[Message], Any], number: int = 1, queue: Any = None) -> None:
        """Have a handler called with so many messages, and return once the last one is done."""
        done = asyncio.Semaphore(0)
        queue = queue or self.queue

        async def counting(message: Message) -> Any:
            try:
                return await handler(message)
            finally:
                asyncio.get_running_loop().call_soon(done.release)

        tag = await queue.consume(counting)
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(number):
                await done.acquire()
        await queue.cancel(tag)


@asynccontextmanager
async def opened(rabbit: Rabbit, connect: Any = aio_pika.connect) -> AsyncIterator[Shop]:
    async with await connect(rabbit.broker.url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE)
        yield Shop(channel, exchange, await channel.get_queue(rabbit.queue), rabbit.key)


async def acked(message: Message) -> None:
    """The least of handlers."""
    await message.ack()


def shape(spans: Any) -> list[tuple[object, ...]]:
    """Name, kind, parent's name and attributes of spans, without what tells a time or a place."""
    names = {span.span_id: span.name for span in spans}
    found = []
    for span in spans:
        attributes = {
            name: "" if name == "tracekit.flow.id" else value for name, value in untimed(span).items()
        }
        links = [names.get(link.span_id) for link in span.links]
        found.append((span.name, span.kind, names.get(span.parent_id), links, attributes))
    return sorted(found, key=lambda each: str(each[0]))


# -- what is sent, and what it looks like --------------------------------------------------------------


def test_case_2_both_clients_give_the_same_tree(rabbit: Rabbit, flows: Captured) -> None:
    async def by_aio_pika() -> None:
        async with opened(rabbit) as shop:
            with tracer.start_as_current_span("entry"):
                await shop.publish(message_id="order-7", correlation_id="cart-7")
            await shop.handle(acked)

    def acked_by_pika(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)

    asyncio.run(by_aio_pika())
    first = flows.spans
    with tracer.start_as_current_span("entry"):
        rabbit.publish(message_id="order-7", correlation_id="cart-7")
    rabbit.handle(acked_by_pika)

    assert len(first) == 4
    assert shape(first) == shape(flows.spans[4:])


def test_case_35_destinations_are_exchange_key_and_queue_and_an_ack_is_a_settling(
    rabbit: Rabbit, flows: Captured
) -> None:
    async def main() -> None:
        async with opened(rabbit, aio_pika.connect_robust) as shop:
            await shop.publish()
            await shop.handle(acked)

    asyncio.run(main())

    sent = the(flows, f"publish {rabbit.sent_to}")
    span, ack = the(flows, f"process {rabbit.read_from}"), the(flows, f"ack {rabbit.read_from}")
    assert (sent.kind, span.kind, ack.kind) == (PRODUCER, CONSUMER, CLIENT)
    assert untimed(sent) == rabbit.sent(sent.trace_id)
    assert untimed(span) == rabbit.processed(
        sent.trace_id,
        messaging_message_id=ID,
        tracekit_messaging_delivery_attempt=1,
        tracekit_messaging_published__at_source="header",
    )
    assert untimed(ack) == rabbit.labels(
        "settle",
        "ack",
        rabbit.read_from,
        messaging_rabbitmq_message_delivery__tag=1,
        tracekit_flow_id=sent.trace_id,
    )
    assert (parent_of(span), parent_of(ack)) == (where(sent), where(span))


def test_case_7_and_8_the_callers_message_is_unchanged_and_carries_each_time_its_own(
    rabbit: Rabbit, flows: Captured
) -> None:
    class Order(aio_pika.Message):
        """A message class of the application's."""

    message = Order(b"an order", headers={"a": [1, {}]}, content_type="text/plain")
    message.lock()
    before = copy.deepcopy(message.headers)

    async def main() -> None:
        async with opened(rabbit) as shop:
            for _ in range(2):
                await shop.exchange.publish(message, rabbit.key)

    asyncio.run(main())

    assert message.headers == before
    sent = named(flows, f"publish {rabbit.sent_to}")
    arrived = [properties for _, properties, _ in rabbit.on_the_wire(2)]
    assert [each.headers["traceparent"].split("-")[2] for each in arrived] == [span.span_id for span in sent]
    assert [(each.headers["a"], each.content_type) for each in arrived] == [([1, {}], "text/plain")] * 2


def test_case_11_a_message_that_is_published_on_points_to_the_new_send(
    rabbit: Rabbit, flows: Captured
) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:

            async def forward(message: Message) -> None:
                await message.ack()
                await shop.channel.default_exchange.publish(message, "nobody")

            await shop.publish()
            await shop.handle(forward)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(main())

    forwarded = the(flows, "publish nobody")
    assert forwarded.kind is PRODUCER
    assert parent_of(forwarded) == where(the(flows, f"process {rabbit.read_from}"))


def test_a_message_that_nobody_takes_was_not_sent(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> Any:
        async with opened(rabbit) as shop:
            return await shop.exchange.publish(aio_pika.Message(b"an order"), "nobody")

    result = asyncio.run(main())

    assert type(result).__name__ == "DeliveredMessage"
    span = the(flows, f"publish {EXCHANGE}:nobody")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "PublishError")


@pytest.mark.parametrize(("free", "left"), [(280, {"traceparent", "tracekit-flow"}), (90, {"traceparent"})])
def test_what_does_not_fit_in_the_frame_is_left_out_the_least_needed_first(
    rabbit: Rabbit, flows: Captured, free: int, left: set[str]
) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:
            tune = shop.channel._connection.transport.connection.connection_tune
            await shop.publish(headers={"x": "x" * (tune.frame_max - 33 - 35 - free)})

    token = otel.attach(baggage.set_baggage("tenant", "a" * 400))
    try:
        asyncio.run(main())
    finally:
        otel.detach(token)

    (message,) = rabbit.on_the_wire()
    assert set(message[1].headers) - {"x"} == left
    assert flows.dropped == {"size": 3 - len(left)}


# -- handlers ------------------------------------------------------------------------------------------


def test_case_12_and_15_a_handler_has_the_context_and_the_baggage_of_its_message(
    rabbit: Rabbit, flows: Captured
) -> None:
    seen: list[object] = []

    async def handler(message: Message) -> None:
        async with message.process():
            await asyncio.sleep(0)
            seen.append(dict(baggage.get_all()))

    async def main() -> None:
        async with opened(rabbit) as shop:
            await shop.handle(handler, 2)

    rabbit.put(headers={"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
    rabbit.put()
    asyncio.run(main())

    assert seen == [{"tenant": "acme"}, {}]
    one, two = named(flows, f"process {rabbit.read_from}")
    assert (parent_of(one), links_of(one)) == ((TRACE, SPAN), [(TRACE, SPAN)])
    assert (parent_of(two), two.links) == (None, ())
    assert [parent_of(span) for span in named(flows, f"ack {rabbit.read_from}")] == [where(one), where(two)]


def test_a_handler_stays_the_coroutine_function_that_it_is(rabbit: Rabbit, flows: Captured) -> None:
    handlers: list[Any] = []

    async def main() -> None:
        async with opened(rabbit) as shop:
            underlay = await shop.channel.get_underlay_channel()
            before = set(underlay.consumers)
            await shop.queue.consume(acked)
            (tag,) = set(underlay.consumers) - before
            handlers.append(underlay.consumers[tag].args[0])

    asyncio.run(main())

    (handler,) = handlers
    assert inspect.iscoroutinefunction(handler)
    assert (handler.__name__, handler.__wrapped__) == ("acked", acked)


def test_case_16_what_a_handler_raises_is_its_spans_error_and_refuses_the_message(
    rabbit: Rabbit, flows: Captured
) -> None:
    async def fail(message: Message) -> None:
        async with message.process():
            raise LookupError("no such order")

    async def main() -> None:
        async with opened(rabbit) as shop:
            await shop.handle(fail)

    rabbit.put()
    asyncio.run(main())

    span, reject = the(flows, f"process {rabbit.read_from}"), the(flows, f"reject {rabbit.read_from}")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "LookupError")
    assert reject.attributes["tracekit.messaging.requeue"] is False
    assert parent_of(reject) == where(span)


@pytest.mark.parametrize("value", [b"\xff\xfe", 17, None, "", "garbage", [None], 2**40], ids=repr)
@pytest.mark.parametrize("name", ["traceparent", "tracekit-flow", "baggage", "x-death"])
def test_case_28_hostile_headers_reach_the_handler_and_hurt_nobody(
    rabbit: Rabbit, flows: Captured, name: str, value: object
) -> None:
    got: list[object] = []

    async def handler(message: Message) -> None:
        got.append((message.headers, message.body))
        await message.ack()

    async def main() -> None:
        async with opened(rabbit) as shop:
            await shop.handle(handler)

    rabbit.put(headers={name: value})
    asyncio.run(main())

    assert got == [({name: value}, b"an order")]
    span = the(flows, f"process {rabbit.read_from}")
    assert (parent_of(span), span.status) == (None, Status.UNSET)


def test_case_52_and_15_of_section_8_a_task_that_is_cancelled_ends_its_span_and_acks_nothing(
    rabbit: Rabbit, flows: Captured
) -> None:
    async def main() -> None:
        started = asyncio.Event()
        tasks: list[Any] = []

        async def hang(message: Message) -> None:
            tasks.append(asyncio.current_task())
            started.set()
            await asyncio.Event().wait()

        async with opened(rabbit) as shop:
            before = otel.get_current()
            await shop.queue.consume(hang)
            await asyncio.wait_for(started.wait(), DEADLINE_S)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            assert otel.get_current() == before

    rabbit.put()
    asyncio.run(main())

    span = the(flows, f"process {rabbit.read_from}")
    assert (span.status, span.attributes["tracekit.cancelled"]) == (Status.UNSET, True)
    assert [each.name for each in flows.spans] == [span.name]
    assert rabbit.on_the_wire()[0][0].redelivered


def test_case_52_a_task_that_is_cancelled_in_a_loop_ends_its_turn(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> None:
        started = asyncio.Event()

        async with opened(rabbit) as shop:

            async def work() -> None:
                async with shop.queue.iterator() as messages:
                    async for _ in messages:
                        started.set()
                        await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await asyncio.wait_for(started.wait(), DEADLINE_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    rabbit.put()
    asyncio.run(main())

    (span,) = flows.spans
    assert (span.status, span.attributes["tracekit.cancelled"]) == (Status.UNSET, True)


def test_a_task_that_is_cancelled_before_it_runs_processes_nothing(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:
            underlay = await shop.channel.get_underlay_channel()
            tag = await shop.queue.consume(acked, no_ack=True)
            task = asyncio.create_task(underlay.consumers[tag].args[0](object()))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())

    assert flows.spans == ()


# -- iterators, and what is fetched ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["the queue", "iterator()", "entered", "consuming"])
@pytest.mark.parametrize("connect", [aio_pika.connect, aio_pika.connect_robust])
def test_case_18_and_36_the_body_of_an_iterators_loop_is_in_its_messages_span(
    rabbit: Rabbit, flows: Captured, form: str, connect: Any
) -> None:
    async def body(message: Message) -> bool:
        with tracer.start_as_current_span(message.body.decode()):
            await asyncio.sleep(0)
        await message.ack()
        return message.body == b"two"

    async def main() -> None:
        async with opened(rabbit, connect) as shop:
            before = otel.get_current()
            if form in ("the queue", "iterator()"):
                async for message in shop.queue if form == "the queue" else shop.queue.iterator():
                    if await body(message):
                        break
            else:
                entered = shop.queue.iterator() if form == "entered" else tracekit.consuming(shop.queue)
                async with entered as messages:
                    async for message in messages:
                        if await body(message):
                            break
            assert otel.get_current() == before

    rabbit.put(b"one", {"traceparent": TRACEPARENT})
    rabbit.put(b"two")
    asyncio.run(main())

    one, two = named(flows, f"process {rabbit.read_from}")
    assert [parent_of(the(flows, name)) for name in ("one", "two")] == [where(one), where(two)]
    assert (parent_of(one), parent_of(two)) == ((TRACE, SPAN), None)
    assert one.end_ns is not None
    assert one.end_ns <= two.start_ns


def test_case_18_two_tasks_on_one_queue_do_not_see_each_others_turns(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:
            await shop.channel.set_qos(prefetch_count=1)
            both = asyncio.Barrier(2)

            async def worker() -> str:
                async with shop.queue.iterator() as messages:
                    async for message in messages:
                        await asyncio.wait_for(both.wait(), DEADLINE_S)
                        mine = trace.get_current_span().get_span_context().span_id
                        await asyncio.wait_for(both.wait(), DEADLINE_S)
                        assert trace.get_current_span().get_span_context().span_id == mine
                        await message.ack()
                        return f"{mine:016x}"
                raise AssertionError

            ids = await asyncio.gather(worker(), worker())
            assert set(ids) == {span.span_id for span in named(flows, f"process {rabbit.read_from}")}

    rabbit.put(b"one")
    rabbit.put(b"two")
    asyncio.run(main())

    assert [span.attributes.get("tracekit.leaked") for span in flows.spans] == [None] * 4


def test_case_19_entered_an_iterator_knows_its_error_and_is_closed(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:
            before = otel.get_current()
            entered = shop.queue.iterator()

            async def consume() -> None:
                async with entered as messages:
                    async for _ in messages:
                        raise LookupError

            with pytest.raises(LookupError):
                await consume()
            assert entered.consumer_tag is None
            assert otel.get_current() == before

    rabbit.put(b"one")
    rabbit.put(b"two")
    asyncio.run(main())

    assert [span.name for span in flows.spans] == [f"process {rabbit.read_from}"]
    assert flows.spans[0].attributes["error.type"] == "LookupError"
    assert [body for _, _, body in rabbit.on_the_wire(2)] == [b"one", b"two"]


def test_case_36_what_was_got_is_processed_in_a_block(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:
            for name in ("ours", "theirs"):
                message = await shop.queue.get()
                async with tracekit.process(message) if name == "ours" else message.process():
                    with tracer.start_as_current_span(name):
                        pass
                    if name == "ours":
                        await message.ack()

    rabbit.put(headers={"traceparent": TRACEPARENT})
    rabbit.put(headers={"traceparent": TRACEPARENT})
    asyncio.run(main())

    for span, ack, name in zip(
        named(flows, f"process {rabbit.read_from}"),
        named(flows, f"ack {rabbit.read_from}"),
        ("ours", "theirs"),
        strict=True,
    ):
        assert parent_of(span) == (TRACE, SPAN)
        assert parent_of(the(flows, name)) == parent_of(ack) == where(span)


def test_what_was_got_may_be_settled_outside_of_a_block(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:
            await (await shop.queue.get()).nack(requeue=False)

    rabbit.put()
    asyncio.run(main())

    assert untimed(the(flows, f"nack {rabbit.read_from}")) == rabbit.labels(
        "settle",
        "nack",
        rabbit.read_from,
        messaging_rabbitmq_message_delivery__tag=1,
        tracekit_messaging_requeue=False,
        tracekit_flow_id=flows.spans[0].trace_id,
    )


def test_case_23_an_empty_queue_is_nothing_and_no_failure(rabbit: Rabbit, flows: Captured) -> None:
    async def main() -> None:
        async with opened(rabbit) as shop:
            with pytest.raises(QueueEmpty):
                await shop.queue.get()
            assert await shop.queue.get(fail=False) is None

    asyncio.run(main())

    assert flows.spans == ()
    assert points(flows, "messaging.client.consumed.messages") == []
    assert points(flows, "messaging.client.operation.duration") == []


# -- what comes again ----------------------------------------------------------------------------------


def attempts(spans: list[Span]) -> list[object]:
    return [span.attributes.get("tracekit.messaging.delivery.attempt") for span in spans]


def test_case_44_three_tries_then_a_dead_letter_that_links_where_it_was_made(
    rabbit: Rabbit, flows: Captured
) -> None:
    queue = rabbit.declare(
        f"{rabbit.queue}-work",
        f"{rabbit.key}.work",
        x_queue_type="quorum",
        x_delivery_limit=2,
        x_dead_letter_exchange=EXCHANGE,
        x_dead_letter_routing_key=f"{rabbit.key}.dead",
    )
    dead = rabbit.declare(f"{rabbit.queue}-dead", f"{rabbit.key}.dead")

    async def refuse(message: Message) -> None:
        with pytest.raises(LookupError):
            async with message.process(requeue=True):
                raise LookupError

    async def main() -> None:
        async with opened(rabbit) as shop:
            await shop.exchange.publish(aio_pika.Message(b"an order"), f"{rabbit.key}.work")
            await shop.handle(refuse, 3, await shop.channel.get_queue(queue))
            await shop.handle(acked, 1, await shop.channel.get_queue(dead))

    asyncio.run(main())

    sent = the(flows, f"publish {EXCHANGE}:{rabbit.key}.work")
    tries = named(flows, f"process {EXCHANGE}:{rabbit.key}.work:{queue}")
    last = the(flows, f"process {EXCHANGE}:{rabbit.key}.dead:{dead}")
    assert attempts(tries) == [1, 2, 3]
    assert [span.attributes["error.type"] for span in tries] == ["LookupError"] * 3
    assert last.attributes["tracekit.messaging.dead_letter.reason"] == "delivery_limit"
    assert [links_of(span) for span in (*tries, last)] == [[where(sent)]] * 4
    flows.flow().assert_complete()


# -- the broker fails ------------------------------------------------------------------------------------


@pytest.mark.real  # a broker of its own, which starts twice
def test_case_17_of_section_8_after_the_broker_died_a_robust_consumer_is_traced_again(
    rabbit: Rabbit, flows: Captured, tmp_path: Path
) -> None:
    async def main() -> None:
        handled: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(message: Message) -> None:
            await message.ack()
            handled.put_nowait(message.body)

        with rabbitmq(tmp_path) as broker:
            connection = await aio_pika.connect_robust(broker.url, reconnect_interval=0.2)
            back = asyncio.Event()
            connection.reconnect_callbacks.add(lambda *_: back.set())
            channel = await connection.channel()
            queue = await channel.declare_queue("orders", durable=True)
            await queue.consume(handler)
            await channel.default_exchange.publish(aio_pika.Message(b"one"), "orders")
            assert await asyncio.wait_for(handled.get(), DEADLINE_S) == b"one"
            broker.kill()
            ports = broker.ports
        with rabbitmq(tmp_path, ports):
            async with asyncio.timeout(3 * DEADLINE_S):
                await back.wait()
                await channel.ready()
                await channel.default_exchange.publish(aio_pika.Message(b"two"), "orders")
                assert await handled.get() == b"two"
            await connection.close()

    asyncio.run(main())

    assert [len(named(flows, f"{verb} orders")) for verb in ("publish", "process", "ack")] == [2, 2, 2]
    sent, spans = named(flows, "publish orders"), named(flows, "process orders")
    assert [parent_of(span) for span in spans] == [where(span) for span in sent]
