"""Measured: one metric under one set of attributes, as it stood last."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracekit.model import Attributes, Metric


@dataclass(frozen=True, slots=True)
class Measured:
    """What a metric measured under one set of attributes.

    `value` is the number, of a histogram the sum; `count`, `bounds` (the boundaries) and `buckets` are a
    histogram's. `instrument` is what OTLP calls it. Sums and histograms count from their start on; where
    a service exports deltas, this is the last one.
    """

    name: str
    instrument: Literal["gauge", "sum", "histogram"]
    unit: str
    attributes: Attributes
    value: int | float | None
    count: int = 0
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    service: str = ""


def measured(metrics: Iterable[Metric]) -> Mapping[str, tuple[Measured, ...]]:
    """By name, what these metrics say; of the same one under the same attributes, the last."""
    last: dict[tuple[object, ...], Measured] = {}
    for metric in metrics:
        for point in metric.points:
            key = (metric.name, metric.service, metric.scope, frozenset(map(repr, point.attributes.items())))
            last[key] = Measured(
                metric.name,
                metric.kind,
                metric.unit,
                point.attributes,
                point.value,
                point.count,
                point.bounds,
                point.buckets,
                metric.service.name,
            )
    found: defaultdict[str, list[Measured]] = defaultdict(list)
    for each in last.values():
        found[each.name].append(each)
    return {name: tuple(points) for name, points in sorted(found.items())}
