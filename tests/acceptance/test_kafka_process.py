"""Processing a message from Kafka: whose child it is, what it brings, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from kafka import TopicPartition
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import suppress_instrumentation

import tracekit
from tests.acceptance.kafka_rig import (
    CONSUMER,
    DEADLINE_S,
    SPAN,
    TRACE,
    TRACEPARENT,
    context_headers,
    context_on,
    headers_of,
    links_of,
    named,
    parent_of,
    points,
    the,
    untimed,
    where,
)
from tracekit.model import Link, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.acceptance.kafka_rig import Topic
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")

FLOW = "11112222333344445555666677778888"
FLOW_HEADER = f"1;{FLOW};0123456789abcdef;1700000000000;1700000000500;2;web"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"


# -- whose child --------------------------------------------------------------------------------------


def test_case_12_a_message_without_ambient_is_the_child_of_its_creation_context(
    topic: Topic, flows: Captured
) -> None:
    topic.send()
    record = topic.record()

    with tracekit.process(record):
        pass

    sent, span = the(flows, f"send {topic.name}"), the(flows, f"process {topic.name}")
    assert (span.kind, span.status, span.events) == (CONSUMER, Status.UNSET, ())
    assert parent_of(span) == where(sent)
    assert links_of(span) == [where(sent)]
    assert untimed(span) == topic.processed(record, sent.trace_id, "header")
    assert flows.flow().edges == [("test", sent.name, "message", "test", span.name)]
    flows.flow().assert_complete()


@pytest.mark.flows(service="billing")
def test_case_12_the_flow_of_its_header_is_that_of_the_span(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers(**{"tracekit-flow": FLOW_HEADER}))
    record = topic.record()

    with tracekit.process(record):
        sent_on = dict(tracekit.inject())["tracekit-flow"]

    assert str(sent_on).split(";")[1] == FLOW
    (span,) = flows.spans
    assert parent_of(span) == (TRACE, SPAN)
    assert links_of(span) == [(TRACE, SPAN)]
    assert untimed(span) == topic.processed(record, FLOW, "header")


def test_a_processing_that_sends_nothing_on_says_how_long_its_flow_took(
    topic: Topic, flows: Captured
) -> None:
    topic.put(b"one", b"two", headers=context_headers(**{"tracekit-flow": FLOW_HEADER}))
    one, two = topic.polled(2)
    origin_ms = int(FLOW_HEADER.split(";")[3])

    with tracekit.process(one):
        pass
    with tracekit.process(two):
        topic.send()

    last, between = named(flows, f"process {topic.name}")
    assert last.end_ns is not None
    assert last.attributes["tracekit.flow.completion_ms"] == last.end_ns // 1_000_000 - origin_ms
    assert "tracekit.flow.completion_ms" not in between.attributes


@pytest.mark.parametrize("rule", ["auto", "message", "link"])
@pytest.mark.parametrize("said", ["in the call", "in configure()"])
def test_case_13_inside_an_ambient_span_the_rule_says_whose_child_it_is(
    topic: Topic, rule: Any, said: str, request: pytest.FixtureRequest
) -> None:
    configured = said == "in configure()"
    request.applymarker(pytest.mark.flows(parent=rule if configured else None))
    flows: Captured = request.getfixturevalue("flows")
    topic.put(headers=context_headers())
    record = topic.record()

    with tracer.start_as_current_span("job"), tracekit.process(record, parent=None if configured else rule):
        pass

    span, job = the(flows, f"process {topic.name}"), where(the(flows, "job"))
    context = (TRACE, SPAN)
    assert (parent_of(span), links_of(span)) == {
        "auto": (job, [context]),
        "message": (context, [context, job]),
        "link": (None, [context]),
    }[rule]
    assert untimed(span) == topic.processed(record, TRACE)  # the message's flow, whoever is the parent


def test_case_13_a_linked_message_without_ambient_is_a_root(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())

    with tracekit.process(topic.record(), parent="link"):
        pass

    (span,) = flows.spans
    assert (span.parent_id, links_of(span)) == (None, [(TRACE, SPAN)])
    assert span.trace_id != TRACE


def test_case_14_a_message_without_context_is_a_root(topic: Topic, flows: Captured) -> None:
    topic.put()
    record = topic.record()

    with tracekit.process(record):
        pass

    (span,) = flows.spans
    assert (span.parent_id, span.links) == (None, ())
    assert untimed(span) == topic.processed(record, span.trace_id, tracekit_messaging_context="absent")


@pytest.mark.parametrize("rule", ["auto", "message"])
def test_case_14_a_message_without_context_is_the_child_of_the_ambient_span(
    topic: Topic, rule: Any, flows: Captured
) -> None:
    topic.put()
    record = topic.record()

    with tracer.start_as_current_span("job"), tracekit.process(record, parent=rule):
        pass

    span, job = the(flows, f"process {topic.name}"), the(flows, "job")
    assert (parent_of(span), span.links) == (where(job), ())
    assert untimed(span) == topic.processed(record, job.trace_id, tracekit_messaging_context="absent")


def test_an_ambient_span_that_has_ended_is_no_parent(topic: Topic, flows: Captured) -> None:
    topic.put()
    record = topic.record()
    job = tracer.start_span("job")
    job.end()

    with trace.use_span(job), tracekit.process(record):
        pass

    assert the(flows, f"process {topic.name}").parent_id is None


# -- baggage ------------------------------------------------------------------------------------------


def test_case_15_the_baggage_of_a_message_is_there_while_it_is_processed(
    topic: Topic, flows: Captured
) -> None:
    topic.put(b"first", headers=context_headers(baggage="tenant=north,tier=gold"))
    topic.put(b"second", headers=context_headers(baggage="tier=iron"))
    topic.put(b"third")
    seen: list[dict[str, object]] = []
    token = otel.attach(baggage.set_baggage("job", "nightly"))
    try:
        for record in topic.polled(3):
            with tracekit.process(record):
                seen.append(dict(baggage.get_all()))
            seen.append(dict(baggage.get_all()))
    finally:
        otel.detach(token)

    between = {"job": "nightly"}
    assert seen == [
        {"job": "nightly", "tenant": "north", "tier": "gold"},
        between,
        {"job": "nightly", "tier": "iron"},
        between,
        {"job": "nightly"},
        between,
    ]


def test_case_15_baggage_travels_with_what_is_sent(topic: Topic, flows: Captured) -> None:
    token = otel.attach(baggage.set_baggage("tenant", "north"))
    try:
        topic.send()
    finally:
        otel.detach(token)

    (record,) = topic.on_the_wire()
    assert headers_of(record)["baggage"] == "tenant=north"


# -- how it ends --------------------------------------------------------------------------------------


def test_case_16_what_the_handler_raises_is_an_error_of_its_message(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())
    record = topic.record()
    before = otel.get_current()
    error = ValueError("no such order")

    with pytest.raises(ValueError, match="no such order") as raised, tracekit.process(record):
        raise error

    assert raised.value is error
    assert otel.get_current() is before
    (span,) = flows.spans
    assert (span.status, span.status_message) == (Status.ERROR, "no such order")
    assert untimed(span) == topic.processed(record, TRACE, error_type="ValueError")
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "no such order"
    assert "raise error" in str(event.attributes["exception.stacktrace"])
    ((labels, _, count),) = points(flows, "messaging.process.duration")
    assert (labels, count) == (
        topic.labels(
            "process", "process", messaging_consumer_group_name=topic.group, error_type="ValueError"
        ),
        1,
    )


async def cancelled(record: Any) -> None:
    waiting = asyncio.Event()

    async def handle() -> None:
        async with tracekit.process(record):
            waiting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def cancelled_here(record: Any) -> None:
    before = otel.get_current()
    error = asyncio.CancelledError("shutting down")

    with pytest.raises(asyncio.CancelledError) as raised:
        async with tracekit.process(record):
            raise error

    assert raised.value is error
    assert otel.get_current() is before


@pytest.mark.parametrize("scenario", [cancelled, cancelled_here])
def test_case_52_a_task_that_is_cancelled_has_neither_done_nor_failed(
    topic: Topic, scenario: Any, flows: Captured
) -> None:
    topic.put(headers=context_headers())
    record = topic.record()

    asyncio.run(scenario(record))

    (span,) = flows.spans
    assert (span.status, span.events) == (Status.UNSET, ())
    assert span.attributes == {**topic.processed(record, TRACE), "tracekit.cancelled": True}
    ((labels, _, count),) = points(flows, "messaging.process.duration")
    assert (labels, count) == (
        topic.labels("process", "process", messaging_consumer_group_name=topic.group),
        1,
    )


def test_case_52_an_interrupt_ends_the_processing_too(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())
    record = topic.record()
    before = otel.get_current()
    error = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt) as raised, tracekit.process(record):
        raise error

    assert raised.value is error
    assert otel.get_current() is before
    (span,) = flows.spans
    assert span.attributes == {**topic.processed(record, TRACE), "tracekit.cancelled": True}


def test_processing_again_inside_the_turn_of_a_loop_is_that_turn(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())

    def work() -> None:
        for record in topic.consumer():
            turn = trace.get_current_span()
            with tracekit.process(record):
                assert trace.get_current_span() is turn
                raise ValueError("no such order")

    with pytest.raises(ValueError, match="no such order"):
        work()

    (span,) = flows.spans
    assert (span.name, span.status) == (f"process {topic.name}", Status.ERROR)


# -- bad input ----------------------------------------------------------------------------------------

BAD: dict[str, bytes] = {
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "garbage": b"00-garbage",
    "zeros": b"00-00000000000000000000000000000000-0000000000000000-01",
    "too long": TRACEPARENT.encode() * 1000,
    "control characters": b"\x00\r\n",
}


@pytest.mark.parametrize("header", ["traceparent", "tracestate", "baggage", "tracekit-flow"])
@pytest.mark.parametrize("bad", BAD)
def test_case_28_a_header_that_makes_no_sense_hurts_nobody(
    topic: Topic, bad: str, header: str, flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    topic.put(headers=[(header, BAD[bad])])
    handled: list[object] = []

    for record in topic.consumer():
        handled.append(record.value)
        break

    (span,) = flows.spans
    assert handled == [b"an order"]
    assert (span.parent_id, span.links, span.status) == (None, (), Status.UNSET)
    assert len([line for line in caplog.records if line.name.startswith("tracekit")]) <= 1


def test_case_28_one_line_is_logged_however_many_such_headers_come(
    topic: Topic, flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    topic.put(*[b"an order"] * 20, headers=[("traceparent", b"\xff")])

    for record in topic.polled(20):
        with tracekit.process(record):
            pass

    states = [span.attributes["tracekit.messaging.context"] for span in flows.spans]
    assert states == ["invalid"] * 20
    assert flows.dropped == {"invalid_context": 20}
    (line,) = [line for line in caplog.records if line.name.startswith("tracekit")]
    assert line.levelno == logging.WARNING


@pytest.mark.parametrize("value", [7, None, TRACEPARENT, [None], object()])
@pytest.mark.parametrize("header", ["traceparent", "tracestate", "baggage", "tracekit-flow"])
def test_case_28_nor_does_one_of_another_type(
    topic: Topic, header: str, value: object, flows: Captured
) -> None:
    topic.put()
    record = topic.record()._replace(headers=[(header, value)])

    with tracekit.process(record):
        pass

    (span,) = flows.spans
    if header == "traceparent" and value is TRACEPARENT:  # text where the client has bytes: understood
        assert parent_of(span) == (TRACE, SPAN)
    else:
        assert (span.parent_id, span.links) == (None, ())


@pytest.mark.parametrize("headers", [None, (), [("traceparent",)], ["traceparent"], [None], 7])
@pytest.mark.shield
def test_case_28_nor_do_headers_of_no_shape(topic: Topic, headers: Any, flows: Captured) -> None:
    topic.put()
    record = topic.record()._replace(headers=headers)
    handled = []

    with tracekit.process(record):
        handled.append(record)

    assert handled == [record]


@pytest.mark.parametrize("names", [("traceparent", "traceparent"), ("traceparent", "Traceparent")])
def test_case_46_of_two_contexts_the_last_one_counts(
    topic: Topic, names: Sequence[str], flows: Captured
) -> None:
    first, last = f"00-{'1' * 32}-{'1' * 16}-01".encode(), TRACEPARENT.encode()
    topic.put(headers=list(zip(names, (first, last), strict=True)))

    with tracekit.process(topic.record()):
        pass

    (span,) = flows.spans
    assert (parent_of(span), links_of(span)) == ((TRACE, SPAN), [(TRACE, SPAN)])


def test_case_46_a_message_that_carries_two_contexts_is_sent_on_with_one(
    topic: Topic, flows: Captured
) -> None:
    first = f"00-{'1' * 32}-{'1' * 16}-01".encode()
    topic.put(headers=[("traceparent", first), ("tenant", b"north"), ("traceparent", TRACEPARENT.encode())])
    record = topic.record()

    with tracekit.process(record):
        topic.send(headers=record.headers)

    _, forwarded = topic.on_the_wire(2)
    assert context_on(forwarded) == where(the(flows, f"send {topic.name}"))


@pytest.mark.parametrize(
    "given", [None, {}, [], {TopicPartition("orders", 0): []}, TopicPartition("orders", 0), "text", object()]
)
def test_case_48_what_is_no_message_is_not_processed(given: Any, flows: Captured) -> None:
    done = []

    with tracekit.process(given):
        done.append("process")
    with tracekit.process_batch(given):
        done.append("batch")

    assert done == ["process", "batch"]
    assert (flows.spans, flows.metrics) == ((), {})


# -- faults of ours -----------------------------------------------------------------------------------


class Hostile:
    """Stands in for what begins spans: it, or its spans, raise at one place."""

    def __init__(self, inner: Any, fault: str) -> None:
        self._inner = inner
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def start_span(self, *args: Any, **kwargs: Any) -> Any:
        if self._fault == "start_span":
            raise RuntimeError("a tracer that fails")
        return sabotaged(self._inner.start_span(*args, **kwargs), self._fault)

    def start(self, *args: Any, **kwargs: Any) -> Any:
        if self._fault == "start_span":
            raise RuntimeError("a maker of spans that fails")
        return sabotaged(self._inner.start(*args, **kwargs), self._fault)


def sabotaged(span: Any, fault: str) -> Any:
    """The span, one of whose methods raises."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a span that fails")

    if fault == "set_attribute":
        span.set_attribute = span.set_attributes = span.put = span.add_event = span.set_status = fail
    elif fault == "end":
        span.end = fail
    elif fault == "get_span_context":
        span.get_span_context = fail
    return span


FAULTS = ["start_span", "set_attribute", "end", "get_span_context", "inject", "extract"]


@pytest.fixture(params=[*FAULTS, *(f"quick {fault}" for fault in FAULTS[:4])])
def fault(request: pytest.FixtureRequest, flows: Captured, monkeypatch: pytest.MonkeyPatch) -> str:
    """Something of ours that raises."""
    from opentelemetry import propagate

    from tracekit.messaging.scope import engine_in_use

    parameter: str = request.param
    quick, _, name = parameter.rpartition(" ")
    engine = engine_in_use()
    assert engine is not None
    telemetry = engine.telemetry

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a propagator that fails")

    if name in ("inject", "extract"):
        monkeypatch.setattr(propagate, name, fail)
    elif quick:
        assert telemetry.quick is not None
        monkeypatch.setattr(telemetry, "quick", Hostile(telemetry.quick, name))
    else:
        monkeypatch.setattr(telemetry, "quick", None)
        monkeypatch.setattr(telemetry, "tracer", Hostile(telemetry.tracer, name))
    return name


@pytest.mark.shield
def test_case_29_whatever_of_ours_raises_a_send_gives_the_broker_s_answer(topic: Topic, fault: str) -> None:
    future = topic.producer.send(topic.name, b"an order", headers=[("tenant", b"north")], partition=0)

    answer = future.get(DEADLINE_S)
    (record,) = topic.on_the_wire()
    assert (answer.topic, answer.partition, answer.offset) == (topic.name, 0, 0)
    assert (record.value, dict(record.headers)["tenant"]) == (b"an order", b"north")


@pytest.mark.shield
def test_case_29_whatever_of_ours_raises_the_handler_runs_once(topic: Topic, fault: str) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    handled: list[object] = []
    consumer = topic.consumer()

    for record in consumer:
        handled.append(record.value)
        with tracekit.process(record):
            handled.append("processed")
        if record.value == b"second":
            break
    consumer.commit()
    error = ValueError("no such order")

    def work() -> None:
        with tracekit.process_batch([record]) as batch:
            with batch.message(record):
                handled.append("in a batch")
            raise error

    with pytest.raises(ValueError, match="no such order") as raised:
        work()

    assert handled == [b"first", "processed", b"second", "processed", "in a batch"]
    assert raised.value is error


def test_case_30_where_nothing_is_to_be_traced_nothing_is(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    consumer = topic.consumer()
    seen: list[tuple[object, trace.Span]] = []

    with suppress_instrumentation():
        for record in consumer:
            seen.append((record.value, trace.get_current_span()))
            break
        with tracekit.consuming(consumer) as messages:
            seen.append((next(iter(messages)).value, trace.get_current_span()))
        with tracekit.process(record), tracekit.process_batch([record]) as batch, batch.message(record):
            seen.append(("processed", trace.get_current_span()))
        consumer.commit()
        topic.send()

    nobody = trace.INVALID_SPAN
    assert seen == [(b"first", nobody), (b"second", nobody), ("processed", nobody)]
    assert (flows.spans, flows.metrics) == ((), {})


def test_case_31_what_comes_unsampled_goes_on_unsampled_and_is_measured(
    topic: Topic, flows: Captured
) -> None:
    topic.put(headers=context_headers(UNSAMPLED))
    record = topic.record()
    with tracekit.process(record):
        topic.send()

    *_, sent = topic.on_the_wire(2)
    _, trace_id, span_id, flags = headers_of(sent)["traceparent"].split("-")
    assert (trace_id, int(flags, 16) & 1) == (TRACE, 0)
    assert span_id != SPAN
    assert flows.spans == ()
    assert {
        name: sum(each.count or int(each.value or 0) for each in found)
        for name, found in flows.metrics.items()
    } == {
        "messaging.client.consumed.messages": 1,
        "messaging.client.operation.duration": 2,
        "messaging.client.sent.messages": 1,
        "messaging.process.duration": 1,
        "tracekit.messaging.queue.duration": 1,
    }


@pytest.mark.flows(environment={"OTEL_TRACES_SAMPLER": "always_on"})
def test_case_31_what_is_recorded_all_the_same_says_that_its_context_was_not_sampled(
    topic: Topic, flows: Captured
) -> None:
    topic.put(headers=context_headers(UNSAMPLED))
    record = topic.record()

    with tracekit.process(record):
        pass
    with tracer.start_as_current_span("job"), tracekit.process(record):
        pass
    with tracekit.process_batch([record]):
        pass
    with tracekit.relay():
        topic.send(headers=context_headers(UNSAMPLED))

    alone, below_a_job, batch = named(flows, f"process {topic.name}")
    link = Link(TRACE, SPAN, {"tracekit.context.sampled": False})
    assert alone.attributes == {**topic.processed(record, TRACE), "tracekit.context.sampled": False}
    assert below_a_job.attributes == topic.processed(record, TRACE)
    assert alone.links == below_a_job.links == the(flows, f"send {topic.name}").links == (link,)
    assert batch.links[0].attributes["tracekit.context.sampled"] is False
    assert {each.reason for flow in flows.flows for each in flow.breaks} == {"unsampled_parent"}
