"""DiskStore: flows kept in one data directory, for as long as there is room.

What comes is written to a segment before it is answered, and a flow's row to the index once nothing came for
it for a moment. After a crash the rows that were not written yet are made again from the segments.

Here is what came and is in no row yet, under one lock; flows are read from the segments by `reading`, and
built, once they are quiet, by `building`.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final, Self

from tracekit.collector.archive import Held, Page
from tracekit.collector.building import Builder
from tracekit.collector.changes import Changes
from tracekit.collector.chunks import OFFSET_BITS
from tracekit.collector.folder import Folder, FolderError
from tracekit.collector.history import MetricHistory
from tracekit.collector.index import Growth, Index, some_of
from tracekit.collector.reading import Reader, is_hex, is_id
from tracekit.collector.segments import SEGMENT_BYTES, SHARES, Segments
from tracekit.collector.store import Counts
from tracekit.flow.search import AttributeTerm, matches
from tracekit.otlp import OtlpError, decode_logs, decode_spans, encode_logs, encode_spans
from tracekit.otlp.scan import Scanner, strands_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from tracekit.collector.archive import Built, Summary, Watcher
    from tracekit.flow.search import Query
    from tracekit.model import LogLine, Metric, Service, Span
    from tracekit.otlp import Signal
    from tracekit.otlp.scan import Strand

MAX_DISK_BYTES: Final = 1024 * 1024 * 1024
_SPANS, _LOGS = 1, 2
_QUIET_S: Final = 0.5
"""A row is written when nothing came for so long ..."""
_OLDEST_S: Final = 5.0
"""... or when it has waited for so long."""
_TICK_S: Final = 0.25
_SYNC_S: Final = 1.0
_FRESH_S: Final = 0.2
"""What is asked for shows what came until so long ago, or just now where no more than a few came."""
_FEW: Final = 500
_SEARCHED_AT_ONCE: Final = 200
_SEARCH_S: Final = 1.0
"""A page of a search that must build flows is at most so long in the making, and one flow more."""
_MAX_TROUBLES: Final = 20
_MAX_IDS: Final = 10
_MAX_GROWTHS: Final = 50_000
"""Rows that wait for being written; about as many as come within a second, if they come as fast as can be."""
_MAX_REPLAYED: Final = 20_000
"""As many rows are made again at once."""
_ROW_BYTES: Final = 250
"""About what a flow takes in the index."""
_FAR_OVER: Final = 1.25
"""At so many times its size it takes nothing more in, until there is room again."""
_NOT_TAKEN: Final = (
    "the disk does not take what is to be written ({}): senders get 503 and try again; where it is full, "
    "free some, or start with a smaller --max-size"
)

_logger = logging.getLogger("tracekit")


class DiskStore:
    """An archive in a directory of its own, which no other process may use meanwhile.

    Bounds: `max_bytes` of segments and index together, the oldest segment out first, with the rows that
    were in it alone; metrics as in `history`; what is read of one flow as in `reading`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_DISK_BYTES,
        progress: Callable[[str], None] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Raises FolderError where the directory cannot be had, OSError where it cannot be read.

        `progress` is told what takes long, in a sentence.
        """
        self.changes = Changes()
        self.folder = Folder(folder)
        self._max_bytes = max_bytes
        self._progress = progress or _nobody
        self._lock = threading.RLock()  # of what came and is in no row yet
        self._growths: dict[bytes, Growth] = {}
        self._held: dict[int, list[int]] = {}
        self._reached, self._counted = 0, 0  # before these places, all is in growths or rows; or in counts
        self._scanner = Scanner()
        self.metric_history = MetricHistory()
        self._refused: Counter[Signal] = Counter()
        self._dropped = [0, 0]
        self._troubles: OrderedDict[str, None] = OrderedDict()
        self._flushed_at = 0.0
        self._rows: Counter[int | None] = Counter()  # written while a segment was the newest
        self._is_far_over = False
        self._stopping = threading.Event()
        try:
            self._segments = Segments(self.folder.segments, max_bytes=max_bytes, segment_bytes=segment_bytes)
            self._index = self._opened_index()
            self._reader = Reader(
                self._segments, self._index, places=self._places, say=self._say, stopping=self._stopping
            )
            self._builder = Builder(
                self._reader, self._index, trouble=self._say_untaken, say=self._say, stopping=self._stopping
            )
            self._replay()
        except BaseException:
            self.folder.close()
            raise
        self._thread = threading.Thread(target=self._keep, name="tracekit-collector-disk", daemon=True)
        self._thread.start()
        self._builder.start()

    def close(self) -> None:
        """Write all rows, sync, and let the directory go."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join()
        self._builder.join()
        with self._lock:
            try:
                self._flush(everything=True)
                self._segments.close()
                self._index.close()
            finally:
                self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- in -----------------------------------------------------------------------------------------

    def add_encoded_spans(self, body: bytes) -> bool:
        with self._lock:
            strands = self._scanner.scan_spans(body)
            if strands is None:
                return False
            self._add_strands(body, strands)
        return True

    def add_spans(self, spans: Sequence[Span]) -> None:
        if spans:
            body, strands = encode_spans(spans), strands_of(spans)
            with self._lock:
                self._add_strands(body, strands)

    def _add_strands(self, body: bytes, strands: Sequence[Strand]) -> None:
        if strands:
            self._reached = self._append(_SPANS, body)
            self._note_strands(self._reached, strands)
            self._reached = self._segments.end
            self.changes.announce()

    def add_logs(self, lines: Sequence[LogLine]) -> None:
        if not lines:
            return
        body = encode_logs(lines)
        with self._lock:
            self._reached = self._append(_LOGS, body)
            self._note_lines(self._reached, lines)
            self._reached = self._segments.end
        self.changes.announce()

    def _append(self, kind: int, body: bytes) -> int:
        if self._is_far_over:
            raise OSError(errno.EAGAIN, "the oldest flows are being dropped to make room")
        try:
            return self._segments.append(kind, body)
        except OSError as error:
            self._say_untaken(error)
            raise

    def add_metrics(self, metrics: Sequence[Metric]) -> None:
        self.metric_history.add(metrics)
        if metrics:
            self.changes.announce()

    def count_refused(self, signal: Signal, number: int) -> None:
        with self._lock:
            self._refused[signal] += number

    def _note_strands(
        self, place: int, strands: Sequence[Strand], known: Collection[bytes] = frozenset()
    ) -> None:
        """Add what came to what waits for being written. The rows of `known` ids have this chunk already."""
        if len(self._growths) > _MAX_GROWTHS:
            self._attempt(self._flush_all)
        now_s = time.monotonic()
        growths = self._growths
        spans = 0
        for strand in strands:
            trace, own = strand.trace_id, strand.flow_id or strand.trace_id
            spans += strand.spans
            if own != trace or strand.mentioned:
                for other in {trace, *strand.mentioned} - {own, *known}:
                    self._mention(other, place, now_s)
            if own in known:
                continue
            growth = growths.get(own)
            if growth is None:
                growth = growths[own] = Growth(now_s, place)
            growth.touched_s = now_s
            growth.add(strand, place)
        self._builder.came(spans)
        self._count(place, spans, 0)

    def _note_lines(
        self, place: int, lines: Sequence[LogLine], known: Collection[bytes] = frozenset()
    ) -> None:
        now_s = time.monotonic()
        for key in {bytes.fromhex(line.trace_id) for line in lines if line.trace_id} - {*known}:
            growth = self._growths.setdefault(key, Growth(now_s, place))
            growth.touched_s = now_s
            growth.note_lines(place)
        self._count(place, 0, len(lines))

    def _mention(self, id_: bytes, place: int, now_s: float) -> None:
        growth = self._growths.get(id_)
        if growth is None:
            growth = self._growths[id_] = Growth(now_s, place)
        growth.touched_s = now_s
        growth.note_place(place)

    def _count(self, place: int, spans: int, lines: int) -> None:
        counted = self._held.setdefault(place >> OFFSET_BITS, [0, 0])
        counted[0] += spans
        counted[1] += lines
        self._counted = place + 1

    # -- keeping ------------------------------------------------------------------------------------

    def _opened_index(self) -> Index:
        """The index, or a new one where it cannot be read: it can be made again from the segments."""
        try:
            index = Index(self.folder.index)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise FolderError(
                    f"{self.folder.index} is open in another program, which has locked it. Close it there"
                ) from error
            self._say(f"{self.folder.index} is damaged ({error}); it is made again from the segments")
            index = self._new_index()
        if (index.get("until") or 0) > self._segments.end:
            # The machine lost its power: the index was on disk, and the end of the segments was not.
            self._say(f"{self.folder.index} is ahead of the segments; it is made again from them")
            index.close()
            index = self._new_index()
        return index

    def _new_index(self) -> Index:
        for suffix in ("", "-wal", "-shm"):
            self.folder.index.with_name(self.folder.index.name + suffix).unlink(missing_ok=True)
        return Index(self.folder.index)

    def _replay(self) -> None:
        """Make the rows that were not written when the process ended."""
        since, counted = self._index.get("until") or 0, self._index.get("counted") or 0
        told_at = time.monotonic()
        self._reached, self._counted = since, counted
        for place, kind, payload in self._segments.replay(since):
            self._reached = place
            try:
                self._replay_chunk(place, kind, payload, is_counted=place < counted)
            except (OtlpError, ValueError):
                self._say(f"a request at {place:x} is not what was written; it is passed over")
            if len(self._growths) > _MAX_REPLAYED:
                self._flush(everything=True)
            if time.monotonic() - told_at > 1:
                told_at = time.monotonic()
                number, newest = place >> OFFSET_BITS, self._segments.newest
                self._progress(f"making the index again: segment {number} of {newest}")
        self._reached = self._segments.end
        self._flush(everything=True)
        if (oldest := self._segments.oldest) is not None and self._index.holds_before(oldest):
            self._index.drop_until(oldest)

    def _replay_chunk(self, place: int, kind: int, payload: bytes, *, is_counted: bool) -> None:
        if kind == _SPANS:
            strands = self._scanner.scan_spans(payload)
            if strands is None:
                strands = strands_of(decode_spans(payload).records)
            ids = {each.flow_id or each.trace_id for each in strands}
            ids.update(*({each.trace_id, *each.mentioned} for each in strands))
            self._note_strands(
                place, strands, {id_ for id_ in ids if place <= self._index.last_places(id_)[0]}
            )
        elif kind == _LOGS:
            lines = decode_logs(payload).records
            traces = {bytes.fromhex(line.trace_id) for line in lines if line.trace_id}
            self._note_lines(
                place, lines, {id_ for id_ in traces if place <= self._index.last_places(id_)[1]}
            )
        if is_counted:
            self._held.clear()

    def _keep(self) -> None:
        """Write rows when they are due, sync, and keep to the size."""
        synced_at = time.monotonic()
        while not self._stopping.wait(_TICK_S):
            # Each by itself: where rows cannot be written, what may make room must go on.
            self._attempt(self._flush_due)
            if time.monotonic() - synced_at >= _SYNC_S:
                synced_at = time.monotonic()
                self._attempt(self._segments.sync)
                self._attempt(self._keep_to_size)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (OSError, sqlite3.Error) as error:
            self._say_untaken(error)
        except Exception as error:  # one row must not keep all others from the disk
            _logger.warning("the collector cannot keep what it has", exc_info=True)
            self._say(_NOT_TAKEN.format(repr(error)))

    def _flush_due(self) -> None:
        with self._lock:
            self._flush()

    def _flush(self, *, everything: bool = False) -> None:
        """Write the rows of what is quiet, or of everything; the lock is held."""
        now_s = time.monotonic()
        due: dict[bytes, Growth] = {}
        left: dict[bytes, Growth] = {}
        if everything:
            self._flushed_at = now_s
            due = self._growths
        else:
            for id_, growth in self._growths.items():
                is_due = now_s - growth.touched_s >= _QUIET_S or now_s - growth.began_s >= _OLDEST_S
                (due if is_due else left)[id_] = growth
        if not due:
            return
        with self._index.writing():
            self._index.grow(due.items())
            self._index.count(self._held)
            self._index.set("counted", self._counted)
            first = min((growth.first_place for growth in left.values()), default=self._reached)
            self._index.set("until", min(first, self._reached))
        self._growths = left
        self._held = {}
        self._note_rows(len(due))
        self._builder.wait((id_, growth.touched_s) for id_, growth in due.items() if growth.places)

    def _note_rows(self, number: int) -> None:
        """A segment and its rows go together: of flows of few bytes, the rows make up a segment's size."""
        newest = self._segments.newest
        self._rows = Counter({newest: self._rows[newest] + number})
        if self._rows[newest] * _ROW_BYTES > self._max_bytes // SHARES:
            self._rows.clear()
            self._segments.end_segment()

    def _keep_to_size(self) -> None:
        self._is_far_over = self._bytes() > _FAR_OVER * self._max_bytes
        if not self._is_over():
            return
        self._attempt(self._flush_all)  # else a row could be written after its segment was dropped
        self._attempt(self._index.shrink)
        while self._is_over() and self._segments.drop_oldest():
            oldest = self._segments.oldest
            assert oldest is not None
            spans, lines = self._index.drop_until(oldest)
            with self._lock:
                self._dropped[0] += spans
                self._dropped[1] += lines
            self._index.shrink()
        # Of what cannot be dropped, nothing that comes would make less.
        self._is_far_over = self._segments.is_droppable and self._bytes() > _FAR_OVER * self._max_bytes

    def _flush_all(self) -> None:
        with self._lock:
            self._flush(everything=True)

    def _is_over(self) -> bool:
        return self._bytes() > self._max_bytes or self._segments.is_over

    def _bytes(self) -> int:
        return self._segments.total_bytes + self._index.size()

    # -- out ----------------------------------------------------------------------------------------

    def flow(self, flow_id: str) -> tuple[Span, ...]:
        return self._reader.flow(flow_id)

    def build(self, flow_id: str) -> Built | None:
        return self._reader.whole(flow_id)

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        return self._reader.trace(trace_id)

    def flow_logs(self, flow_id: str) -> Sequence[LogLine]:
        return self._reader.lines_of(flow_id, self.flow(flow_id))

    def _places(self, id_: str) -> tuple[Sequence[int], Sequence[int]]:
        key = bytes.fromhex(id_)
        with self._lock:
            growth = self._growths.get(key)
            new = (growth.places, growth.logs) if growth is not None else ((), ())
            old = self._index.places(key)
        oldest = (self._segments.oldest or 0) << OFFSET_BITS
        spans, logs = (
            some_of(sorted(place for place in {*before, *since} if place >= oldest))
            for before, since in zip(old, new, strict=True)
        )
        return spans, logs

    def find(self, query: Query, *, limit: int = 100, after: str | None = None) -> Page:
        before = _cursor(after) if after is not None else None
        self._freshen()
        if not any(isinstance(term, AttributeTerm) for term in query):
            found = self._index.find(query, limit + 1, before)
            more = len(found) > limit
            return Page(tuple(found[:limit]), _after(found[limit - 1]) if more else None)
        until_s = time.monotonic() + _SEARCH_S
        looked = self._index.find(query, _SEARCHED_AT_ONCE, before)
        matching: list[Summary] = []
        for at, summary in enumerate(looked):
            built = self._reader.build(summary.id)[0]
            if built is not None and matches(query, built.flow):
                matching.append(built.summary)
            if len(matching) == limit or time.monotonic() > until_s:
                is_last = at + 1 == len(looked) < _SEARCHED_AT_ONCE
                return Page(tuple(matching), None if is_last else _after(summary))
        return Page(tuple(matching), _after(looked[-1]) if len(looked) == _SEARCHED_AT_ONCE else None)

    def _freshen(self) -> None:
        """Write the rows of what came just now, as far as that does not cost too much of the time."""
        with self._lock:
            if len(self._growths) < _FEW or time.monotonic() - self._flushed_at > _FRESH_S:
                self._attempt(self._flush_all)

    def ids(self, prefix: str) -> list[str]:
        if not 0 < len(prefix) <= 32 or not is_hex(prefix):
            return []
        self._freshen()
        return [id_.hex() for id_ in self._index.ids(prefix, _MAX_IDS)]

    def spans(self) -> tuple[Span, ...]:
        """All spans: everything that the segments hold. For tests, and for what is small."""
        traces: dict[str, dict[tuple[str, str, int, Service], Span]] = {}
        for _, kind, payload in self._segments.replay():
            if kind == _SPANS:
                for span in decode_spans(payload).records:
                    key = span.span_id, span.name, span.start_ns, span.service
                    traces.setdefault(span.trace_id, {})[key] = span
        return tuple(span for spans in traces.values() for span in spans.values())

    def logs(self) -> tuple[LogLine, ...]:
        """All log lines; as `spans`."""
        payloads = (payload for _, kind, payload in self._segments.replay() if kind == _LOGS)
        return tuple(line for payload in payloads for line in decode_logs(payload).records)

    def metrics(self) -> tuple[Metric, ...]:
        return self.metric_history.latest()

    def counts(self) -> Mapping[Signal, Counts]:
        history = self.metric_history
        with self._lock:
            spans, lines = self._index.counts()
            spans += sum(held[0] for held in self._held.values())
            lines += sum(held[1] for held in self._held.values())
            return {
                "traces": Counts(spans, self._dropped[0], self._refused["traces"]),
                "logs": Counts(lines, self._dropped[1], self._refused["logs"]),
                "metrics": Counts(history.kept, history.dropped, self._refused["metrics"]),
            }

    def watch(self, watcher: Watcher) -> None:
        self._builder.watch(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self._builder.unwatch(watcher)

    def held(self) -> Held:
        with self._lock:
            troubles = (*self._troubles, *self._segments.troubles)
            waiting = sum(growth.entry is not None for growth in self._growths.values())
        return Held(
            flows=self._index.flows() + waiting,  # counting takes its time: nobody waits for it
            bytes=self._bytes(),
            max_bytes=self._max_bytes,
            oldest_ns=self._index.oldest_ns(),
            unanalysed=self._index.count_unanalysed(),
            troubles=troubles[-_MAX_TROUBLES:],
        )

    def _say_untaken(self, error: Exception) -> None:
        self._say(_NOT_TAKEN.format(error))

    def _say(self, trouble: str) -> None:
        """For `held`, and once for the log."""
        if trouble not in self._troubles:
            _logger.warning("%s", trouble)
            self._troubles[trouble] = None
            while len(self._troubles) > _MAX_TROUBLES:
                self._troubles.popitem(last=False)


def _cursor(after: str) -> tuple[int, bytes]:
    start, _, id_ = after.partition("-")
    if not (start.isascii() and start.isdigit() and len(start) < 20 and int(start) < 1 << 63 and is_id(id_)):
        raise ValueError(f"{after[:60]!r} is not where a page ended")
    return int(start), bytes.fromhex(id_)


def _after(summary: Summary) -> str:
    return f"{summary.start_ns}-{summary.id}"


def _nobody(progress: str) -> None:
    """Nobody wants to know."""
