"""What `poll()` gives: batches, receive spans, commits, and everything that is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kafka import TopicPartition
from kafka.errors import IllegalStateError
from kafka.structs import OffsetAndMetadata
from opentelemetry import baggage, trace
from opentelemetry import context as otel

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    DEADLINE_S,
    SPAN,
    TRACE,
    answered,
    context_headers,
    context_on,
    headers_of,
    links_of,
    measures,
    named,
    parent_of,
    points,
    published_ns,
    the,
    where,
)
from tracekit.model import Link, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.acceptance.kafka_rig import Topic
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")

OTHER = f"00-{'2' * 32}-{'2' * 16}-01"


def group(topic: Topic) -> dict[str, object]:
    return {"messaging_consumer_group_name": topic.group}


def as_poll_gave_it(topic: Topic, number: int) -> Any:
    """The dict of `poll()`, with all of the messages in it."""
    consumer = topic.consumer()
    found: dict[Any, list[Any]] = {}
    while sum(map(len, found.values())) < number:
        for partition, records in consumer.poll(timeout_ms=DEADLINE_S * 1000).items():
            found.setdefault(partition, []).extend(records)
    return found


def as_a_list(topic: Topic, number: int) -> Any:
    """The messages as an application collects them."""
    return topic.polled(number)


def records_of(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list) else [record for each in given.values() for record in each]


# -- batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [as_poll_gave_it, as_a_list])
def test_case_20_a_batch_is_one_span_with_a_link_for_each_context(
    topic: Topic, form: Callable[[Topic, int], Any], flows: Captured
) -> None:
    for number in range(3):
        topic.send(b"an order", partition=number)
    given = form(topic, 3)

    with tracekit.process_batch(given):
        pass

    span = the(flows, f"process {topic.name}")
    expected = topic.processed(records_of(given)[0], "")
    for name in (
        "messaging.destination.partition.id",
        "messaging.kafka.offset",
        "tracekit.flow.id",
        "tracekit.messaging.published_at",
        "tracekit.messaging.published_at.source",
        "tracekit.pathway.hash",
    ):
        del expected[name]
    assert (span.kind, span.status) == (CONSUMER, Status.UNSET)
    assert span.attributes == {**expected, "messaging.batch.message_count": 3}
    assert span.links == tuple(
        Link(
            *context_on(record),
            {
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "tracekit.flow.id": context_on(record)[0],
                "tracekit.messaging.published_at": published_ns(record),
                "tracekit.messaging.published_at.source": "header",
            },
        )
        for record in records_of(given)
    )
    for flow in flows.wait_for_flows(3, f"send {topic.name}", f"process {topic.name}"):
        flow.assert_complete()
        assert len(flow.spans) == 2


def test_case_20_messages_of_one_context_have_one_link(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    topic.put(b"third")

    with tracekit.process_batch(topic.polled(3)):
        pass

    (span,) = flows.spans
    assert span.attributes["messaging.batch.message_count"] == 3
    assert span.attributes["messaging.destination.partition.id"] == "0"  # the same for all
    assert [where(link) for link in span.links] == [(TRACE, SPAN)]


def test_case_20_one_message_is_a_batch_too(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())

    with tracekit.process_batch(topic.polled(1)):
        pass

    (span,) = flows.spans
    assert (span.parent_id, span.attributes["messaging.batch.message_count"]) == (None, 1)
    assert [where(link) for link in span.links] == [(TRACE, SPAN)]


@pytest.mark.parametrize("ambient", [True, False])
def test_case_21_no_producer_is_the_parent_of_a_batch(topic: Topic, ambient: bool, flows: Captured) -> None:
    traces = [f"{number}" * 32 for number in range(1, 4)]
    for each in traces:
        topic.put(headers=context_headers(f"00-{each}-{SPAN}-01"))
    records = topic.polled(3)

    if ambient:
        with tracer.start_as_current_span("job"), tracekit.process_batch(records):
            pass
    else:
        with tracekit.process_batch(records):
            pass

    span = the(flows, f"process {topic.name}")
    assert parent_of(span) == (where(the(flows, "job")) if ambient else None)
    assert span.trace_id not in traces
    assert [where(link) for link in span.links] == [(each, SPAN) for each in traces]
    assert "tracekit.flow.id" not in span.attributes


def test_case_22_a_message_of_a_batch_has_its_own_span_baggage_and_error(
    topic: Topic, flows: Captured
) -> None:
    topic.put(b"good", headers=context_headers(baggage="tenant=north"))
    topic.put(b"bad", headers=context_headers(OTHER, baggage="tenant=south"))
    good, bad = topic.polled(2)
    tenants: list[object] = []
    currents: list[object] = []
    before = otel.get_current()

    def refuse() -> None:
        tenants.append(baggage.get_baggage("tenant"))
        raise ValueError("no such order")

    with tracekit.process_batch([good, bad]) as batch:
        currents.append(otel.get_current())
        with batch.message(good):
            tenants.append(baggage.get_baggage("tenant"))
            topic.send(b"from good")
        currents.append(otel.get_current())
        with pytest.raises(ValueError, match="no such order"), batch.message(bad):
            refuse()
        currents.append(otel.get_current())
        tenants.append(baggage.get_baggage("tenant"))

    assert otel.get_current() is before
    assert tenants == ["north", "south", None]
    assert currents[0] is currents[1] is currents[2]
    hub, first, second = named(flows, f"process {topic.name}")
    assert [parent_of(first), parent_of(second)] == [where(hub), where(hub)]
    assert [links_of(first), links_of(second)] == [[(TRACE, SPAN)], [("2" * 32, "2" * 16)]]
    assert [each.attributes["tracekit.flow.id"] for each in (first, second)] == [TRACE, "2" * 32]
    assert [each.status for each in (hub, first, second)] == [Status.UNSET, Status.UNSET, Status.ERROR]
    assert parent_of(the(flows, f"send {topic.name}")) == where(first)
    assert the(flows, f"send {topic.name}").attributes["tracekit.flow.id"] == TRACE


def test_case_22_the_waits_of_a_batch_are_measured_once_each(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    records = topic.polled(2)

    with tracekit.process_batch(records) as batch:
        for record in records:
            with batch.message(record):
                pass

    labels = topic.labels("process", "process", **group(topic))
    assert [(found, count) for found, _, count in points(flows, "tracekit.messaging.queue.duration")] == [
        ({**labels, "tracekit.messaging.wait.source": "client"}, 2)
    ]


def test_the_work_of_a_message_of_a_batch_is_told_from_that_of_the_batch_which_has_it_too(
    topic: Topic, flows: Captured
) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    first, second = topic.polled(2)

    with tracekit.process_batch([first, second]) as batch:
        with batch.message(first):
            pass
        with pytest.raises(ValueError, match="no such order"), batch.message(second):
            raise ValueError("no such order")

    labels = topic.labels("process", "process", **group(topic))
    within = {**labels, "tracekit.messaging.in_batch": True}
    found = [(measured, count) for measured, _, count in points(flows, "messaging.process.duration")]
    assert sorted(found, key=lambda each: len(each[0])) == [
        (labels, 1),
        (within, 1),
        ({**within, "error.type": "ValueError"}, 1),
    ]
    assert [each.attributes.get("tracekit.messaging.in_batch") for each in flows.spans] == [None] * 3


def test_what_a_batch_sends_for_all_belongs_to_no_flow(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())

    with tracekit.process_batch(topic.polled(1)):
        topic.send(b"a summary")

    _, summary = topic.on_the_wire(2)
    sent = the(flows, f"send {topic.name}")
    assert parent_of(sent) == where(the(flows, f"process {topic.name}"))
    assert "tracekit.flow.id" not in sent.attributes
    assert headers_of(summary)["tracekit-flow"].split(";")[1] == "0" * 32


def test_a_batch_that_fails_fails_as_one(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    records = topic.polled(2)
    error = ValueError("the database is away")

    with pytest.raises(ValueError, match="the database") as raised, tracekit.process_batch(records):
        raise error

    assert raised.value is error
    (span,) = flows.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ValueError")


# -- receiving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [False, True])
def test_case_23_a_poll_that_gives_nothing_leaves_no_trace(
    topic: Topic, shown: bool, request: pytest.FixtureRequest
) -> None:
    request.applymarker(pytest.mark.flows(receive_spans=shown))
    flows: Captured = request.getfixturevalue("flows")
    consumer = topic.consumer()

    given = consumer.poll(timeout_ms=1)
    with tracekit.process_batch(given):
        pass

    assert given == {}
    assert (flows.spans, points(flows, "messaging.client.consumed.messages")) == ((), [])


@pytest.mark.flows(receive_spans=True)
def test_case_24_a_receive_is_a_client_span_that_links_to_its_messages(topic: Topic, flows: Captured) -> None:
    producer = topic.kafka.producer(linger_ms=60_000)  # both go at once, and come at once
    for value in (b"first", b"second"):
        producer.send(topic.name, value, partition=0)
    producer.flush()
    flows.wait_for(lambda: len(flows.spans) == 2, says="two sends")
    sends = named(flows, f"send {topic.name}")
    consumer = topic.consumer(group=None)

    with tracer.start_as_current_span("job"):
        with tracer.start_as_current_span("before"):
            pass
        records = topic.polled(2, consumer)
    for record in records:
        with tracekit.process(record):
            pass

    (receive, *others) = named(flows, f"poll {topic.name}")
    assert others == []
    before, job = the(flows, "before"), the(flows, "job")
    assert (receive.kind, receive.status, parent_of(receive)) == (CLIENT, Status.UNSET, where(job))
    assert receive.attributes == {
        **topic.labels("receive", "poll"),
        "messaging.destination.partition.id": "0",
        "messaging.client.id": "kafka-python-3.0.12",
        "messaging.batch.message_count": 2,
    }
    assert (before.end_ns or 0) <= receive.start_ns
    assert receive.links == tuple(Link(*where(each), {"tracekit.flow.id": each.trace_id}) for each in sends)
    processed = named(flows, f"process {topic.name}")
    assert [parent_of(each) for each in processed] == [where(each) for each in sends]
    assert (receive.end_ns or 0) <= processed[0].start_ns


def test_case_24_receive_spans_are_left_out_unless_asked_for(topic: Topic, flows: Captured) -> None:
    topic.put()

    topic.polled(1)

    assert flows.spans == ()
    labels = topic.labels("receive", "poll", **group(topic))
    ((found, _, _),) = points(flows, "messaging.client.operation.duration")
    assert found == labels
    assert points(flows, "messaging.client.consumed.messages") == [(labels, 1, 0)]


@pytest.mark.flows(receive_spans=True)
@pytest.mark.parametrize("way", ["poll and process", "poll and batch", "loop", "consuming"])
def test_case_25_a_message_that_is_received_and_processed_is_counted_once(
    topic: Topic, way: str, flows: Captured
) -> None:
    topic.put(*[b"an order"] * 5)
    consumer = topic.consumer()

    if way == "poll and process":
        for record in topic.polled(5, consumer):
            with tracekit.process(record):
                pass
    elif way == "poll and batch":
        records = topic.polled(5, consumer)
        with tracekit.process_batch(records) as batch:
            for record in records:
                with batch.message(record):
                    pass
    else:
        loop = consumer if way == "loop" else tracekit.consuming(consumer)
        for number, record in enumerate(loop, 1):
            with tracekit.process(record):
                pass
            if number == 5:
                break
        del loop

    labels = topic.labels("receive", "poll", **group(topic))
    assert points(flows, "messaging.client.consumed.messages") == [(labels, 5, 0)]


# -- commits ------------------------------------------------------------------------------------------


def sync(consumer: Any) -> None:
    consumer.commit()


def asynchronous(consumer: Any) -> None:
    consumer.commit_async()


def of_offsets(consumer: Any) -> None:
    (topic,) = consumer.subscription()
    consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, "", -1)})


@pytest.mark.parametrize("commit", [sync, asynchronous, of_offsets])
def test_case_26_a_commit_inside_processing_is_its_child(
    topic: Topic, commit: Callable[[Any], None], flows: Captured
) -> None:
    topic.put(headers=context_headers())
    consumer = topic.consumer()

    for _ in consumer:
        commit(consumer)
        break

    flows.wait_for(lambda: len(flows.spans) == 2, says="the end of the commit")
    span, processed = the(flows, f"commit {topic.name}"), the(flows, f"process {topic.name}")
    assert (span.kind, span.status, parent_of(span), span.links) == (
        CLIENT,
        Status.UNSET,
        where(processed),
        (),
    )
    assert span.attributes == {
        **topic.labels("settle", "commit", **group(topic)),
        "messaging.client.id": "kafka-python-3.0.12",
        "tracekit.flow.id": TRACE,
    }


def test_case_26_a_commit_that_fails_is_an_error(topic: Topic, flows: Captured) -> None:
    topic.put()
    consumer = topic.consumer(group=None)
    for _ in consumer:
        break

    with pytest.raises(IllegalStateError, match="Requires group_id"):
        consumer.commit()

    span = the(flows, f"commit {topic.name}")
    labels = topic.labels("settle", "commit", error_type="IllegalStateError")
    assert (span.status, span.kind) == (Status.ERROR, CLIENT)
    assert span.attributes["error.type"] == "IllegalStateError"
    found = [each for each, _, count in points(flows, "messaging.client.operation.duration") if count == 1]
    assert labels in found


# -- what is measured ---------------------------------------------------------------------------------

BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


@pytest.mark.flows(receive_spans=True)
def test_case_27_durations_are_those_of_the_spans_in_seconds_and_the_conventions_buckets(
    topic: Topic, flows: Captured
) -> None:
    topic.send()
    consumer = topic.consumer()
    for _ in consumer:
        consumer.commit()
        break
    spans = {
        str(span.attributes["messaging.operation.name"]): ((span.end_ns or 0) - span.start_ns) / 1e9
        for span in flows.spans
    }

    durations = [
        *measures(flows, "messaging.client.operation.duration"),
        *measures(flows, "messaging.process.duration"),
    ]
    assert {each.unit for each in durations} == {"s"}
    assert {each.bounds for each in durations} == {BOUNDARIES}
    assert {each.instrument for each in durations} == {"histogram"}
    assert {(str(each.attributes["messaging.operation.name"]), each.count) for each in durations} == {
        ("send", 1),
        ("poll", 1),
        ("commit", 1),
        ("process", 1),
    }
    for each in durations:
        assert each.value == pytest.approx(spans[str(each.attributes["messaging.operation.name"])], abs=1e-3)
        (bucket,) = [index for index, number in enumerate(each.buckets) if number]
        above = [bound for bound in BOUNDARIES if bound >= (each.value or 0)]
        assert bucket == len(BOUNDARIES) - len(above)


def test_the_wait_and_the_flow_are_measured_where_a_flow_may_end(topic: Topic, flows: Captured) -> None:
    other = topic.kafka.topic("mails")
    topic.send()
    record = topic.record()
    with tracekit.process(record):
        answered(topic.producer.send(other, b"a mail"))
    (mail,) = topic.polled(1, topic.kafka.consumer(other))

    with tracekit.process(mail):
        pass

    entry, *_, last = flows.spans
    (flow,) = measures(flows, "tracekit.flow.duration")
    assert (dict(flow.attributes), flow.count, flow.unit) == (
        {"tracekit.flow.end": "process", "tracekit.flow.origin": "test"},
        1,
        "s",
    )
    assert flow.value == pytest.approx(((last.end_ns or 0) - entry.start_ns) / 1e9, abs=2e-3)
    waits = {
        str(each.attributes["messaging.destination.name"]): each
        for each in measures(flows, "tracekit.messaging.queue.duration")
    }
    assert waits.keys() == {topic.name, other}
    wait = waits[topic.name]
    span = the(flows, f"process {topic.name}")
    assert dict(wait.attributes) == topic.labels(
        "process", "process", **group(topic), tracekit_messaging_wait_source="header"
    )
    assert wait.value == pytest.approx((span.start_ns - published_ns(record)) / 1e9, abs=1e-3)
    assert wait.bounds[-5:] == (30, 60, 300, 1800, 7200)
