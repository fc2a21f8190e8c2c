"""The instruments of messaging: those of the conventions, and the queue's and the flow's duration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from tracekit import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.metrics import Counter, Histogram, Meter
    from opentelemetry.trace import SpanContext

    from tracekit.tracing.cells import Cells


class Distribution(Protocol):
    """A histogram under fixed attributes."""

    def record(self, value: float, span: SpanContext) -> None: ...


class Count(Protocol):
    """A counter under fixed attributes."""

    def add(self, number: int) -> None: ...


class Distributions(Protocol):
    """A histogram."""

    def bind(self, labels: Mapping[str, str | int | bool]) -> Distribution: ...


class Counts(Protocol):
    """A counter."""

    def bind(self, labels: Mapping[str, str | int | bool]) -> Count: ...


class _Bound:
    """An instrument of the application's own provider, under fixed attributes."""

    __slots__ = ("_instrument", "_labels")

    def __init__(self, instrument: Histogram | Counter, labels: Mapping[str, str | int | bool]) -> None:
        self._instrument = instrument
        self._labels = labels

    def record(self, value: float, _: SpanContext) -> None:
        self._instrument.record(value, self._labels)  # type: ignore[union-attr]  # only histograms are recorded

    def add(self, number: int) -> None:
        self._instrument.add(number, self._labels)  # type: ignore[union-attr]  # only counters are added to


class _Theirs:
    __slots__ = ("_instrument",)

    def __init__(self, instrument: Histogram | Counter) -> None:
        self._instrument = instrument

    def bind(self, labels: Mapping[str, str | int | bool]) -> _Bound:
        return _Bound(self._instrument, labels)


_HISTOGRAMS: Final = {
    "operation_duration": (
        semconv.CLIENT_OPERATION_DURATION,
        "Duration of messaging operation initiated by a producer or consumer client.",
        semconv.DURATION_BUCKETS,
    ),
    "process_duration": (
        semconv.PROCESS_DURATION,
        "Duration of processing operation.",
        semconv.DURATION_BUCKETS,
    ),
    "queue_duration": (
        semconv.QUEUE_DURATION,
        "Time from publishing a message to the start of its processing.",
        semconv.QUEUE_BUCKETS,
    ),
    "flow_duration": (
        semconv.FLOW_DURATION,
        "Time from a flow's beginning to a place where it may end.",
        semconv.QUEUE_BUCKETS,
    ),
}
_COUNTERS: Final = {
    "sent_messages": (semconv.SENT_MESSAGES, "Number of messages a producer attempted to send."),
    "consumed_messages": (semconv.CONSUMED_MESSAGES, "Number of messages delivered to the application."),
    "lost_messages": (
        semconv.LOST_MESSAGES,
        "Number of messages that the broker dropped before anybody was done with them.",
    ),
}


class Instruments:
    """What the engine records, in seconds and messages, whether or not a span is sampled.

    In cells of ours where the meter provider is ours, else by the `meter` of the application's.
    """

    operation_duration: Distributions
    process_duration: Distributions
    queue_duration: Distributions
    flow_duration: Distributions
    sent_messages: Counts
    consumed_messages: Counts
    lost_messages: Counts

    def __init__(self, meter: Meter, cells: Cells | None) -> None:
        for name, (metric, description, buckets) in _HISTOGRAMS.items():
            setattr(self, name, _histogram(meter, cells, metric, description, buckets))
        for name, (metric, description) in _COUNTERS.items():
            setattr(self, name, _counter(meter, cells, metric, description))


def _histogram(
    meter: Meter, cells: Cells | None, name: str, description: str, buckets: Sequence[float]
) -> Distributions:
    if cells is not None:
        return cells.histogram(name, semconv.SECONDS, description, buckets)
    # The boundaries are given here because the conventions' own helpers give none, and the SDK's
    # default ones (0, 5, 10, 25, …) would put every call into one bucket.
    return _Theirs(
        meter.create_histogram(
            name, semconv.SECONDS, description, explicit_bucket_boundaries_advisory=buckets
        )
    )


def _counter(meter: Meter, cells: Cells | None, name: str, description: str) -> Counts:
    if cells is not None:
        return cells.counter(name, semconv.MESSAGES, description)
    return _Theirs(meter.create_counter(name, semconv.MESSAGES, description))
