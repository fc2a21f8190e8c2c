"""OpenTelemetry's own instrumentations of boto3 and botocore, beside ours: who owns which call."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aioboto3
import boto3
import pytest
from opentelemetry.instrumentation.boto3sqs import Boto3SQSInstrumentor
from opentelemetry.instrumentation.botocore import AiobotocoreInstrumentor, BotocoreInstrumentor

import tracekit
from tests.acceptance.aws_rig import Queue, context_on
from tests.acceptance.kafka_rig import parent_of, the, where
from tests.aws import name_of
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.aws import Aws
    from tracekit.testing import Captured


@pytest.fixture
def instrument() -> Iterator[Callable[[Any], None]]:
    """Switches an instrumentation on, until the end of the test."""
    on: list[Any] = []

    def switch(instrumentor: Any) -> None:
        on.append(instrumentor)
        instrumentor.instrument()

    yield switch
    for instrumentor in reversed(on):
        instrumentor.uninstrument()


def names(seen: Captured) -> list[tuple[str, str]]:
    """Scope and name of each span."""
    return [(span.scope.rpartition(".")[2], span.name) for span in seen.spans]


@pytest.mark.parametrize("is_first", [True, False], ids=["contrib first", "tracekit first"])
def test_botocores_keeps_all_calls_but_those_that_are_traced_here(
    is_first: bool, aws: Aws, instrument: Callable[[Any], None]
) -> None:
    queue = Queue(aws)
    arn = aws.topic(queue.url, raw=True)
    topic = name_of(arn)
    if is_first:
        instrument(BotocoreInstrumentor())
    with capture("shop") as seen:
        if not is_first:
            instrument(BotocoreInstrumentor())
        queue.sqs.list_queues()
        aws.sns.publish(TopicArn=arn, Message="an order")
        aws.sns.publish(PhoneNumber="+15550100", Message="an order")
        message = queue.message(MessageAttributeNames=["All"])
        with tracekit.process(message):
            queue.delete(message)

    assert names(seen) == [
        ("sqs", "SQS.ListQueues"),
        ("tracekit", f"publish {topic}"),
        ("sns", "phone_number send"),
        ("tracekit", f"process {queue.name}"),
        ("tracekit", f"delete {queue.name}"),
    ]
    sent = the(seen, f"publish {topic}")
    assert context_on(message["MessageAttributes"]) == where(sent)
    assert parent_of(the(seen, f"process {queue.name}")) == where(sent)


IMPORTS_FIRST = """
import json, sys
from tracekit.testing import capture

settings, url = json.loads(sys.argv[1])
with capture("shop") as seen:
    from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
    BotocoreInstrumentor().instrument()
    import boto3
    sqs = boto3.client("sqs", **settings)
    sqs.list_queues()
    sqs.send_message(QueueUrl=url, MessageBody="an order")
    sqs.close()
print(json.dumps([[span.name for span in seen.spans], dict(seen.dropped)]))
"""


def test_botocores_is_told_too_where_it_is_what_imports_botocore(aws: Aws) -> None:
    queue = Queue(aws)
    given = json.dumps([aws.settings, queue.url])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_FIRST, given], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == [["SQS.ListQueues", f"send {queue.name}"], {}]


def test_aiobotocores_keeps_all_calls_but_those_that_are_traced_here(
    aws: Aws, instrument: Callable[[Any], None]
) -> None:
    queue = Queue(aws)
    instrument(AiobotocoreInstrumentor())

    async def main() -> None:
        async with aioboto3.Session().client("sqs", **aws.settings) as sqs:
            await sqs.list_queues()
            await sqs.send_message(QueueUrl=queue.url, MessageBody="an order")

    with capture("shop") as seen:
        asyncio.run(main())

    assert names(seen) == [("sqs", "SQS.ListQueues"), ("tracekit", f"send {queue.name}")]


def test_botocores_is_whole_again_once_tracekit_is_undone(
    aws: Aws, instrument: Callable[[Any], None]
) -> None:
    from opentelemetry.instrumentation import botocore

    before = botocore._determine_call_context
    instrument(BotocoreInstrumentor())
    with capture("shop"):
        during = botocore._determine_call_context

    assert during is not before
    assert botocore._determine_call_context is before


@pytest.mark.parametrize("is_first", [True, False], ids=["contrib first", "tracekit first"])
def test_boto3sqs_stands_down(is_first: bool, aws: Aws, instrument: Callable[[Any], None]) -> None:
    queue = Queue(aws)
    if is_first:
        instrument(Boto3SQSInstrumentor())
    client: Any = boto3.client("sqs", **aws.settings)
    with capture("shop") as seen:
        if not is_first:
            instrument(Boto3SQSInstrumentor())
        asked = ["kind"]
        client.send_message(QueueUrl=queue.url, MessageBody="an order")
        answer = client.receive_message(QueueUrl=queue.url, WaitTimeSeconds=10, MessageAttributeNames=asked)
        for message in answer["Messages"]:
            with tracekit.process(message):
                pass
    wrapped = hasattr(type(client).send_message, "__wrapped__")
    client.close()

    assert names(seen) == [("tracekit", f"send {queue.name}"), ("tracekit", f"process {queue.name}")]
    assert (type(answer["Messages"]), asked) == (list, ["kind"])
    assert wrapped  # it is as active again as the application asked for
