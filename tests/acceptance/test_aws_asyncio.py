"""SQS and SNS through aioboto3: the same as through boto3, awaited, and tasks beside one another."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest
from botocore.exceptions import ClientError
from opentelemetry import baggage, trace
from opentelemetry import context as otel

import tracekit
from tests.acceptance.aws_rig import Queue, context_on, texts
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    PRODUCER,
    links_of,
    named,
    parent_of,
    the,
    untimed,
    where,
)
from tests.aws import PATIENCE_S, name_of
from tracekit.model import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.aws import Aws
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")


@asynccontextmanager
async def clients(aws: Aws) -> AsyncIterator[tuple[Any, Any]]:
    """SQS and SNS."""
    session = aioboto3.Session()
    async with AsyncExitStack() as opened:
        sqs = await opened.enter_async_context(session.client("sqs", **aws.settings))
        sns = await opened.enter_async_context(session.client("sns", **aws.settings))
        yield sqs, sns


@pytest.fixture
def queue(aws: Aws) -> Queue:
    """A queue of the test's own."""
    return Queue(aws)


async def received(sqs: Any, queue: Queue, **params: Any) -> Any:
    """The one message in the queue."""
    answer = await sqs.receive_message(QueueUrl=queue.url, WaitTimeSeconds=PATIENCE_S, **params)
    (message,) = answer["Messages"]
    return message


def test_case_02_the_spans_are_those_of_boto3(queue: Queue, flows: Captured) -> None:
    async def main() -> Any:
        async with clients(queue.aws) as (sqs, _):
            answer = await sqs.send_message(QueueUrl=queue.url, MessageBody="an order")
            message = await received(sqs, queue)
            async with tracekit.process(message):
                await sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])
            return answer, message

    answer, message = asyncio.run(main())

    sent, span = the(flows, f"send {queue.name}"), the(flows, f"process {queue.name}")
    settled = the(flows, f"delete {queue.name}")
    assert (sent.kind, span.kind, settled.kind) == (PRODUCER, CONSUMER, CLIENT)
    assert sent.attributes == queue.attributes(
        "send", "send", messaging_message_id=answer["MessageId"], tracekit_flow_id=sent.trace_id
    )
    assert untimed(span) == queue.processed(message, sent.trace_id)
    assert settled.attributes == queue.attributes("settle", "delete", tracekit_flow_id=sent.trace_id)
    assert (parent_of(span), links_of(span), parent_of(settled)) == (where(sent), [where(sent)], where(span))


@pytest.mark.flows(receive_spans=True)
def test_the_http_requests_of_a_call_are_not_shown_once_more(queue: Queue, flows: Captured) -> None:
    async def main() -> None:
        async with clients(queue.aws) as (sqs, _):
            await sqs.send_message(QueueUrl=queue.url, MessageBody="an order")
            await received(sqs, queue)

    asyncio.run(main())

    assert [span.name for span in flows.spans] == [f"send {queue.name}", f"receive {queue.name}"]


def test_case_18_two_tasks_see_each_its_own_message(queue: Queue, flows: Captured) -> None:
    other = Queue(queue.aws)
    both = asyncio.Barrier(2)

    async def work(sqs: Any, source: Queue) -> list[dict[str, object]]:
        seen = []
        for _ in range(2):
            message = await received(sqs, source, MaxNumberOfMessages=1)
            async with tracekit.process(message):
                await both.wait()
                with tracer.start_as_current_span(f"work {source.name}"):
                    seen.append(dict(baggage.get_all()))
                await both.wait()
            seen.append(dict(baggage.get_all()))
        return seen

    async def main() -> Any:
        async with clients(queue.aws) as (sqs, _):
            for each in (queue, other):
                token = otel.attach(baggage.set_baggage("queue", each.name))
                for _ in range(2):
                    await sqs.send_message(QueueUrl=each.url, MessageBody="an order")
                otel.detach(token)
            return await asyncio.gather(work(sqs, queue), work(sqs, other))

    seen = asyncio.run(main())

    assert seen == [[{"queue": each.name}, {}] * 2 for each in (queue, other)]
    for each in (queue, other):
        processed, bodies = named(flows, f"process {each.name}"), named(flows, f"work {each.name}")
        assert [parent_of(body) for body in bodies] == [where(span) for span in processed]
        assert {parent_of(span) for span in processed} == {
            where(span) for span in named(flows, f"send {each.name}")
        }


def test_case_38_an_entry_that_fails_is_an_error_of_its_own_create_span(
    queue: Queue, flows: Captured
) -> None:
    async def main() -> None:
        async with clients(queue.aws) as (sqs, _):
            await sqs.send_message_batch(
                QueueUrl=queue.url,
                Entries=[
                    {"Id": "good", "MessageBody": "first"},
                    {"Id": "late", "MessageBody": "second", "DelaySeconds": 1_000},
                ],
            )

    asyncio.run(main())

    good, late = named(flows, f"create {queue.name}")
    assert (good.status, late.status) == (Status.UNSET, Status.ERROR)
    assert [context_on(each) for each in queue.on_the_wire()] == [where(good)]


def test_case_39_context_goes_through_sns_to_sqs(queue: Queue, flows: Captured) -> None:
    arn = queue.aws.topic(queue.url, raw=False)

    async def main() -> None:
        async with clients(queue.aws) as (sqs, sns):
            await sns.publish(TopicArn=arn, Message="an order")
            async with tracekit.process(await received(sqs, queue)):
                pass

    asyncio.run(main())

    sent = the(flows, f"publish {name_of(arn)}")
    assert parent_of(the(flows, f"process {queue.name}")) == where(sent)


def test_case_37_with_ten_attributes_a_message_goes_without_context(queue: Queue, flows: Captured) -> None:
    async def main() -> None:
        async with clients(queue.aws) as (sqs, _):
            await sqs.send_message(QueueUrl=queue.url, MessageBody="an order", MessageAttributes=texts(10))

    asyncio.run(main())

    assert queue.on_the_wire() == [texts(10)]
    assert flows.dropped.keys() == {"too_many_attributes"}


def test_case_06_what_aws_refuses_is_an_error_of_the_send(queue: Queue, flows: Captured) -> None:
    async def main() -> None:
        async with clients(queue.aws) as (sqs, _):
            await sqs.send_message(QueueUrl=queue.url, MessageBody="an order", DelaySeconds=1_000)

    with pytest.raises(ClientError) as raised:
        asyncio.run(main())

    (span,) = flows.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, type(raised.value).__name__)


def test_case_52_a_long_poll_that_is_cancelled_ends_as_without_us(queue: Queue, flows: Captured) -> None:
    async def main() -> None:
        async with clients(queue.aws) as (sqs, _):
            poll = asyncio.create_task(sqs.receive_message(QueueUrl=queue.url, WaitTimeSeconds=20))
            await asyncio.sleep(0.1)
            poll.cancel()
            with pytest.raises(asyncio.CancelledError):
                await poll

    asyncio.run(main())

    assert flows.spans == ()


def test_case_33_a_resource_of_aioboto3_is_traced_as_its_client_is(queue: Queue, flows: Captured) -> None:
    async def main() -> None:
        async with aioboto3.Session().resource("sqs", **queue.aws.settings) as resource:
            of_queue = await resource.Queue(queue.url)
            await of_queue.send_message(MessageBody="an order")
            (message,) = await of_queue.receive_messages(WaitTimeSeconds=PATIENCE_S)
            async with tracekit.process(message):
                await message.delete()

    asyncio.run(main())

    sent, span = the(flows, f"send {queue.name}"), the(flows, f"process {queue.name}")
    assert parent_of(span) == where(sent)
    assert parent_of(the(flows, f"delete {queue.name}")) == where(span)
