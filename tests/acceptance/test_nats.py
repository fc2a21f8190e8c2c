"""NATS: what the core hands over and forgets, and what JetStream keeps until it is settled."""

from __future__ import annotations

import asyncio
import copy
import itertools
from typing import TYPE_CHECKING, Any, Final

import nats
import nats.errors
import nats.js.errors
import pytest
from opentelemetry import trace

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    HASH,
    PRODUCER,
    SPAN,
    TRACE,
    TRACEPARENT,
    links_of,
    named,
    parent_of,
    points,
    the,
    untimed,
    where,
)
from tracekit.context import flow_id
from tracekit.model import Status
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from tracekit.testing import Captured

pytestmark = pytest.mark.server
tracer = trace.get_tracer("tests")

GROUP: Final = "billing"
PATIENCE_S: Final = 20
_names = itertools.count(1)


class Subject:
    """A subject of a test's own, with a connection that is named `shop`."""

    def __init__(self, url: str, connection: Any) -> None:
        self.name = f"subject-{next(_names)}"
        self.nc = connection
        self.js = connection.jetstream()
        self._port = int(url.rpartition(":")[2])

    async def stream(self, **settings: Any) -> Any:
        """A stream on the subject, and a consumer that pulls from it."""
        await self.js.add_stream(name=self.name, subjects=[self.name], **settings)
        return await self.js.pull_subscribe(self.name, durable=GROUP)

    async def put(self, lines: bytes, body: bytes = b"one") -> None:
        """Have a message come with headers that no client of Python would write."""
        block = b"NATS/1.0\r\n" + lines + b"\r\n\r\n"
        sizes = f"{len(block)} {len(block) + len(body)}".encode()
        await self.nc._send_command(b"HPUB " + self.name.encode() + b" " + sizes + b"\r\n")
        await self.nc._send_command(block + body + b"\r\n")
        await self.nc._flush_pending()

    def labels(self, operation: str, verb: str) -> dict[str, object]:
        return {
            "messaging.system": "nats",
            "messaging.operation.name": verb,
            "messaging.operation.type": operation,
            "messaging.destination.name": self.name,
            "messaging.client.id": "shop",
            "server.address": "127.0.0.1",
            "server.port": self._port,
        }


def run(url: str, work: Callable[[Subject], Coroutine[Any, Any, None]]) -> Subject:
    """The subject on which the work was done."""

    async def main() -> Subject:
        connection = await nats.connect(url, name="shop")
        try:
            subject = Subject(url, connection)
            await asyncio.wait_for(work(subject), PATIENCE_S)
        finally:
            await connection.close()
        return subject

    return asyncio.run(main())


def stored(message: Any) -> Mapping[str, str]:
    return message.headers or {}


# -- the core -----------------------------------------------------------------------------------------


def test_a_message_that_is_iterated_is_named_as_the_conventions_have_it(
    nats_server: str, flows: Captured
) -> None:
    async def work(subject: Subject) -> None:
        subscription = await subject.nc.subscribe(subject.name, queue=GROUP)
        await subject.nc.publish(subject.name, b"one")
        async for _ in subscription.messages:
            assert trace.get_current_span().get_span_context().is_valid
            break

    subject = run(nats_server, work)

    sent, processed = the(flows, f"publish {subject.name}"), the(flows, f"process {subject.name}")
    assert (sent.kind, processed.kind) == (PRODUCER, CONSUMER)
    assert sent.attributes == {**subject.labels("send", "publish"), "tracekit.flow.id": sent.trace_id}
    at = processed.attributes["tracekit.messaging.published_at"]
    assert untimed(processed) == {
        **subject.labels("process", "process"),
        "messaging.consumer.group.name": GROUP,
        "tracekit.flow.id": sent.trace_id,
        "tracekit.messaging.published_at": at,
        "tracekit.messaging.published_at.source": "header",
        "tracekit.pathway.hash": processed.attributes["tracekit.pathway.hash"],
    }
    assert parent_of(processed) == where(sent)


def test_a_handler_runs_in_the_span_of_its_message(nats_server: str, flows: Captured) -> None:
    seen: list[object] = []

    async def work(subject: Subject) -> None:
        done = asyncio.Event()

        async def handle(message: Any) -> None:
            await asyncio.sleep(0)
            seen.append(flow_id())
            done.set()

        await subject.nc.subscribe(subject.name, cb=handle)
        await subject.nc.publish(subject.name, b"one")
        await done.wait()

    subject = run(nats_server, work)

    flows.wait_for_flow(f"publish {subject.name}", f"process {subject.name}").assert_complete()
    assert seen == [the(flows, f"publish {subject.name}").trace_id]


def test_case_16_what_a_handler_raises_is_an_error_of_its_message(nats_server: str, flows: Captured) -> None:
    error = LookupError("no such order")
    heard: list[Exception] = []

    async def work(_: Subject) -> None:
        done = asyncio.Event()

        async def hear(raised: Exception) -> None:
            heard.append(raised)
            done.set()

        async def handle(message: Any) -> None:
            raise error

        connection = await nats.connect(nats_server, error_cb=hear)
        await connection.subscribe("fails", cb=handle)
        await connection.publish("fails", b"one")
        await done.wait()
        await connection.close()

    run(nats_server, work)

    assert heard == [error]
    span = the(flows, "process fails")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "LookupError")


def test_a_message_that_was_fetched_is_processed_by_itself(nats_server: str, flows: Captured) -> None:
    async def work(subject: Subject) -> None:
        subscription = await subject.nc.subscribe(subject.name, queue=GROUP)
        await subject.nc.publish(subject.name, b"one")
        message = await subscription.next_msg()
        async with tracekit.process(message):
            pass
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(timeout=0.01)

    subject = run(nats_server, work)

    span = the(flows, f"process {subject.name}")
    assert span.attributes["messaging.consumer.group.name"] == GROUP
    assert parent_of(span) == where(the(flows, f"publish {subject.name}"))
    ((labels, value, _),) = points(flows, "messaging.client.consumed.messages")
    assert (labels["messaging.operation.name"], value) == ("next", 1)
    failed = [labels for labels, _, _ in points(flows, "messaging.client.operation.duration")]
    assert not any("error.type" in labels for labels in failed)


def test_case_18_handlers_side_by_side_see_their_own_message_only(nats_server: str, flows: Captured) -> None:
    seen: set[tuple[str, str]] = set()

    async def work(subject: Subject) -> None:
        both, done = asyncio.Barrier(2), asyncio.Semaphore(0)

        async def handle(message: Any) -> None:
            await both.wait()
            span = trace.get_current_span().get_span_context()
            seen.add((message.headers["traceparent"].split("-")[1], trace.format_trace_id(span.trace_id)))
            done.release()

        for name in ("one", "two"):
            await subject.nc.subscribe(f"{subject.name}.{name}", cb=handle)
        for name in ("one", "two"):
            await subject.nc.publish(f"{subject.name}.{name}", b"")
        await done.acquire()
        await done.acquire()

    run(nats_server, work)

    assert len(seen) == 2
    assert all(sent == current for sent, current in seen)


def test_case_7_the_callers_headers_are_unchanged(nats_server: str, flows: Captured) -> None:
    given = {"shop": "north"}
    before = copy.deepcopy(given)

    async def work(subject: Subject) -> None:
        subscription = await subject.stream()
        await subject.nc.publish(subject.name, b"one", headers=given)
        await subject.js.publish(subject.name, b"two", headers=given)
        for message in await subscription.fetch(2):
            assert {*stored(message)} >= {"shop", "traceparent", "tracekit-flow"}

    run(nats_server, work)

    assert given == before


@pytest.mark.parametrize("headers", [{"shop": 1}, {"shop": None}, {"shop": b"north"}, ["shop"], {1: "x"}])
def test_case_28_what_the_client_refuses_it_refuses_as_before(
    nats_server: str, headers: Any, flows: Captured
) -> None:
    async def work(subject: Subject) -> None:
        with pytest.raises((AttributeError, TypeError)):
            await subject.nc.publish(subject.name, b"one", headers=headers)

    run(nats_server, work)


@pytest.mark.parametrize(
    "lines", [b"traceparent: \xff\xfe", b"traceparent: 00-no", b"traceparent:", b"tracekit-flow: \xff;;"]
)
def test_case_28_hostile_headers_cost_the_context_and_nothing_else(
    nats_server: str, lines: bytes, flows: Captured
) -> None:
    bodies: list[bytes] = []

    async def work(subject: Subject) -> None:
        subscription = await subject.nc.subscribe(subject.name)
        await subject.put(lines)
        async for message in subscription.messages:
            bodies.append(message.data)
            break

    subject = run(nats_server, work)

    assert bodies == [b"one"]
    assert the(flows, f"process {subject.name}").parent_id is None


def test_a_message_without_room_goes_without_context(nats_server: str, flows: Captured) -> None:
    async def work(subject: Subject) -> None:
        subscription = await subject.nc.subscribe(subject.name)
        for spare in (0, 100, 400):
            body = b"x" * (subject.nc.max_payload - spare)
            await subject.nc.publish(subject.name, body)
            message = await subscription.next_msg(timeout=5)
            assert len(message.data) == len(body)
            assert ("traceparent" in stored(message)) is (spare >= 100)

    run(nats_server, work)

    assert flows.dropped == {"size": 3}  # a header each


def test_case_33_clients_made_before_configure_are_traced(nats_server: str) -> None:
    async def main() -> None:
        connection = await nats.connect(nats_server)
        subscription = await connection.subscribe("early")
        publish = type(connection).publish
        with capture("shop") as seen:
            await connection.publish("early", b"one")
            async with tracekit.process(await subscription.next_msg()):
                pass
            flow = seen.wait_for_flow("publish early", "process early")
            flow.assert_no_orphans()
        assert type(connection).publish is publish
        await connection.close()

    asyncio.run(main())


def test_requests_are_sends_and_what_is_the_servers_own_is_not(nats_server: str, flows: Captured) -> None:
    async def work(subject: Subject) -> None:
        async def handle(message: Any) -> None:
            await message.respond(b"paid")

        await subject.nc.subscribe(subject.name, cb=handle)
        answer = await subject.nc.request(subject.name, b"pay", timeout=5)
        assert answer.data == b"paid"
        await subject.js.account_info()

    subject = run(nats_server, work)

    assert sorted(span.name for span in flows.spans) == [f"process {subject.name}", f"publish {subject.name}"]


# -- JetStream ----------------------------------------------------------------------------------------


def test_a_message_that_is_kept_says_what_the_server_says_of_it(nats_server: str, flows: Captured) -> None:
    times: list[int] = []

    async def work(subject: Subject) -> None:
        subscription = await subject.stream()
        await subject.js.publish(subject.name, b"one", headers={"traceparent": TRACEPARENT})
        (message,) = await subscription.fetch(1)
        times.append(int(message.reply.split(".")[7]))
        async with tracekit.process(message):
            await message.ack()

    subject = run(nats_server, work)

    sent, processed = the(flows, f"publish {subject.name}"), the(flows, f"process {subject.name}")
    assert sent.kind is CLIENT  # the application's own context was kept
    assert sent.attributes["messaging.message.id"] == f"{subject.name}:1"
    assert untimed(processed) == {
        **subject.labels("process", "process"),
        "messaging.consumer.group.name": GROUP,
        "messaging.message.id": f"{subject.name}:1",
        "tracekit.flow.id": TRACE,
        "tracekit.messaging.delivery.attempt": 1,
        "tracekit.messaging.published_at": times[0],
        "tracekit.messaging.published_at.source": "broker",
        "tracekit.pathway.hash": HASH,
    }
    assert links_of(processed) == [(TRACE, SPAN)]
    settled = the(flows, f"ack {subject.name}")
    assert (settled.kind, parent_of(settled)) == (CLIENT, where(processed))
    assert settled.attributes == {
        **subject.labels("settle", "ack"),
        "messaging.consumer.group.name": GROUP,
        "tracekit.flow.id": TRACE,
    }


def test_case_44_a_message_that_is_refused_comes_again_in_its_flow(nats_server: str, flows: Captured) -> None:
    async def work(subject: Subject) -> None:
        subscription = await subject.stream()
        await subject.js.publish(subject.name, b"one")
        for settle in ("nak", "nak", "term"):
            (message,) = await subscription.fetch(1)
            async with tracekit.process(message):
                await getattr(message, settle)()

    subject = run(nats_server, work)

    flow = flows.wait_for_flow(f"publish {subject.name}", f"term {subject.name}")
    flow.assert_no_orphans()
    processed = named(flows, f"process {subject.name}")
    attempts = [span.attributes["tracekit.messaging.delivery.attempt"] for span in processed]
    again = [span.attributes.get("tracekit.messaging.redelivered", False) for span in processed]
    assert (attempts, again) == ([1, 2, 3], [False, True, True])
    assert len(named(flows, f"nak {subject.name}")) == 2


def test_a_pushed_message_is_acknowledged_by_the_client_within_its_span(
    nats_server: str, flows: Captured
) -> None:
    async def work(subject: Subject) -> None:
        done = asyncio.Event()

        async def handle(message: Any) -> None:
            done.set()

        await subject.js.add_stream(name=subject.name, subjects=[subject.name])
        pushed = await subject.js.subscribe(subject.name, durable=GROUP, cb=handle)
        await subject.js.publish(subject.name, b"one")
        await done.wait()
        await pushed.drain()

    subject = run(nats_server, work)

    processed = the(flows, f"process {subject.name}")
    assert parent_of(the(flows, f"ack {subject.name}")) == where(processed)
    assert processed.attributes["messaging.consumer.group.name"] == GROUP


def test_a_send_ends_with_the_servers_answer_also_where_that_comes_later(
    nats_server: str, flows: Captured
) -> None:
    async def work(subject: Subject) -> None:
        await subject.stream()
        await (await subject.js.publish_async(subject.name, b"one"))
        with pytest.raises(nats.js.errors.NoStreamResponseError):
            await subject.js.publish("nobody", b"one")

    subject = run(nats_server, work)

    assert the(flows, "publish nobody").attributes["error.type"] == "NoStreamResponseError"
    assert the(flows, f"publish {subject.name}").status is not Status.ERROR


def test_what_a_stream_is_too_small_for_goes_once_more_without_context(
    nats_server: str, flows: Captured
) -> None:
    async def work(subject: Subject) -> None:
        subscription = await subject.stream(max_msg_size=64)
        await subject.js.publish(subject.name, b"one")
        (message,) = await subscription.fetch(1)
        assert (message.data, message.headers) == (b"one", None)
        with pytest.raises(nats.js.errors.APIError):
            await subject.js.publish(subject.name, b"x" * 100)

    run(nats_server, work)

    assert flows.dropped == {"oversized": 2}
