"""Beside OpenTelemetry's own instrumentation of kafka-python: in other services, and in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import kafka as kafka_python
import pytest
from opentelemetry import baggage, trace
from opentelemetry.instrumentation.kafka import KafkaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit
from tests.acceptance.kafka_rig import (
    CONSUMER,
    SPAN,
    TRACE,
    context_headers,
    context_on,
    parent_of,
    the,
    where,
)
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.kafka_rig import Topic
    from tracekit.testing import FlowSink

Side = Literal["ours", "contrib"]

SERVICE = Path(__file__).with_name("kafka_contrib_service.py")
SCOPE = "opentelemetry.instrumentation.kafka"
FUNCTIONS = ("send", "__next__")

tracer = trace.get_tracer("tests")


# -- services that use it -----------------------------------------------------------------------------


def contrib_only(role: str, *topics: Topic | str, sink: FlowSink, broker: Any) -> None:
    """The service that knows nothing of tracekit, until its end."""
    names = [topic if isinstance(topic, str) else topic.name for topic in topics]
    subprocess.run(
        [sys.executable, str(SERVICE), role, *names],
        env={**os.environ, **sink.env, **broker.environment, "OTEL_SERVICE_NAME": "contrib"},
        check=True,
        timeout=60,
    )


def produced(topic: Topic, by: Side, sink: FlowSink) -> None:
    """One message, sent inside a span `place order`."""
    if by == "contrib":
        contrib_only("produce", topic, sink=sink, broker=topic.kafka.broker)
        return
    with (
        tracekit.configure("ours", endpoint=sink.http_endpoint, quiet=True),
        tracer.start_as_current_span("place order"),
    ):
        topic.send()


def consumed(topic: Topic, by: Side, sink: FlowSink) -> None:
    """One message, taken in a loop; where tracekit is, with work in the body."""
    if by == "contrib":
        contrib_only("consume", topic, sink=sink, broker=topic.kafka.broker)
        return
    with tracekit.configure("ours", endpoint=sink.http_endpoint, quiet=True):
        for _ in topic.consumer():
            with tracer.start_as_current_span("work"):
                break


@pytest.mark.parametrize("consumer", ["ours", "contrib"])
@pytest.mark.parametrize("producer", ["ours", "contrib"])
def test_all_four_mixes_of_producer_and_consumer_give_one_flow(
    topic: Topic, producer: Side, consumer: Side, flow_sink: FlowSink
) -> None:
    produced(topic, producer, flow_sink)
    consumed(topic, consumer, flow_sink)

    send = f"send {topic.name}" if producer == "ours" else f"{topic.name} send"
    receive = f"process {topic.name}" if consumer == "ours" else f"{topic.name} receive"
    (flow,) = flow_sink.wait_for_flows(1, "place order", send, receive)
    work = [(consumer, receive, "call", "ours", "work")] if consumer == "ours" else []
    assert flow.edges == sorted(
        [
            (producer, "place order", "call", producer, send),
            (producer, send, "message", consumer, receive),
            *work,
        ]
    )
    flow.assert_complete()
    assert len(flow_sink.flows) == 1
    assert {span.trace_id for span in flow.spans} == {flow.id}
    ours = [span for span in flow.spans if span.service.name == "ours"]
    assert {span.attributes["tracekit.flow.id"] for span in ours} <= {flow.id}


def test_the_flow_s_id_survives_a_service_that_knows_only_traceparent(
    topic: Topic, flow_sink: FlowSink
) -> None:
    other = topic.kafka.topic("invoices")
    topic.producer.partitions_for(other)

    produced(topic, "ours", flow_sink)
    contrib_only("relay", topic, other, sink=flow_sink, broker=topic.kafka.broker)
    with tracekit.configure("ours", endpoint=flow_sink.http_endpoint, quiet=True):
        for _ in topic.kafka.consumer(other):
            with tracer.start_as_current_span("work"):
                break

    (flow,) = flow_sink.wait_for_flows(1, "place order", f"{other} send", f"process {other}", "work")
    assert flow.edges == sorted(
        [
            ("ours", "place order", "call", "ours", f"send {topic.name}"),
            ("ours", f"send {topic.name}", "message", "contrib", f"{topic.name} receive"),
            ("ours", f"send {topic.name}", "call", "contrib", "handle order"),
            ("contrib", "handle order", "call", "contrib", f"{other} send"),
            ("contrib", f"{other} send", "message", "ours", f"process {other}"),
            ("ours", f"process {other}", "call", "ours", "work"),
        ]
    )
    assert [span.attributes["tracekit.flow.id"] for span in flow.spans if span.service.name == "ours"] == [
        flow.span("place order").trace_id
    ] * 4


# -- active in this process, and told to stand down ---------------------------------------------------


class Contrib:
    """contrib, switched on by the application with a provider and with hooks of its own."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.options = {
            "tracer_provider": provider,
            "produce_hook": lambda span, *_: span.set_attribute("app.hook", "produced"),
            "consume_hook": lambda span, *_: span.set_attribute("app.hook", "consumed"),
        }

    def switch_on(self) -> None:
        KafkaInstrumentor().instrument(**self.options)

    def said(self) -> list[tuple[str, object]]:
        """Its spans since last asked, with what the hooks put there."""
        found: list[tuple[str, object]] = [
            (span.name, (span.attributes or {}).get("app.hook"))
            for span in self.exporter.get_finished_spans()
        ]
        self.exporter.clear()
        return found


@pytest.fixture
def contrib() -> Iterator[Contrib]:
    yield Contrib()
    if KafkaInstrumentor().is_instrumented_by_opentelemetry:
        KafkaInstrumentor().uninstrument()


def exchange(topic: Topic) -> None:
    """One message, sent and taken."""
    topic.send()
    for _ in topic.consumer(group=None):
        break


def names(topic: Topic) -> list[str]:
    return [f"send {topic.name}", f"process {topic.name}"]


def theirs(topic: Topic) -> list[tuple[str, str]]:
    return [(f"{topic.name} send", "produced"), (f"{topic.name} receive", "consumed")]


@pytest.mark.parametrize("when", ["before", "after", "between two"])
def test_where_contrib_is_active_too_there_is_one_span_for_each_operation(
    topic: Topic, when: str, contrib: Contrib
) -> None:
    if when == "before":
        contrib.switch_on()
    if when == "between two":
        with capture():
            contrib.switch_on()
    with capture() as seen:
        if when == "after":
            contrib.switch_on()
        exchange(topic)

    assert [span.name for span in seen.spans] == names(topic)
    assert contrib.said() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_once_undone_contrib_is_active_as_it_was_before(topic: Topic, when: str, contrib: Contrib) -> None:
    if when == "before":
        contrib.switch_on()
    with capture():
        if when == "after":
            contrib.switch_on()
        exchange(topic)

    exchange(topic)

    assert contrib.said() == theirs(topic)
    KafkaInstrumentor().uninstrument()
    assert not any(hasattr(vars(owner)[name], "__wrapped__") for owner, name in originals())


def originals() -> list[tuple[type, str]]:
    return [(kafka_python.KafkaProducer, "send"), (kafka_python.KafkaConsumer, "__next__")]


def test_contrib_that_was_switched_off_meanwhile_stays_off(topic: Topic, contrib: Contrib) -> None:
    contrib.switch_on()
    with capture():
        KafkaInstrumentor().uninstrument()

    exchange(topic)

    assert contrib.said() == []
    assert not any(hasattr(vars(owner)[name], "__wrapped__") for owner, name in originals())


# -- active in this process, and kept -----------------------------------------------------------------


def test_contrib_can_be_kept_and_the_body_of_a_loop_still_works_inside_its_span(topic: Topic) -> None:
    topic.put(headers=context_headers(baggage="tenant=north"))
    tenants: list[object] = []

    with capture(kafka="contrib") as seen:
        for _ in topic.consumer():
            with tracer.start_as_current_span("work"):
                tenants.append(baggage.get_baggage("tenant"))
                topic.send(b"an answer")
            break

    assert tenants == ["north"]
    received, work, sent = (
        the(seen, name) for name in (f"{topic.name} receive", "work", f"{topic.name} send")
    )
    assert len(seen.spans) == 3
    assert {span.scope for span in (received, sent)} == {SCOPE}
    assert (received.kind, parent_of(received)) == (CONSUMER, (TRACE, SPAN))
    assert [parent_of(work), parent_of(sent)] == [where(received), where(work)]
    assert {span.attributes["tracekit.flow.id"] for span in seen.spans} == {TRACE}
    assert "kafka by contrib: without the broker's answer, waits, batches and metrics" in seen.report_line
    *_, answer = topic.on_the_wire(2)
    assert context_on(answer) == where(sent)


def test_contrib_s_receive_is_a_root_where_the_message_brought_nothing(topic: Topic) -> None:
    topic.put()

    with capture(kafka="contrib") as seen:
        for _ in topic.consumer():
            with tracer.start_as_current_span("work"):
                break

    received = the(seen, f"{topic.name} receive")
    assert (received.parent_id, parent_of(the(seen, "work"))) == (None, where(received))


@pytest.mark.parametrize("when", ["before", "after"])
def test_contrib_that_is_kept_keeps_its_hooks(topic: Topic, when: str, contrib: Contrib) -> None:
    if when == "before":
        contrib.switch_on()
    with capture(kafka="contrib") as seen:
        if when == "after":
            contrib.switch_on()
        exchange(topic)
        inside = contrib.said()

    exchange(topic)

    assert inside == theirs(topic)
    assert seen.spans == ()  # they go where the application wanted them
    assert contrib.said() == theirs(topic)


def test_contrib_that_nobody_else_asked_for_is_gone_afterwards(topic: Topic) -> None:
    with capture(kafka="contrib") as seen:
        exchange(topic)

    exchange(topic)

    assert [span.name for span in seen.spans] == [f"{topic.name} send", f"{topic.name} receive"]
    assert not any(hasattr(vars(owner)[name], "__wrapped__") for owner, name in originals())
