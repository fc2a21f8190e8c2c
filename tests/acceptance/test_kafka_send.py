"""Sending to Kafka: the span and its context, the broker's answer, and the caller's own objects."""

from __future__ import annotations

import copy
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.serializer import Serializer
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tracekit_demo.broker import embedded_broker

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    DEADLINE_S,
    PRODUCER,
    SPAN,
    TRACE,
    answered,
    context_headers,
    context_on,
    headers_of,
    links_of,
    parent_of,
    points,
    the,
    where,
)
from tracekit import _configure, _settings
from tracekit.model import Status
from tracekit.tracing.signals import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.kafka_rig import Topic
    from tests.brokers import Kafka
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")


# -- the span -----------------------------------------------------------------------------------------


def test_case_03_a_send_is_a_producer_span_with_the_names_of_the_conventions(
    topic: Topic, flows: Captured
) -> None:
    answer = topic.send()

    (span,) = flows.spans
    assert (span.name, span.kind, span.status) == (f"send {topic.name}", PRODUCER, Status.UNSET)
    assert span.attributes == topic.sent(answer, span.trace_id)
    assert (span.parent_id, span.links, span.events) == (None, (), ())


def test_case_03_its_telemetry_says_which_version_of_the_conventions_it_follows(topic: Topic) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    settings = _settings.read(service="orders", quiet=True)
    with _configure.start(settings, Outputs([SimpleSpanProcessor(spans)], [reader])):
        topic.send()
        data = reader.get_metrics_data()
    (span,) = spans.get_finished_spans()

    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert data is not None
    assert {
        scope.schema_url or scope.scope.schema_url
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        if scope.scope.name == "tracekit.messaging"
    } == {"https://opentelemetry.io/schemas/1.44.0"}


def test_case_04_a_send_ends_with_the_answer_of_the_broker(topic: Topic, flows: Captured) -> None:
    producer = topic.kafka.producer(linger_ms=60_000)  # nothing leaves before it is flushed
    seen_by_callback: list[int] = []

    future = producer.send(topic.name, b"an order")
    future.add_callback(lambda _: seen_by_callback.append(len(flows.spans)))
    before = flows.spans
    producer.flush()
    answered(future)

    assert (before, seen_by_callback, len(flows.spans)) == ((), [1], 1)


def test_case_04_partition_and_offset_are_those_of_the_answer_for_100_sends_without_a_key(
    topic: Topic, flows: Captured
) -> None:
    futures = [topic.producer.send(topic.name, b"an order") for _ in range(100)]
    answers = [answered(future) for future in futures]
    flows.wait_for(lambda: len(flows.spans) == 100, says="100 spans")

    assert [dict(span.attributes) for span in flows.spans] == [
        topic.sent(answer, span.trace_id) for answer, span in zip(answers, flows.spans, strict=True)
    ]
    assert points(flows, "messaging.client.sent.messages") == [(topic.labels("send", "send"), 100, 0)]


def test_a_send_that_nobody_acknowledges_has_no_offset(topic: Topic, flows: Captured) -> None:
    producer = topic.kafka.producer(acks=0)
    made_up = answered(producer.send(topic.name, b"an order", partition=0))

    (span,) = flows.spans
    assert made_up.offset == 0
    assert dict(span.attributes) == {
        **topic.labels("send", "send"),
        "messaging.client.id": producer.config["client_id"],
        "messaging.destination.partition.id": "0",
        "tracekit.flow.id": span.trace_id,
    }


def test_a_send_inside_a_span_is_its_child(topic: Topic, flows: Captured) -> None:
    with tracer.start_as_current_span("job") as job:
        topic.send()

    span = the(flows, f"send {topic.name}")
    context = job.get_span_context()
    assert parent_of(span) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")


# -- failures -----------------------------------------------------------------------------------------


def test_case_05_an_error_of_the_delivery_is_an_error_of_the_send(kafka: Kafka, flows: Captured) -> None:
    heard: list[tuple[BaseException, trace.Span]] = []

    with embedded_broker(["orders"]) as broker:
        producer = kafka.producer(**broker.settings, delivery_timeout_ms=1200, request_timeout_ms=700)
        producer.partitions_for("orders")
        os.kill(broker.pid, signal.SIGSTOP)  # it answers no more
        os.waitid(os.P_PID, broker.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            with tracer.start_as_current_span("job") as caller:
                future = producer.send("orders", b"an order")
                future.add_errback(lambda error: heard.append((error, trace.get_current_span())))
            with pytest.raises(KafkaTimeoutError) as raised:
                future.get(DEADLINE_S)
            flows.wait_for(lambda: bool(heard), says="the error")
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        producer.close()

    span = the(flows, "send orders")
    host, _, port = broker.address.rpartition(":")
    labels = {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "server.address": host,
        "server.port": int(port),
        "error.type": "KafkaTimeoutError",
    }
    assert heard == [(raised.value, caller)]
    assert (span.kind, span.status, span.status_message) == (PRODUCER, Status.ERROR, str(raised.value))
    assert span.attributes == {
        **labels,
        "messaging.client.id": producer.config["client_id"],
        "tracekit.flow.id": span.trace_id,
        "tracekit.messaging.retries": 1,  # the first request was given up after 700 ms
    }
    assert points(flows, "messaging.client.sent.messages") == [(labels, 1, 0)]
    ((found, _, count),) = points(flows, "messaging.client.operation.duration")
    assert (found, count) == (labels, 1)


def test_case_06_a_message_that_is_too_large_is_refused_as_without_us(topic: Topic, flows: Captured) -> None:
    producer = topic.kafka.producer(max_request_size=1_000)
    value = bytes(2_000)

    with pytest.raises(MessageSizeTooLargeError) as raised:
        producer.send(topic.name, value)

    with suppress_instrumentation(), pytest.raises(MessageSizeTooLargeError) as without:
        producer.send(topic.name, value)
    (span,) = flows.spans
    labels = topic.labels("send", "send", error_type="MessageSizeTooLargeError")
    assert raised.value.args == without.value.args
    assert (raised.value.__cause__, raised.value.__context__) == (None, without.value.__context__)
    assert (span.status, span.status_message) == (Status.ERROR, str(raised.value))
    assert points(flows, "messaging.client.sent.messages") == [(labels, 1, 0)]
    ((found, _, count),) = points(flows, "messaging.client.operation.duration")
    assert (found, count) == (labels, 1)


def test_case_06_what_the_application_raises_inside_a_send_arrives_as_the_same_object(
    topic: Topic, flows: Captured
) -> None:
    error = RuntimeError("no such order")

    class Orders(Serializer):  # type: ignore[misc]  # kafka-python ships no types
        def serialize(self, topic: str, headers: object, data: object) -> bytes:
            raise error

    producer = topic.kafka.producer(value_serializer=Orders())

    with pytest.raises(RuntimeError) as raised:
        producer.send(topic.name, {"order": 7})

    (span,) = flows.spans
    assert raised.value is error
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "RuntimeError")
    assert [event.name for event in span.events] == ["exception"]


# -- the caller's objects, and the headers ------------------------------------------------------------


def test_case_07_the_caller_s_headers_stay_as_they_were(topic: Topic, flows: Captured) -> None:
    headers = [("tenant", b"north"), ("tenant", b"south")]
    before = copy.deepcopy(headers)

    topic.send(headers=headers)

    assert headers == before
    (record,) = topic.on_the_wire()
    assert [name for name, _ in record.headers] == ["tenant", "tenant", "traceparent", "tracekit-flow"]


@pytest.mark.parametrize(
    "headers", [(("tenant", b"north"),), {"tenant": b"north"}, [["tenant", b"north"]], [("tenant", "north")]]
)
def test_case_07_headers_that_the_client_refuses_are_refused_as_without_us(
    topic: Topic, headers: Any, flows: Captured
) -> None:
    before = copy.deepcopy(headers)

    with pytest.raises(TypeError) as raised:
        topic.send(headers=headers)

    assert headers == before
    with suppress_instrumentation(), pytest.raises(TypeError) as without:
        topic.send(headers=headers)
    assert str(raised.value) == str(without.value)


def test_case_08_one_list_for_two_sends_gives_each_message_its_own_context(
    topic: Topic, flows: Captured
) -> None:
    headers = [("tenant", b"north")]

    for _ in range(2):
        topic.send(headers=headers)

    first, second = topic.on_the_wire(2)
    assert [context_on(first), context_on(second)] == [where(span) for span in flows.spans]
    assert headers_of(first).keys() == {"tenant", "traceparent", "tracekit-flow"}


FORMS: dict[str, Callable[[Any, str], Any]] = {
    "positional": lambda producer, name: producer.send(name, b"v", b"k", [("tenant", b"north")]),
    "all positional": lambda producer, name: producer.send(name, b"v", b"k", [("tenant", b"north")], 0, 1),
    "keyword": lambda producer, name: producer.send(name, b"v", headers=[("tenant", b"north")]),
    "all keywords": lambda producer, name: producer.send(topic=name, value=b"v", headers=[]),
    "positional None": lambda producer, name: producer.send(name, b"v", None, None),
    "None": lambda producer, name: producer.send(name, value=b"v", headers=None),
    "omitted": lambda producer, name: producer.send(name, b"v"),
    "tombstone": lambda producer, name: producer.send(name, key=b"k"),
}


@pytest.mark.parametrize("form", FORMS)
def test_case_09_context_travels_in_every_form_that_the_client_accepts(
    topic: Topic, form: str, flows: Captured
) -> None:
    answered(FORMS[form](topic.producer, topic.name))

    (record,) = topic.on_the_wire()
    assert context_on(record) == where(the(flows, f"send {topic.name}"))


def test_a_call_that_does_not_fit_the_client_is_refused_by_the_client(topic: Topic, flows: Captured) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'body'"):
        topic.producer.send(topic.name, body=b"v")

    assert flows.spans == ()


# -- whose context ------------------------------------------------------------------------------------


def test_case_10_a_relayed_message_keeps_its_creation_context(topic: Topic, flows: Captured) -> None:
    headers = [*context_headers(baggage="tenant=north"), ("tracekit-flow", b"as it was")]

    with tracekit.relay():
        answer = topic.send(headers=headers)

    (record,) = topic.on_the_wire()
    assert record.headers == headers
    (span,) = flows.spans
    assert (span.kind, links_of(span)) == (CLIENT, [(TRACE, SPAN)])
    assert span.attributes == topic.sent(answer, span.trace_id)


def test_case_10_a_creation_context_that_the_caller_put_there_stays(topic: Topic, flows: Captured) -> None:
    with tracer.start_as_current_span("job"):
        topic.send(headers=context_headers())

    (record,) = topic.on_the_wire()
    assert record.headers == context_headers()
    span = the(flows, f"send {topic.name}")
    assert (span.kind, links_of(span)) == (CLIENT, [(TRACE, SPAN)])
    assert parent_of(span) == where(the(flows, "job"))


def test_case_10_the_message_in_process_is_relayed_as_it_is(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())
    record = topic.record()
    other = topic.kafka.topic("outbox")

    with tracekit.process(record), tracekit.relay():
        answered(topic.producer.send(other, record.value, headers=record.headers))

    span = the(flows, f"send {other}")
    assert (span.kind, links_of(span)) == (CLIENT, [(TRACE, SPAN)])
    assert parent_of(span) == where(the(flows, f"process {topic.name}"))


def test_case_11_headers_that_are_handed_on_point_to_the_new_send(topic: Topic, flows: Captured) -> None:
    topic.put(headers=[("tenant", b"north"), *context_headers(tracestate="vendor=1")])
    record = topic.record()

    with tracekit.process(record):
        topic.send(headers=record.headers)

    _, forwarded = topic.on_the_wire(2)
    sent, processed = the(flows, f"send {topic.name}"), the(flows, f"process {topic.name}")
    assert context_on(forwarded) == where(sent)
    assert headers_of(forwarded).keys() == {"tenant", "traceparent", "tracestate", "tracekit-flow"}
    assert (sent.kind, sent.links, parent_of(sent)) == (PRODUCER, (), where(processed))


def test_case_11_headers_that_we_wrote_are_replaced_too(topic: Topic, flows: Captured) -> None:
    with tracer.start_as_current_span("job"):
        topic.send(headers=tracekit.inject([("tenant", b"north")]))

    (record,) = topic.on_the_wire()
    sent = the(flows, f"send {topic.name}")
    assert context_on(record) == where(sent)
    assert (sent.kind, sent.links) == (PRODUCER, ())


# -- callbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["add_callback", "add_both"])
def test_a_delivery_callback_runs_in_the_context_of_its_caller(
    topic: Topic, outcome: str, flows: Captured
) -> None:
    producer = topic.kafka.producer(linger_ms=60_000)
    current: list[trace.Span] = []
    threads: list[threading.Thread] = []

    def heard(*_: object) -> None:
        current.append(trace.get_current_span())
        threads.append(threading.current_thread())

    with tracer.start_as_current_span("request A") as caller:
        future = producer.send(topic.name, b"an order")
        getattr(future, outcome)(heard)
    with tracer.start_as_current_span("request B"):
        producer.flush()
        flows.wait_for(lambda: bool(threads), says="the callback")

    assert current == [caller]
    assert threads != [threading.current_thread()]


def test_a_callback_s_arguments_and_exception_are_its_own(topic: Topic, flows: Captured) -> None:
    future = topic.producer.send(topic.name, b"an order")
    answer = answered(future)
    heard: list[tuple[object, ...]] = []

    given = future.add_callback(lambda *args: heard.append(args), "order", 7)

    assert given is future
    assert heard == [("order", 7, answer)]


# -- room ---------------------------------------------------------------------------------------------


def largest(producer: Any, headers: list[tuple[str, bytes]]) -> int:
    """How large a value may be beside these headers, by the client's own estimate."""
    overhead: int = producer._estimate_size_in_bytes(None, b"", headers)
    return int(producer.config["max_request_size"]) - overhead


HEADERS = [("tenant", b"north")]


def test_reliability_case_06_a_message_just_under_the_limit_is_sent_as_it_is_without_context(
    topic: Topic, flows: Captured
) -> None:
    producer = topic.kafka.producer(max_request_size=10_000)
    value = bytes(largest(producer, HEADERS) - 40)

    answer = answered(producer.send(topic.name, value, headers=HEADERS))

    (record,) = topic.on_the_wire()
    assert (record.value, record.headers) == (value, HEADERS)
    (span,) = flows.spans
    assert (span.kind, span.status) == (PRODUCER, Status.UNSET)
    assert span.attributes == {
        **topic.sent(answer, span.trace_id),
        "messaging.client.id": producer.config["client_id"],
        "tracekit.reason": "size",
        "tracekit.messaging.context": "skipped",
    }
    assert flows.dropped == {"size": 2}


def test_reliability_case_06_with_little_room_the_traceparent_goes_first(
    topic: Topic, flows: Captured
) -> None:
    producer = topic.kafka.producer(max_request_size=10_000)
    value = bytes(largest(producer, []) - 180)

    answered(producer.send(topic.name, value))

    (record,) = topic.on_the_wire()
    assert headers_of(record).keys() == {"traceparent"}
    assert flows.dropped == {"size": 1}


def test_reliability_case_06_where_a_serializer_alone_knows_the_size_it_is_sent_all_the_same(
    topic: Topic, flows: Captured
) -> None:
    class Zeros(Serializer):  # type: ignore[misc]  # kafka-python ships no types
        def serialize(self, topic: str, headers: object, data: int) -> bytes:
            return bytes(data)

    producer = topic.kafka.producer(max_request_size=10_000, value_serializer=Zeros())
    size = largest(producer, HEADERS) - 40

    answer = answered(producer.send(topic.name, size, headers=HEADERS))

    (record,) = topic.on_the_wire()
    assert (record.value, record.headers) == (bytes(size), HEADERS)
    (span,) = flows.spans
    assert (span.kind, span.status, span.events) == (PRODUCER, Status.UNSET, ())
    assert span.attributes == {
        **topic.sent(answer, span.trace_id),
        "messaging.client.id": producer.config["client_id"],
        "tracekit.reason": "oversized",
        "tracekit.messaging.context": "skipped",
    }
    assert flows.dropped == {"oversized": 1}
    assert points(flows, "messaging.client.sent.messages") == [(topic.labels("send", "send"), 1, 0)]


def test_what_is_refused_even_without_our_headers_shows_one_error(topic: Topic, flows: Captured) -> None:
    class Zeros(Serializer):  # type: ignore[misc]  # kafka-python ships no types
        def serialize(self, topic: str, headers: object, data: int) -> bytes:
            return bytes(data)

    producer = topic.kafka.producer(max_request_size=1_000, value_serializer=Zeros())

    with pytest.raises(MessageSizeTooLargeError) as raised:
        producer.send(topic.name, 2_000)

    (span,) = flows.spans
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)
    assert span.attributes["error.type"] == "MessageSizeTooLargeError"
