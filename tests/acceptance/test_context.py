"""Context where Python does not carry it: threads, executors, queues, tasks, generators, processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import inspect
import logging
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind

import tracekit
from tests.acceptance import spawned
from tests.acceptance.http_rig import parent_of, serving, telemetry
from tests.acceptance.kafka_rig import Topic, context_headers
from tracekit.model import Kind, Status
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.brokers import Kafka
    from tracekit.model import Span
    from tracekit.testing import Captured, FlowSink

PATIENCE_S: Final = 10
MESSAGES: Final = 1_000
EITHER: Final = pytest.mark.parametrize("make", [queue.Queue, asyncio.Queue], ids=["threads", "asyncio"])


def tracer() -> trace.Tracer:
    return trace.get_tracer("program")


@contextmanager
def request(name: str, user: str = "") -> Iterator[str]:
    """Something of the application's under way, with baggage: its span's id."""
    token = otel.attach(baggage.set_baggage("user", user)) if user else None
    try:
        with tracer().start_as_current_span(name) as span:
            yield trace.format_span_id(span.get_span_context().span_id)
    finally:
        if token is not None:
            otel.detach(token)


def here() -> tuple[str, object]:
    """The current span's id, and the user in its baggage."""
    context = trace.get_current_span().get_span_context()
    return trace.format_span_id(context.span_id), baggage.get_baggage("user")


NOWHERE: Final = (trace.format_span_id(0), None)


def named(flows: Captured | FlowSink, name: str) -> Span:
    (span,) = [span for span in flows.spans if span.name == name]
    return span


# -- threads and executors --------------------------------------------------------------------------


def by_submit() -> Any:
    with tracekit.ContextExecutor() as pool:
        return pool.submit(here).result(PATIENCE_S)


def by_map() -> Any:
    with tracekit.ContextExecutor() as pool:
        return next(iter(pool.map(lambda _: here(), [1])))


def by_run_in_executor() -> Any:
    async def run() -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, here)

    with tracekit.ContextExecutor() as pool:
        return asyncio.run(run())


def by_any_executor() -> Any:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return pool.submit(tracekit.carry(here)).result(PATIENCE_S)


def in_thread(start: Callable[[Callable[[], None]], threading.Thread]) -> Any:
    seen: list[Any] = []
    thread = start(tracekit.carry(lambda: seen.append(here())))
    thread.start()
    thread.join(PATIENCE_S)
    return seen[0]


def by_thread() -> Any:
    return in_thread(lambda run: threading.Thread(target=run))


def by_timer() -> Any:
    return in_thread(lambda run: threading.Timer(0, run))


def by_done_callback() -> Any:
    seen: list[Any] = []
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.add_done_callback(tracekit.carry(lambda _: seen.append(here())))
    thread = threading.Thread(target=future.set_result, args=(None,))
    thread.start()
    thread.join(PATIENCE_S)
    return seen[0]


def by_to_thread() -> Any:
    return asyncio.run(asyncio.to_thread(here))


def by_task_elsewhere() -> Any:
    async def work() -> Any:
        await asyncio.sleep(0)
        return here()

    carried = tracekit.carry(work)
    return contextvars.Context().run(asyncio.run, awaited(carried))


async def awaited(function: Callable[[], Awaitable[Any]]) -> Any:
    return await function()


WAYS: Final = [
    by_submit,
    by_map,
    by_run_in_executor,
    by_any_executor,
    by_thread,
    by_timer,
    by_done_callback,
    by_to_thread,
    by_task_elsewhere,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_case_41_span_and_baggage_are_there(way: Callable[[], Any], flows: Captured) -> None:
    with request("request", "ada") as span_id:
        seen = way()

    assert seen == (span_id, "ada")
    assert here() == NOWHERE


def test_threads_and_pools_that_nobody_carries_into_are_left_alone(flows: Captured) -> None:
    seen: list[Any] = []
    with request("request", "ada"):
        thread = threading.Thread(target=lambda: seen.append(here()))
        thread.start()
        thread.join(PATIENCE_S)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            seen.append(pool.submit(here).result(PATIENCE_S))

    assert seen == [NOWHERE, NOWHERE]


def test_case_41_two_concurrent_submits_do_not_share_a_context(flows: Captured) -> None:
    both = threading.Barrier(2)

    def change(name: str) -> object:
        otel.attach(baggage.set_baggage("user", name))
        both.wait(PATIENCE_S)  # both are inside now
        return baggage.get_baggage("user")

    with request("request", "ada"), tracekit.ContextExecutor(2) as pool:
        first, second = pool.submit(change, "one"), pool.submit(change, "two")
        seen = [first.result(PATIENCE_S), second.result(PATIENCE_S)]
        after = pool.submit(here).result(PATIENCE_S)[1]

    assert seen == ["one", "two"]
    assert after == "ada"


def test_calls_of_one_carried_function_may_overlap(flows: Captured) -> None:
    both = threading.Barrier(2)

    def work() -> tuple[str, object]:
        both.wait(PATIENCE_S)
        return here()

    with request("request", "ada") as span_id:
        carried = tracekit.carry(work)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(carried), pool.submit(carried)
        assert [one.result(PATIENCE_S), two.result(PATIENCE_S)] == [(span_id, "ada")] * 2


def test_what_carries_keeps_arguments_result_and_error(flows: Captured) -> None:
    error = ValueError("no such order")

    def work(number: int, *, fail: bool = False) -> int:
        """Charge it."""
        if fail:
            raise error
        return number + 1

    carried = tracekit.carry(work)

    assert carried(6) == 7
    with pytest.raises(ValueError, match="no such order") as raised:
        carried(6, fail=True)
    assert raised.value is error
    assert (carried.__name__, carried.__doc__) == ("work", "Charge it.")


def test_a_carried_coroutine_can_be_cancelled_where_it_waits(flows: Captured) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main() -> None:
        task = asyncio.ensure_future(tracekit.carry(work)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert ended == ["cancelled"]


async def work_here() -> tuple[str, object]:
    await asyncio.sleep(0)
    return here()


@pytest.mark.parametrize("function", [work_here, lambda: work_here()], ids=["async", "plain"])
def test_a_carried_coroutine_becomes_a_task(function: Callable[[], Any], flows: Captured) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        elsewhere = asyncio.run_coroutine_threadsafe(carried(), loop)
        return [await asyncio.create_task(carried()), await asyncio.wrap_future(elsewhere)]

    with request("request", "ada") as span_id:
        carried = tracekit.carry(function)

    assert inspect.iscoroutinefunction(carried) is inspect.iscoroutinefunction(function)
    assert contextvars.Context().run(asyncio.run, main()) == [(span_id, "ada")] * 2


def test_what_a_carried_coroutine_changes_the_next_does_not_see(flows: Captured) -> None:
    async def change(name: str) -> object:
        before = baggage.get_baggage("user")
        otel.attach(baggage.set_baggage("user", name))
        return before

    async def main() -> list[object]:
        return [await carried("one"), await carried("two")]

    with request("request", "ada"):
        carried = tracekit.carry(change)

    assert asyncio.run(main()) == ["ada", "ada"]


def test_a_task_that_a_carried_function_gives_is_that_task(flows: Captured) -> None:
    async def main() -> Any:
        task = tracekit.carry(asyncio.get_running_loop().create_task)(work_here())
        assert isinstance(task, asyncio.Task)
        return await task

    assert asyncio.run(main()) == NOWHERE


def test_an_awaitable_that_is_no_coroutine_is_given_as_it_is(flows: Captured) -> None:
    class Connecting:
        """Awaited, or entered by `async with`, as clients of databases and HTTP have it."""

        def __await__(self) -> Any:
            return (yield from asyncio.sleep(0, "connected").__await__())

        async def __aenter__(self) -> Any:
            return await self

        async def __aexit__(self, *_: object) -> None:
            return None

    async def main() -> list[str]:
        connect = tracekit.carry(Connecting)
        async with connect() as entered:
            return [entered, await connect()]

    assert asyncio.run(main()) == ["connected"] * 2


def test_a_carried_coroutine_that_was_cancelled_leaves_no_cycle(flows: Captured) -> None:
    async def main() -> weakref.ref[BaseException]:
        task = asyncio.ensure_future(tracekit.carry(asyncio.Event().wait)())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return weakref.ref(error)
        raise AssertionError("it was not cancelled")

    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()


# -- headers ----------------------------------------------------------------------------------------

OLD: Final = f"00-{'1' * 32}-{'2' * 16}-01"


def test_a_context_header_is_replaced_in_whatever_case_it_is_spelled(flows: Captured) -> None:
    with request("request") as span_id:
        headers: Any = tracekit.inject({"Traceparent": OLD, "Tenant": "north"})

    assert headers["Tenant"] == "north"
    (traceparent,) = [text for name, text in headers.items() if name.lower() == "traceparent"]
    assert span_id in traceparent


def test_names_that_are_bytes_stay_bytes(flows: Captured) -> None:
    given: Any = [(b"TraceParent", OLD.encode()), (b"tenant", b"north")]
    with request("request") as span_id:
        headers: Any = tracekit.inject(given)

    assert headers[0] == (b"tenant", b"north")
    assert all(isinstance(name, bytes) and isinstance(value, bytes) for name, value in headers)
    (traceparent,) = [value for name, value in headers if name == b"traceparent"]
    assert span_id.encode() in traceparent


# -- workers that belong to nobody ------------------------------------------------------------------


def test_a_detached_thread_keeps_other_variables_and_leaves_span_and_baggage(flows: Captured) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("north")
    seen: list[Any] = []

    with request("request", "ada"):
        thread = tracekit.spawn_detached(lambda name: seen.append((here(), tenant.get(), name)), "worker")
        thread.join(PATIENCE_S)

    assert seen == [(NOWHERE, "north", "worker")]
    assert thread.daemon


def test_a_detached_task_is_kept_until_it_is_done(flows: Captured) -> None:
    async def work(go: asyncio.Event) -> tuple[str, object]:
        await go.wait()
        return here()

    async def main() -> tuple[str, object]:
        go = asyncio.Event()
        with request("request", "ada"):
            task = tracekit.spawn_detached(work(go))
        gc.collect()
        go.set()
        return await task

    assert asyncio.run(main()) == NOWHERE


def test_a_detached_task_that_nothing_else_holds_is_not_collected() -> None:
    async def work(waiting: list[weakref.ref[asyncio.Future[str]]]) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting.append(weakref.ref(future))
        done.append(await future)
        return done[0]

    async def main() -> None:
        waiting: list[weakref.ref[asyncio.Future[str]]] = []
        tracekit.spawn_detached(work(waiting))
        await asyncio.sleep(0)
        gc.collect()
        future = waiting[0]()
        assert future is not None
        future.set_result("done")
        for _ in range(3):
            await asyncio.sleep(0)

    done: list[str] = []
    asyncio.run(main())

    assert done == ["done"]


def test_a_coroutine_is_not_detached_where_no_loop_runs() -> None:
    coroutine = work_here()

    with pytest.raises(RuntimeError, match="no running event loop"):
        tracekit.spawn_detached(coroutine)

    coroutine.close()


# -- queues -----------------------------------------------------------------------------------------


async def put(jobs: tracekit.TracedQueue[Any], item: object) -> None:
    """Put it, whichever queue it is."""
    done = jobs.put(item)
    if done is not None:
        await done


class Taken:
    """`with` or `async with`, as the queue inside has it."""

    def __init__(self, jobs: tracekit.TracedQueue[Any]) -> None:
        self.scope: Any = jobs.item(PATIENCE_S)
        self.is_async = isinstance(jobs.inner, asyncio.Queue)

    async def __aenter__(self) -> Any:
        return await self.scope.__aenter__() if self.is_async else self.scope.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        if self.is_async:
            await self.scope.__aexit__(*error)
        else:
            self.scope.__exit__(*error)


@EITHER
def test_an_item_is_processed_in_the_flow_of_whoever_put_it_there(
    make: Callable[[], Any], flows: Captured
) -> None:
    async def main() -> str:
        jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(make(), name="mails")
        with request("request", "ada") as put_by:
            await put(jobs, "mail")
        async with Taken(jobs) as item:
            assert item == "mail"
            assert here()[1] == "ada"
        assert here() == NOWHERE
        assert (
            jobs.inner._unfinished_tasks == 0 if make is asyncio.Queue else jobs.inner.unfinished_tasks == 0
        )
        return put_by

    put_by = asyncio.run(main())

    span, caller = named(flows, "process mails"), named(flows, "request")
    assert (span.kind, span.trace_id, span.parent_id) == (Kind.CONSUMER, caller.trace_id, put_by)
    assert [(link.trace_id, link.span_id) for link in span.links] == [(caller.trace_id, put_by)]
    assert span.attributes["tracekit.flow.id"] == caller.trace_id
    expected = {
        "messaging.system": "python_queue",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mails",
        "tracekit.messaging.published_at.source": "broker",
    }
    assert {name: span.attributes.get(name) for name in expected} == expected
    (wait,) = flows.metrics["tracekit.messaging.queue.duration"]
    assert (wait.unit, wait.count, wait.attributes["tracekit.messaging.wait.source"]) == ("s", 1, "broker")
    (work,) = flows.metrics["messaging.process.duration"]
    assert work.count == 1


@pytest.mark.parametrize(
    ("rule", "parent", "links"),
    [
        ("auto", "ambient", ["request"]),
        ("message", "request", ["request", "ambient"]),
        ("link", None, ["request"]),
    ],
)
def test_the_parent_rule_is_that_of_brokers(rule: str, parent: str | None, links: list[str]) -> None:
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="mails")
    with capture(parent=rule) as flows:
        with request("request"):
            jobs.put("mail")
        with request("ambient"), jobs.item(PATIENCE_S):
            pass

    ids = {span.span_id: span.name for span in flows.spans}
    span = named(flows, "process mails")
    assert ids.get(span.parent_id or "") == parent
    assert [ids[link.span_id] for link in span.links] == links
    assert span.attributes["tracekit.flow.id"] == named(flows, "request").trace_id


@pytest.mark.parametrize("detached", [True, False], ids=["detached", "outlives its request"])
def test_case_42_a_worker_born_in_one_request_serves_each_item_in_its_own_flow(
    detached: bool, flows: Captured
) -> None:
    async def drain(jobs: tracekit.TracedQueue[str]) -> None:
        for _ in range(2):
            async with jobs.item(PATIENCE_S) as item:
                with tracer().start_as_current_span(f"work for {item}"):
                    await asyncio.sleep(0)

    async def main() -> None:
        jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(asyncio.Queue(), name="jobs")
        with request("A"):
            worker = tracekit.spawn_detached(drain(jobs)) if detached else asyncio.create_task(drain(jobs))
            if detached:
                await jobs.put("A")
                await jobs.inner.join()  # served while A is still under way
        if not detached:
            with request("other"):
                await jobs.put("A")
        with request("B"):
            await jobs.put("B")
        await asyncio.wait_for(worker, PATIENCE_S)

    asyncio.run(main())

    assert named(flows, "work for B").trace_id == named(flows, "B").trace_id
    assert named(flows, "work for A").trace_id == named(flows, "A" if detached else "other").trace_id


@EITHER
def test_what_fails_in_the_block_is_an_error_of_its_item(make: Callable[[], Any], flows: Captured) -> None:
    error = ValueError("no such mail")

    async def main() -> None:
        jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(make(), name="mails")
        await put(jobs, "mail")
        async with Taken(jobs):
            raise error

    with pytest.raises(ValueError, match="no such mail") as raised:
        asyncio.run(main())

    assert raised.value is error
    span = named(flows, "process mails")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ValueError")
    (work,) = flows.metrics["messaging.process.duration"]
    assert work.attributes["error.type"] == "ValueError"


def test_case_52_a_cancelled_item_has_neither_done_nor_failed(flows: Captured) -> None:
    async def work(jobs: tracekit.TracedQueue[str], begun: asyncio.Event) -> None:
        async with jobs.item():
            begun.set()
            await asyncio.Event().wait()

    async def main() -> None:
        jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(asyncio.Queue(), name="mails")
        begun = asyncio.Event()
        task = asyncio.create_task(work(jobs, begun))
        await jobs.put("mail")
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await jobs.inner.join()

    asyncio.run(main())

    span = named(flows, "process mails")
    assert (span.status, span.attributes["tracekit.cancelled"]) == (Status.UNSET, True)
    assert "error.type" not in flows.metrics["messaging.process.duration"][0].attributes


def test_an_empty_queue_says_so_in_its_own_way(flows: Captured) -> None:
    async def main() -> None:
        jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(asyncio.Queue())
        with pytest.raises(TimeoutError):
            async with jobs.item(0.001):
                pass

    asyncio.run(main())
    plain: tracekit.TracedQueue[str] = tracekit.TracedQueue()
    with pytest.raises(queue.Empty), plain.item(0.001):
        pass
    with pytest.raises(queue.Empty):
        plain.get_nowait()

    assert flows.spans == ()


def test_without_a_scope_items_come_as_they_went_in(flows: Captured) -> None:
    plain: tracekit.TracedQueue[object] = tracekit.TracedQueue()
    item = ("an order", 7)

    async def main() -> None:
        jobs: tracekit.TracedQueue[object] = tracekit.TracedQueue(asyncio.Queue())
        await jobs.put(item)
        jobs.put_nowait(item)
        assert await jobs.get() is item
        assert jobs.get_nowait() is item

    plain.put(item, timeout=PATIENCE_S)
    plain.put_nowait(item)
    assert plain.qsize() == 2
    assert plain.get(timeout=PATIENCE_S) is item
    assert plain.get_nowait() is item
    asyncio.run(main())
    assert flows.spans == ()


@EITHER
def test_an_item_that_was_put_without_us_begins_a_healthy_flow(
    make: Callable[[], Any], flows: Captured
) -> None:
    items = ["mail", ("a", "b"), ("a", "b", 3)]

    async def main() -> list[object]:
        inner = make()
        for item in items:
            inner.put_nowait(item)
        jobs: tracekit.TracedQueue[object] = tracekit.TracedQueue(inner, name="mails")
        async with Taken(jobs) as first:
            pass
        second = jobs.get()
        return [first, await second if make is asyncio.Queue else second, jobs.get_nowait()]

    taken = asyncio.run(main())

    assert all(one is item for one, item in zip(taken, items, strict=True))
    flow = flows.flow()
    flow.assert_complete()
    assert (flow.name, len(flow.spans)) == ("process mails", 1)
    assert "tracekit.messaging.queue.duration" not in flows.metrics


@pytest.mark.parametrize("make", [queue.PriorityQueue, asyncio.PriorityQueue], ids=["threads", "asyncio"])
def test_a_priority_queue_orders_the_items_themselves(make: Callable[[], Any], flows: Captured) -> None:
    async def main() -> list[object]:
        inner = make()
        for urgency in (5, 1):
            inner.put_nowait((urgency, "bare"))
        jobs: tracekit.TracedQueue[object] = tracekit.TracedQueue(inner, name="mails")
        for urgency in (4, 2, 6, 3):
            jobs.put_nowait((urgency, "put"))
        jobs.put_nowait((3, "put"))  # as urgent as another
        return [jobs.get_nowait() for _ in range(7)]

    assert asyncio.run(main()) == [
        (1, "bare"),
        (2, "put"),
        (3, "put"),
        (3, "put"),
        (4, "put"),
        (5, "bare"),
        (6, "put"),
    ]


def test_an_item_that_was_put_outside_of_any_span_begins_a_healthy_flow(flows: Captured) -> None:
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="mails")
    jobs.put("mail")

    with jobs.item(PATIENCE_S):
        pass

    flow = flows.flow()
    flow.assert_complete()
    assert (flow.name, len(flow.spans)) == ("process mails", 1)
    assert flows.metrics["tracekit.messaging.queue.duration"][0].count == 1


def test_what_is_put_without_waiting_is_in_its_flow_too(flows: Captured) -> None:
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="mails")
    with request("request") as put_by:
        jobs.put_nowait("mail")
    with jobs.item(PATIENCE_S):
        pass

    assert named(flows, "process mails").parent_id == put_by


def test_an_item_leaves_no_span_where_instrumentation_is_suppressed(flows: Captured) -> None:
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="mails")
    jobs.put("mail")
    with suppress_instrumentation(), jobs.item(PATIENCE_S) as item:
        assert item == "mail"

    assert flows.spans == ()


def test_a_queue_works_where_nothing_is_configured() -> None:
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue()
    jobs.put("mail")

    with jobs.item(PATIENCE_S) as item:
        assert item == "mail"
    jobs.join()


# -- a consumer that polls in a thread --------------------------------------------------------------


def test_case_32_what_is_polled_in_a_thread_is_processed_in_the_task(
    topic: Topic, flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "opentelemetry")
    contexts = [(f"{number + 1:032x}", f"{number + 1:016x}") for number in range(MESSAGES)]
    for trace_id, span_id in contexts:
        headers = context_headers(f"00-{trace_id}-{span_id}-01")
        topic.producer.send(topic.name, b"an order", headers=headers, partition=0)
    topic.producer.flush(PATIENCE_S)
    sent = {span.span_id: span.links[0].span_id for span in flows.spans}
    assert len(sent) == MESSAGES
    consumer = topic.consumer(max_poll_records=100)

    async def main() -> int:
        handled = 0
        while handled < MESSAGES:
            for records in (await asyncio.to_thread(consumer.poll, PATIENCE_S * 1000)).values():
                for record in records:
                    async with tracekit.process(record):
                        with tracer().start_as_current_span("work"):
                            await asyncio.sleep(0)
                    assert here() == NOWHERE
                    handled += 1
        return handled

    assert asyncio.run(main()) == MESSAGES

    processed = {span.span_id: span for span in flows.spans if span.kind is Kind.CONSUMER}
    assert sorted((span.trace_id, span.parent_id) for span in processed.values()) == contexts
    assert all([link.span_id for link in span.links] == [span.parent_id] for span in processed.values())
    work = [span for span in flows.spans if span.name == "work"]
    assert len(work) == MESSAGES
    assert all(processed[span.parent_id or ""].trace_id == span.trace_id for span in work)
    assert [record for record in caplog.records if "detach" in record.getMessage().lower()] == []


# -- what a handler begins and does not wait for ------------------------------------------------------


@pytest.mark.parametrize("way", ["task", "thread"])
def test_what_outlives_its_handler_sends_in_its_flow(way: str, topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())
    (record,) = topic.polled(1)
    further: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="further")

    go = threading.Event()

    def later() -> None:
        assert go.wait(PATIENCE_S)
        topic.producer.send(topic.name, b"an order").get(PATIENCE_S)
        further.put("a mail")

    async def later_async() -> None:
        while not go.is_set():
            await asyncio.sleep(0)
        later()

    async def main() -> None:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            async with tracekit.process(record):
                if way == "task":
                    begun: Any = asyncio.create_task(later_async())
                else:
                    begun = asyncio.wrap_future(pool.submit(tracekit.carry(later)))
            go.set()  # the processing has ended
            await begun

    asyncio.run(main())
    with further.item(PATIENCE_S):
        pass

    ended = named(flows, f"process {topic.name}")
    sent, taken = named(flows, f"send {topic.name}"), named(flows, "process further")
    assert [(one.trace_id, one.parent_id) for one in (sent, taken)] == [(ended.trace_id, ended.span_id)] * 2
    assert {span.attributes["tracekit.flow.id"] for span in flows.spans} == {ended.trace_id}


@pytest.mark.parametrize("elsewhere", [True, False], ids=["ended elsewhere", "ended there"])
def test_a_turn_that_leaked_is_no_place_to_go_on_from(elsewhere: bool, topic: Topic, flows: Captured) -> None:
    topic.put(headers=context_headers())
    further: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="further")
    consumer = topic.consumer()

    def work() -> None:
        kept = iter(consumer)
        next(kept)
        later = tracekit.carry(lambda: (topic.send(), further.put("a mail")))
        if elsewhere:
            poll = threading.Thread(target=lambda: consumer.poll(timeout_ms=0))
            poll.start()
            poll.join(PATIENCE_S)
        else:
            consumer.poll(timeout_ms=0)
        later()
        del kept

    contextvars.copy_context().run(work)
    with further.item(PATIENCE_S):
        pass

    assert named(flows, f"process {topic.name}").attributes["tracekit.leaked"] is True
    assert [named(flows, name).parent_id for name in (f"send {topic.name}", "process further")] == [None] * 2


@pytest.mark.parametrize("scope", [tracekit.process, lambda one: tracekit.process_batch([one])])
@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_a_worker_born_in_a_handler_serves_each_message_in_its_own_flow(
    sampler: str, scope: Callable[[Any], Any], topic: Topic
) -> None:
    topic.put(headers=context_headers(f"00-{'1' * 32}-{'2' * 16}-01", baggage="user=ada"))
    topic.put(b"second", b"third")
    first, *others = topic.polled(3)
    seen: list[tuple[str, object]] = []

    async def main() -> None:
        go = asyncio.Event()

        async def drain() -> None:
            await go.wait()
            for record in others:
                with scope(record):
                    span = trace.get_current_span().get_span_context()
                    seen.append((trace.format_trace_id(span.trace_id), baggage.get_baggage("user")))
                assert here() == born

        async with tracekit.process(first):
            born = here()
            worker = asyncio.create_task(drain())
            await asyncio.sleep(0)
        go.set()
        await worker

    with capture(environment={"OTEL_TRACES_SAMPLER": sampler}):
        asyncio.run(main())

    assert len({"1" * 32, *(trace_id for trace_id, _ in seen)}) == 3
    assert [user for _, user in seen] == [None, None]


# -- handlers that interleave -----------------------------------------------------------------------


def of_age(seconds: int, service: str) -> list[tuple[str, bytes]]:
    """The headers of a message of a flow that began, and was sent on, so many seconds ago."""
    then_ms = time.time_ns() // 1_000_000 - seconds * 1000
    trace_id = f"{seconds:032x}"
    return context_headers(
        f"00-{trace_id}-{seconds:016x}-01",
        **{"tracekit-flow": f"1;{trace_id};{0:016x};{then_ms};{then_ms};1;{service}"},
    )


def handled_interleaved(topic: Topic, further: tracekit.TracedQueue[str]) -> None:
    """A message 1 s old and one 100 s old, both under way at once; each sends something on."""
    topic.put(headers=of_age(1, "young"))
    topic.put(headers=of_age(100, "old"))
    records = topic.polled(2)

    async def main() -> None:
        both = asyncio.Barrier(2)

        async def handle(record: Any) -> None:
            async with tracekit.process(record):
                await both.wait()  # both are being processed now
                further.put(here()[0])
                await both.wait()

        await asyncio.gather(*map(handle, records))

    asyncio.run(main())
    for _ in records:
        with further.item(PATIENCE_S):
            pass


def test_metrics_are_right_for_each_flow_where_handlers_interleave(topic: Topic, flows: Captured) -> None:
    handled_interleaved(topic, tracekit.TracedQueue(name="further"))

    (wait,) = [
        one
        for one in flows.metrics["tracekit.messaging.queue.duration"]
        if one.attributes["messaging.destination.name"] == topic.name
    ]
    assert wait.count == 2
    held = {bound: count for bound, count in zip((*wait.bounds, None), wait.buckets, strict=True) if count}
    assert held == {2.5: 1, 300: 1}
    ages = {
        one.attributes["tracekit.flow.origin"]: (one.count, one.attributes["tracekit.flow.end"], one.value)
        for one in flows.metrics["tracekit.flow.duration"]
    }
    # Both sent something on, so their flows end where that is processed: each with its own age.
    assert {origin: age[:2] for origin, age in ages.items()} == {
        "young": (1, "process"),
        "old": (1, "process"),
    }
    assert 1 <= (ages["young"][2] or 0) < 20
    assert 100 <= (ages["old"][2] or 0) < 120
    flow_of = {span.span_id: span.attributes["tracekit.flow.id"] for span in flows.spans}
    further = [span for span in flows.spans if span.name == "process further"]
    assert len(further) == 2
    assert all(span.attributes["tracekit.flow.id"] == flow_of[span.parent_id or ""] for span in further)


def test_a_flow_ends_with_its_message_and_not_with_the_request_around_it(
    topic: Topic, flows: Captured
) -> None:
    topic.put(headers=of_age(100, "old"))
    (record,) = topic.polled(1)

    with request("request"), tracekit.process(record):
        pass

    (duration,) = flows.metrics["tracekit.flow.duration"]
    assert (duration.attributes["tracekit.flow.origin"], duration.count) == ("old", 1)
    assert 100 <= (duration.value or 0) < 120


def test_metrics_are_the_same_whether_or_not_spans_are_sampled(kafka: Kafka, kafka_producer: Any) -> None:
    found = []
    for sampler in ("always_on", "always_off"):
        topic = Topic(kafka, kafka_producer)
        with capture(environment={"OTEL_TRACES_SAMPLER": sampler}) as flows:
            handled_interleaved(topic, tracekit.TracedQueue(name="further"))
            found.append(
                Counter(
                    (name, key, str(value).replace(topic.name, "orders"), one.count or one.value)
                    for name, points in flows.metrics.items()
                    for one in points
                    for key, value in one.attributes.items()
                )
            )
        assert bool(flows.spans) == (sampler == "always_on")

    assert found[0] == found[1]
    assert {"tracekit.flow.duration", "tracekit.messaging.queue.duration"} <= {name for name, *_ in found[0]}


# -- generators -------------------------------------------------------------------------------------


@tracekit.traced_generator
def rows(number: int) -> Iterator[tuple[str, object]]:
    for _ in range(number):
        yield here()


@tracekit.traced_generator
async def async_rows(number: int) -> AsyncIterator[tuple[str, object]]:
    for _ in range(number):
        await asyncio.sleep(0)
        yield here()


def test_a_generator_s_span_is_current_inside_and_never_in_the_body(flows: Captured) -> None:
    with request("request", "ada") as span_id:
        for inside, user in rows(2):
            assert here() == (span_id, "ada")
            assert (inside != span_id, user) == (True, "ada")

    span = named(flows, "rows")
    assert (span.parent_id, span.status) == (span_id, Status.UNSET)


def test_an_async_generator_s_span_is_current_inside_and_never_in_the_body(flows: Captured) -> None:
    async def main() -> str:
        with request("request", "ada") as span_id:
            async for inside, user in async_rows(2):
                assert here() == (span_id, "ada")
                assert (inside != span_id, user) == (True, "ada")
        return span_id

    span_id = asyncio.run(main())

    assert named(flows, "async_rows").parent_id == span_id


def test_case_45_an_async_generator_closed_early_from_another_task(
    flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with request("request") as span_id:
            iterating = async_rows(10)
            await anext(iterating)
            assert here()[0] == span_id
            assert [span.name for span in flows.spans] == []

            async def close() -> None:
                await iterating.aclose()  # type: ignore[attr-defined]  # an iterator that is a generator

            await asyncio.create_task(close())
            assert [span.name for span in flows.spans] == ["async_rows"]
            assert here()[0] == span_id
            assert [each async for each in iterating] == []

    asyncio.run(main())

    assert named(flows, "async_rows").status is Status.UNSET
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_generator_left_early_or_forgotten_ends_its_span(flows: Captured) -> None:
    for _ in rows(10):
        break
    forgotten = rows(10)
    next(forgotten)
    del forgotten
    gc.collect()

    assert [(span.name, span.status) for span in flows.spans] == [("rows", Status.UNSET)] * 2
    assert here() == NOWHERE


def test_what_a_generator_raises_is_its_error_and_the_same_object(flows: Captured) -> None:
    error = ValueError("no such row")

    @tracekit.traced_generator
    def failing() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(ValueError, match="no such row") as raised:
        list(failing())

    assert raised.value is error
    (span,) = flows.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ValueError")


def test_a_generator_takes_what_is_sent_and_thrown_and_gives_what_it_returns(flows: Captured) -> None:
    @tracekit.traced_generator
    def talking() -> Any:
        got = yield "first"
        try:
            yield got
        except ValueError:
            yield "caught"
        return "result"

    talk = talking()
    said = [next(talk), talk.send("sent"), talk.throw(ValueError("thrown"))]
    with pytest.raises(StopIteration) as end:
        next(talk)

    assert (said, end.value.value) == (["first", "sent", "caught"], "result")
    assert [span.status for span in flows.spans] == [Status.UNSET]


def test_an_async_generator_takes_what_is_sent_and_thrown(flows: Captured) -> None:
    @tracekit.traced_generator
    async def talking() -> Any:
        got = yield "first"
        try:
            yield got
        except ValueError:
            yield "caught"
        raise LookupError("at the end")

    async def main() -> list[Any]:
        talk: Any = talking()
        said = [await anext(talk), await talk.asend("sent"), await talk.athrow(ValueError("thrown"))]
        with pytest.raises(LookupError, match="at the end"):
            await anext(talk)
        return said

    assert asyncio.run(main()) == ["first", "sent", "caught"]
    assert [(span.status, span.attributes["error.type"]) for span in flows.spans] == [
        (Status.ERROR, "LookupError")
    ]


@tracekit.traced_generator
def patient(said: list[str]) -> Iterator[str]:
    """Goes on after whatever is thrown into it, or is done wrongly to it."""
    while len(said) < 3:
        try:
            yield "on"
        except ValueError as error:
            said.append(str(error))


@pytest.mark.parametrize("call", [rows, async_rows], ids=["plain", "async"])
def test_wrong_arguments_are_the_caller_s_error_and_begin_no_span(call: Any, flows: Captured) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        call()
    gc.collect()  # where a finalizer failed, pytest fails

    assert flows.spans == ()


def test_what_is_no_generator_is_given_as_it_is(flows: Captured) -> None:
    given = [1, 2]

    @tracekit.traced_generator
    def rows_at_once() -> list[int]:
        return given

    assert rows_at_once() is given
    assert flows.spans == ()


def test_a_plain_function_may_give_the_generator_of_another(flows: Captured) -> None:
    async def inner() -> AsyncIterator[int]:
        yield 1

    @tracekit.traced_generator
    def outer() -> AsyncIterator[int]:
        return inner()

    async def main() -> list[int]:
        return [each async for each in outer()]

    assert asyncio.run(main()) == [1]
    assert [span.name.rpartition(".")[2] for span in flows.spans] == ["outer"]


def test_what_is_done_wrongly_to_a_generator_does_not_end_its_span(flows: Captured) -> None:
    said: list[str] = []
    iterating: Any = patient(said)
    with pytest.raises(TypeError, match="just-started generator"):
        iterating.send("too early")
    next(iterating)
    with pytest.raises(TypeError, match="exceptions must be"):
        iterating.throw("no exception")
    assert [*flows.spans] == []

    assert [iterating.throw(ValueError(text)) for text in "12"] == ["on", "on"]
    with pytest.raises(StopIteration):
        iterating.throw(ValueError("3"))
    assert said == ["1", "2", "3"]
    assert [span.status for span in flows.spans] == [Status.UNSET]


def test_a_generator_that_iterates_itself_is_told_what_python_says(flows: Captured) -> None:
    @tracekit.traced_generator
    def turning() -> Iterator[int]:
        with pytest.raises(ValueError, match="generator already executing"):
            next(itself)
        assert flows.spans == ()
        yield 1

    itself = turning()

    assert list(itself) == [1]
    assert [span.status for span in flows.spans] == [Status.UNSET]


def test_an_async_generator_that_two_tasks_iterate_is_told_what_python_says(flows: Captured) -> None:
    go = asyncio.Event()

    @tracekit.traced_generator
    async def waiting() -> AsyncIterator[int]:
        await go.wait()
        yield 1

    async def main() -> list[int]:
        iterating = waiting()
        first = asyncio.ensure_future(anext(iterating))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="asynchronous generator is already running"):
            await anext(iterating)
        assert flows.spans == ()
        go.set()
        return [await first, *[each async for each in iterating]]

    assert asyncio.run(main()) == [1]
    assert [span.status for span in flows.spans] == [Status.UNSET]


def test_a_generator_that_yields_from_itself_gives_a_span_for_each_level(flows: Captured) -> None:
    @tracekit.traced_generator
    def tree(depth: int) -> Iterator[tuple[int, str]]:
        yield depth, here()[0]
        if depth:
            yield from tree(depth - 1)
            yield depth, here()[0]

    seen = list(tree(2))

    own = dict(seen)
    assert [depth for depth, _ in seen] == [2, 1, 0, 1, 2]
    assert all(own[depth] == span_id for depth, span_id in seen)
    assert {span.span_id: span.parent_id for span in flows.spans} == {
        own[2]: None,
        own[1]: own[2],
        own[0]: own[1],
    }


def test_a_generator_serves_as_context_manager(flows: Captured) -> None:
    closed: list[tuple[str, object]] = []

    @tracekit.traced_generator
    def connection() -> Iterator[str]:
        try:
            yield here()[0]
        finally:
            closed.append(here())

    @tracekit.traced_generator
    async def async_connection() -> AsyncIterator[str]:
        try:
            yield here()[0]
        finally:
            closed.append(here())

    error = ValueError("no such row")
    opened: list[tuple[str, object]] = []

    def plain() -> None:
        with contextmanager(connection)() as inside:
            opened.append((inside, None))
            assert here() == NOWHERE
            raise error

    async def main() -> None:
        async with asynccontextmanager(async_connection)() as inside:
            opened.append((inside, None))
            assert here() == NOWHERE
            raise error

    for run in (plain, lambda: asyncio.run(main())):
        with pytest.raises(ValueError, match="no such row") as raised:
            run()
        assert raised.value is error
    assert closed == opened
    assert [(span.status, span.attributes["error.type"]) for span in flows.spans] == [
        (Status.ERROR, "ValueError")
    ] * 2


def test_an_async_generator_that_is_cancelled_has_neither_done_nor_failed(flows: Captured) -> None:
    @tracekit.traced_generator
    async def waiting() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    async def main() -> None:
        task = asyncio.ensure_future(anext(waiting()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    (span,) = flows.spans
    assert (span.status, span.attributes["tracekit.cancelled"]) == (Status.UNSET, True)


@pytest.mark.parametrize("way", ["plain", "async"])
@pytest.mark.parametrize("leaves_early", [False, True], ids=["read whole", "left early"])
def test_a_streamed_generator_works_in_its_request_and_leaks_nothing(
    way: str, leaves_early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app, done = FastAPI(), threading.Event()

    @tracekit.traced_generator
    def lines() -> Iterator[bytes]:
        try:
            for _ in range(50):
                with tracer().start_as_current_span("read"):
                    chunk = b"x" * 65_536
                yield chunk
        finally:
            done.set()

    @tracekit.traced_generator
    async def lines_async() -> AsyncIterator[bytes]:
        try:
            for _ in range(50):
                with tracer().start_as_current_span("read"):
                    chunk = b"x" * 65_536
                yield chunk
        finally:
            done.set()

    @app.get("/lines")
    async def answer() -> StreamingResponse:
        return StreamingResponse(lines() if way == "plain" else lines_async())

    with telemetry() as found, serving(app) as url, httpx.stream("GET", f"{url}/lines") as response:
        for _ in response.iter_raw():
            if leaves_early:
                break
        response.close()
        deadline = time.monotonic() + PATIENCE_S
        while not done.wait(0.05):  # Starlette leaves a plain generator to the garbage collector
            assert time.monotonic() < deadline
            gc.collect()

    (entry,) = found.spans(SpanKind.SERVER)
    (stream,) = [span for span in found.spans() if span.name.endswith((".lines", ".lines_async"))]
    reads = [span for span in found.spans() if span.name == "read"]
    assert parent_of(stream, [entry]) is entry
    assert {parent_of(span, found.spans()) for span in reads} == {stream}
    assert len(reads) == 50 or (leaves_early and reads)
    assert "detach" not in caplog.text


def test_a_forgotten_generator_closes_in_its_own_context(flows: Captured) -> None:
    seen: list[tuple[str, object]] = []

    @tracekit.traced_generator
    def connection() -> Iterator[None]:
        try:
            seen.append(here())
            yield
        finally:
            seen.append(here())

    for _ in connection():
        break

    assert seen[0] == seen[1] != NOWHERE


def test_an_async_generator_that_iterates_itself_is_told_what_python_says(flows: Captured) -> None:
    @tracekit.traced_generator
    async def turning() -> AsyncIterator[int]:
        with pytest.raises(RuntimeError, match="asynchronous generator is already running"):
            await anext(itself[0])
        yield 1

    itself: list[AsyncIterator[int]] = []

    async def main() -> list[int]:
        itself.append(turning())
        return [each async for each in itself[0]]

    assert asyncio.run(main()) == [1]
    assert [span.status for span in flows.spans] == [Status.UNSET]


def test_what_a_forgotten_async_generator_closes_is_its_own_work(flows: Captured) -> None:
    closed = asyncio.Event()

    @tracekit.traced_generator
    async def connection() -> AsyncIterator[str]:
        try:
            yield here()[0]
        finally:
            await asyncio.sleep(0)
            seen.append(here()[0])
            closed.set()

    seen: list[str] = []

    async def main() -> None:
        with request("request"):
            async for inside in connection():
                seen.append(inside)
                break
            assert [span.name.rpartition(".")[2] for span in flows.spans] == ["connection"]
            await asyncio.wait_for(closed.wait(), PATIENCE_S)

    asyncio.run(main())

    assert seen[0] == seen[1]
    assert len(flows.spans) == 2


def test_what_a_generator_sets_in_context_variables_stays_inside(flows: Captured) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

    @tracekit.traced_generator
    def setting() -> Iterator[str]:
        tenant.set("north")
        yield "set"
        yield tenant.get()

    assert [(said, tenant.get()) for said in setting()] == [("set", "nobody"), ("north", "nobody")]


def test_a_generator_works_where_nothing_is_configured() -> None:
    assert list(rows(2)) == [NOWHERE, NOWHERE]


# -- processes --------------------------------------------------------------------------------------


def test_a_spawned_process_goes_on_with_the_context_in_its_arguments(
    flows: Captured, flow_sink: FlowSink
) -> None:
    with request("request"):
        carrier = tracekit.inject({})
        child = multiprocessing.get_context("spawn").Process(
            target=spawned.work, args=(flow_sink.http_endpoint, carrier)
        )
        child.start()
        child.join(3 * PATIENCE_S)
        child.close()

    caller = named(flows, "request")
    flow_sink.wait_for(lambda: bool(flow_sink.spans), says="the span of the spawned process")
    (span,) = flow_sink.spans
    assert (span.name, span.trace_id, span.parent_id) == ("spawned work", caller.trace_id, caller.span_id)
    assert span.attributes["tracekit.flow.id"] == caller.trace_id


def test_case_50_a_fork_inside_a_span_exports_it_once(
    flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[str] = []
    add_spans = flow_sink.store.add_spans

    def counting(spans: Any) -> None:
        received.extend(span.name for span in spans)
        add_spans(spans)

    monkeypatch.setattr(flow_sink.store, "add_spans", counting)

    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("forking.py"))],
        env={**os.environ, **flow_sink.env},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Counter(received) == Counter(["parent", "in the parent", "in the child", "after the block"])
    parent, child = named(flow_sink, "parent"), named(flow_sink, "in the child")
    assert (child.trace_id, child.parent_id, child.parent_is_remote) == (
        parent.trace_id,
        parent.span_id,
        True,
    )
    assert named(flow_sink, "in the parent").parent_is_remote is False
    assert child.attributes["tracekit.flow.id"] == parent.trace_id
    assert len({span.span_id for span in flow_sink.spans}) == 4
