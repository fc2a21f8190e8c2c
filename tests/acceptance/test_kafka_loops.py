"""Loops over a Kafka consumer: each turn is the processing of its message, however the loop is left."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from kafka.errors import IllegalStateError
from opentelemetry import baggage, trace
from opentelemetry import context as otel

import tracekit
from tests.acceptance.kafka_rig import (
    CONSUMER,
    SERVER,
    SPAN,
    TRACE,
    answered,
    context_headers,
    links_of,
    measures,
    named,
    parent_of,
    points,
    the,
    where,
)
from tracekit.messaging.nesting import unleaked
from tracekit.model import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.kafka_rig import Topic
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")


def plain(consumer: Any) -> Iterator[Any]:
    """`for message in consumer`"""
    return iter(consumer)


def consuming(consumer: Any) -> Iterator[Any]:
    """`for message in consuming(consumer)`"""
    return iter(tracekit.consuming(consumer))


LOOPS: dict[str, Callable[[Any], Iterator[Any]]] = {"plain": plain, "consuming": consuming}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Callable[[Any], Iterator[Any]]:
    found: Callable[[Any], Iterator[Any]] = LOOPS[request.param]
    return found


# -- a turn -------------------------------------------------------------------------------------------


def test_case_17_the_body_of_a_loop_works_inside_the_span_of_its_message(
    topic: Topic, loop: Callable[[Any], Iterator[Any]], flows: Captured
) -> None:
    topic.put(b"first", b"second", b"third", headers=context_headers(baggage="tenant=north"))
    before = otel.get_current()
    records: list[Any] = []

    for record in loop(topic.consumer()):
        records.append(record)
        with tracer.start_as_current_span("work"):
            assert baggage.get_baggage("tenant") == "north"
        if len(records) == 3:
            break

    assert otel.get_current() is before
    turns, work = named(flows, f"process {topic.name}"), named(flows, "work")
    assert [where(turn) for turn in turns] == [parent_of(each) for each in work]
    assert [dict(turn.attributes) for turn in turns] == [topic.processed(each, TRACE) for each in records]
    assert {(turn.kind, parent_of(turn), *links_of(turn)) for turn in turns} == {
        (CONSUMER, (TRACE, SPAN), (TRACE, SPAN))
    }
    for turn, each in zip(turns, work, strict=True):
        assert turn.start_ns <= each.start_ns <= (each.end_ns or 0) <= (turn.end_ns or 0)
    for turn, following in itertools.pairwise(turns):
        assert (turn.end_ns or 0) <= following.start_ns


def test_case_17_waiting_for_the_next_message_is_no_part_of_a_turn(topic: Topic, flows: Captured) -> None:
    topic.put(b"first")
    turns = functools.partial(named, flows, f"process {topic.name}")

    def send_once_the_first_turn_has_ended() -> None:
        flows.wait_for(lambda: len(turns()) == 1, says="the end of the first turn")
        topic.put(b"second")

    sender = threading.Thread(target=send_once_the_first_turn_has_ended)
    values = []
    for record in topic.consumer():
        values.append(record.value)
        if len(values) == 2:
            break
        sender.start()
    sender.join()

    assert values == [b"first", b"second"]
    assert len(turns()) == 2


def test_case_17_the_end_of_the_iteration_is_no_failure(topic: Topic, flows: Captured) -> None:
    topic.put(b"first")

    consumer = topic.consumer()
    for _ in consumer:
        consumer.config["consumer_timeout_ms"] = 100  # the loop ends when nothing comes for so long

    assert the(flows, f"process {topic.name}").status is Status.UNSET
    durations = measures(flows, "messaging.client.operation.duration")
    assert not [each for each in durations if "error.type" in each.attributes]


def test_case_17_a_loop_inside_an_ambient_span_has_its_turns_below_it(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())

    with tracer.start_as_current_span("job"):
        for _ in topic.consumer():
            break
        topic.send()

    turn, job = the(flows, f"process {topic.name}"), the(flows, "job")
    assert (parent_of(turn), links_of(turn)) == (where(job), [(TRACE, SPAN)])
    assert parent_of(the(flows, f"send {topic.name}")) == where(job)


def test_case_17_a_loop_goes_on_where_the_one_before_was_left(
    topic: Topic, loop: Callable[[Any], Iterator[Any]], flows: Captured
) -> None:
    topic.put(b"first", b"second")
    consumer = topic.consumer()

    values = []
    for _ in range(2):
        for record in loop(consumer):
            values.append(record.value)
            break

    assert values == [b"first", b"second"]
    assert len(named(flows, f"process {topic.name}")) == 2


def test_a_loop_in_a_loop_has_its_turns_inside_those_of_the_other(topic: Topic, flows: Captured) -> None:
    inner_topic = topic.kafka.topic("lines")
    answered(topic.producer.send(inner_topic, b"a line"))
    topic.put(b"first")
    inner = topic.kafka.consumer(inner_topic)

    for _ in topic.consumer():
        for _ in inner:
            break
        topic.send()
        break

    outer = the(flows, f"process {topic.name}")
    assert parent_of(the(flows, f"send {topic.name}")) == where(outer)
    assert parent_of(the(flows, f"process {inner_topic}")) == where(outer)


# -- how it is left -----------------------------------------------------------------------------------


def test_case_19_an_exception_in_the_body_is_an_error_of_its_message(topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())
    consumer = topic.consumer()
    before = otel.get_current()
    error = ValueError("no such order")

    def work() -> None:
        with tracekit.consuming(consumer) as messages:
            for _ in messages:
                raise error

    with pytest.raises(ValueError, match="no such order") as raised:
        work()

    assert raised.value is error
    assert otel.get_current() is before
    turn = the(flows, f"process {topic.name}")
    assert (turn.status, turn.attributes["error.type"]) == (Status.ERROR, "ValueError")
    assert [each.attributes.get("error.type") for each in measures(flows, "messaging.process.duration")] == [
        "ValueError"
    ]


def test_case_19_leaving_the_block_ends_the_turn(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    consumer = topic.consumer()
    before = otel.get_current()

    with tracekit.consuming(consumer) as messages:
        for _ in messages:
            break
        assert named(flows, f"process {topic.name}") == []  # it is in the variable: until the block ends
    after = otel.get_current()

    assert after is before
    turn = the(flows, f"process {topic.name}")
    assert (turn.status, turn.attributes.get("tracekit.leaked")) == (Status.UNSET, None)


def test_case_19_a_plain_loop_that_is_left_by_an_exception_has_ended_its_turn(
    topic: Topic, flows: Captured
) -> None:
    topic.put(headers=context_headers())
    consumer = topic.consumer()
    before = otel.get_current()

    def work() -> None:
        for _ in consumer:
            raise ValueError("no such order")

    with contextlib.suppress(ValueError):  # its traceback holds the frame, the frame the iterator
        work()

    assert otel.get_current() is before
    assert the(flows, f"process {topic.name}").attributes.get("tracekit.leaked") is None


def for_break(consumer: Any) -> None:
    for _ in consumer:
        break


def for_return(consumer: Any) -> None:
    for _ in consumer:
        return


def islice(consumer: Any) -> None:
    for _ in itertools.islice(consumer, 1):
        pass


def enumerated(consumer: Any) -> None:
    for number, _ in enumerate(consumer):
        if number == 0:
            break


def generator(consumer: Any) -> None:
    values = (record.value for record in consumer)
    assert next(values) == b"first"
    values.close()


async def in_a_task(consumer: Any) -> None:
    for _ in consumer:
        await asyncio.sleep(0)
        break


LEFT = [
    for_break,
    for_return,
    islice,
    enumerated,
    generator,
    lambda consumer: asyncio.run(in_a_task(consumer)),
]


@pytest.mark.parametrize("leave", LEFT, ids=["break", "return", "islice", "enumerate", "generator", "task"])
def test_case_49_however_a_plain_loop_is_left_its_turn_has_ended(
    topic: Topic, leave: Callable[[Any], None], flows: Captured
) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    consumer = topic.consumer()
    before = otel.get_current()

    leave(consumer)

    assert otel.get_current() is before
    turn = the(flows, f"process {topic.name}")
    assert (turn.status, turn.attributes.get("tracekit.leaked")) == (Status.UNSET, None)


# -- an iterator that outlives its loop ---------------------------------------------------------------


def leaked(consumer: Any) -> Iterator[Any]:
    """A loop that was left with its iterator kept."""
    messages: Iterator[Any] = iter(consumer)
    for _ in messages:
        break
    return messages


def in_its_own_context(work: Callable[[], None]) -> None:
    """What leaks there is gone with it: a test must not leave anything current."""
    contextvars.copy_context().run(work)


@pytest.mark.parametrize("way", ["poll", "next", "iter", "consuming"])
def test_case_49_a_leaked_turn_ends_with_the_next_thing_received(
    topic: Topic, way: str, flows: Captured
) -> None:
    topic.put(b"first", b"second", headers=context_headers())
    consumer = topic.consumer()
    kept: list[Any] = []

    def work() -> None:
        before = otel.get_current()
        kept.append(leaked(consumer))
        assert otel.get_current() is not before  # nobody can know yet
        if way == "poll":
            consumer.poll(timeout_ms=10_000)
        elif way == "next":
            next(consumer)
        else:
            kept.append(LOOPS["plain" if way == "iter" else way](consumer))
        assert otel.get_current() is before
        topic.send()

    in_its_own_context(work)

    turn = the(flows, f"process {topic.name}")
    assert turn.attributes["tracekit.leaked"] is True
    assert the(flows, f"send {topic.name}").parent_id is None
    assert points(flows, "messaging.process.duration") == []  # it says nothing about the work
    kept.clear()
    assert len(named(flows, f"process {topic.name}")) == 1


def test_case_49_a_leaked_turn_is_never_the_parent_of_the_next_one(topic: Topic, flows: Captured) -> None:
    topic.put(b"first")
    topic.put(b"second", headers=context_headers())
    consumer = topic.consumer()

    def work() -> None:
        kept = leaked(consumer)
        for _ in consumer:
            break
        del kept

    in_its_own_context(work)

    first, second = named(flows, f"process {topic.name}")
    assert first.attributes["tracekit.leaked"] is True
    assert (parent_of(second), second.attributes.get("tracekit.leaked")) == ((TRACE, SPAN), None)


async def request(app: FastAPI, path: str) -> int:
    """A request as a server hands it over. Not by a client: that one would be traced."""
    answers: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
    }
    await app(scope, receive, send)
    status: int = answers[0]["status"]
    return status


def test_case_49_a_leaked_turn_is_never_the_parent_of_a_request(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", headers=context_headers())
    consumer = topic.consumer()
    app = FastAPI()

    @app.get("/orders")
    async def orders() -> int:
        topic.producer.send(topic.name, b"an order")
        return 7

    def work() -> None:
        kept = leaked(consumer)
        for _ in range(2):
            assert asyncio.run(request(app, "/orders")) == 200
        del kept

    in_its_own_context(work)
    topic.producer.flush()

    turn = the(flows, f"process {topic.name}")
    requests, sends = named(flows, "GET /orders"), named(flows, f"send {topic.name}")
    assert turn.attributes["tracekit.leaked"] is True
    assert [(each.kind, each.parent_id) for each in requests] == [(SERVER, None)] * 2
    assert [parent_of(each) for each in sends] == [where(each) for each in requests]
    assert {each.attributes["tracekit.flow.id"] for each in requests}.isdisjoint({TRACE})


# -- what the client still does -----------------------------------------------------------------------


def test_a_bare_next_is_a_receive(topic: Topic, flows: Captured) -> None:
    topic.put(b"first")
    before = otel.get_current()

    record = next(topic.consumer())

    assert (record.value, otel.get_current()) == (b"first", before)
    assert flows.spans == ()
    labels = topic.labels("receive", "poll", messaging_consumer_group_name=topic.group)
    assert points(flows, "messaging.client.consumed.messages") == [(labels, 1, 0)]


def test_a_closed_consumer_raises_as_without_us(topic: Topic, flows: Captured) -> None:
    consumer = topic.consumer()
    consumer.close()

    with pytest.raises(IllegalStateError, match="KafkaConsumer is closed"):
        consumer.poll()

    labels = topic.labels("receive", "poll", messaging_consumer_group_name=topic.group)
    del labels["messaging.destination.name"]
    ((found, _, count),) = points(flows, "messaging.client.operation.duration")
    assert (found, count) == ({**labels, "error.type": "IllegalStateError"}, 1)


# -- turns that are processed elsewhere ---------------------------------------------------------------


async def _handled(record: Any, error: Exception | None = None) -> None:
    async with tracekit.process(record):
        await asyncio.sleep(0.02)
        with tracer.start_as_current_span(f"work {record.value.decode()}"):
            pass
        if error is not None:
            raise error


def test_a_task_that_a_turn_gave_its_message_to_says_when_and_how_it_ended(
    topic: Topic, flows: Captured
) -> None:
    topic.put(b"first", b"second", b"third", headers=context_headers())

    async def main() -> None:
        tasks = []
        for record in topic.consumer():
            error = ValueError("no such order") if record.value == b"second" else None
            tasks.append(asyncio.create_task(_handled(record, error)))
            await asyncio.sleep(0)  # the task enters its block
            if len(tasks) == 3:
                break
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    spans = named(flows, f"process {topic.name}")

    assert [span.status for span in spans] == [Status.UNSET, Status.ERROR, Status.UNSET]
    assert [span.attributes.get("error.type") for span in spans] == [None, "ValueError", None]
    assert min((span.end_ns or 0) - span.start_ns for span in spans) >= 20_000_000
    assert [the(flows, f"work {name}").parent_id for name in ("first", "second", "third")] == [
        span.span_id for span in spans
    ]
    assert sum(count for _, _, count in points(flows, "messaging.process.duration")) == 3


def test_of_two_that_process_one_message_each_has_a_span(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", headers=context_headers())

    async def main() -> None:
        for record in topic.consumer():
            both = [_handled(record), _handled(record, ValueError("no such order"))]
            await asyncio.gather(*both, return_exceptions=True)
            break

    asyncio.run(main())
    spans = named(flows, f"process {topic.name}")

    assert sorted(str(span.attributes.get("error.type")) for span in spans) == ["None", "ValueError"]
    assert min((span.end_ns or 0) - span.start_ns for span in spans) >= 20_000_000


def test_a_turn_that_a_block_is_bound_to_end_is_no_leaked_one(topic: Topic, flows: Captured) -> None:
    topic.put(b"first", headers=context_headers())

    for record in topic.consumer():
        with contextlib.suppress(ValueError), tracekit.process(record):
            here = otel.get_current()
            assert unleaked(here) is here  # where a request is served in this process
            raise ValueError("no such order")
        break

    (span,) = named(flows, f"process {topic.name}")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ValueError")
    assert "tracekit.leaked" not in span.attributes


def test_what_the_consumer_has_its_iterator_has_too(topic: Topic, flows: Captured) -> None:
    topic.put(b"first")
    messages: Any = iter(topic.consumer())

    next(messages)
    messages.commit()

    assert messages.assignment()
    with pytest.raises(AttributeError):
        messages.no_such_thing  # noqa: B018
    del messages
    assert [span.name for span in flows.spans if span.name.startswith("commit")] == [f"commit {topic.name}"]
