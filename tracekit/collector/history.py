"""MetricHistory: of each series of a metric the latest point, and the last ones before it, in memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from tracekit.collector import size
from tracekit.model import Metric, Point, Temporality

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.model import Attributes, Service, Value

MAX_SERIES: Final = 5_000
MAX_POINTS: Final = 60
MAX_BYTES: Final = 16 * 1024 * 1024

_POINT: Final = 250  # bytes of a point whose attributes are its series'
_BUCKET: Final = 40

_Key: TypeAlias = "tuple[Metric, str]"


@dataclass(slots=True)
class _Series:
    head: Metric  # without points
    attributes: Attributes
    points: deque[Point]
    bytes: int  # without points


class MetricHistory:
    """Metrics by series: one metric of one service under one set of attributes. Safe in threads.

    Deltas are added up from the first that came: what is read is cumulative, a gauge aside. A point stands
    where it arrived, for clocks are set back; one whose time is there already was sent again, and counts
    once. Where a program starts again its points have another `start_ns`, and begin anew.

    Bounds: `max_series`, `max_points` of each, and `max_bytes` of all (about, see `size`). For a new series
    the one that was silent for longest goes, whole, and is counted in `dropped`; one that grows
    loses its oldest points. A series that is larger than all that is dropped at once.
    """

    def __init__(
        self, *, max_series: int = MAX_SERIES, max_points: int = MAX_POINTS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._max_series = max_series
        self._max_points = max_points
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._series: dict[_Key, _Series] = {}  # the one that was silent for longest first
        self._heads: dict[Metric, tuple[Metric, int]] = {}  # the one that series share, and how many do
        self._bytes = 0
        self._dropped = 0

    @property
    def kept(self) -> int:
        """Series."""
        return len(self._series)

    @property
    def dropped(self) -> int:
        """Series that went for others, or were too large."""
        return self._dropped

    def add(self, metrics: Sequence[Metric]) -> None:
        with self._lock:
            for metric in metrics:
                head = replace(metric, points=())
                if metric.kind != "gauge" and metric.temporality is Temporality.DELTA:
                    head = replace(head, temporality=Temporality.CUMULATIVE)
                for point in metric.points:
                    self._add(head, point, is_delta=head.temporality is not metric.temporality)

    def latest(self) -> tuple[Metric, ...]:
        """All metrics, each with the latest point of each of its series; what changed last comes last."""
        with self._lock:
            found = [(series.head, series.points[-1]) for series in self._series.values()]
        points: dict[Metric, tuple[Point, ...]] = {}
        for head, point in found:
            points[head] = (*points.pop(head, ()), point)
        return tuple(replace(head, points=latest) for head, latest in points.items())

    def history(
        self, name: str, *, service: str | None = None, attributes: Mapping[str, Value] | None = None
    ) -> tuple[Metric, ...]:
        """Each series of that metric, its points in order of arrival; of this service, with these attributes.

        None: of any service, and with any.
        """
        wanted = attributes or {}
        with self._lock:
            return tuple(
                replace(series.head, points=tuple(series.points))
                for series in self._series.values()
                if series.head.name == name
                and service in (None, series.head.service.name)
                and all(key in series.attributes and series.attributes[key] == wanted[key] for key in wanted)
            )

    def _add(self, head: Metric, point: Point, *, is_delta: bool) -> None:
        key = head, repr(sorted(point.attributes.items()))  # tells 1, 1.0 and True apart, and hashes
        series = self._series.pop(key, None)
        if series is None:
            series = self._begun(key, point)
            if series is None:
                return
        elif any(known.time_ns == point.time_ns for known in series.points):
            if series.points[-1].time_ns == point.time_ns and not is_delta:
                self._bytes -= _size(series.points.pop())
                self._append(series, point)
        else:
            self._append(series, _sum(series.points[-1], point) if is_delta else point)
        self._series[key] = series
        while len(series.points) > 1 and (
            len(series.points) > self._max_points or self._bytes > self._max_bytes
        ):
            self._bytes -= _size(series.points.popleft())
        if self._bytes > self._max_bytes:
            self._drop(key)

    def _begun(self, key: _Key, point: Point) -> _Series | None:
        head, _ = key
        own = size.of_metric(head) + size.of_attributes(point.attributes) + len(key[1])
        needed = own + _size(point) + _shared(head.service)
        if needed > self._max_bytes or not self._max_series:
            self._dropped += 1
            return None
        while self._series and (
            len(self._series) >= self._max_series or self._bytes + needed > self._max_bytes
        ):
            self._drop(next(iter(self._series)))
        head, holders = self._heads.get(head, (head, 0))
        self._heads[head] = head, holders + 1
        self._bytes += own + (0 if holders else _shared(head.service))
        series = _Series(head, point.attributes, deque(), own)
        self._append(series, point)
        return series

    def _drop(self, key: _Key) -> None:
        series = self._series.pop(key)
        self._bytes -= series.bytes + sum(map(_size, series.points))
        head, holders = self._heads.pop(series.head)
        if holders > 1:
            self._heads[head] = head, holders - 1
        else:
            self._bytes -= _shared(head.service)
        self._dropped += 1

    def _append(self, series: _Series, point: Point) -> None:
        bounds = series.points[-1].bounds if series.points else point.bounds
        kept = replace(
            point,
            attributes=series.attributes,
            bounds=bounds if bounds == point.bounds else point.bounds,
        )
        series.points.append(kept)
        self._bytes += _size(kept)


def _size(point: Point) -> int:
    return _POINT + _BUCKET * (len(point.buckets) + len(point.bounds))


def _shared(service: Service) -> int:
    return size.of_attributes(service.attributes)


def _sum(total: Point, delta: Point) -> Point:
    """The total with a delta added; of other buckets than before, the delta alone."""
    if total.bounds != delta.bounds or len(total.buckets) != len(delta.buckets):
        return delta
    values = [value for value in (total.value, delta.value) if value is not None]
    return replace(
        delta,
        start_ns=total.start_ns,
        value=sum(values) if values else None,
        count=total.count + delta.count,
        buckets=tuple(map(sum, zip(total.buckets, delta.buckets, strict=True))),
    )
