"""SNS: what is published, and how it arrives by SQS, raw and in SNS's envelope."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.awsrequest import AWSResponse
from opentelemetry import baggage, trace
from opentelemetry import context as otel

import tracekit
from tests.acceptance.aws_rig import ID, Queue, context_on, labels, texts
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    PRODUCER,
    links_of,
    named,
    parent_of,
    points,
    the,
    where,
)
from tests.aws import name_of, text
from tracekit.model import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.aws import Aws
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")


class Topic:
    """A topic of the test's own, and the queue that it delivers to."""

    def __init__(self, aws: Aws, *, raw: bool) -> None:
        self.aws = aws
        self.queue = Queue(aws)
        self.arn = aws.topic(self.queue.url, raw=raw)
        self.name = name_of(self.arn)

    def publish(self, body: str = "an order", **params: Any) -> Any:
        """Publish as an application does; what SNS answered."""
        return self.aws.sns.publish(TopicArn=self.arn, Message=body, **params)

    def labels(self) -> dict[str, object]:
        """The attributes of a metric of the topic."""
        return labels(self.aws, "aws.sns", self.name, "send", "publish")


@pytest.fixture
def topic(aws: Aws) -> Topic:
    """A topic with raw delivery."""
    return Topic(aws, raw=True)


def test_case_03_a_publish_is_a_producer_span_with_the_names_of_the_conventions(
    topic: Topic, flows: Captured
) -> None:
    answer = topic.publish()

    (span,) = flows.spans
    assert (span.name, span.kind, span.status) == (f"publish {topic.name}", PRODUCER, Status.UNSET)
    assert span.attributes == {
        **topic.labels(),
        "aws.sns.topic.arn": topic.arn,
        "aws.request_id": ID,
        "messaging.message.id": answer["MessageId"],
        "tracekit.flow.id": span.trace_id,
    }
    assert points(flows, "messaging.client.sent.messages") == [(topic.labels(), 1, 0)]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "wrapped"])
def test_case_39_context_goes_through_sns_to_sqs(raw: bool, aws: Aws, flows: Captured) -> None:
    topic = Topic(aws, raw=raw)
    token = otel.attach(baggage.set_baggage("tenant", "acme"))
    topic.publish("an order", Subject='of "MessageAttributes"')
    otel.detach(token)
    message = topic.queue.message()
    with tracekit.process(message):
        carried = dict(baggage.get_all())

    sent, span = the(flows, f"publish {topic.name}"), the(flows, f"process {topic.queue.name}")
    assert (span.kind, parent_of(span), links_of(span)) == (CONSUMER, where(sent), [where(sent)])
    assert (span.attributes["tracekit.flow.id"], carried) == (sent.trace_id, {"tenant": "acme"})
    assert ("MessageAttributes" in message) is raw


def test_case_39_an_envelope_has_bytes_as_base64(aws: Aws, flows: Captured) -> None:
    topic = Topic(aws, raw=False)
    traceparent = f"00-{'1' * 32}-{'1' * 16}-01"
    own = {"traceparent": {"DataType": "Binary", "BinaryValue": traceparent.encode()}}
    with tracekit.relay():
        topic.publish(json.dumps({"MessageAttributes": {"traceparent": "no"}}), MessageAttributes=own)
    with tracekit.process(topic.queue.message()):
        pass

    assert parent_of(the(flows, f"process {topic.queue.name}")) == ("1" * 32, "1" * 16)


def test_case_39_the_text_of_the_message_is_not_taken_for_the_envelope(aws: Aws, flows: Captured) -> None:
    topic = Topic(aws, raw=False)
    theirs = {"Type": "String", "Value": f"00-{'1' * 32}-{'1' * 16}-01"}
    topic.publish(json.dumps({"Type": "Notification", "MessageAttributes": {"traceparent": theirs}}))
    with tracekit.process(topic.queue.message()):
        pass

    sent, span = the(flows, f"publish {topic.name}"), the(flows, f"process {topic.queue.name}")
    assert parent_of(span) == where(sent)


def test_case_07_what_the_caller_gave_is_as_it_was(topic: Topic, flows: Captured) -> None:
    attributes = texts(1)
    entries = [{"Id": "one", "Message": "an order", "MessageAttributes": texts(1)}]
    before = copy.deepcopy((attributes, entries))

    topic.publish(MessageAttributes=attributes)
    topic.aws.sns.publish_batch(TopicArn=topic.arn, PublishBatchRequestEntries=entries)

    assert (attributes, entries) == before
    assert all("traceparent" in each for each in topic.queue.on_the_wire(2))


def test_case_37_with_ten_attributes_a_message_goes_without_context(topic: Topic, flows: Captured) -> None:
    topic.publish(MessageAttributes=texts(10))

    assert topic.queue.on_the_wire() == [texts(10)]
    assert flows.dropped.keys() == {"too_many_attributes"}


def test_section_8_case_06_a_message_that_is_full_goes_without_context(topic: Topic, flows: Captured) -> None:
    topic.publish("x" * 262_144)

    assert topic.queue.on_the_wire() == [{}]
    assert flows.dropped.keys() == {"size"}


def test_case_38_each_message_of_a_batch_is_created_in_a_span_of_its_own(
    topic: Topic, flows: Captured
) -> None:
    entries = [{"Id": str(number), "Message": f"order {number}"} for number in range(3)]
    answer = topic.aws.sns.publish_batch(TopicArn=topic.arn, PublishBatchRequestEntries=entries)

    creates, send = named(flows, f"create {topic.name}"), the(flows, f"publish {topic.name}")
    assert [each.kind for each in (*creates, send)] == [PRODUCER] * 3 + [CLIENT]
    assert [where(link) for link in send.links] == [where(each) for each in creates]
    assert [each.attributes["messaging.message.id"] for each in creates] == [
        each["MessageId"] for each in answer["Successful"]
    ]
    assert send.attributes == {
        **topic.labels(),
        "aws.sns.topic.arn": topic.arn,
        "aws.request_id": ID,
        "messaging.batch.message_count": 3,
        "tracekit.flow.id": send.trace_id,
    }
    on_the_wire = topic.queue.on_the_wire(3)
    assert sorted(map(context_on, on_the_wire)) == sorted(where(each) for each in creates)


@pytest.fixture
def refusing(topic: Topic) -> Iterator[Topic]:
    """A topic whose batches fail in part, as AWS says it. moto's never do."""

    def fail(**_: Any) -> Any:
        answer = {
            "Successful": [{"Id": "one", "MessageId": "1"}],
            "Failed": [{"Id": "two", "Code": "InternalError", "SenderFault": False}],
            "ResponseMetadata": {"HTTPStatusCode": 200},
        }
        return AWSResponse("", 200, {}, None), answer

    events = topic.aws.sns.meta.events
    events.register("before-call.sns.PublishBatch", fail, unique_id="refusing")
    yield topic
    events.unregister("before-call.sns.PublishBatch", unique_id="refusing")


def test_case_38_an_entry_that_fails_is_an_error_of_its_own_create_span(
    refusing: Topic, flows: Captured
) -> None:
    entries = [{"Id": "one", "Message": "first"}, {"Id": "two", "Message": "second"}]
    refusing.aws.sns.publish_batch(TopicArn=refusing.arn, PublishBatchRequestEntries=entries)

    creates = named(flows, f"create {refusing.name}")
    assert [(each.status, each.attributes.get("error.type")) for each in creates] == [
        (Status.UNSET, None),
        (Status.ERROR, "InternalError"),
    ]
    counted = points(flows, "messaging.client.sent.messages")
    assert [(each.get("error.type"), value) for each, value, _ in counted] == [
        (None, 1),
        ("InternalError", 1),
    ]


def test_a_text_to_a_phone_is_no_message_of_ours(aws: Aws, flows: Captured) -> None:
    aws.sns.publish(PhoneNumber="+15550100", Message="an order")

    assert flows.spans == ()


def test_what_was_handed_on_from_a_queue_continues_the_flow(topic: Topic, flows: Captured) -> None:
    source = Queue(topic.aws)
    source.send(MessageAttributes={"kind": text("order")})
    message = source.message(MessageAttributeNames=["All"])
    with tracekit.process(message):
        topic.publish(MessageAttributes=message["MessageAttributes"])
    with tracekit.process(topic.queue.message()):
        pass

    flow = flows.wait_for_flow(
        f"send {source.name}",
        f"process {source.name}",
        f"publish {topic.name}",
        f"process {topic.queue.name}",
    )
    flow.assert_complete()
