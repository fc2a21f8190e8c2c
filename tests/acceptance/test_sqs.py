"""SQS: what is sent and received, what the caller sees of it, batches, limits, redelivery."""

from __future__ import annotations

import copy
import json
import logging
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import suppress_instrumentation

import tracekit
from tests.acceptance.aws_rig import ID, OURS, Queue, context_on, texts
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
    untimed,
    where,
)
from tests.aws import text
from tracekit.model import Link, Status
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.aws import Aws
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")
OTHER = f"00-{'2' * 32}-{'2' * 16}-01"


@pytest.fixture
def queue(aws: Aws) -> Queue:
    """A queue of the test's own, and a client that was made before tracekit was configured."""
    return Queue(aws)


# -- one message --------------------------------------------------------------------------------------


def test_case_03_a_send_is_a_producer_span_with_the_names_of_the_conventions(
    queue: Queue, flows: Captured
) -> None:
    answer = queue.send()

    (span,) = flows.spans
    assert (span.name, span.kind, span.status) == (f"send {queue.name}", PRODUCER, Status.UNSET)
    assert span.attributes == queue.attributes(
        "send",
        "send",
        messaging_message_id=answer["MessageId"],
        tracekit_flow_id=span.trace_id,
    )
    assert points(flows, "messaging.client.sent.messages") == [(queue.labels("send", "send"), 1, 0)]
    assert context_on(*queue.on_the_wire()) == where(span)


def test_case_06_what_aws_refuses_is_an_error_of_the_send(queue: Queue, flows: Captured) -> None:
    with pytest.raises(ClientError) as raised:
        queue.send(DelaySeconds=1_000)

    (span,) = flows.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, type(raised.value).__name__)


def test_case_07_what_the_caller_gave_is_as_it_was(queue: Queue, flows: Captured) -> None:
    given = {"QueueUrl": queue.url, "MessageBody": "an order", "MessageAttributes": texts(2)}
    entry = {"Id": "one", "MessageBody": "an order", "MessageAttributes": texts(1)}
    entries = [entry, {"Id": "two", "MessageBody": "an order"}]
    before = copy.deepcopy((given, entries))

    queue.sqs.send_message(**given)
    queue.sqs.send_message_batch(QueueUrl=queue.url, Entries=entries)

    assert (given, entries) == before
    assert all("traceparent" in attributes for attributes in queue.on_the_wire(3))


def test_case_08_attributes_that_two_sends_share_carry_each_ones_own_context(
    queue: Queue, flows: Captured
) -> None:
    attributes = texts(1)

    queue.send(MessageAttributes=attributes)
    queue.send(MessageAttributes=attributes)

    assert sorted(map(context_on, queue.on_the_wire(2))) == sorted(map(where, flows.spans))


def test_case_10_a_context_that_the_caller_set_is_kept_in_a_relay(queue: Queue, flows: Captured) -> None:
    with tracekit.relay():
        queue.send(MessageAttributes={"traceparent": text(TRACEPARENT)})

    (span,) = flows.spans
    assert (span.kind, links_of(span)) == (CLIENT, [(TRACE, SPAN)])
    assert queue.on_the_wire() == [{"traceparent": text(TRACEPARENT)}]


def test_case_11_attributes_of_the_message_in_process_are_replaced_when_handed_on(
    aws: Aws, queue: Queue, flows: Captured
) -> None:
    other = Queue(aws)
    queue.put({"traceparent": text(TRACEPARENT), "kind": text("order")})
    message = queue.message(MessageAttributeNames=["All"])

    with tracekit.process(message):
        other.send(MessageAttributes=message["MessageAttributes"])

    (attributes,) = other.on_the_wire()
    assert attributes["kind"] == text("order")
    assert context_on(attributes) == where(the(flows, f"send {other.name}"))


def test_case_12_a_message_is_processed_as_a_child_of_its_send(queue: Queue, flows: Captured) -> None:
    queue.send()
    message = queue.message()
    with tracekit.process(message):
        pass

    sent, span = the(flows, f"send {queue.name}"), the(flows, f"process {queue.name}")
    assert (span.kind, parent_of(span), links_of(span)) == (CONSUMER, where(sent), [where(sent)])
    assert untimed(span) == queue.processed(message, sent.trace_id)


@pytest.mark.parametrize("rule", ["auto", "message", "link"])
def test_case_13_inside_another_span_the_rule_says_whose_child_it_is(
    rule: Any, queue: Queue, flows: Captured
) -> None:
    queue.put({"traceparent": text(TRACEPARENT)})
    message = queue.message()

    with tracer.start_as_current_span("job"), tracekit.process(message, parent=rule):
        pass

    job, span = where(the(flows, "job")), the(flows, f"process {queue.name}")
    created = (TRACE, SPAN)
    assert (parent_of(span), links_of(span)) == {
        "auto": (job, [created]),
        "message": (created, [created, job]),
        "link": (None, [created]),
    }[rule]


@pytest.mark.parametrize("has_job", [False, True])
def test_case_14_a_message_without_context_begins_a_flow_or_is_a_part_of_the_job(
    has_job: bool, queue: Queue, flows: Captured
) -> None:
    queue.put()
    message = queue.message()

    if has_job:
        with tracer.start_as_current_span("job"), tracekit.process(message):
            pass
    else:
        with tracekit.process(message):
            pass

    span = the(flows, f"process {queue.name}")
    assert (parent_of(span), span.links) == (where(the(flows, "job")) if has_job else None, ())
    assert span.attributes["tracekit.messaging.context"] == "absent"


def test_case_15_baggage_is_there_in_the_block_and_nowhere_else(queue: Queue, flows: Captured) -> None:
    token = otel.attach(baggage.set_baggage("tenant", "acme"))
    queue.send("first")
    otel.detach(token)
    queue.send("second")

    seen = []
    for message in sorted(queue.received(2), key=lambda each: str(each["Body"])):
        with tracekit.process(message):
            seen.append(dict(baggage.get_all()))
        seen.append(dict(baggage.get_all()))

    assert seen == [{"tenant": "acme"}, {}, {}, {}]


def test_case_16_a_handler_that_raises_is_an_error_of_its_message(queue: Queue, flows: Captured) -> None:
    queue.send()
    message = queue.message()
    error = LookupError("no such order")

    with pytest.raises(LookupError) as raised, tracekit.process(message):
        raise error

    span = the(flows, f"process {queue.name}")
    assert raised.value is error
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "LookupError")
    ((found, _, count),) = points(flows, "messaging.process.duration")
    assert (found["error.type"], count) == ("LookupError", 1)


def test_case_33_a_resource_of_boto3_is_traced_as_its_client_is(queue: Queue, flows: Captured) -> None:
    resource = boto3.resource("sqs", **queue.aws.settings).Queue(queue.url)
    resource.send_message(MessageBody="an order")
    (message,) = resource.receive_messages(WaitTimeSeconds=10)
    with tracekit.process(message):
        message.delete()
    resource.meta.client.close()

    sent, span = the(flows, f"send {queue.name}"), the(flows, f"process {queue.name}")
    settled = the(flows, f"delete {queue.name}")
    assert (parent_of(span), parent_of(settled)) == (where(sent), where(span))
    assert untimed(span) == queue.processed({"MessageId": message.message_id}, sent.trace_id)


def test_a_message_that_another_process_received_brings_its_context_and_not_its_queue(queue: Queue) -> None:
    queue.put({"traceparent": text(TRACEPARENT)})
    with capture("poller"):
        message = queue.message()

    with capture("worker") as seen, tracekit.process(message):
        pass

    assert parent_of(the(seen, "process")) == (TRACE, SPAN)


def test_fifo_queues_keep_group_and_order(aws: Aws, flows: Captured) -> None:
    queue = Queue(aws, aws.name() + ".fifo")
    for body in ("first", "second"):
        queue.send(body, MessageGroupId="customer-1")

    messages = queue.received(2, AttributeNames=["MessageGroupId"])

    assert [(each["Body"], each["Attributes"]["MessageGroupId"]) for each in messages] == [
        ("first", "customer-1"),
        ("second", "customer-1"),
    ]
    assert [span.name for span in flows.spans] == [f"send {queue.name}"] * 2


def test_the_header_of_x_ray_is_left_alone(queue: Queue, flows: Captured) -> None:
    header = text("Root=1-5759e988-bd862e3fe1be46a994272793")
    queue.send(MessageSystemAttributes={"AWSTraceHeader": header})

    message = queue.message(MessageSystemAttributeNames=["AWSTraceHeader"])

    assert message["Attributes"] == {"AWSTraceHeader": header["StringValue"]}


# -- what the caller sees -----------------------------------------------------------------------------

ASKED: list[dict[str, Any]] = [
    {},
    {"AttributeNames": ["All"]},
    {"AttributeNames": ["SentTimestamp"]},
    {"AttributeNames": ["SenderId"]},
    {"MessageSystemAttributeNames": ["All"]},
    {"MessageSystemAttributeNames": ["ApproximateReceiveCount"]},
    {"AttributeNames": ["SentTimestamp"], "MessageSystemAttributeNames": ["SenderId"]},
    {"MessageAttributeNames": ["kind"]},
    {"MessageAttributeNames": ["All"]},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_receive_gives_what_was_asked_for_and_the_context(asked: Any, queue: Queue) -> None:
    attributes = {"traceparent": text(TRACEPARENT), "kind": text("order")}
    before = copy.deepcopy(asked)

    def received() -> dict[str, Any]:
        queue.put(attributes)
        message = queue.message(**asked)
        with suppress_instrumentation():
            queue.delete(message)
        return dict(message)

    without = received()
    with capture("shop"):
        traced = received()

    told = traced.get("Attributes", {})
    assert asked == before
    assert told.keys() == without.get("Attributes", {}).keys()
    assert ("Attributes" in traced) == ("Attributes" in without)
    shown = traced.pop("MessageAttributes")
    assert shown == {"traceparent": text(TRACEPARENT), **without.get("MessageAttributes", {})}


def test_case_38_the_callers_list_of_names_is_untouched_by_receives(queue: Queue, flows: Captured) -> None:
    names = ["kind"]
    for _ in range(3):
        queue.sqs.receive_message(QueueUrl=queue.url, MessageAttributeNames=names)

    assert names == ["kind"]


def test_case_23_a_long_poll_that_gets_nothing_shows_nowhere(queue: Queue, flows: Captured) -> None:
    with capture("shop", receive_spans=True) as seen:
        answer = queue.sqs.receive_message(QueueUrl=queue.url, WaitTimeSeconds=1)

    assert "Messages" not in answer
    assert (seen.spans, points(seen, "messaging.client.consumed.messages")) == ((), [])


@pytest.mark.flows(receive_spans=True)
def test_case_24_a_receive_is_a_client_span_that_links_to_its_messages(queue: Queue, flows: Captured) -> None:
    queue.send()
    (sent,) = flows.spans
    message = queue.message()
    with tracekit.process(message):
        pass

    span = the(flows, f"receive {queue.name}")
    assert (span.kind, span.links) == (CLIENT, (Link(*where(sent), {"tracekit.flow.id": sent.trace_id}),))
    assert span.attributes == {
        **queue.attributes("receive", "receive"),
        "messaging.batch.message_count": 1,
    }
    assert parent_of(the(flows, f"process {queue.name}")) == where(sent)
    labels = queue.labels("receive", "receive")
    assert points(flows, "messaging.client.consumed.messages") == [(labels, 1, 0)]  # case 25


def test_other_calls_are_left_alone(aws: Aws, queue: Queue, flows: Captured) -> None:
    aws.sqs.list_queues()
    aws.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["All"])
    with pytest.raises(ClientError):
        aws.sqs.get_queue_url(QueueName="none")

    assert flows.spans == ()


def test_one_function_serves_all_and_is_put_back() -> None:
    def current() -> object:
        return vars(BaseClient)["_make_api_call"]

    before = current()
    with capture("shop"):
        wrapped: Any = current()
        depth = 0
        while wrapped is not before:
            wrapped, depth = wrapped.__wrapped__, depth + 1

    assert current() is before
    assert depth == 1  # though SQS and SNS both hook it


# -- batches ------------------------------------------------------------------------------------------


def test_case_20_what_one_receive_gave_is_a_batch(queue: Queue, flows: Captured) -> None:
    queue.send("first")
    queue.send("second")
    sends = flows.spans
    response = queue.sqs.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=10)

    with tracekit.process_batch(response) as batch:
        for message in response["Messages"]:
            with batch.message(message):
                pass

    span, *ones = named(flows, f"process {queue.name}")
    assert (span.kind, span.attributes["messaging.batch.message_count"]) == (CONSUMER, 2)
    assert sorted(map(where, span.links)) == sorted(map(where, sends))
    assert sorted(each.attributes["messaging.message.id"] for each in ones) == sorted(  # type: ignore[type-var]  # ids
        each["MessageId"] for each in response["Messages"]
    )


def test_case_20_a_list_of_messages_is_a_batch_too(queue: Queue, flows: Captured) -> None:
    queue.send()
    with tracekit.process_batch(queue.received(1)):
        pass

    span = the(flows, f"process {queue.name}")
    assert span.attributes["messaging.batch.message_count"] == 1


def test_case_38_an_entry_that_fails_is_an_error_of_its_own_create_span(
    queue: Queue, flows: Captured
) -> None:
    entries = [
        {"Id": "good", "MessageBody": "first"},
        {"Id": "late", "MessageBody": "second", "DelaySeconds": 1_000},
        {"Id": "fine", "MessageBody": "third"},
    ]
    answer = queue.sqs.send_message_batch(QueueUrl=queue.url, Entries=entries)

    (failed,) = answer["Failed"]
    creates, send = named(flows, f"create {queue.name}"), the(flows, f"send {queue.name}")
    assert [(each.kind, each.status, each.attributes.get("error.type")) for each in creates] == [
        (PRODUCER, Status.UNSET, None),
        (PRODUCER, Status.ERROR, failed["Code"]),
        (PRODUCER, Status.UNSET, None),
    ]
    taken = [each for each in creates if each.status is Status.UNSET]
    assert [each.attributes["messaging.message.id"] for each in taken] == [
        each["MessageId"] for each in answer["Successful"]
    ]
    assert (send.kind, send.status) == (CLIENT, Status.ERROR)
    assert send.attributes == {
        **queue.attributes("send", "send", error_type=failed["Code"], tracekit_flow_id=send.trace_id),
        "messaging.batch.message_count": 3,
    }
    assert [where(link) for link in send.links] == [where(each) for each in creates]
    assert sorted(map(context_on, queue.on_the_wire(2))) == sorted(where(each) for each in taken)


def test_a_batch_of_deletes_says_what_failed(queue: Queue, flows: Captured) -> None:
    queue.put()
    message = queue.message()
    entries = [
        {"Id": "good", "ReceiptHandle": message["ReceiptHandle"]},
        {"Id": "unknown", "ReceiptHandle": "none"},
    ]
    answer = queue.sqs.delete_message_batch(QueueUrl=queue.url, Entries=entries)

    (failed,) = answer["Failed"]
    span = the(flows, f"delete {queue.name}")
    assert [each["Id"] for each in answer["Successful"]] == ["good"]
    assert (span.kind, span.status) == (CLIENT, Status.ERROR)
    assert span.attributes == {
        **queue.attributes("settle", "delete", error_type=failed["Code"], tracekit_flow_id=span.trace_id),
        "messaging.batch.message_count": 2,
    }


# -- hostile attributes -------------------------------------------------------------------------------

HOSTILE: dict[str, Any] = {
    "a number": {"DataType": "Number", "StringValue": "5"},
    "bytes": {"DataType": "Binary", "BinaryValue": b"\xff\xfe"},
    "a context as bytes of another kind": {"DataType": "Binary", "BinaryValue": b"00-0-0-0"},
    "garbage": text("garbage"),
    "too long": text(TRACEPARENT * 1_000),
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_case_28_attributes_that_nobody_can_read_harm_nothing(
    value: Any, queue: Queue, flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put({"traceparent": value, "tracekit-flow": value, "baggage": value})
    message = queue.message()

    with caplog.at_level(logging.WARNING), tracekit.process(message):
        handled = message["Body"]

    span = the(flows, f"process {queue.name}")
    assert (handled, parent_of(span), span.links) == ("an order", None, ())
    assert span.attributes["tracekit.messaging.context"] == "invalid"
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 0


BROKEN: dict[str, str] = {
    "an end too early": '{"Type": "Notification", "MessageAttributes": {"traceparent": {"Type"',
    "no object": '{"Type": "Notification", "MessageAttributes": [1]}',
    "no attributes": '{"Type": "Notification", "MessageAttributes": {"traceparent": null}}',
    "too deep": '{"Type": "Notification", "MessageAttributes": ' + '{"a":' * 100_000,
    "bytes that are none": json.dumps(
        {"Type": "Notification", "MessageAttributes": {"traceparent": {"Type": "Binary", "Value": "é"}}}
    ),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_case_28_a_body_that_only_looks_like_an_envelope_harms_nothing(
    body: str, queue: Queue, flows: Captured
) -> None:
    queue.put(body=body)
    with tracekit.process(queue.message()):
        pass

    assert parent_of(the(flows, f"process {queue.name}")) is None


def test_what_is_no_queue_and_no_message_fails_as_without_us(queue: Queue, flows: Captured) -> None:
    wrong: list[dict[str, Any]] = [
        {"QueueUrl": 5, "MessageBody": "an order"},
        {"QueueUrl": queue.url, "MessageBody": 5},
        {"QueueUrl": queue.url, "MessageBody": "an order", "MessageAttributes": None},
        {"QueueUrl": queue.url, "MessageBody": "an order", "MessageAttributes": {"kind": "order"}},
        {},
    ]
    for params in wrong:
        with suppress_instrumentation(), pytest.raises(Exception) as without:  # noqa: PT011 - the client's own
            queue.sqs.send_message(**params)
        with pytest.raises(type(without.value)) as raised:
            queue.sqs.send_message(**params)
        assert str(raised.value) == str(without.value)


def test_case_46_of_two_contexts_the_last_one_counts(queue: Queue, flows: Captured) -> None:
    queue.put({"Traceparent": text(OTHER), "traceparent": text(TRACEPARENT)})
    with tracekit.process(queue.message(MessageAttributeNames=["All"])):
        pass

    assert parent_of(the(flows, f"process {queue.name}")) == (TRACE, SPAN)


# -- limits -------------------------------------------------------------------------------------------


def test_case_37_with_ten_attributes_a_message_goes_without_context(
    queue: Queue, flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        queue.send(MessageAttributes=texts(10))

    (span,) = flows.spans
    assert queue.on_the_wire() == [texts(10)]
    assert span.attributes["tracekit.messaging.context"] == "skipped"
    assert span.attributes["tracekit.reason"] == "too_many_attributes"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("own", [10, 9, 8, 7, 6])
def test_section_8_case_07_what_finds_no_slot_is_left_out_by_its_worth(
    own: int, queue: Queue, flows: Captured
) -> None:
    token = otel.attach(baggage.set_baggage("tenant", "acme"))
    queue.send(MessageAttributes=texts(own))
    otel.detach(token)

    (attributes,) = queue.on_the_wire()
    fitting = ("traceparent", "tracekit-flow", "baggage")[: 10 - own]
    assert [name for name in OURS if name in attributes] == [name for name in OURS if name in fitting]
    assert {name: each for name, each in attributes.items() if name not in OURS} == texts(own)
    assert flows.dropped == ({"too_many_attributes": 3 - len(fitting)} if len(fitting) < 3 else {})


def test_case_37_context_that_is_handed_on_gives_its_place_to_ours(
    aws: Aws, queue: Queue, flows: Captured
) -> None:
    """Eight of the user's, and two of the message in process: ours are three, and go where theirs were."""
    other = Queue(aws)
    queue.put({**texts(8), "traceparent": text(TRACEPARENT), "baggage": text("tenant=acme")})
    message = queue.message(MessageAttributeNames=["All"])

    with tracekit.process(message):
        other.send(MessageAttributes=message["MessageAttributes"])

    (attributes,) = other.on_the_wire()
    assert attributes.keys() == {*texts(8), "traceparent", "tracekit-flow"}
    assert context_on(attributes) == where(the(flows, f"send {other.name}"))


@pytest.mark.parametrize("body", ["x" * 1_048_576, "é" * 524_288], ids=["ascii", "not ascii"])
def test_section_8_case_06_a_message_that_is_full_goes_without_context(
    body: str, queue: Queue, flows: Captured
) -> None:
    queue.send(body)

    (span,) = flows.spans
    assert queue.on_the_wire() == [{}]
    assert span.attributes["tracekit.reason"] == "size"
    assert flows.dropped.keys() == {"size"}


@pytest.fixture
def strict(queue: Queue) -> Iterator[Queue]:
    """A queue that takes smaller messages, as AWS refuses what is larger: attributes count. moto's do not."""

    def refuse(model: Any, params: Any, **_: Any) -> Any:
        if b"traceparent" not in params["body"]:
            return None
        error = {
            "Code": "InvalidParameterValue",
            "Message": "One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes.",
        }
        metadata = {"HTTPStatusCode": 400}
        return AWSResponse("", 400, {}, None), {"Error": error, "ResponseMetadata": metadata}

    events = queue.sqs.meta.events
    events.register("before-call.sqs", refuse, unique_id="strict")
    yield queue
    events.unregister("before-call.sqs", unique_id="strict")


def test_a_message_that_only_our_context_made_too_large_is_sent_without(
    strict: Queue, flows: Captured
) -> None:
    answer = strict.send()

    (span,) = flows.spans
    assert strict.on_the_wire() == [{}]
    assert span.attributes["messaging.message.id"] == answer["MessageId"]
    assert (span.status, span.attributes["tracekit.reason"]) == (Status.UNSET, "oversized")


def test_a_batch_that_only_our_context_made_too_large_is_sent_without(strict: Queue, flows: Captured) -> None:
    entries = [{"Id": "one", "MessageBody": "first"}, {"Id": "two", "MessageBody": "second"}]
    answer = strict.sqs.send_message_batch(QueueUrl=strict.url, Entries=entries)

    assert (len(answer["Successful"]), strict.on_the_wire(2)) == (2, [{}, {}])
    assert flows.dropped == {"oversized": 2}


def test_a_text_of_the_users_that_is_empty_stays_as_it_is(queue: Queue, flows: Captured) -> None:
    given = {"empty": {"DataType": "String.note", "StringValue": ""}, **texts(1)}
    queue.send(MessageAttributes=given)

    (attributes,) = queue.on_the_wire()
    assert {name: each for name, each in attributes.items() if name not in OURS} == given


def test_attributes_of_every_kind_stay_in_their_form(queue: Queue, flows: Captured) -> None:
    given = {
        "number": {"DataType": "Number.int", "StringValue": "17"},
        "bytes": {"DataType": "Binary.png", "BinaryValue": b"\x89PNG"},
    }
    queue.send(MessageAttributes=given)

    (attributes,) = queue.on_the_wire()
    assert {name: each for name, each in attributes.items() if name not in OURS} == given


# -- settling and redelivery --------------------------------------------------------------------------


def test_case_26_deletes_and_changes_of_visibility_are_settles_of_the_message(
    queue: Queue, flows: Captured
) -> None:
    queue.send()
    message = queue.message()
    handle = message["ReceiptHandle"]
    with tracekit.process(message):
        queue.sqs.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=handle, VisibilityTimeout=60)
        queue.delete(message)

    process = the(flows, f"process {queue.name}")
    for verb in ("change_visibility", "delete"):
        span = the(flows, f"{verb} {queue.name}")
        assert (span.kind, parent_of(span)) == (CLIENT, where(process))
        assert span.attributes == queue.attributes("settle", verb, tracekit_flow_id=process.trace_id)


def test_case_26_a_delete_that_fails_is_an_error(queue: Queue, flows: Captured) -> None:
    with pytest.raises(ClientError) as raised:
        queue.sqs.delete_message(QueueUrl=queue.url, ReceiptHandle="none")

    span = the(flows, f"delete {queue.name}")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, type(raised.value).__name__)


def test_a_message_that_is_given_back_comes_again_with_its_attempt(queue: Queue, flows: Captured) -> None:
    queue.send()
    for _ in range(2):
        message = queue.message()
        with tracekit.process(message):
            queue.sqs.change_message_visibility(
                QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )

    sent, tries = the(flows, f"send {queue.name}"), named(flows, f"process {queue.name}")
    assert [each.attributes["tracekit.messaging.delivery.attempt"] for each in tries] == [1, 2]
    assert [parent_of(each) for each in tries] == [where(sent)] * 2


def test_case_44_a_dead_letter_keeps_the_context_it_was_made_with(aws: Aws, flows: Captured) -> None:
    dead = Queue(aws, aws.name("dead"))
    redrive = {"deadLetterTargetArn": aws.arn(dead.url), "maxReceiveCount": 3}
    queue = Queue(aws, VisibilityTimeout="0", RedrivePolicy=json.dumps(redrive))
    queue.send()
    contexts = []
    for _ in range(3):
        message = queue.message()
        contexts.append(context_on(message["MessageAttributes"]))
        with tracekit.process(message):
            pass

    with suppress_instrumentation():
        queue.received(0, WaitTimeSeconds=0)  # by which it is moved
    buried = dead.message()
    with tracekit.process(buried):
        pass

    sent, tries = the(flows, f"send {queue.name}"), named(flows, f"process {queue.name}")
    span = the(flows, f"process {dead.name}")
    assert contexts == [where(sent)] * 3
    assert [each.attributes["tracekit.messaging.delivery.attempt"] for each in tries] == [1, 2, 3]
    assert context_on(buried["MessageAttributes"]) == where(sent)
    assert (parent_of(span), links_of(span)) == (where(sent), [where(sent)])


def test_ids_are_those_of_aws(queue: Queue, flows: Captured) -> None:
    answer = queue.send()

    assert flows.spans[0].attributes["aws.request_id"] == answer["ResponseMetadata"]["RequestId"] == ID
