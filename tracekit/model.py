"""Records of telemetry as tracekit reads it: spans, links, events, services, log lines, metrics.

Ids are lower-case hexadecimal text (32 characters for a trace, 16 for a span), times are integer
nanoseconds since the Unix epoch. The records say what arrived, not what it means: `flow` does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Literal, TypeAlias

Scalar: TypeAlias = str | bool | int | float | bytes
Value: TypeAlias = Scalar | Sequence["Value"] | Mapping[str, "Value"] | None
"""An attribute's value: what OTLP's AnyValue can hold."""

Attributes: TypeAlias = Mapping[str, Value]

NO_ATTRIBUTES: Attributes = MappingProxyType({})


def _no_attributes() -> Attributes:
    # Python 3.11 takes no mapping proxy as a field's default: it has no hash there.
    return NO_ATTRIBUTES


class Kind(Enum):
    """The kind of a span; the values are OTLP's numbers."""

    UNSPECIFIED = 0
    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class Status(Enum):
    """The status of a span; the values are OTLP's numbers."""

    UNSET = 0
    OK = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Service:
    """Who sent a span: the resource's name, namespace and instance, and all of its attributes."""

    name: str
    namespace: str = ""
    instance: str = ""
    attributes: Attributes = field(default_factory=_no_attributes, compare=False)


UNKNOWN_SERVICE = Service("unknown_service")


@dataclass(frozen=True, slots=True)
class Link:
    """A reference from a span to another one, in the same trace or in another."""

    trace_id: str
    span_id: str
    attributes: Attributes = field(default_factory=_no_attributes)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one moment of a span."""

    name: str
    time_ns: int
    attributes: Attributes = field(default_factory=_no_attributes)


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work of one service.

    `parent_id` is None for a root; `parent_is_remote` is None where the sender did not say.
    `end_ns` is None while the work is under way. `scope` names the instrumentation.
    """

    trace_id: str
    span_id: str
    name: str
    start_ns: int
    end_ns: int | None
    parent_id: str | None = None
    parent_is_remote: bool | None = None
    kind: Kind = Kind.INTERNAL
    status: Status = Status.UNSET
    status_message: str = ""
    attributes: Attributes = field(default_factory=_no_attributes)
    links: tuple[Link, ...] = ()
    events: tuple[Event, ...] = ()
    service: Service = UNKNOWN_SERVICE
    scope: str = ""
    trace_state: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log record. `trace_id` and `span_id` are empty where it was written outside a span."""

    time_ns: int
    body: Value
    severity: int = 0
    severity_text: str = ""
    attributes: Attributes = field(default_factory=_no_attributes)
    trace_id: str = ""
    span_id: str = ""
    service: Service = UNKNOWN_SERVICE
    event_name: str = ""


class Temporality(Enum):
    """What a sum or a histogram counts from; the values are OTLP's numbers."""

    UNSPECIFIED = 0
    DELTA = 1
    CUMULATIVE = 2


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of a metric, under one set of attributes.

    `value` is the number itself, of a histogram the sum; None where the sender left it out.
    `count`, `bounds` and `buckets` are a histogram's; it has one bucket more than bounds, or none.
    """

    time_ns: int
    value: int | float | None
    attributes: Attributes = field(default_factory=_no_attributes)
    start_ns: int = 0
    count: int = 0
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one service, with the points of one export."""

    name: str
    kind: Literal["gauge", "sum", "histogram"]
    points: tuple[Point, ...]
    unit: str = ""
    description: str = ""
    temporality: Temporality = Temporality.UNSPECIFIED
    is_monotonic: bool = False
    service: Service = UNKNOWN_SERVICE
    scope: str = ""
