"""Size: about how much memory a record takes.

Measured on CPython 3.11 and rounded up; what bounds a store need not be exact, but must not be fooled
by one attribute of ten megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tracekit.model import Attributes, LogLine, Metric, Span, Value

_RECORD: Final = 800  # a record, its ids and numbers, its place in the indexes
_PART: Final = 300  # an event, a point
_LINK: Final = 560  # a link, its ids, and its place in the index
_ENTRY: Final = 140  # a key and a short value in a dict


def of_span(span: Span) -> int:
    """Bytes, without the service, which spans share."""
    size = _RECORD + len(span.name) + len(span.status_message) + len(span.trace_state)
    size += of_attributes(span.attributes)
    size += sum(_LINK + of_attributes(link.attributes) for link in span.links)
    return size + sum(_PART + of_attributes(event.attributes) for event in span.events)


def of_line(line: LogLine) -> int:
    """Bytes, without the service."""
    return _RECORD + of_value(line.body) + of_attributes(line.attributes)


def of_metric(metric: Metric) -> int:
    """Bytes, without the service."""
    size = _RECORD + len(metric.name) + len(metric.description)
    for point in metric.points:
        size += _PART + of_attributes(point.attributes) + 32 * (len(point.bounds) + len(point.buckets))
    return size


def of_attributes(attributes: Attributes) -> int:
    return sum(_ENTRY + len(key) + of_value(value) for key, value in attributes.items())


def of_value(value: Value) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return of_attributes(value)
    if value is None or isinstance(value, int | float):
        return 0
    return sum(_ENTRY + of_value(item) for item in value)
