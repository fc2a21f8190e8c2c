"""Bound instruments: values are added up in cells here, and handed to the SDK's readers as they collect.

The SDK's own instruments cost 10 to 15 us a record; a cell, whose attributes are fixed, costs a
tenth of that (`make bench`). What readers see is the same. Source: design item 4 of the performance
study; the data model is OpenTelemetry's, with one exemplar a bucket from sampled spans.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from opentelemetry.sdk.metrics import Counter as SdkCounter
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags

from tracekit import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import SpanContext

Labels: TypeAlias = "Mapping[str, str | int | bool]"

_MAX_CELLS: Final = 2_000  # of one instrument; then one cell for all others, as the SDK does it
_SAMPLED: Final = TraceFlags.SAMPLED
_OVERFLOW: Final = "otel.metric.overflow"
_SCOPE: Final = InstrumentationScope("tracekit.messaging", schema_url=semconv.SCHEMA_URL)


class HistogramCell:
    """The distribution of one instrument under one set of attributes."""

    __slots__ = (
        "_bounds",
        "_counts",
        "_intervals",
        "_lock",
        "_max",
        "_min",
        "_sampled",
        "_sum",
        "labels",
    )

    def __init__(self, labels: Labels, bounds: Sequence[float]) -> None:
        self.labels = labels
        self._bounds = bounds
        self.renew_lock()
        self._counts = [0] * (len(bounds) + 1)
        self._sampled: dict[int, tuple[float, SpanContext]] = {}
        self._intervals: dict[int, tuple[float, float]] = {}
        self._sum = 0.0
        self._min = float("inf")
        self._max = float("-inf")

    def renew_lock(self) -> None:
        """A lock that nobody holds: in a child, whoever held the old one does not exist."""
        # Re-entrant: a loop that the garbage collector frees ends its turn, which records, in whatever
        # thread the collector runs in, and that may be here.
        self._lock = threading.RLock()

    def record(self, value: float, span: SpanContext) -> None:
        """Take one value, measured in this span."""
        with self._lock:
            bucket = bisect_left(self._bounds, value)
            self._counts[bucket] += 1
            self._sum += value
            if value < self._min:
                self._min = value
            if value > self._max:
                self._max = value
            if span.trace_flags & _SAMPLED:
                self._sampled[bucket] = value, span
            if self._intervals:
                for reader, (least, most) in self._intervals.items():
                    self._intervals[reader] = min(least, value), max(most, value)

    def taken(self, interval_of: int = 0) -> tuple[list[int], float, float, float, list[Exemplar]]:
        """Counts, sum, smallest and largest value so far, and the exemplars since the last time.

        Smallest and largest of the interval since the same reader was told last, where it is named.
        """
        with self._lock:
            least, most = self._min, self._max
            if interval_of:
                least, most = self._intervals.get(interval_of, (least, most))
                self._intervals[interval_of] = float("inf"), float("-inf")
            sampled, self._sampled = self._sampled, {}
            counts, total = self._counts.copy(), self._sum
        now_ns = time.time_ns()
        exemplars = [
            Exemplar({}, value, now_ns, span.span_id, span.trace_id) for value, span in sampled.values()
        ]
        return counts, total, least, most, exemplars


class CounterCell:
    """The count of one instrument under one set of attributes."""

    __slots__ = ("_lock", "_total", "labels")

    def __init__(self, labels: Labels, _: Sequence[float]) -> None:
        self.labels = labels
        self.renew_lock()
        self._total = 0

    def renew_lock(self) -> None:
        """A lock that nobody holds: in a child, whoever held the old one does not exist."""
        self._lock = threading.RLock()  # as above

    def add(self, number: int) -> None:
        """Count so many more."""
        with self._lock:
            self._total += number

    def taken(self) -> int:
        """The count so far."""
        with self._lock:
            return self._total


Cell = TypeVar("Cell", HistogramCell, CounterCell)


class Instrument(Generic[Cell]):
    """One instrument, with a cell for each set of attributes."""

    def __init__(
        self, make: type[Cell], name: str, unit: str, description: str, bounds: Sequence[float]
    ) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.bounds = bounds
        self._make: Callable[[Labels, Sequence[float]], Cell] = make
        self._lock = threading.RLock()  # as that of a cell
        self._cells: dict[frozenset[tuple[str, str | int | bool]], Cell] = {}

    def bind(self, labels: Labels) -> Cell:
        """The cell for these attributes."""
        key = frozenset(labels.items())
        with self._lock:
            if key not in self._cells and len(self._cells) >= _MAX_CELLS:
                labels, key = {_OVERFLOW: True}, frozenset({(_OVERFLOW, True)})
            if key not in self._cells:
                made = self._make(labels, self.bounds)
                return self._cells.setdefault(key, made)  # making it may have let another in, here
            return self._cells[key]

    def cells(self) -> list[Cell]:
        """All cells, in the order in which they were made."""
        with self._lock:
            return list(self._cells.values())

    def renew_locks(self) -> None:
        """Its own lock and those of its cells, in a child."""
        self._lock = threading.RLock()
        for cell in self._cells.values():
            cell.renew_lock()


class Cells:
    """The instruments of one provider, and what each of its readers was told last."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._start_ns = time.time_ns()
        self._histograms: list[Instrument[HistogramCell]] = []
        self._counters: list[Instrument[CounterCell]] = []
        self._told: weakref.WeakKeyDictionary[MetricReader, dict[object, Any]] = weakref.WeakKeyDictionary()
        if hasattr(os, "register_at_fork"):
            ourselves = weakref.ref(self)  # a registration is for ever
            os.register_at_fork(after_in_child=lambda: _renew_locks(ourselves()))

    def histogram(
        self, name: str, unit: str, description: str, bounds: Sequence[float]
    ) -> Instrument[HistogramCell]:
        """A histogram with these boundaries."""
        self._histograms.append(Instrument(HistogramCell, name, unit, description, bounds))
        return self._histograms[-1]

    def counter(self, name: str, unit: str, description: str) -> Instrument[CounterCell]:
        """A counter of whole things."""
        self._counters.append(Instrument(CounterCell, name, unit, description, ()))
        return self._counters[-1]

    def renew_locks(self) -> None:
        """After a fork, in the child: another thread may have held any of them."""
        for histogram in self._histograms:
            histogram.renew_locks()
        for counter in self._counters:
            counter.renew_locks()

    def join(self, reader: MetricReader) -> None:
        """Let a reader that already has its provider collect from here too."""
        # The SDK has no producers to register with a reader; this is where its provider registers.
        collect: Any = reader._collect  # noqa: SLF001

        def both(asking: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
            return self._merged(collect(asking, timeout_millis=timeout_millis), asking)

        reader._set_collect_callback(both)  # type: ignore[arg-type]  # noqa: SLF001 - its own type is too narrow

    def _merged(self, theirs: MetricsData | None, reader: MetricReader) -> MetricsData | None:
        metrics = self._metrics(reader)
        if not metrics:
            return theirs
        ours = ScopeMetrics(_SCOPE, metrics, semconv.SCHEMA_URL)
        resources = list(theirs.resource_metrics) if theirs is not None else []
        for position, one in enumerate(resources):
            if one.resource == self._resource:
                scopes = [*one.scope_metrics, ours]
                resources[position] = ResourceMetrics(one.resource, scopes, one.schema_url)
                return MetricsData(resources)
        return MetricsData([*resources, ResourceMetrics(self._resource, [ours], self._resource.schema_url)])

    def _metrics(self, reader: MetricReader) -> list[Metric]:
        histograms, counters = _temporality(reader, SdkHistogram), _temporality(reader, SdkCounter)
        now_ns = time.time_ns()
        told = self._told.setdefault(reader, {})
        metrics: list[Metric] = []
        for histogram in self._histograms:
            delta = histograms is AggregationTemporality.DELTA
            found = [self._histogram_point(histogram, one, told, now_ns, delta) for one in histogram.cells()]
            points = [point for point in found if point.count]
            if points:
                data = Histogram(points, histograms)
                metrics.append(Metric(histogram.name, histogram.description, histogram.unit, data))
        for counter in self._counters:
            delta = counters is AggregationTemporality.DELTA
            totals = [self._number_point(one, told, now_ns, delta) for one in counter.cells()]
            numbers = [point for point in totals if point.value]
            if numbers:
                total = Sum(numbers, counters, is_monotonic=True)
                metrics.append(Metric(counter.name, counter.description, counter.unit, total))
        return metrics

    def _histogram_point(
        self,
        instrument: Instrument[HistogramCell],
        cell: HistogramCell,
        told: dict[object, Any],
        now_ns: int,
        delta: bool,
    ) -> HistogramDataPoint:
        counts, total, least, most, exemplars = cell.taken(id(told) if delta else 0)
        start_ns = self._start_ns
        if delta:
            before, before_total, start_ns = told.get(cell, ([0] * len(counts), 0.0, start_ns))
            told[cell] = counts, total, now_ns
            counts = [now - then for now, then in zip(counts, before, strict=True)]
            total -= before_total
        return HistogramDataPoint(
            dict(cell.labels),
            start_ns,
            now_ns,
            sum(counts),
            total,
            counts,
            instrument.bounds,
            least,
            most,
            exemplars,
        )

    def _number_point(
        self, cell: CounterCell, told: dict[object, Any], now_ns: int, delta: bool
    ) -> NumberDataPoint:
        value, start_ns = cell.taken(), self._start_ns
        if delta:
            before, start_ns = told.get(cell, (0, start_ns))
            told[cell] = value, now_ns
            value -= before
        return NumberDataPoint(dict(cell.labels), start_ns, now_ns, value)


def _renew_locks(cells: Cells | None) -> None:
    if cells is not None:
        cells.renew_locks()


def _temporality(reader: MetricReader, kind: type[object]) -> AggregationTemporality:
    """How a reader wants this kind of instrument, which it has no public way to say."""
    for one, temporality in reader._instrument_class_temporality.items():  # noqa: SLF001
        if issubclass(one, kind):
            return temporality
    return AggregationTemporality.CUMULATIVE
