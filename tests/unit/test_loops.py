"""Loops of one engine beside each other: what their turns keep, and whose part they are."""

from __future__ import annotations

import gc
import itertools
from typing import TYPE_CHECKING, Any

from kafka.consumer.fetcher import ConsumerRecord
from opentelemetry import context as otel
from opentelemetry import trace

import tracekit
from tracekit.messaging.processing import Process, current_process
from tracekit.messaging.scope import engine_in_use, install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit.testing import Captured


class Client:
    """What a loop reads from, with as much configuration as its spans show."""

    def __init__(self) -> None:
        self.config = {"client_id": "tests", "group_id": "tests", "bootstrap_servers": "broker:1"}


def record(topic: str, value: bytes = b"") -> Any:
    fields = dict.fromkeys(ConsumerRecord._fields)
    return ConsumerRecord(
        **{**fields, "topic": topic, "partition": 0, "offset": 0, "headers": [], "value": value}
    )


def loop(topic: str) -> Iterator[Any]:
    """A plain loop over messages without end."""
    engine = engine_in_use()
    assert engine is not None
    transport = engine.transport_of(record(topic))
    assert transport is not None
    return engine.loop(transport, Client(), (record(topic) for _ in itertools.count()))


def test_loops_in_step_keep_no_turn_that_has_ended_and_share_no_trace(flows: Captured) -> None:
    before = otel.get_current()
    first, second = loop("a"), loop("b")
    for number, _ in enumerate(zip(first, second, strict=False)):
        if number == 50:
            break
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, Process) and one._shape.name[-1] in "ab"]
    assert len(alive) <= 4
    del alive

    del first, second
    assert trace.get_current_span(otel.get_current()) is trace.get_current_span(before)
    assert len({span.trace_id for span in flows.spans if span.name == "process a"}) == 51


def test_a_loop_inside_the_turn_of_another_is_part_of_it(flows: Captured) -> None:
    for _ in itertools.islice(loop("a"), 2):
        for _ in itertools.islice(loop("b"), 2):
            pass

    outer = [span.span_id for span in flows.spans if span.name == "process a"]
    inner = {span.parent_id for span in flows.spans if span.name == "process b"}
    assert inner <= set(outer)


def test_what_outlives_a_scope_does_not_keep_its_message(flows: Captured) -> None:
    message = record("a", b"x")
    with tracekit.process(message):
        kept = otel.get_current()
        process = current_process(kept)
        assert process is not None
        assert process.record is message

    assert process.record is None


def test_a_loop_goes_on_with_the_engine_that_takes_the_place_of_its_own(flows: Captured) -> None:
    engine = engine_in_use()
    turns = loop("a")
    next(turns)
    try:
        install(None)
        next(turns)
        assert current_process() is None
    finally:
        install(engine)
    next(turns)
    turns.__exit__(None, None, None)  # type: ignore[attr-defined]  # a loop of ours

    assert len([span for span in flows.spans if span.name == "process a"]) == 2
