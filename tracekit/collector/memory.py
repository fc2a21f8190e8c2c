"""MemoryStore: everything in this process, nothing on disk."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from tracekit.collector import size
from tracekit.collector.changes import Changes
from tracekit.collector.reach import flow_spans
from tracekit.collector.store import Counts
from tracekit.flow import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracekit.model import LogLine, Metric, Service, Span
    from tracekit.otlp import Signal

MAX_RECORDS: Final = 100_000
MAX_BYTES: Final = 128 * 1024 * 1024

_Key: TypeAlias = "tuple[str, str, int, Service]"
R = TypeVar("R", "LogLine", "Metric")


class MemoryStore:
    """A store for tests, for the demo, and for the hours that one developer looks back.

    Bounds, of each signal for itself: `max_records` records and `max_bytes` bytes (about, see `size`).
    Of the spans the oldest trace goes first and whole, counted from when its first span came; of log
    lines and metrics the oldest. A trace that is larger than the bound by itself goes when it passes it.
    """

    def __init__(self, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self.changes = Changes()
        self._lock = threading.RLock()
        self._traces = _Traces(max_records, max_bytes)
        self._lines: _Row[LogLine] = _Row(max_records, max_bytes, size.of_line)
        self._metrics: _Row[Metric] = _Row(max_records, max_bytes, size.of_metric)
        self._refused: Counter[Signal] = Counter()

    def add_spans(self, spans: Sequence[Span]) -> None:
        with self._lock:
            for span in spans:
                self._traces.add(span)
        self._announce(spans)

    def add_encoded_spans(self, body: bytes) -> bool:
        return False

    def add_logs(self, lines: Sequence[LogLine]) -> None:
        with self._lock:
            for line in lines:
                self._lines.add(line)
        self._announce(lines)

    def add_metrics(self, metrics: Sequence[Metric]) -> None:
        with self._lock:
            for metric in metrics:
                self._metrics.add(metric)
        self._announce(metrics)

    def _announce(self, added: Sequence[object]) -> None:
        if added:
            self.changes.announce()

    def count_refused(self, signal: Signal, number: int) -> None:
        with self._lock:
            self._refused[signal] += number

    def flow(self, flow_id: str) -> tuple[Span, ...]:
        with self._lock:
            return flow_spans(self._traces, flow_id)

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        with self._lock:
            return self._traces.trace(trace_id)

    def spans(self) -> tuple[Span, ...]:
        with self._lock:
            return self._traces.all()

    def logs(self) -> tuple[LogLine, ...]:
        with self._lock:
            return self._lines.all()

    def metrics(self) -> tuple[Metric, ...]:
        with self._lock:
            return self._metrics.all()

    def counts(self) -> Mapping[Signal, Counts]:
        with self._lock:
            return {
                "traces": Counts(self._traces.kept, self._traces.dropped, self._refused["traces"]),
                "logs": Counts(self._lines.kept, self._lines.dropped, self._refused["logs"]),
                "metrics": Counts(self._metrics.kept, self._metrics.dropped, self._refused["metrics"]),
            }


class _Services:
    """How much the services take that kept records share: a request's records have one."""

    def __init__(self) -> None:
        self._holders: Counter[int] = Counter()

    def count(self, service: Service, number: int) -> int:
        """One holder more (+1) or less (-1); gives by how many bytes that changes what is kept."""
        before = self._holders[id(service)]
        self._holders[id(service)] += number
        if before and before + number:
            return 0
        if not before + number:
            del self._holders[id(service)]
        return number * size.of_attributes(service.attributes)


class _Row(Generic[R]):
    """Records in order of arrival, the oldest out first."""

    def __init__(self, max_records: int, max_bytes: int, size_of: Callable[[R], int]) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._size_of: Callable[[R], int] = size_of
        self._records: deque[R] = deque()
        self._services = _Services()
        self._bytes = 0
        self.dropped = 0

    @property
    def kept(self) -> int:
        return len(self._records)

    def add(self, record: R) -> None:
        self._records.append(record)
        self._count(record, +1)
        while self.kept > self._max_records or self._bytes > self._max_bytes:
            self._count(self._records.popleft(), -1)
            self.dropped += 1

    def _count(self, record: R, number: int) -> None:
        self._bytes += number * self._size_of(record) + self._services.count(record.service, number)

    def all(self) -> tuple[R, ...]:
        return tuple(self._records)


class _Traces:
    """Spans by trace, by the traces that they link to, and by the flow that they carry."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._traces: dict[str, dict[_Key, Span]] = {}
        # What leads to a trace, or belongs to a flow: the traces where such spans are, with how many.
        self._linking: dict[str, Counter[str]] = {}
        self._carrying: dict[str, Counter[str]] = {}
        self._services = _Services()
        self._bytes = 0
        self.kept = 0
        self.dropped = 0

    def add(self, span: Span) -> None:
        spans = self._traces.setdefault(span.trace_id, {})
        # Ids may collide, or be shared by the two ends of a call; those are two spans. What was sent
        # again, or first while under way and then at its end, is one.
        key = span.span_id, span.name, span.start_ns, span.service
        if (known := spans.get(key)) is not None:
            self._count(known, -1)
        spans[key] = span
        self._count(span, +1)
        while self.kept > self._max_records or self._bytes > self._max_bytes:
            self._drop(next(iter(self._traces)))

    def _drop(self, trace_id: str) -> None:
        spans = self._traces.pop(trace_id)
        for span in spans.values():
            self._count(span, -1)
        self.dropped += len(spans)

    def _count(self, span: Span, number: int) -> None:
        self.kept += number
        self._bytes += number * size.of_span(span) + self._services.count(span.service, number)
        for target in {link.trace_id for link in span.links}:
            _count(self._linking, target, span.trace_id, number)
        for flow_id in _flow_ids(span):
            _count(self._carrying, flow_id, span.trace_id, number)

    def all(self) -> tuple[Span, ...]:
        return tuple(span for spans in self._traces.values() for span in spans.values())

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        return tuple(self._traces.get(trace_id, {}).values())

    def linking(self, trace_id: str) -> list[Span]:
        return [
            span
            for other in self._linking.get(trace_id, ())
            for span in self.trace(other)
            if any(link.trace_id == trace_id for link in span.links)
        ]

    def carrying(self, flow_id: str) -> list[Span]:
        return [
            span
            for other in self._carrying.get(flow_id, ())
            for span in self.trace(other)
            if flow_id in _flow_ids(span)
        ]


def _flow_ids(span: Span) -> set[str]:
    own = facts.flow_id(span)
    said = {facts.flow_id(link) for link in span.links}
    return {flow_id for flow_id in (own, *said) if flow_id}


def _count(index: dict[str, Counter[str]], key: str, trace_id: str, number: int) -> None:
    counter = index.setdefault(key, Counter())
    counter[trace_id] += number
    if not counter[trace_id]:
        del counter[trace_id]
    if not counter:
        del index[key]
