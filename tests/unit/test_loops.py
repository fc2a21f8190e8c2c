"""Scopes beside each other and out of order: what they keep, and whose part they are."""

from __future__ import annotations

import gc
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from kafka.consumer.fetcher import ConsumerRecord
from opentelemetry import context as otel
from opentelemetry import trace

import tracekit
from tracekit.messaging.nesting import Nested
from tracekit.messaging.processing import current_process
from tracekit.messaging.scope import engine_in_use, install
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def blocks(topic: str) -> Iterator[Any]:
    """Batches without end, each of whose blocks is held over a `yield`."""
    while True:
        with tracekit.process_batch([record(topic), record(topic)]) as batch:
            yield batch


def alive() -> int:
    """How many scopes are kept by anything."""
    gc.collect()
    return sum(isinstance(one, Nested) for one in gc.get_objects())


@pytest.mark.parametrize("kafka", ["tracekit", "contrib"])
@pytest.mark.parametrize(("a", "b"), [(loop, loop), (loop, blocks), (blocks, loop), (blocks, blocks)])
def test_scopes_in_step_keep_none_that_has_ended(a: Any, b: Any, kafka: Any) -> None:
    before, kept = otel.get_current(), alive()
    with capture(kafka=kafka):
        both = zip(a("a"), b("b"), strict=False)
        for _ in itertools.islice(both, 50):
            pass
        assert alive() - kept <= 2

        del both
        assert trace.get_current_span() is trace.get_current_span(before)
    assert alive() == kept


def test_a_scope_is_freed_without_the_collector(flows: Captured) -> None:
    kept = alive()
    gc.disable()
    try:
        with tracekit.process(record("a")):
            pass
        assert sum(isinstance(one, Nested) for one in gc.get_objects()) == kept
    finally:
        gc.enable()


def test_loops_in_step_share_no_trace(flows: Captured) -> None:
    for _ in zip(itertools.islice(loop("a"), 51), loop("b"), strict=False):
        pass

    assert len({span.trace_id for span in flows.spans if span.name == "process a"}) == 51


def test_what_is_left_from_below_is_never_current_again(flows: Captured) -> None:
    before = otel.get_current()
    turns = loop("a")
    next(turns)
    with tracekit.process_batch([record("b"), record("b")]):
        next(turns)  # its first turn has ended, in the block that stands above it
        del turns

    assert otel.get_current() == before


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


class InterruptingError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("scope", [tracekit.process, lambda one: tracekit.process_batch([one])])
def test_a_span_ends_whatever_its_error_is(scope: Callable[[Any], Any], flows: Captured) -> None:
    with pytest.raises(KeyboardInterrupt), scope(record("a")):
        raise InterruptingError

    assert [span.name for span in flows.spans] == ["process a"]


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
