"""Cells: what readers get of them is what an instrument of the SDK would have given."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext, TraceFlags

from tracekit import semconv
from tracekit.tracing.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SAMPLED: Final = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
UNSAMPLED: Final = SpanContext(3, 4, is_remote=False)
BOUNDS: Final = semconv.DURATION_BUCKETS
TEMPORALITIES: Final = pytest.mark.parametrize(
    "temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA], ids=lambda one: one.name
)


class Rig:
    """Cells beside instruments of the SDK, on the same reader."""

    def __init__(self, temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE) -> None:
        self.reader = InMemoryMetricReader({Counter: temporality, Histogram: temporality})
        self.provider = MeterProvider([self.reader], Resource.create({"service.name": "orders"}))
        self.cells = Cells(self.provider._sdk_config.resource)
        self.cells.join(self.reader)
        meter = self.provider.get_meter("theirs")
        self.their_histogram = meter.create_histogram(
            "theirs", "s", "How long.", explicit_bucket_boundaries_advisory=BOUNDS
        )
        self.their_counter = meter.create_counter("theirs.count", "{message}", "How many.")
        self.histogram = self.cells.histogram("ours", "s", "How long.", BOUNDS)
        self.counter = self.cells.counter("ours.count", "{message}", "How many.")

    def metrics(self) -> dict[str, Any]:
        """By name, what the reader collects now."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def record(self, values: Sequence[float], **labels: str) -> None:
        """Record these values, and count them, in both."""
        for value in values:
            self.their_histogram.record(value, labels)
            self.histogram.bind(labels).record(value, UNSAMPLED)
        self.their_counter.add(len(values), labels)
        self.counter.bind(labels).add(len(values))


def shown(metric: Any) -> object:
    """All that a metric says but its name and times."""
    if metric is None:
        return None
    points = []
    for point in metric.data.data_points:
        said: dict[str, object] = {"attributes": dict(point.attributes or {})}
        for name in ("value", "count", "sum", "bucket_counts", "explicit_bounds", "min", "max"):
            if hasattr(point, name):
                value = getattr(point, name)
                said[name] = list(value) if isinstance(value, list | tuple) else value
        points.append(said)
    data = metric.data
    return (
        metric.unit,
        metric.description,
        data.aggregation_temporality,
        getattr(data, "is_monotonic", None),
        sorted(points, key=str),
    )


@TEMPORALITIES
def test_readers_see_what_the_sdk_s_instruments_show(temporality: AggregationTemporality) -> None:
    rig = Rig(temporality)
    rounds = [
        ([0.0, 0.004, 0.005, 0.0051, 3, 10, 10.5, 100], [0.2]),
        ([0.5, 0.25], []),  # a second set of attributes has nothing new
        ([], []),
        ([], [7.5, 0.001]),
    ]

    for orders, mails in rounds:
        if orders:
            rig.record(orders, destination="orders")
        if mails:
            rig.record(mails, destination="mails")
        found = rig.metrics()
        assert shown(found.get("ours")) == shown(found.get("theirs"))
        assert shown(found.get("ours.count")) == shown(found.get("theirs.count"))

    rig.provider.shutdown()


@TEMPORALITIES
def test_one_interval_ends_where_the_next_begins(temporality: AggregationTemporality) -> None:
    rig = Rig(temporality)
    times = []
    for _ in range(2):
        rig.record([0.1])
        (point,) = rig.metrics()["ours"].data.data_points
        times.append((point.start_time_unix_nano, point.time_unix_nano))

    (first, until), (second, _) = times
    assert second == (until if temporality is AggregationTemporality.DELTA else first)
    rig.provider.shutdown()


def test_two_readers_each_see_all_of_it() -> None:
    delta = InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})
    cumulative = InMemoryMetricReader()
    provider = MeterProvider([delta, cumulative])
    cells = Cells(provider._sdk_config.resource)
    cells.join(delta)
    cells.join(cumulative)
    cell = cells.histogram("ours", "s", "How long.", BOUNDS).bind({})

    def seen(reader: InMemoryMetricReader) -> tuple[int, float, float]:
        data = reader.get_metrics_data()
        assert data is not None
        point: Any = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0]
        return point.count, point.min, point.max

    cell.record(1, UNSAMPLED)
    assert [seen(delta), seen(cumulative)] == [(1, 1, 1), (1, 1, 1)]
    cell.record(3, UNSAMPLED)
    cell.record(2, UNSAMPLED)
    assert [seen(delta), seen(cumulative)] == [(2, 2, 3), (3, 1, 3)]
    provider.shutdown()


def test_nothing_recorded_is_no_metric() -> None:
    rig = Rig()

    assert rig.metrics() == {}
    rig.provider.shutdown()


def test_nothing_is_lost_between_threads() -> None:
    rig = Rig()
    begin = threading.Barrier(9)
    number = 10_000

    def work(thread: int) -> None:
        begin.wait()
        for value in range(number):
            rig.histogram.bind({"side": str(thread % 2)}).record(value % 7, UNSAMPLED)
            rig.counter.bind({}).add(1)

    threads = [threading.Thread(target=work, args=(each,)) for each in range(8)]
    for thread in threads:
        thread.start()
    begin.wait()
    seen = 0
    while any(thread.is_alive() for thread in threads):  # read while they write
        points = rig.metrics().get("ours")
        now = sum(point.count for point in points.data.data_points) if points else 0
        assert now >= seen
        seen = now
    for thread in threads:
        thread.join()

    found = rig.metrics()
    assert [point.count for point in found["ours"].data.data_points] == [4 * number] * 2
    assert [point.value for point in found["ours.count"].data.data_points] == [8 * number]
    assert sum(point.sum for point in found["ours"].data.data_points) == 8 * sum(v % 7 for v in range(number))
    rig.provider.shutdown()


def test_an_exemplar_of_each_bucket_leads_to_a_sampled_span() -> None:
    rig = Rig()
    cell = rig.histogram.bind({})
    cell.record(0.001, SAMPLED)
    cell.record(0.002, SAMPLED)
    cell.record(0.003, UNSAMPLED)
    cell.record(0.3, UNSAMPLED)
    cell.record(99, SAMPLED)

    def exemplars() -> list[tuple[float, int, int]]:
        (point,) = rig.metrics()["ours"].data.data_points
        return [(each.value, each.trace_id, each.span_id) for each in point.exemplars]

    assert exemplars() == [(0.002, 1, 2), (99, 1, 2)]
    assert exemplars() == []  # they are of the last interval
    rig.provider.shutdown()


def test_past_the_bound_all_further_attributes_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracekit.tracing.cells._MAX_CELLS", 3)
    rig = Rig()
    for number in range(10):
        rig.counter.bind({"number": number}).add(1)
        rig.histogram.bind({"number": number}).record(number, UNSAMPLED)

    found = rig.metrics()
    counts = {str(dict(p.attributes)): p.value for p in found["ours.count"].data.data_points}
    assert counts == {
        "{'number': 0}": 1,
        "{'number': 1}": 1,
        "{'number': 2}": 1,
        "{'otel.metric.overflow': True}": 7,
    }
    assert sum(point.count for point in found["ours"].data.data_points) == 10
    rig.provider.shutdown()


def test_ours_stand_under_the_resource_of_the_provider_with_their_own_scope() -> None:
    rig = Rig()
    rig.record([0.1])

    data = rig.reader.get_metrics_data()

    assert data is not None
    (resource,) = data.resource_metrics
    assert resource.resource.attributes["service.name"] == "orders"
    assert [(scope.scope.name, scope.schema_url) for scope in resource.scope_metrics] == [
        ("theirs", ""),
        ("tracekit.messaging", "https://opentelemetry.io/schemas/1.44.0"),
    ]
    assert trace.get_current_span() is trace.INVALID_SPAN
    rig.provider.shutdown()


# -- interrupted in the middle -------------------------------------------------------------------------


def in_time(work: Callable[[], object]) -> bool:
    """Whether the work ends at all, in a thread that may hang instead."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()


def test_a_record_in_the_middle_of_another_as_the_garbage_collector_makes_one_does_not_hang() -> None:
    rig = Rig()
    cell, count = rig.histogram.bind({"a": "1"}), rig.counter.bind({"a": "1"})

    def interrupted() -> None:
        with rig.histogram._lock, rig.counter._lock, cell._lock, count._lock:
            rig.histogram.bind({"a": "1"}).record(1.0, SAMPLED)
            rig.counter.bind({"a": "1"}).add(1)
            cell.taken()

    assert in_time(interrupted)
    assert count.taken() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_records_although_a_thread_of_its_parent_held_every_lock() -> None:
    rig = Rig()
    cell, count = rig.histogram.bind({"a": "1"}), rig.counter.bind({"a": "1"})
    held, done = threading.Event(), threading.Event()

    def holding() -> None:
        with rig.histogram._lock, rig.counter._lock, cell._lock, count._lock:
            held.set()
            done.wait(30)

    threading.Thread(target=holding, daemon=True).start()
    held.wait(5)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        rig.histogram.bind({"a": "2"})
        cell.record(1.0, SAMPLED)
        rig.counter.bind({"a": "1"}).add(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    done.set()

    assert status == 0
