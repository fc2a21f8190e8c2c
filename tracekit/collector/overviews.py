"""Overviews: what services and destinations did, metrics, and the collector's own state, as JSON. Pure.

Written as `views` are. Bounds: `MAX_ROWS` services or destinations, the busiest; `MAX_SERIES` metrics with
their last `MAX_POINTS` points, of histograms `MAX_BUCKETS` buckets. What was left out is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracekit.collector.cut import MAX_ITEMS, Cut, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tracekit.collector.archive import Held
    from tracekit.collector.cut import Json, Object
    from tracekit.collector.store import Counts
    from tracekit.collector.traffic import Durations, Seen
    from tracekit.model import Metric, Point
    from tracekit.otlp import Signal

MAX_ROWS: Final = 500
MAX_SERIES: Final = 500
MAX_POINTS: Final = 60
MAX_BUCKETS: Final = 200
_SIGNALS: Final[tuple[Signal, ...]] = ("traces", "logs", "metrics")


def services(seen: Seen) -> Object:
    """What each service did, the busiest first; its name is bounded by `traffic`."""
    rows = sorted(seen.services, key=lambda row: -row.spans)
    return {
        "window_ns": seen.window_ns,
        "services": [
            {
                "service": row.service,
                "spans": row.spans,
                "spans_per_s": _rate(row.spans, seen),
                "errors": row.errors,
                "requests": row.requests,
                "requests_per_s": _rate(row.requests, seen),
                "messages": row.messages,
                "messages_per_s": _rate(row.messages, seen),
                "durations": _durations(row.durations),
            }
            for row in rows[:MAX_ROWS]
        ],
        "omitted": max(0, len(rows) - MAX_ROWS),
        "uncounted": seen.omitted,
    }


def destinations(seen: Seen) -> Object:
    """What went through each destination, the busiest first."""
    rows = sorted(seen.destinations, key=lambda row: -row.messages)
    return {
        "window_ns": seen.window_ns,
        "destinations": [
            {
                "system": row.system,
                "destination": row.destination,
                "consumer": row.consumer,
                "producers": _largest(row.producers),
                "messages": row.messages,
                "messages_per_s": _rate(row.messages, seen),
                "errors": row.errors,
                "waits": _durations(row.waits),
                "wait_sources": _largest(row.wait_sources),
                "handling": _durations(row.handling),
            }
            for row in rows[:MAX_ROWS]
        ],
        "omitted": max(0, len(rows) - MAX_ROWS),
        "uncounted": seen.omitted,
    }


def _rate(count: int, seen: Seen) -> float:
    return round(count * 10**9 / seen.window_ns, 3)


def _durations(durations: Durations) -> Object:
    return {
        "count": durations.count,
        "p50_ns": durations.p50_ns,
        "p95_ns": durations.p95_ns,
        "max_ns": durations.max_ns,
    }


def _largest(counts: Mapping[str, int]) -> Object:
    return dict(sorted(counts.items(), key=lambda row: -row[1])[:MAX_ITEMS])


def metrics(found: Iterable[Metric]) -> Object:
    """Each metric of each service under each set of attributes, with its last points."""
    series: list[tuple[Metric, list[Point]]] = []
    for metric in found:
        points: dict[str, list[Point]] = {}
        for point in metric.points:
            points.setdefault(repr(sorted(point.attributes.items())), []).append(point)
        series += [(metric, same[-MAX_POINTS:]) for same in points.values()]
    some = shown(series, MAX_SERIES, lambda _, each, cut: _metric(*each, cut))
    return {"metrics": some, "omitted": len(series) - len(some)}


def _metric(metric: Metric, points: Sequence[Point], cut: Cut) -> Object:
    last = points[-1]
    return {
        "name": cut.text(metric.name),
        "kind": metric.kind,
        "unit": cut.text(metric.unit),
        "description": cut.text(metric.description),
        "service": cut.text(metric.service.name),
        "instance": cut.text(metric.service.instance),
        "temporality": metric.temporality.name.lower(),
        "is_monotonic": metric.is_monotonic,
        "attributes": cut.attributes(last.attributes),
        "bounds": [cut.value(bound) for bound in last.bounds[:MAX_BUCKETS]],
        "points": [
            {
                "time_ns": str(point.time_ns),
                "value": cut.value(point.value),
                "count": point.count,
                "buckets": list(point.buckets[:MAX_BUCKETS]),
            }
            for point in points
        ],
    }


def status(
    *,
    version: str,
    held: Held,
    counts: Mapping[Signal, Counts],
    watchers: int,
    more: Mapping[str, Json],
) -> Object:
    """What the collector holds, dropped and refused; `more` is what else runs beside the archive."""
    cut = Cut()
    found: Object = {
        "version": version,
        "flows": held.flows,
        "bytes": held.bytes,
        "max_bytes": held.max_bytes,
        "oldest_ns": None if held.oldest_ns is None else str(held.oldest_ns),
        "unanalysed": held.unanalysed,
        "troubles": cut.texts(held.troubles),
        "watchers": watchers,
        "more": dict(more),
    }
    for signal in _SIGNALS:
        count = counts[signal]
        found[signal] = {"kept": count.kept, "dropped": count.dropped, "refused": count.refused}
    return found
