"""Index: the flows of an archive, a row each, in SQLite: what a list shows of them, and where they are.

A row stands for an id: that of a flow, or of a trace that is part of one. `places` are the chunks in which
something mentions the id, so that a flow can be built from them; a row that is `listed` is a flow.

What a flow's row shows in words has few variants (an entry, some services, some queues), and is shared
as its shape: searched are the shapes, and then the rows that have one of them.

Everything in here can be made again from the segments; so nothing is synced to disk but with them.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tracekit.collector import shapes
from tracekit.collector.archive import Summary
from tracekit.collector.chunks import OFFSET_BITS
from tracekit.collector.shapes import MAX_NAME, MAX_NAMES
from tracekit.flow.search import NumberTerm
from tracekit.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tracekit.collector.archive import Built
    from tracekit.flow.search import Query
    from tracekit.otlp.scan import Entry, Strand

_CALLS: Final = frozenset({Kind.SERVER.value, Kind.CLIENT.value})
_SCHEMA: Final = f"""{shapes.TABLE}
create table if not exists flow(
    id blob, listed int, start int, completion int, response int, waited int, spans int,
    errors int, open int, retries int, duplicates int, shape int, analysed int, last int,
    places blob, logs blob
);
create unique index if not exists by_id on flow(id);
create index if not exists listing on flow(
    listed, start, id, shape, completion, response, waited, spans, errors, open, retries,
    duplicates, analysed
);
create table if not exists segment(number integer primary key, spans int, logs int);
create table if not exists led(id blob primary key) without rowid;
create table if not exists state(name text primary key, value int);
"""
_CACHE_KIB: Final = 16 * 1024
_MAX_SHAPES_KNOWN: Final = 20_000
_QUICK_S: Final = 0.005
_COUNTED_SELDOM: Final = 100
"""Where counting rows takes longer than `_QUICK_S`, it is done in a hundredth of the time."""

MAX_PLACES: Final = 5_000
"""Of an id at most so many are kept, and one: then it is known that there were more."""
_FIRST: Final = MAX_PLACES // 2
_LAST_PLACES: Final = MAX_PLACES + 1 - _FIRST


def some_of(places: Sequence[int]) -> Sequence[int]:
    """The first and the last of too many places: how it began, and what came of it."""
    return places if len(places) <= MAX_PLACES else (*places[:_FIRST], *places[-_LAST_PLACES:])


def _joined(column: str) -> str:
    """In SQL, as `some_of`."""
    joined = f"cast({column} || excluded.{column} as blob)"
    return f"""case
        when length({column}) + length(excluded.{column}) <= {8 * MAX_PLACES} then {joined}
        else cast(substr({joined}, 1, {8 * _FIRST}) || substr({joined}, -{8 * _LAST_PLACES}) as blob) end"""


_BEGUN: Final = """
case when excluded.start is null then start
    when start is null or (excluded.listed and not listed) then excluded.start
    when listed then start
    else min(start, excluded.start) end
"""
"""When a flow begins: with its entry, once that is there, whatever began before by another clock.

Building finds the same. A list that is paged by it would lose what is moved while somebody reads it.
"""
_UPSERT: Final = f"""
insert into flow values(?,?,?,?,?,null,?,?,?,0,0,?,?,?,?,?) on conflict(id) do update set
    listed = max(listed, excluded.listed),
    completion = case when excluded.start is null then completion when start is null then excluded.completion
        else max(0, max(start + completion, excluded.start + excluded.completion) - ({_BEGUN})) end,
    start = {_BEGUN},
    response = coalesce(excluded.response, response),
    spans = spans + excluded.spans, errors = errors + excluded.errors, open = open + excluded.open,
    shape = case when excluded.listed or not listed then excluded.shape else shape end,
    analysed = min(analysed, excluded.analysed), last = max(last, excluded.last),
    places = {_joined("places")}, logs = {_joined("logs")}
"""
_BUILT: Final = """
update flow set listed = 1, start = ?, completion = ?, response = ?, waited = ?, spans = ?, errors = ?,
    open = ?, retries = ?, duplicates = ?, shape = ?, analysed = 1 where id = ?
"""
_ROW: Final = """
select flow.id, start, completion, response, waited, spans, errors, open, retries, duplicates, analysed,
    name, service, status, services, destinations, breaks
from flow join shape on shape.id = flow.shape
"""


_Names: TypeAlias = "tuple[str, ...]"
_Shape: TypeAlias = tuple[str, str, "int | None", _Names, _Names, _Names, int]
"""What rows share: name, service, status, services, destinations, codes of breaks, and how many breaks."""


@dataclass(slots=True)
class Growth:
    """What came for an id since its row was written: first at `began_s`, last at `touched_s`, of one clock.

    Times in Unix ns; `entry` and `service` are those with which the flow begins.
    """

    began_s: float
    first_place: int
    touched_s: float = 0.0
    start_ns: int = 0
    end_ns: int = 0
    spans: int = 0
    errors: int = 0
    open: int = 0
    entry: Entry | None = None
    service: str = ""
    services: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    logs: tuple[int, ...] = ()

    def add(self, strand: Strand, place: int) -> None:
        """Spans came, at a place that no later one is before."""
        if not self.spans or strand.start_ns < self.start_ns:
            self.start_ns = strand.start_ns
        if strand.end_ns > self.end_ns:
            self.end_ns = strand.end_ns
        self.spans += strand.spans
        self.errors += strand.errors
        self.open += strand.open
        name = strand.service.name
        if name not in self.services and len(self.services) < MAX_NAMES:
            self.services += (name[:MAX_NAME],)
        if strand.destinations != self.named:
            names = (name[:MAX_NAME] for name in self.named + strand.destinations)
            self.named = tuple(dict.fromkeys(names))[:MAX_NAMES]
        if self.entry is None and strand.entry is not None:
            self.entry, self.service = strand.entry, name[:MAX_NAME]
        self.note_place(place)

    def note_place(self, place: int) -> None:
        """Something at this place mentions the id."""
        if not self.places or self.places[-1] != place:
            self.places = *some_of(self.places), place

    def note_lines(self, place: int) -> None:
        """A log line at this place was written in the trace."""
        self.logs = *some_of(self.logs), place


class Index:
    """The rows, in one file. Written by one thread at a time, read by any."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error where the file is no database of ours."""
        self._path = path
        self._writer = self._connected()
        (found,) = self._writer.execute("pragma quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found.splitlines()[-1])
        self._writer.executescript(_SCHEMA)
        self._writer.execute("select folded from shape limit 0")  # else it is of another version
        self._reader = self._connected()
        self._reading = threading.Lock()
        self._writing = threading.RLock()
        self._shapes: dict[_Shape, int] = {}
        self._counting = threading.Lock()
        self._counts: dict[str, tuple[int, float]] = {}

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in (
            "page_size = 4096",
            "auto_vacuum = incremental",
            "journal_mode = wal",
            "synchronous = off",
            f"cache_size = -{_CACHE_KIB}",
            "temp_store = memory",
        ):
            connection.execute(f"pragma {pragma}")
        return connection

    def close(self) -> None:
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()

    # -- writing ------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written within the block, or nothing of it."""
        with self._writing:
            try:
                self._writer.execute("begin immediate")
                yield
                self._writer.execute("commit")
            except BaseException:
                self._shapes.clear()
                # On a full disk SQLite has taken everything back by itself, or stays within.
                if self._writer.in_transaction:
                    self._writer.execute("rollback")
                raise

    def grow(self, growths: Iterable[tuple[bytes, Growth]]) -> None:
        """Add what came for these ids to their rows."""
        self._writer.executemany(_UPSERT, (self._grown(id_, growth) for id_, growth in growths))

    def _grown(self, id_: bytes, grown: Growth) -> tuple[object, ...]:
        entry, places, logs = grown.entry, grown.places, grown.logs
        response = None
        if entry is None:
            shape = "", "", None, grown.services, grown.named, (), 0
            start = _time(grown.start_ns)
        else:
            name, kind, began, ended = entry
            start = _time(began)
            shape = name[:MAX_NAME], grown.service, None, grown.services, grown.named, (), 0
            if ended and kind in _CALLS:
                response = _time(ended - began)
        return (
            id_,
            entry is not None,
            start if grown.spans else None,
            _time(grown.end_ns - start, start),
            response,
            grown.spans,
            grown.errors,
            grown.open,
            self._shapes.get(shape) or self._shape(shape),
            not places,  # log lines alone say nothing new of the flow
            max(places[-1:] + logs[-1:]) >> OFFSET_BITS,
            _packed(places),
            _packed(logs) if logs else b"",
        )

    def note_built(self, built: Iterable[Built]) -> None:
        """What building these flows has shown."""
        self._writer.executemany(_BUILT, (self._built(each.summary, len(each.flow.breaks)) for each in built))

    def _built(self, its: Summary, breaks: int) -> tuple[object, ...]:
        start = _time(its.start_ns)
        shape = its.name, its.service, its.status, its.services, its.destinations, its.breaks, breaks
        return (
            start,
            _time(its.completion_ns, start),
            None if its.response_ns is None else _time(its.response_ns),
            _time(its.waited_ns),
            its.spans,
            its.errors,
            its.open_spans,
            its.retries,
            its.duplicates,
            self._shape(shape),
            bytes.fromhex(its.id),
        )

    def note_no_flow(self, ids: Iterable[bytes]) -> None:
        """These are none: their spans are of other flows."""
        self._writer.executemany(
            "update flow set listed = 0, analysed = 1 where id = ?", ((id_,) for id_ in ids)
        )

    def note_led(self, ids: Iterable[bytes], done: Iterable[bytes]) -> None:
        """To these flows others have led: they are to be built again, after a restart if need be.

        Until they are `done`.
        """
        self._writer.executemany("delete from led where id = ?", ((id_,) for id_ in done))
        self._writer.executemany("insert or ignore into led values(?)", ((id_,) for id_ in ids))

    def note_tried(self, ids: Iterable[bytes]) -> None:
        """These cannot be built; what is known of them stays."""
        self._writer.executemany("update flow set analysed = 1 where id = ?", ((id_,) for id_ in ids))

    def count(self, counts: Mapping[int, Sequence[int]]) -> None:
        """Add to how many spans and log lines the segments hold."""
        self._writer.executemany(
            "insert into segment values(?,?,?) on conflict(number) do update set "
            "spans = spans + excluded.spans, logs = logs + excluded.logs",
            ((number, spans, logs) for number, (spans, logs) in counts.items()),
        )

    def drop_until(self, oldest: int) -> tuple[int, int]:
        """Forget what lay in segments before this one alone; how many spans and log lines they held.

        In many small steps, between which others write.
        """
        for first in range(256):
            low, high = bytes((first,)), bytes((first,)) + b"\xff" * 16
            with self.writing():
                sql = "delete from flow where id between ? and ? and last < ?"
                self._writer.execute(sql, (low, high, oldest))
        with self.writing():
            sql = "select coalesce(sum(spans), 0), coalesce(sum(logs), 0) from segment where number < ?"
            spans, logs = self._writer.execute(sql, (oldest,)).fetchone()
            self._writer.execute("delete from segment where number < ?", (oldest,))
            (shapes,) = self._writer.execute("select count(*) from shape").fetchone()
            if shapes > _MAX_SHAPES_KNOWN:
                self._writer.execute("delete from shape where id not in (select shape from flow)")
                self._shapes.clear()
        return int(spans), int(logs)

    def shrink(self) -> None:
        """Give back what the log of writes takes: megabytes, however little the rows are."""
        with self._writing:
            # As a script: executed as a statement it is stepped once, and gives back one page.
            self._writer.executescript("pragma incremental_vacuum")
            self._writer.execute("pragma wal_checkpoint(truncate)").fetchall()

    def set(self, name: str, value: int) -> None:
        self._writer.execute("insert or replace into state values(?,?)", (name, value))

    def _shape(self, shape: _Shape) -> int:
        if (known := self._shapes.get(shape)) is not None:
            return known
        name, service, status, *named, broken = shape
        name, service = name[:MAX_NAME], service[:MAX_NAME]
        services, destinations, breaks = ([each[:MAX_NAME] for each in names[:MAX_NAMES]] for names in named)
        lists = json.dumps(services), json.dumps(destinations), json.dumps(breaks)
        columns = name, service, shapes.NO_STATUS if status is None else status, *lists, broken
        values = *columns, shapes.folded(name, service, services, destinations, breaks)
        added = self._writer.execute("insert or ignore into shape values(null,?,?,?,?,?,?,?,?)", values)
        number = added.lastrowid
        if not added.rowcount:
            (number,) = self._writer.execute(
                "select id from shape where name = ? and service = ? and status = ? and services = ? "
                "and destinations = ? and breaks = ? and broken = ?",
                columns,
            ).fetchone()
        assert number is not None
        if len(self._shapes) >= _MAX_SHAPES_KNOWN:
            self._shapes.clear()
        self._shapes[shape] = number
        return number

    # -- reading ------------------------------------------------------------------------------------

    def get(self, name: str) -> int | None:
        row = self._read("select value from state where name = ?", (name,))
        return int(row[0][0]) if row else None

    def holds_before(self, oldest: int) -> bool:
        """Whether there is anything of segments before this one."""
        return bool(self._read("select 1 from segment where number < ? limit 1", (oldest,)))

    def counts(self) -> tuple[int, int]:
        """How many spans and log lines the segments hold."""
        (row,) = self._read("select coalesce(sum(spans), 0), coalesce(sum(logs), 0) from segment")
        return int(row[0]), int(row[1])

    def flows(self) -> int:
        """How many there are; of so many that counting takes its time, how many there were lately."""
        return self._counted("select count(*) from flow where listed = 1")

    def size(self) -> int:
        """Bytes on disk."""
        files = (self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def oldest_ns(self) -> int | None:
        found = self._read("select start from flow where listed = 1 order by start, id limit 1")
        return int(found[0][0]) if found else None

    def places(self, id_: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The chunks of spans, and of log lines, that mention an id, ascending; of too many as `some_of`."""
        found = self._read("select places, logs from flow where id = ?", (id_,))
        if not found:
            return (), ()
        spans, logs = (struct.unpack(f"<{len(blob) // 8}q", blob) for blob in found[0])
        return spans, logs

    def last_places(self, id_: bytes) -> tuple[int, int]:
        """The last of its `places`, of spans and of log lines; they ascend. -1 where there is none."""
        found = self._read("select substr(places, -8), substr(logs, -8) from flow where id = ?", (id_,))
        spans, logs = found[0] if found else (b"", b"")
        return struct.unpack("<q", spans)[0] if spans else -1, struct.unpack("<q", logs)[0] if logs else -1

    def summary(self, id_: bytes) -> Summary | None:
        """The row of a flow that is listed."""
        found = self._read(f"{_ROW} where flow.id = ? and listed = 1", (id_,))
        return _summary(found[0]) if found else None

    def ids(self, prefix: str, limit: int) -> list[bytes]:
        """Ids of flows whose digits begin so."""
        low, high = (bytes.fromhex((prefix + 32 * digit)[:32]) for digit in "0f")
        sql = "select id from flow where id between ? and ? and listed = 1 limit ?"
        return [row[0] for row in self._read(sql, (low, high, limit))]

    def unanalysed(self, limit: int) -> list[bytes]:
        """Ids whose flows were not built yet, the latest first."""
        found: list[bytes] = []
        sql = (
            "select id from flow indexed by listing where listed = ? and analysed = 0 "
            "order by start desc limit ?"
        )
        for listed in (1, 0):
            found += [row[0] for row in self._read(sql, (listed, limit - len(found)))]
        return found

    def led(self, limit: int) -> list[bytes]:
        """Ids of flows that others have led to, and that were not built since."""
        return [row[0] for row in self._read("select id from led limit ?", (limit,))]

    def count_unanalysed(self) -> int:
        """How many flows were not built yet; as `flows`."""
        return self._counted("select count(*) from flow indexed by listing where listed = 1 and analysed = 0")

    def _counted(self, sql: str) -> int:
        with self._counting:
            began_s = time.monotonic()
            if (known := self._counts.get(sql)) is not None and began_s < known[1]:
                return known[0]
            found = int(self._read(sql)[0][0])
            ended_s = time.monotonic()
            took_s = ended_s - began_s
            self._counts[sql] = found, ended_s + (_COUNTED_SELDOM * took_s if took_s > _QUICK_S else 0)
            return found

    def find(self, query: Query, limit: int, before: tuple[int, bytes] | None) -> list[Summary]:
        """Rows that meet all terms but those of attributes, the latest first."""
        conditions = ["listed = 1"]
        values: list[object] = []
        if before is not None:
            conditions.append("(start, id) < (?, ?)")
            values += before
        for term in query:
            if isinstance(term, NumberTerm) and term.field in _COLUMNS:
                conditions.append(f"{_COLUMNS[term.field]} {shapes.SIGNS[term.comparison]} ?")
                values.append(shapes.within(term.value))
        of_shape: list[str] = []
        for term in query:
            if (condition := shapes.condition(term)) is not None:
                of_shape.append(condition[0])
                values += condition[1]
        # Fixed names and signs; what came from outside is among the values.
        if of_shape:
            conditions.append(f"shape in (select id from shape where {' and '.join(of_shape)})")  # noqa: S608
        met = " and ".join(conditions)
        inner = f"select id from flow indexed by listing where {met} order by start desc, id desc limit ?"  # noqa: S608
        sql = f"{_ROW} where flow.id in ({inner}) order by start desc, flow.id desc"
        return [_summary(row) for row in self._read(sql, (*values, limit))]

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._reading:
            return self._reader.execute(sql, values).fetchall()


_COLUMNS: Final = {
    "completion": "completion",
    "response": "response",
    "waited": "waited",
    "spans": "spans",
    "errors": "errors",
    "retries": "retries",
    "duplicates": "duplicates",
    "open": "open",
    "started": "start",
}


def _time(ns: int, since: int = 0) -> int:
    """In SQLite's 64 bits, whatever clock it is from; with `since`, the sum of both is too."""
    return ns if 0 <= ns <= _LAST - since else max(0, min(ns, _LAST - since))


def _packed(places: Sequence[int]) -> bytes:
    return _places_of(len(places)).pack(*places)


@cache
def _places_of(number: int) -> struct.Struct:
    return struct.Struct(f"<{number}q")


_LAST: Final = (1 << 63) - 1


def _summary(row: Sequence[Any]) -> Summary:
    id_, start, completion, response, waited, spans, errors, unended, retries, duplicates, analysed = row[:11]
    name, service, status, *named = row[11:]
    services, destinations, breaks = (tuple(json.loads(names)) for names in named)
    return Summary(
        id=id_.hex(),
        name=name,
        service=service,
        start_ns=start,
        response_ns=response,
        completion_ns=completion,
        waited_ns=waited or 0,
        status=None if status == shapes.NO_STATUS else status,
        spans=spans,
        errors=errors,
        open_spans=unended,
        retries=retries,
        duplicates=duplicates,
        services=services,
        destinations=destinations,
        breaks=breaks,
        is_settled=bool(analysed) and not unended,
        is_analysed=bool(analysed),
    )
