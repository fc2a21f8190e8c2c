"""Reading: flows out of the segments of a data directory, and what one of them may cost.

What mentions an id (as a trace, as a flow, on a link) is looked for where the index says it is; of each
request the spans that mention it are decoded, and of these `reach` takes what the flow has. Bounds, of one
flow: MAX_FLOW_SPANS spans that mention one id, out of MAX_PLACES requests; MAX_READ_BYTES of spans, as they
came; MAX_READ_S seconds. Beyond them it is shown in part, and that is said.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from tracekit import semconv
from tracekit.collector import size
from tracekit.collector.archive import Built, LostError, summary_of
from tracekit.collector.chunks import OFFSET_BITS
from tracekit.collector.index import MAX_PLACES
from tracekit.collector.reach import flow_spans
from tracekit.collector.segments import Gone
from tracekit.flow import Knowledge, build_flow, facts
from tracekit.otlp import OtlpError, decode_logs
from tracekit.otlp.select import Room, select_spans

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Sequence

    from tracekit.collector.index import Index
    from tracekit.collector.segments import Segments
    from tracekit.model import LogLine, Service, Span

MAX_FLOW_SPANS: Final = 20_000
MAX_FLOW_LINES: Final = 5_000
MAX_READ_BYTES: Final = 32 * 1024 * 1024
"""Of spans that are decoded for one flow, as they came: in memory a span is some ten times as large."""
MAX_READ_S: Final = 10.0
"""A flow is no longer in the reading; then it is what was found of it."""
_MAX_LINES_BYTES: Final = 64 * 1024 * 1024
_LATE_S: Final = 10.0
"""What has been quiet for so long is not expected to go on."""

Missing: TypeAlias = "dict[int, Gone | OtlpError]"
"""Chunks that cannot be read, by their places, and why."""


class Reader:
    """Reads flows, for any thread. Once the store is `stopping`, what is under way ends with what it has.

    `places` gives the chunks of spans and those of log lines that mention an id, ascending; `say` is told
    what somebody should know.
    """

    def __init__(
        self,
        segments: Segments,
        index: Index,
        *,
        places: Callable[[str], tuple[Sequence[int], Sequence[int]]],
        say: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        self._segments = segments
        self._index = index
        self._places = places
        self._say = say
        self._stopping = stopping

    def flow(self, flow_id: str) -> tuple[Span, ...]:
        """The spans of a flow; none where nothing of it is known."""
        reading = _Reading(self._stopping)
        return flow_spans(_Spans(lambda id_: self._mentioning(id_, reading)), flow_id)

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        reading = _Reading(self._stopping)
        return _Spans(lambda id_: self._mentioning(id_, reading)).trace(trace_id)

    def whole(self, flow_id: str) -> Built | None:
        """As `Archive.build`."""
        built, missing, _ = self.build(flow_id)
        if built is None and missing:
            raise cause(missing) or LostError(flow_id)
        return built

    def build(self, flow_id: str) -> tuple[Built | None, Missing, int]:
        """The flow out of what can be read of it; what cannot be read of what mentions it; and the last place
        that was known to: what came later is not in it. -1 where there is none.
        """
        missing: Missing = {}
        last = max(self._places(flow_id)[0], default=-1) if is_id(flow_id) else -1
        reading = _Reading(self._stopping)
        known = _Spans(lambda id_: self._mentioning(id_, reading, missing if id_ == flow_id else None))
        spans = flow_spans(known, flow_id)
        if (reading.is_over() or reading.is_cut) and not self._stopping.is_set():
            self._say(f"flow {flow_id} is too large to be read whole; it is shown in part")
        if not spans or self._stopping.is_set():  # what was read then may be a part
            return None, missing, last
        quiet_s = time.time() - max(span.end_ns or span.start_ns for span in spans) / 1e9
        try:
            flow = build_flow(spans, flow_id, known=Knowledge(is_quiet=quiet_s > _LATE_S))
        except ValueError:
            return None, missing, last
        summary = summary_of(flow)
        if missing and (row := self._index.summary(bytes.fromhex(flow_id))) is not None:
            # It was written before, and knows more than what is left.
            summary = replace(row, is_settled=not row.open_spans, is_analysed=True)
        return Built(summary, flow, len(missing)), missing, last

    def led_on(self, id_: bytes) -> set[bytes]:
        """The ids of the flows that the spans of a trace which begins none say: they may have grown with it.

        What they say is as it came, and need be no id.
        """
        spans = self._mentioning(id_.hex(), _Reading(self._stopping))
        said = {found for span in spans if (found := facts.flow_id(span))}
        said |= {link.trace_id for span in spans for link in span.links}
        return {bytes.fromhex(each) for each in said if is_id(each)} - {id_}

    def lines_of(self, flow_id: str, flow: Sequence[Span]) -> list[LogLine]:
        """The log lines written in the traces of a flow with these spans, by time; of too many the first."""
        spans = {(span.trace_id, span.span_id) for span in flow}
        traces: dict[int, set[str]] = {}
        for trace_id in dict.fromkeys(trace for trace, _ in spans):
            for place in self._places(trace_id)[1]:
                traces.setdefault(place, set()).add(trace_id)
        found: list[LogLine] = []
        room, until_s = _MAX_LINES_BYTES, time.monotonic() + MAX_READ_S
        for place in sorted(traces):
            own = traces[place]
            for line in self._lines(place):
                if line.trace_id in own and _is_of(line, flow_id, spans):
                    found.append(line)
                    room -= size.of_line(line)
                    if room < 0:
                        break
            is_late = self._stopping.is_set() or time.monotonic() > until_s
            if room < 0 or is_late or len(found) > MAX_FLOW_LINES:
                break
        found.sort(key=lambda line: line.time_ns)
        return found[:MAX_FLOW_LINES]

    def _lines(self, place: int) -> Sequence[LogLine]:
        try:
            return decode_logs(self._segments.read(place)).records
        except (Gone, OtlpError):
            return ()

    def _mentioning(self, id_: str, reading: _Reading, missing: Missing | None = None) -> list[Span]:
        """Spans whose bytes hold this id, by arrival; each once, as it was reported last.

        To `missing` is added what cannot be read, and was not dropped meanwhile.
        """
        found: dict[tuple[str, str, str, int, Service], Span] = {}
        if reading.is_over() or not is_id(id_):
            return []
        places = self._places(id_)[0]
        if len(places) > MAX_PLACES:
            reading.is_cut = True
        for place in places:
            try:
                spans = select_spans(self._segments.read(place), id_, reading.room)
            except (Gone, OtlpError) as error:  # counted and told by the segments
                if missing is not None and place >> OFFSET_BITS >= (self._segments.oldest or 0):
                    missing[place] = error
                continue
            for span in spans:
                found[span.trace_id, span.span_id, span.name, span.start_ns, span.service] = span
            if len(found) > MAX_FLOW_SPANS:
                reading.is_cut = True
                break
            if reading.is_over():
                break
        return list(found.values())


class _Reading:
    """What one flow may cost: bytes of spans, seconds, and nothing more once the store is to close."""

    def __init__(self, stopping: threading.Event) -> None:
        self.room = Room(MAX_READ_BYTES)
        self.is_cut = False
        self._until_s = time.monotonic() + MAX_READ_S
        self._stopping = stopping

    def is_over(self) -> bool:
        return self.room.bytes < 0 or self._stopping.is_set() or time.monotonic() > self._until_s


class _Spans:
    """What reach needs, over spans that mention an id."""

    def __init__(self, mentioning: Callable[[str], list[Span]]) -> None:
        self._mentioning = lru_cache(maxsize=None)(mentioning)

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        return tuple(span for span in self._mentioning(trace_id) if span.trace_id == trace_id)

    def linking(self, trace_id: str) -> list[Span]:
        found = self._mentioning(trace_id)
        return [span for span in found if any(link.trace_id == trace_id for link in span.links)]

    def carrying(self, flow_id: str) -> list[Span]:
        found = self._mentioning(flow_id)
        return [
            span
            for span in found
            if flow_id == facts.flow_id(span) or any(flow_id == facts.flow_id(link) for link in span.links)
        ]


def cause(missing: Missing) -> OSError | None:
    """What kept something from being read that may be read later; None for what is lost."""
    causes = (error.__cause__ for error in missing.values())
    return next((cause for cause in causes if isinstance(cause, OSError)), None)


def is_id(text: str) -> bool:
    """Whether it is an id as they are written: 32 hex digits."""
    return len(text) == 32 and is_hex(text)


def is_hex(text: str) -> bool:
    return all(char in "0123456789abcdef" for char in text)


def _is_of(line: LogLine, flow_id: str, spans: Collection[tuple[str, str]]) -> bool:
    """A trace may hold the lines of several flows."""
    said = line.attributes.get(semconv.FLOW_ID)
    return said == flow_id if said else not line.span_id or (line.trace_id, line.span_id) in spans
