"""Store: where telemetry is kept, as its writers and readers see it.

Every store passes `tests/contract/test_stores.py`. Everything it keeps is bounded; what it drops it
counts, and so it does with what a receiver refused: `counts()` is where both are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.collector.changes import Changes
    from tracekit.model import LogLine, Metric, Span
    from tracekit.otlp import Signal


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one signal: records kept now, dropped to stay within a bound, refused before they came in.

    Metrics are kept and dropped by the metric, refused by the point. Of spans that came twice a store on
    disk counts both.
    """

    kept: int = 0
    dropped: int = 0
    refused: int = 0


class Store(Protocol):
    """Keeps spans, log lines and metrics. Any method may be called from any thread.

    What was read is a snapshot, and stays as it is. A change is announced once it can be read.
    """

    @property
    def changes(self) -> Changes:
        """Announced after each call that added something."""
        ...

    def add_spans(self, spans: Sequence[Span]) -> None:
        """Keep these spans. One that is there already (same ids) is replaced: exporters send again."""
        ...

    def add_encoded_spans(self, body: bytes) -> bool:
        """Keep all spans of an OTLP request in protobuf, as it is; whoever calls leaves its bytes alone.

        False, and nothing is kept, where it must be decoded first: it holds what is to be refused, or
        is written in a way that only the decoder understands; or this store keeps records.
        """
        ...

    def add_logs(self, lines: Sequence[LogLine]) -> None: ...

    def add_metrics(self, metrics: Sequence[Metric]) -> None: ...

    def count_refused(self, signal: Signal, number: int) -> None:
        """Count what a receiver refused."""
        ...

    def flow(self, flow_id: str) -> Sequence[Span]:
        """Every span that belongs to a flow or shows where it broke; what that is, `reach` tells."""
        ...

    def trace(self, trace_id: str) -> Sequence[Span]:
        """The spans of one trace, in order of arrival."""
        ...

    def spans(self) -> Sequence[Span]:
        """All spans, trace by trace, the oldest trace first."""
        ...

    def logs(self) -> Sequence[LogLine]:
        """All log lines, in order of arrival."""
        ...

    def metrics(self) -> Sequence[Metric]:
        """All metrics, in order of arrival: one for each export of each."""
        ...

    def counts(self) -> Mapping[Signal, Counts]: ...
