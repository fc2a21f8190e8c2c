"""Waits as spans: for who looks with a viewer that draws spans and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import tracekit
from tests.acceptance.kafka_rig import (
    SPAN,
    TRACE,
    context_headers,
    named,
    parent_of,
    published_ns,
    the,
    where,
)
from tracekit.flow import build_flow
from tracekit.model import Kind, Status

if TYPE_CHECKING:
    from tests.acceptance.kafka_rig import Topic
    from tracekit.testing import Captured

MS = 1_000_000
FLOW = "11112222333344445555666677778888"
FLOW_HEADER = f"1;{FLOW};0123456789abcdef;1700000000000;1700000000500;2;web"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"


@pytest.mark.flows(wait_spans=True)
def test_a_wait_is_a_span_from_publishing_to_the_start_of_processing(topic: Topic, flows: Captured) -> None:
    topic.send()
    record = topic.record()

    with tracekit.process(record):
        pass

    sent, processed = the(flows, f"send {topic.name}"), the(flows, f"process {topic.name}")
    wait = the(flows, f"wait {topic.name}")
    assert (wait.kind, wait.status, wait.links, wait.events) == (Kind.INTERNAL, Status.UNSET, (), ())
    # Its moment came in whole ms; the bar begins with the last of them, so never before the send.
    began_ns = min(published_ns(record) + MS - 1, processed.start_ns)
    assert (wait.start_ns, wait.end_ns) == (began_ns, processed.start_ns)
    assert sent.start_ns <= wait.start_ns
    assert parent_of(wait) == where(sent)
    assert wait.attributes == {
        "messaging.system": "kafka",
        "messaging.destination.name": topic.name,
        "messaging.consumer.group.name": topic.group,
        "tracekit.messaging.wait": True,
        "tracekit.messaging.published_at.source": "header",
        "tracekit.flow.id": sent.trace_id,
    }


@pytest.mark.flows(wait_spans=True)
def test_the_flow_is_the_same_with_them_and_without(topic: Topic, flows: Captured) -> None:
    topic.send()
    with tracekit.process(topic.record()):
        pass

    whole = list(flows.spans)
    without = [span for span in whole if not span.name.startswith("wait ")]
    assert len(whole) == len(without) + 1
    assert build_flow(whole) == build_flow(without)


@pytest.mark.flows(wait_spans=True)
def test_in_a_batch_each_message_has_its_wait_in_the_trace_that_it_came_from(
    topic: Topic, flows: Captured
) -> None:
    for number in range(3):
        topic.send(partition=number)

    records = topic.polled(3)

    with tracekit.process_batch(records) as batch, batch.message(records[0]):
        pass

    sent = {where(span) for span in named(flows, f"send {topic.name}")}
    waits = named(flows, f"wait {topic.name}")
    assert len(waits) == 3
    assert {parent_of(span) for span in waits} == sent


@pytest.mark.flows(wait_spans=True, parent="link")
def test_where_the_processing_is_a_trace_of_its_own_the_wait_stays_with_the_send(
    topic: Topic, flows: Captured
) -> None:
    topic.put(headers=context_headers(**{"tracekit-flow": FLOW_HEADER}))
    with tracekit.process(topic.record()):
        pass

    wait, processed = the(flows, f"wait {topic.name}"), the(flows, f"process {topic.name}")
    assert (wait.trace_id, wait.parent_id, wait.attributes["tracekit.flow.id"]) == (TRACE, SPAN, FLOW)
    assert processed.trace_id != TRACE


@pytest.mark.flows(wait_spans=True)
@pytest.mark.parametrize("headers", [[], context_headers(UNSAMPLED)], ids=["no context", "unsampled"])
def test_a_message_that_no_trace_is_recorded_of_has_none(
    topic: Topic, flows: Captured, headers: list[tuple[str, bytes]]
) -> None:
    topic.put(headers=headers)
    with tracekit.process(topic.record()):
        pass

    assert named(flows, f"wait {topic.name}") == []


def test_by_default_there_are_none(topic: Topic, flows: Captured) -> None:
    topic.send()
    with tracekit.process(topic.record()):
        pass

    assert named(flows, f"wait {topic.name}") == []
