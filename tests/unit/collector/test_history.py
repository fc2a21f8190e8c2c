"""MetricHistory: what is latest, what came before it, and what goes where it gets too much."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.collector.history import MetricHistory
from tracekit.model import Metric, Point, Service, Temporality

SHOP = Service("shop")
GAUGE = Metric("depth", "gauge", (), service=SHOP)
TOTAL = Metric("sent", "sum", (), temporality=Temporality.CUMULATIVE, is_monotonic=True, service=SHOP)
DELTA = replace(TOTAL, temporality=Temporality.DELTA)
TOOK = Metric("took", "histogram", (), temporality=Temporality.DELTA, service=SHOP)


def kept(*metrics: Metric, **bounds: int) -> MetricHistory:
    history = MetricHistory(**bounds)
    for metric in metrics:
        history.add([metric])
    return history


def of(head: Metric, *points: Point) -> Metric:
    return replace(head, points=points)


def test_the_latest_point_of_each_series_is_given_as_one_metric() -> None:
    history = kept(
        of(GAUGE, Point(1, 5, {"to": "a"}), Point(1, 7, {"to": "b"})), of(GAUGE, Point(2, 6, {"to": "a"}))
    )

    assert history.latest() == (of(GAUGE, Point(1, 7, {"to": "b"}), Point(2, 6, {"to": "a"})),)
    assert (history.kept, history.dropped) == (2, 0)


@pytest.mark.parametrize("other", [1, True, 1.0, "1", (1,)])
def test_values_that_are_equal_but_not_the_same_are_two_series(other: object) -> None:
    points = [Point(1, 1, {"n": value}) for value in (1, True, 1.0, "1", (1,)) if repr(value) != repr(other)]

    assert kept(of(GAUGE, *points, Point(1, 2, {"n": other}))).kept == 5  # type: ignore[dict-item]  # any value


def test_the_order_of_attributes_makes_no_series() -> None:
    assert kept(of(GAUGE, Point(1, 1, {"a": 1, "b": 2}), Point(2, 1, {"b": 2, "a": 1}))).kept == 1


def test_a_history_goes_back_so_many_points() -> None:
    history = kept(*(of(GAUGE, Point(at, at)) for at in range(10)), max_points=3)

    assert history.history("depth") == (of(GAUGE, Point(7, 7), Point(8, 8), Point(9, 9)),)


def test_a_history_is_asked_for_by_service_and_attributes() -> None:
    other = replace(GAUGE, service=Service("billing"))
    points = Point(1, 1, {"to": "a", "n": 1}), Point(1, 2, {"to": "b", "n": 1})
    history = kept(of(GAUGE, *points), of(other, points[0]), of(TOTAL, points[0]))

    assert history.history("depth", service="shop", attributes={"to": "b"}) == (of(GAUGE, points[1]),)
    assert history.history("depth", attributes={"to": "a"}) == (of(GAUGE, points[0]), of(other, points[0]))
    assert history.history("other") == ()


def test_deltas_are_added_up() -> None:
    history = kept(*(of(DELTA, Point(at, 2, start_ns=at - 1)) for at in (1, 2, 3)))

    assert history.history("sent") == (of(TOTAL, *(Point(at, 2 * at) for at in (1, 2, 3))),)


def test_deltas_of_histograms_are_added_up_by_bucket() -> None:
    def point(at: int, *buckets: int, bounds: tuple[float, ...] = (1.0,)) -> Point:
        return Point(at, 0.5, start_ns=at - 1, count=sum(buckets), bounds=bounds, buckets=buckets)

    first, second = point(1, 1, 0), point(2, 2, 3)
    other = point(3, 1, 1, 1, bounds=(1.0, 2.0))
    history = kept(*(of(TOOK, each) for each in (first, second, other)))

    added = Point(2, 1.0, start_ns=0, count=6, bounds=(1.0,), buckets=(3, 3))
    head = replace(TOOK, temporality=Temporality.CUMULATIVE)
    assert history.history("took") == (of(head, first, added, other),)


@pytest.mark.parametrize("metric", [TOTAL, DELTA, GAUGE])
def test_what_is_sent_again_counts_once(metric: Metric) -> None:
    sent = [of(metric, Point(at, 5, start_ns=1)) for at in (2, 3)]
    once, twice = kept(*sent), kept(sent[0], sent[0], sent[1], sent[0], sent[1])

    assert twice.history(metric.name) == once.history(metric.name)


def test_a_program_that_starts_again_begins_anew() -> None:
    before, after = Point(5, 100, start_ns=1), Point(7, 2, start_ns=6)

    assert kept(of(TOTAL, before), of(TOTAL, after)).history("sent") == (of(TOTAL, before, after),)


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    points = Point(5, 1), Point(2, 2), Point(3, 3)

    assert kept(of(GAUGE, *points)).history("depth") == (of(GAUGE, *points),)


def test_the_series_that_was_silent_for_longest_goes_first() -> None:
    def point(to: str, at: int) -> Metric:
        return of(GAUGE, Point(at, at, {"to": to}))

    history = kept(point("a", 1), point("b", 1), point("a", 2), point("c", 3), max_series=2)

    assert history.latest() == (of(GAUGE, Point(2, 2, {"to": "a"}), Point(3, 3, {"to": "c"})),)
    assert (history.kept, history.dropped) == (2, 1)


def test_a_series_that_is_too_large_leaves_the_others_alone() -> None:
    small = of(GAUGE, Point(1, 1))
    history = kept(small, of(GAUGE, Point(1, 1, {"n": "x" * 20_000})), max_bytes=20_000)

    assert (history.latest(), history.dropped) == ((small,), 1)


def test_where_bytes_run_out_histories_get_shorter_and_the_latest_stay() -> None:
    history = MetricHistory(max_bytes=50_000)
    for at in range(100):
        history.add([of(GAUGE, *(Point(at, at, {"n": n}) for n in range(20)))])

    lengths = {len(metric.points) for metric in history.history("depth")}
    assert (history.kept, history.dropped) == (20, 0)
    assert 1 <= min(lengths) <= max(lengths) < 20


NUMBERS = st.integers(0, 5)
POINTS = st.builds(
    Point,
    time_ns=st.integers(0, 20),
    value=st.one_of(st.none(), NUMBERS),
    attributes=st.fixed_dictionaries({"n": NUMBERS, "long": st.sampled_from(["", "x" * 3000])}),
    start_ns=NUMBERS,
    bounds=st.sampled_from([(), (1.0,)]),
    buckets=st.sampled_from([(), (1, 2), (1,) * 50]),
)
METRICS = st.builds(
    Metric,
    name=st.sampled_from("ab"),
    kind=st.sampled_from(["gauge", "sum", "histogram"]),
    points=st.lists(POINTS, max_size=10).map(tuple),
    temporality=st.sampled_from(Temporality),
    service=st.sampled_from([SHOP, Service("large", attributes={"n": "y" * 1000})]),
)


@given(st.lists(METRICS, max_size=20), st.integers(0, 5), st.integers(1, 5), st.integers(0, 20_000))
def test_whatever_comes_the_bounds_hold_and_the_books_balance(
    metrics: list[Metric], max_series: int, max_points: int, max_bytes: int
) -> None:
    history = kept(*metrics, max_series=max_series, max_points=max_points, max_bytes=max_bytes)

    assert history.kept <= max_series
    assert all(len(found.points) <= max_points for name in "ab" for found in history.history(name))
    assert sum(len(metric.points) for metric in history.latest()) == history.kept
    assert 0 <= history._bytes <= max_bytes
    while history._series:
        history._drop(next(iter(history._series)))
    assert (history._bytes, history._heads) == (0, {})
