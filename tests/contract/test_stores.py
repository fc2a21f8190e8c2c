"""What every store of the collector promises: one suite, one row a store."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.collector.disk import DiskStore
from tracekit.collector.memory import MAX_BYTES, MAX_RECORDS, MemoryStore
from tracekit.collector.store import Counts, Store
from tracekit.flow import build_flows
from tracekit.model import Kind, Link, LogLine, Metric, Point, Service, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOON_S = 30.0  # a bound for what happens at once


class MakeStore(Protocol):
    def __call__(self, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> Store: ...


Making: TypeAlias = "Callable[[], AbstractContextManager[Store]]"


@contextmanager
def memory_store() -> Iterator[Store]:
    yield MemoryStore()


@contextmanager
def disk_store() -> Iterator[Store]:
    with TemporaryDirectory() as folder, DiskStore(Path(folder)) as store:
        yield store


STORES: dict[str, Making] = {"memory": memory_store, "disk": disk_store}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with STORES[request.param]() as made:
        yield made


@pytest.fixture
def make_store() -> MakeStore:
    return MemoryStore


def span(
    trace: str,
    own: str,
    parent: str | None = None,
    *,
    links: Sequence[Span] = (),
    flow: str | None = None,
    flow_on_links: bool = False,
) -> Span:
    """A span named by one digit each for its trace and itself."""
    return Span(
        trace_id=trace * 32,
        span_id=own * 16,
        name=f"{trace}/{own}",
        start_ns=1,
        end_ns=2,
        parent_id=parent and parent * 16,
        attributes={"tracekit.flow.id": flow * 32} if flow else {},
        links=tuple(
            Link(to.trace_id, to.span_id, {"tracekit.flow.id": to.trace_id} if flow_on_links else {})
            for to in links
        ),
    )


def line(body: str) -> LogLine:
    return LogLine(1, body)


def metric(name: str) -> Metric:
    return Metric(name, "gauge", (Point(1, 1),))


def add_one_by_one(store: Store) -> None:
    for own in "123":
        store.add_spans([span("1", own)])


def names(spans: Sequence[Span]) -> set[str]:
    return {found.name for found in spans}


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert not any(
        (store.spans(), store.trace("1" * 32), store.flow("1" * 32), store.logs(), store.metrics())
    )
    assert store.counts() == {"traces": Counts(), "logs": Counts(), "metrics": Counts()}


def test_spans_are_read_trace_by_trace_the_oldest_trace_first(store: Store) -> None:
    first, other, second = span("2", "1"), span("1", "1"), span("2", "2")

    store.add_spans([first, other])
    store.add_spans([second])

    assert (*store.spans(),) == (first, second, other)
    assert (*store.trace("2" * 32),) == (first, second)


def test_log_lines_and_metrics_are_read_in_order_of_arrival(store: Store) -> None:
    store.add_logs([line("b"), line("a")])
    store.add_metrics([metric("b"), metric("a")])

    assert (*store.logs(),) == (line("b"), line("a"))
    assert (*store.metrics(),) == (metric("b"), metric("a"))


def test_a_span_sent_again_is_kept_once(store: Store) -> None:
    sent = span("1", "1")

    store.add_spans([sent, sent])
    store.add_spans([sent])

    assert (*store.spans(),) == (sent,)
    assert (*store.trace("1" * 32),) == (sent,)


def test_in_memory_what_was_sent_again_counts_once(make_store: MakeStore) -> None:
    store = make_store()

    store.add_spans([span("1", "1"), span("1", "1")])

    assert store.counts()["traces"] == Counts(kept=1)


def test_the_end_of_a_span_replaces_its_beginning(store: Store) -> None:
    ended = span("1", "1", links=[span("2", "1")])

    store.add_spans([replace(ended, end_ns=None, links=())])
    store.add_spans([ended])

    assert (*store.spans(),) == (ended,)
    assert names(store.flow("2" * 32)) == {"1/1"}


def test_the_two_ends_of_a_call_that_share_an_id_are_two_spans(store: Store) -> None:
    client = span("1", "1")
    server = replace(client, kind=Kind.SERVER, service=Service("orders"))

    store.add_spans([client, server])

    assert (*store.trace("1" * 32),) == (client, server)


def test_what_was_read_stays_as_it_was(store: Store) -> None:
    store.add_spans([span("1", "1")])
    read = store.spans()

    store.add_spans([span("1", "2")])

    assert names(read) == {"1/1"}


def test_a_flow_goes_on_in_other_traces_through_links(store: Store) -> None:
    sent = span("1", "2", parent="1")
    processed = span("2", "1", links=[sent])
    on_from_there = span("3", "1", links=[span("2", "2")])

    # Newest first: nothing depends on the order of arrival.
    store.add_spans(
        [on_from_there, span("2", "2", parent="1"), processed, sent, span("1", "1"), span("4", "1")]
    )

    assert names(store.flow("1" * 32)) == {"1/1", "1/2", "2/1", "2/2", "3/1"}


def test_a_flow_never_goes_up(store: Store) -> None:
    processed = span("2", "2", parent="1", links=[span("1", "1")])

    store.add_spans([span("1", "1"), span("2", "1"), processed, span("2", "3", parent="1")])

    assert names(store.flow("1" * 32)) == {"1/1", "2/2"}


def test_messages_of_one_batch_stay_flows_of_their_own(store: Store) -> None:
    one, two = span("1", "1"), span("2", "1")
    batch = span("a", "1", links=[one, two], flow_on_links=True)
    of_one, of_two = span("a", "2", parent="1", flow="1"), span("a", "3", parent="1", flow="2")
    below_two, of_none = span("a", "4", parent="3"), span("a", "5", parent="1")

    store.add_spans([one, two, batch, of_one, of_two, below_two, of_none])

    assert names(store.flow("1" * 32)) == {"1/1", "a/1", "a/2", "a/5"}
    assert names(store.flow("2" * 32)) == {"2/1", "a/1", "a/3", "a/4", "a/5"}


def test_a_flow_whose_spans_were_lost_in_between_is_whole_by_its_id(store: Store) -> None:
    after_a_gap = span("3", "1", links=[span("2", "9")], flow="1")
    lost_parent = span("1", "3", parent="8")
    to_lost_send = span("4", "1", links=[span("1", "9")])

    store.add_spans([span("1", "1"), after_a_gap, lost_parent, to_lost_send])

    assert names(store.flow("1" * 32)) == {"1/1", "1/3", "3/1", "4/1"}


digits = st.sampled_from("123")
graphs = st.lists(
    st.builds(
        span,
        digits,
        st.sampled_from("12345"),
        st.none() | st.sampled_from("123456"),
        links=st.lists(st.builds(span, digits, st.sampled_from("12345")), max_size=2),
        flow=st.none() | digits,
        flow_on_links=st.booleans(),
    ).flatmap(lambda made: st.sampled_from(Kind).map(lambda kind: replace(made, kind=kind))),
    max_size=12,
)


@pytest.mark.parametrize("kind", STORES)
@given(spans=graphs)
@settings(deadline=None, max_examples=100)
def test_a_flow_is_handed_over_whole(kind: str, spans: list[Span]) -> None:
    with STORES[kind]() as store:
        for each in spans:
            store.add_spans([each])

        for flow in build_flows(store.spans()):
            missing = names(flow.spans) - names(store.flow(flow.id))
            assert not missing


def test_a_link_into_its_own_trace_leads_to_the_flow_that_it_names(make_store: MakeStore) -> None:
    store = make_store()
    sent = span("1", "1", flow="1")
    linked = Link(sent.trace_id, sent.span_id, {"tracekit.flow.id": "3" * 32})
    store.add_spans([sent, replace(span("1", "2", flow="1"), links=(linked,))])

    assert names(store.flow("3" * 32)) == {"1/2"}


def test_the_oldest_trace_is_dropped_first_and_counted(make_store: MakeStore) -> None:
    store = make_store(max_records=3)
    oldest = [span("1", "1"), span("1", "2", links=[span("2", "1")], flow="2")]

    store.add_spans([*oldest, span("2", "1"), span("3", "1")])

    assert names(store.spans()) == {"2/1", "3/1"}
    assert names(store.flow("2" * 32)) == {"2/1"}
    assert store.counts()["traces"] == Counts(kept=2, dropped=2)


def test_the_oldest_log_lines_and_metrics_are_dropped_first_and_counted(make_store: MakeStore) -> None:
    store = make_store(max_records=2)

    store.add_logs([line("1"), line("2"), line("3")])
    store.add_metrics([metric("1"), metric("2"), metric("3")])

    assert (*store.logs(),) == (line("2"), line("3"))
    assert (*store.metrics(),) == (metric("2"), metric("3"))
    assert store.counts()["logs"] == store.counts()["metrics"] == Counts(kept=2, dropped=1)


@pytest.mark.parametrize("where", ["attributes", "service", "events"])
def test_few_large_spans_are_bounded_as_well(make_store: MakeStore, where: str) -> None:
    store = make_store(max_bytes=1_000_000)
    large = {"n": "x" * 400_000}

    for digit in "1234":
        sent = span(digit, "1")
        if where == "service":
            sent = replace(sent, service=Service("orders", attributes=dict(large)))
        elif where == "attributes":
            sent = replace(sent, attributes={"list": ({"of": large["n"]},)})
        else:
            sent = replace(sent, links=(Link("1" * 32, "1" * 16, large),))
        store.add_spans([sent])

    assert names(store.spans()) == {"3/1", "4/1"}


def test_what_is_larger_than_the_bound_is_not_kept(make_store: MakeStore) -> None:
    store = make_store(max_bytes=10_000)

    store.add_spans([replace(span("1", "1"), name="x" * 20_000)])
    store.add_logs([line("x" * 20_000)])
    store.add_spans([span("2", "1")])

    assert names(store.spans()) == {"2/1"}
    assert store.counts()["traces"] == Counts(kept=1, dropped=1)
    assert store.counts()["logs"] == Counts(dropped=1)


def test_what_receivers_refused_is_counted(store: Store) -> None:
    store.count_refused("traces", 2)
    store.count_refused("traces", 1)

    assert store.counts()["traces"] == Counts(refused=3)


def test_a_change_is_announced_after_each_addition_and_never_without(store: Store) -> None:
    versions = []

    store.add_spans([span("1", "1")])
    versions.append(store.changes.version)
    store.add_logs([line("a")])
    versions.append(store.changes.version)
    store.add_metrics([metric("a")])
    versions.append(store.changes.version)
    store.add_spans([])
    store.count_refused("logs", 1)
    versions.append(store.changes.version)

    assert versions == [1, 2, 3, 3]


def test_a_thread_waits_for_what_another_adds(store: Store) -> None:
    adding = threading.Thread(target=add_one_by_one, args=(store,))

    adding.start()
    met = store.changes.wait(lambda: len(store.flow("1" * 32)) == 3, SOON_S)
    adding.join()

    assert met


def test_a_task_waits_for_what_a_thread_adds(store: Store) -> None:
    async def waits() -> bool:
        waiting = asyncio.create_task(store.changes.wait_async(lambda: len(store.spans()) == 3, SOON_S))
        await asyncio.to_thread(add_one_by_one, store)
        return await waiting

    assert asyncio.run(waits())


def test_who_waits_in_vain_is_told(store: Store) -> None:
    assert not store.changes.wait(lambda: False, 0)
    assert not asyncio.run(store.changes.wait_async(lambda: False, 0))


def test_what_is_there_already_is_not_waited_for(store: Store) -> None:
    assert store.changes.wait(lambda: True, 0)
    assert asyncio.run(store.changes.wait_async(lambda: True, 0))


def test_threads_add_at_the_same_time_and_lose_nothing(store: Store) -> None:
    start = threading.Barrier(4)

    def add(trace: str) -> None:
        start.wait()
        for number in range(200):
            store.add_spans([replace(span(trace, "1"), span_id=f"{number + 1:016x}")])
            store.flow(trace * 32)

    threads = [threading.Thread(target=add, args=(trace,)) for trace in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.counts()["traces"] == Counts(kept=800)
    assert store.changes.version == 800
