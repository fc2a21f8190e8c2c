"""What holds for each client of Kafka alike: kafka-python, aiokafka, confluent-kafka."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import suppress_instrumentation
from tracekit_demo.broker import DISCONNECT

import tracekit
from tests.acceptance.kafka_clients import CLIENTS
from tests.acceptance.kafka_rig import (
    CONSUMER,
    HASH,
    PRODUCER,
    SPAN,
    TIME,
    TRACE,
    context_headers,
    links_of,
    measures,
    named,
    parent_of,
    points,
    the,
    where,
)
from tracekit.model import Kind, Status
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.kafka_clients import Client, Form
    from tests.brokers import Kafka
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")
PRODUCE = 0  # the request's number in Kafka's protocol
OFFSET_COMMIT = 8
NOT_LEADER = 6
UNAUTHORIZED_TOPIC = 29
UNAUTHORIZED_GROUP = 30
FORMS: list[Form] = ["plain", "consuming"]


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, kafka: Kafka) -> Iterator[Client]:
    made = CLIENTS[request.param](kafka)
    yield made
    made.close()


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.topic()


def put(client: Client, topic: str, *values: bytes, headers: Any = None) -> None:
    """Have messages come from a service that is not traced, with exactly these headers."""
    with suppress_instrumentation():
        for value in values or (b"an order",):
            client.send(topic, value, headers=list(headers or ()), partition=0)


def test_case_02_all_clients_give_the_same_spans_with_the_same_attributes(
    client: Client, topic: str, flows: Captured
) -> None:
    with tracer.start_as_current_span("job"):
        partition, offset = client.send(topic, partition=1)

    def work(record: object) -> None:
        with tracer.start_as_current_span("work"):
            pass

    client.loop(topic, work, commits=True)
    spans = flows.spans

    host, _, port = client.address.rpartition(":")
    every = {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "messaging.client.id": "shop",
        "server.address": host,
        "server.port": int(port),
        "tracekit.flow.id": the(flows, "job").trace_id,
    }
    at = {"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset}
    group = {"messaging.consumer.group.name": f"tests-{topic}"}
    names = {span.span_id: span.name for span in spans}
    assert {span.trace_id for span in spans} == {the(flows, "job").trace_id}
    assert partition == 1
    assert {
        span.name: (
            span.kind,
            span.parent_id and names[span.parent_id],
            [names[link.span_id] for link in span.links],
            {name: value for name, value in span.attributes.items() if name != "tracekit.flow.completion_ms"},
        )
        for span in spans
    } == {
        "job": (Kind.INTERNAL, None, [], {"tracekit.flow.id": every["tracekit.flow.id"]}),
        f"send {topic}": (
            Kind.PRODUCER,
            "job",
            [],
            {**every, **at, "messaging.operation.name": "send", "messaging.operation.type": "send"},
        ),
        f"process {topic}": (
            Kind.CONSUMER,
            f"send {topic}",
            [f"send {topic}"],
            {
                **every,
                **at,
                **group,
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "tracekit.messaging.published_at": TIME,
                "tracekit.messaging.published_at.source": "header",
                "tracekit.pathway.hash": HASH,
            },
        ),
        "work": (Kind.INTERNAL, f"process {topic}", [], {"tracekit.flow.id": every["tracekit.flow.id"]}),
        f"commit {topic}": (
            Kind.CLIENT,
            f"process {topic}",
            [],
            {**every, **group, "messaging.operation.name": "commit", "messaging.operation.type": "settle"},
        ),
    }
    assert len(spans) == 5


def test_case_02_all_clients_give_the_same_metrics(client: Client, topic: str, flows: Captured) -> None:
    client.send(topic)
    client.loop(topic, lambda record: None)

    host, _, port = client.address.rpartition(":")
    every = {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "server.address": host,
        "server.port": int(port),
    }
    group = {"messaging.consumer.group.name": f"tests-{topic}"}
    received = {"messaging.operation.name": "poll", "messaging.operation.type": "receive"}
    assert points(flows, "messaging.client.sent.messages") == [
        ({**every, "messaging.operation.name": "send", "messaging.operation.type": "send"}, 1, 0)
    ]
    assert points(flows, "messaging.client.consumed.messages") == [({**every, **group, **received}, 1, 0)]
    assert [(labels, count) for labels, _, count in points(flows, "messaging.process.duration")] == [
        (
            {
                **every,
                **group,
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
            },
            1,
        )
    ]


def test_case_04_partition_and_offset_are_those_of_the_answers(
    client: Client, topic: str, flows: Captured
) -> None:
    places = client.send_all(topic, 100)
    flows.wait_for(lambda: len(flows.spans) == 100, says="100 spans")

    found = [
        (
            int(str(span.attributes["messaging.destination.partition.id"])),
            span.attributes["messaging.kafka.offset"],
        )
        for span in flows.spans
    ]
    assert sorted(found, key=str) == sorted(places, key=str)
    assert len(set(places)) == 100


def test_case_05_an_error_of_the_delivery_is_an_error_of_the_send(
    client: Client, topic: str, flows: Captured
) -> None:
    put(client, topic)
    client.kafka.broker.fail(PRODUCE, UNAUTHORIZED_TOPIC)

    with pytest.raises(Exception, match=r"(?i)authori") as raised:
        client.send(topic)

    (span,) = flows.spans
    assert type(raised.value).__name__ == client.refusal
    assert (span.kind, span.status) == (PRODUCER, Status.ERROR)
    assert span.attributes["error.type"] == client.refusal
    assert "messaging.kafka.offset" not in span.attributes
    ((sent, number, _),) = points(flows, "messaging.client.sent.messages")
    assert (sent["error.type"], number) == (client.refusal, 1)
    ((took, _, count),) = points(flows, "messaging.client.operation.duration")
    assert (took["error.type"], count) == (client.refusal, 1)


def test_case_06_a_message_that_is_too_large_is_refused_as_without_us(
    client: Client, topic: str, flows: Captured
) -> None:
    value = bytes(4_000)

    with pytest.raises(Exception, match=r"(?i)large") as raised:
        client.send(topic, value, most=2_000)

    with suppress_instrumentation(), pytest.raises(Exception, match=r"(?i)large") as without:
        client.send(topic, value, most=2_000)
    (span,) = flows.spans
    assert type(raised.value) is type(without.value)
    assert str(raised.value) == str(without.value)
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, client.too_large)
    assert [each.attributes["error.type"] for each in measures(flows, "messaging.client.sent.messages")] == [
        client.too_large
    ]


def test_case_07_the_caller_s_headers_stay_as_they_were(client: Client, topic: str, flows: Captured) -> None:
    headers = [("tenant", b"north"), ("tenant", b"south")]
    before = copy.deepcopy(headers)

    client.send(topic, headers=headers)

    assert headers == before
    with suppress_instrumentation():
        (record,) = client.polled(topic, 1)
    assert [name for name, _ in client.headers(record)] == [
        "tenant",
        "tenant",
        "traceparent",
        "tracekit-flow",
    ]


@pytest.mark.parametrize(
    "headers",
    [(("tenant", b"north"),), [["tenant", b"north"]], [("tenant", 1)], [("tenant",)], 7],
    ids=["tuple", "lists", "number", "no value", "no headers"],
)
def test_case_07_headers_that_the_client_refuses_are_refused_as_without_us(
    client: Client, topic: str, headers: Any, flows: Captured
) -> None:
    put(client, topic)
    before = copy.deepcopy(headers)

    with pytest.raises(Exception, match=r".") as raised:
        client.send(topic, headers=headers)

    with suppress_instrumentation(), pytest.raises(Exception, match=r".") as without:
        client.send(topic, headers=headers)
    assert headers == before
    assert (type(raised.value), str(raised.value)) == (type(without.value), str(without.value))


def test_case_08_one_list_for_two_sends_gives_each_message_its_own_context(
    client: Client, topic: str, flows: Captured
) -> None:
    headers = [("tenant", b"north")]

    for _ in range(2):
        client.send(topic, headers=headers, partition=0)

    with suppress_instrumentation():
        records = client.polled(topic, 2)
    contexts = [
        [value.decode().split("-")[1:3] for name, value in client.headers(record) if name == "traceparent"]
        for record in records
    ]
    assert contexts == [[[span.trace_id, span.span_id]] for span in flows.spans]


def test_case_10_a_relayed_message_keeps_its_creation_context(
    client: Client, topic: str, flows: Captured
) -> None:
    headers = context_headers(baggage="tenant=north")

    with tracekit.relay():
        client.send(topic, headers=headers)

    with suppress_instrumentation():
        (record,) = client.polled(topic, 1)
    (span,) = flows.spans
    assert client.headers(record) == headers
    assert (span.kind, links_of(span)) == (Kind.CLIENT, [(TRACE, SPAN)])


@pytest.mark.parametrize("form", FORMS)
def test_case_15_baggage_of_a_message_is_that_of_its_turn_alone(
    client: Client, topic: str, form: Form, flows: Captured
) -> None:
    put(client, topic, headers=context_headers(baggage="tenant=north"))
    put(client, topic)
    seen: list[object] = []

    client.loop(topic, lambda _: seen.append(dict(baggage.get_all())), 2, form)

    assert (seen, dict(baggage.get_all())) == ([{"tenant": "north"}, {}], {})


@pytest.mark.parametrize("form", FORMS)
def test_case_17_each_turn_is_the_processing_of_its_message(
    client: Client, topic: str, form: Form, flows: Captured
) -> None:
    put(client, topic, b"first", b"second", b"third", headers=context_headers())

    def work(record: object) -> None:
        with tracer.start_as_current_span("work"):
            pass

    client.loop(topic, work, 3, form)

    turns, works = named(flows, f"process {topic}"), named(flows, "work")
    assert [(turn.kind, parent_of(turn), links_of(turn)) for turn in turns] == [
        (CONSUMER, (TRACE, SPAN), [(TRACE, SPAN)])
    ] * 3
    assert [parent_of(each) for each in works] == [where(turn) for turn in turns]
    for turn, each in zip(turns, works, strict=True):
        assert turn.start_ns <= each.start_ns <= (each.end_ns or 0) <= (turn.end_ns or 0)
    for turn, following in itertools.pairwise(turns):
        assert (turn.end_ns or 0) <= following.start_ns


@pytest.mark.parametrize("form", FORMS)
def test_case_19_an_exception_in_the_body_leaves_the_context_as_it_was(
    client: Client, topic: str, form: Form, flows: Captured
) -> None:
    put(client, topic, headers=context_headers())
    before = otel.get_current()
    error = ValueError("no such order")

    def fail(record: object) -> None:
        raise error

    with pytest.raises(ValueError, match="no such order") as raised:
        client.loop(topic, fail, 1, form)

    assert raised.value is error
    del raised  # its traceback holds the frame of a plain loop, and the frame its iterator
    error.__traceback__ = None
    assert otel.get_current() == before
    turn = the(flows, f"process {topic}")
    assert turn.attributes.get("tracekit.leaked") is None
    if form == "consuming":
        assert (turn.status, turn.attributes["error.type"]) == (Status.ERROR, "ValueError")


def test_case_20_several_at_once_are_one_span_with_a_link_to_each(
    client: Client, topic: str, flows: Captured
) -> None:
    others = [(f"{number:032x}", f"{number:016x}") for number in (1, 2, 3)]
    for trace_id, span_id in others:
        put(client, topic, headers=context_headers(f"00-{trace_id}-{span_id}-01"))
    records = client.polled(topic, 3)

    with tracekit.process_batch(records) as batch:
        for record in records:
            with batch.message(record):
                pass

    span, *messages = named(flows, f"process {topic}")
    assert (span.kind, span.parent_id) == (CONSUMER, None)
    assert span.attributes["messaging.batch.message_count"] == 3
    assert [where(link) for link in span.links] == others
    assert [links_of(each) for each in messages] == [[other] for other in others]


def test_case_23_nothing_received_leaves_no_trace(client: Client, topic: str, flows: Captured) -> None:
    with suppress_instrumentation():
        client.send(topic)
        client.polled(topic, 1)

    client.poll_nothing(topic)

    assert flows.spans == ()
    assert points(flows, "messaging.client.consumed.messages") == []


def test_case_26_a_commit_that_fails_is_an_error(client: Client, topic: str, flows: Captured) -> None:
    put(client, topic)
    client.polled(topic, 1)
    client.kafka.broker.fail(OFFSET_COMMIT, UNAUTHORIZED_GROUP)

    with pytest.raises(Exception, match=r"(?i)authori") as raised:
        client.commit(topic)

    (span,) = [span for span in flows.spans if span.name.startswith("commit")]
    assert (span.kind, span.status) == (Kind.CLIENT, Status.ERROR)
    assert span.attributes["error.type"] == type(raised.value).__name__
    assert span.attributes["messaging.operation.type"] == "settle"


HOSTILE: dict[str, Any] = {
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "none": None,
    "garbage": b"00-zz-zz-01",
    "long": b"0" * 5_000,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_case_28_a_hostile_header_costs_its_context_and_nothing_more(
    client: Client, topic: str, form: Form, hostile: str, flows: Captured
) -> None:
    value = HOSTILE[hostile]
    sender = CLIENTS["confluent"](client.kafka)  # which sends a header without a value, too
    headers = [("traceparent", value), ("tracekit-flow", value), ("baggage", value), ("tenant", value)]
    put(sender, topic, headers=headers)
    sender.close()
    given: list[Any] = []

    client.loop(topic, given.append, 1, form)

    (span,) = flows.spans
    assert (client.value(given[0]), client.headers(given[0])) == (b"an order", headers)
    assert (span.parent_id, span.links, span.status) == (None, (), Status.UNSET)
    assert span.attributes["tracekit.messaging.context"] == "invalid"


@pytest.mark.parametrize("client", ["kafka-python", "aiokafka"], indirect=True)
def test_case_33_a_producer_made_before_configure_sends_context(client: Client, topic: str) -> None:
    client.start()

    with capture("shop") as seen:
        client.send_all(topic, 1)
        names = [span.name for span in seen.spans]

    (record,) = client.polled(topic, 1)
    assert names == [f"send {topic}"]
    assert [name for name, _ in client.headers(record)] == ["traceparent", "tracekit-flow"]


def test_case_46_of_two_contexts_the_last_counts(client: Client, topic: str, flows: Captured) -> None:
    put(
        client,
        topic,
        headers=[("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"), *context_headers()],
    )

    client.loop(topic, lambda record: None)

    turn = the(flows, f"process {topic}")
    assert (parent_of(turn), links_of(turn)) == ((TRACE, SPAN), [(TRACE, SPAN)])


def test_case_16_what_the_client_sends_again_by_itself_is_one_send(
    client: Client, topic: str, flows: Captured
) -> None:
    put(client, topic)
    client.kafka.broker.fail(PRODUCE, NOT_LEADER, DISCONNECT)

    client.send(topic)

    (span,) = flows.spans
    assert (span.name, span.status) == (f"send {topic}", Status.UNSET)
    assert "error.type" not in span.attributes
    assert [number for _, number, _ in points(flows, "messaging.client.sent.messages")] == [1]
