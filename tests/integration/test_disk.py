"""A store on disk: what it keeps over restarts, when it builds a flow, and what it says of itself."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_api import damage
from tracekit.collector.archive import LostError
from tracekit.collector.disk import DiskStore
from tracekit.collector.folder import FolderError
from tracekit.collector.index import MAX_PLACES
from tracekit.collector.reading import MAX_FLOW_LINES, Missing, Reader
from tracekit.flow.search import AttributeTerm, TextTerm, Word
from tracekit.model import Kind, Link, LogLine, Service, Span, Status
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tracekit.collector.archive import Built, Summary

S = 1_000_000_000
NOW = 1_790_000_000 * S
SOON_S = 30.0


def order(number: int, *, failed: bool = False) -> list[Span]:
    """An order: a request that sends a message, which is processed 2 s later in a trace of its own."""
    trace, later = f"{number:032x}", f"{number + 0xABC000:032x}"
    flow = {"tracekit.flow.id": trace}
    topic = {"messaging.destination.name": "orders", "messaging.system": "kafka"}
    asked = Span(
        trace,
        "1" * 16,
        "POST /orders",
        NOW + number * S,
        NOW + number * S + 80_000_000,
        kind=Kind.SERVER,
        status=Status.ERROR if failed else Status.UNSET,
        attributes={**flow, "http.response.status_code": 500 if failed else 202},
        service=Service("shop"),
    )
    sent = replace(
        asked,
        span_id="2" * 16,
        parent_id="1" * 16,
        parent_is_remote=False,
        name="send orders",
        kind=Kind.PRODUCER,
        status=Status.UNSET,
        attributes={**flow, **topic, "messaging.operation.type": "send"},
    )
    processed = Span(
        later,
        "3" * 16,
        "process orders",
        asked.start_ns + 2 * S,
        asked.start_ns + 3 * S,
        kind=Kind.CONSUMER,
        attributes={**flow, **topic, "messaging.operation.type": "process"},
        links=(Link(trace, "2" * 16, flow),),
        service=Service("billing"),
    )
    return [asked, sent, processed]


def unbuilt(summary: Summary) -> Summary:
    """Without what is known only once the flow was built."""
    return replace(summary, is_analysed=False, is_settled=False, waited_ns=0, status=None)


class Watching:
    """What a store tells, and a wait for it."""

    def __init__(self) -> None:
        self.told: list[Summary] = []
        self._changed = threading.Condition()

    def __call__(self, built: Sequence[Built]) -> None:
        with self._changed:
            self.told += [each.summary for each in built]
            self._changed.notify_all()

    def wait(self, is_met: Callable[[list[Summary]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: is_met(self.told), SOON_S), self.told


def test_a_flow_is_there_again_after_a_restart_and_grows_on(tmp_path: Path) -> None:
    asked, sent, processed = order(1)
    with DiskStore(tmp_path) as store:
        assert store.add_encoded_spans(encode_spans([asked, sent]))
        (before,) = store.find(()).flows

    with DiskStore(tmp_path) as store:
        (kept,) = store.find(()).flows
        assert unbuilt(kept) == unbuilt(before)
        store.add_spans([processed])
        built = store.build(asked.trace_id)

    assert built is not None
    assert [span.name for span in built.flow.spans] == ["POST /orders", "send orders", "process orders"]
    assert (built.summary.completion_ns, built.summary.waited_ns) == (3 * S, 2 * S - 80_000_000)


def test_a_row_says_what_the_flow_says_once_it_is_built(tmp_path: Path) -> None:
    watching = Watching()
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        store.add_spans(order(1, failed=True))
        watching.wait(lambda told: bool(told))
        (found,) = store.find(()).flows
        built = store.build(found.id)

    assert built is not None
    assert found == built.summary == watching.told[0]
    assert (found.status, found.errors, found.spans, found.is_settled) == (500, 1, 3, True)
    assert (found.services, found.destinations) == (("shop", "billing"), ("orders",))


def test_who_watches_is_told_again_when_a_flow_grows(tmp_path: Path) -> None:
    asked, sent, processed = order(1)
    watching = Watching()
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        store.add_spans([asked, sent])
        watching.wait(lambda told: bool(told))
        store.add_spans([processed])
        watching.wait(lambda told: told[-1].spans == 3)

    assert {each.id for each in watching.told} == {asked.trace_id}
    assert watching.told[0].spans == 2


def test_a_flow_that_grows_while_it_is_built_is_built_again_after_a_restart_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, sent, processed = order(1)
    build, meanwhile = Reader.build, threading.Event()
    stores: list[DiskStore] = []

    def growing(reader: Reader, flow_id: str) -> tuple[Built | None, Missing, int]:
        found = build(reader, flow_id)
        if not meanwhile.is_set():
            stores[0].add_spans([sent, processed])
            stores[0].find(())  # writes the rows
            meanwhile.set()
        return found

    monkeypatch.setattr(Reader, "build", growing)
    with DiskStore(tmp_path) as store:
        stores.append(store)
        store.add_spans([asked])
        assert meanwhile.wait(SOON_S)
    with DiskStore(tmp_path) as store:
        watching = Watching()
        store.watch(watching)
        watching.wait(lambda told: bool(told))
        (found,) = store.find(()).flows
        whole = store.build(found.id)

    assert whole is not None
    assert found == whole.summary
    assert found.spans == 3


def test_a_trace_that_goes_on_with_another_ones_flow_is_no_flow_of_its_own(tmp_path: Path) -> None:
    """As without flow ids, where only a link leads on."""
    asked, sent, processed = (replace(span, attributes={}) for span in order(1))
    processed = replace(processed, links=(Link(asked.trace_id, "2" * 16),))
    below = replace(processed, span_id="4" * 16, parent_id="3" * 16, links=(), kind=Kind.INTERNAL)
    watching = Watching()
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        for span in (processed, asked, sent, below):  # each grows what is known of the flow
            store.add_spans([span])
        watching.wait(lambda told: bool(told) and told[-1].spans == 4)
        (found,) = store.find(()).flows

    assert (found.id, found.spans) == (asked.trace_id, 4)


def test_the_index_can_be_made_again_from_the_segments(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        for number in range(1, 31):
            for span in order(number, failed=number % 3 == 0):
                store.add_spans([span])
        before = store.find(()).flows
        counts = store.counts()
    (tmp_path / "index.db").unlink()

    with DiskStore(tmp_path) as store:
        after = store.find(()).flows

        assert len(before) == 30
        assert [unbuilt(each) for each in after] == [unbuilt(each) for each in before]
        assert store.counts() == counts


def test_a_damaged_index_is_made_again_and_that_is_said(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.add_spans(order(1))
    (tmp_path / "index.db").write_bytes(b"no database" * 1000)

    with DiskStore(tmp_path) as store:
        assert [each.id for each in store.find(()).flows] == [f"{1:032x}"]
        assert "made again" in store.held().troubles[0]


SHAPES_OF_VERSION_1 = """
create table old(
    id integer primary key, name text, service text, status int, services text, destinations text,
    breaks text,
    unique(name, service, status, services, destinations, breaks)
);
insert into old select id, name, service, status, services, destinations, breaks from shape;
drop table shape;
alter table old rename to shape;
"""


@pytest.mark.parametrize("version", [1, 2])
def test_an_index_of_version_1_is_searched_as_a_new_one_and_made_again_only_where_that_was_not_noted(
    tmp_path: Path, version: int
) -> None:
    with DiskStore(tmp_path) as store:
        for number in range(1, 4):
            store.add_spans(order(number))
        before = store.find((Word("BILLING"), TextTerm("name", "=", "post /ORDERS"))).flows
    with closing(sqlite3.connect(tmp_path / "index.db")) as index:
        index.executescript(SHAPES_OF_VERSION_1)
    (tmp_path / "tracekit.version").write_text(f"{version}\n")

    with DiskStore(tmp_path) as store:
        after = store.find((Word("BILLING"), TextTerm("name", "=", "post /ORDERS"))).flows
        troubles = store.held().troubles

    assert len(before) == 3
    assert [unbuilt(each) for each in after] == [unbuilt(each) for each in before]
    assert [told.partition("index.db")[2] for told in troubles] == (
        [] if version == 1 else [" is damaged (no such column: folded); it is made again from the segments"]
    )


def test_log_lines_of_a_flow_come_by_time_and_without_those_of_others(tmp_path: Path) -> None:
    asked, sent, processed = order(1)
    first = LogLine(NOW + 5, "second", trace_id=asked.trace_id, span_id=sent.span_id)
    second = LogLine(NOW, "first", trace_id=processed.trace_id, span_id=processed.span_id)
    with DiskStore(tmp_path) as store:
        store.add_spans([asked, sent, processed])
        store.add_logs([first, second])
        store.add_logs([replace(second, span_id="9" * 16, body="another flow's"), LogLine(NOW, "nobody's")])
        lines = store.flow_logs(asked.trace_id)

    assert [line.body for line in lines] == ["first", "second"]


def test_a_second_store_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with DiskStore(tmp_path), pytest.raises(FolderError, match="in use by"):
        DiskStore(tmp_path)

    with DiskStore(tmp_path) as store:
        assert store.find(()).flows == ()


def test_an_index_that_another_program_has_locked_is_left_alone(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.add_spans(order(1))
    before = (tmp_path / "index.db").stat().st_ino
    with closing(sqlite3.connect(tmp_path / "index.db", isolation_level=None)) as other:
        other.execute("pragma locking_mode = exclusive")
        other.execute("begin exclusive")
        with pytest.raises(FolderError, match="is open in another program, which has locked it"):
            DiskStore(tmp_path)

    assert (tmp_path / "index.db").stat().st_ino == before
    with DiskStore(tmp_path) as store:
        assert [flow.id for flow in store.find(()).flows] == [f"{1:032x}"]


def taken_in(store: DiskStore, spans: list[Span]) -> None:
    """As a sender does that is told to come again."""
    until = time.monotonic() + 20
    while True:
        try:
            return store.add_spans(spans)
        except BlockingIOError:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_far_over_its_size_it_takes_nothing_in_until_there_is_room(tmp_path: Path) -> None:
    chance = Random(2)
    with DiskStore(tmp_path, max_bytes=1_500_000) as store:

        def fill() -> None:
            for number in range(20_000):
                asked = order(number)[0]
                store.add_spans([replace(asked, attributes={"noise": chance.randbytes(5000)})])

        with pytest.raises(BlockingIOError, match="the oldest flows are being dropped to make room"):
            fill()
        taken_in(store, order(20_001))
        assert store.build(f"{20_001:032x}") is not None
        assert store.held().bytes < 1.5 * 1_500_000


def test_of_flows_of_few_bytes_their_rows_make_up_a_segment(tmp_path: Path) -> None:
    cap = 4_000_000
    with DiskStore(tmp_path, max_bytes=cap) as store:
        for number in range(1, 40_001, 500):
            few = [replace(order(each)[0], attributes={}) for each in range(number, number + 500)]
            taken_in(store, few)
            store.find((), limit=1)  # rows are written
        until = time.monotonic() + 20
        while store.held().bytes > cap:
            assert time.monotonic() < until
            time.sleep(0.05)
        counts = store.counts()["traces"]
        assert counts.kept > 15_000  # at 170 bytes each
        assert counts.kept + counts.dropped == 40_000


def test_over_the_size_the_oldest_flows_go_first_and_are_counted(tmp_path: Path) -> None:
    chance = Random(1)
    number = 0
    with DiskStore(tmp_path, max_bytes=1_500_000, segment_bytes=50_000) as store:
        while not store.counts()["traces"].dropped:
            number += 1
            asked, *rest = order(number)
            noise = {"noise": chance.randbytes(5000)}  # nothing for a compressor
            taken_in(store, [replace(asked, attributes={**asked.attributes, **noise}), *rest])
            assert number < 20_000
        counts = store.counts()["traces"]
        latest = store.find((), limit=1).flows
        oldest = store.build(f"{1:032x}")

    assert counts.kept + counts.dropped == 3 * number
    assert [each.id for each in latest] == [f"{number:032x}"]
    assert oldest is None


def test_moments_that_no_clock_shows_do_no_harm(tmp_path: Path) -> None:
    asked = order(1)[0]
    wild = [
        replace(asked, trace_id="a" * 32, start_ns=2**64 - 2, end_ns=2**64 - 1, attributes={}),
        replace(asked, trace_id="b" * 32, start_ns=0, end_ns=2**64 - 1, attributes={}),
        replace(asked, trace_id="c" * 32, start_ns=2**63, end_ns=5, attributes={}),
    ]
    ids = {span.trace_id for span in (asked, *wild)}
    with DiskStore(tmp_path) as store:
        for _ in range(2):
            store.add_spans(wild)
            assert {flow.id for flow in store.find(()).flows} == ids - {asked.trace_id}

    with DiskStore(tmp_path) as store:
        store.add_spans([asked])
        assert {flow.id for flow in store.find(()).flows} == ids
        assert all(store.build(id_) for id_ in ids)


def test_a_flow_that_never_ends_keeps_where_it_began_and_what_came_last(tmp_path: Path) -> None:
    asked = order(1)[0]
    line = LogLine(NOW, "again", trace_id=asked.trace_id, span_id=asked.span_id)

    def polled(number: int) -> Span:
        own = f"{number + 1:016x}"
        return replace(asked, span_id=own, parent_id=asked.span_id, kind=Kind.INTERNAL, name=f"poll {number}")

    with DiskStore(tmp_path) as store:
        store.add_spans([asked])
        for number in range(MAX_PLACES):
            store.add_spans([polled(number)])
            store.add_logs([line])
            if not number % 1_000:
                store.find(())  # writes the row
        told = store.held().troubles
        first = store.flow(asked.trace_id)
    with DiskStore(tmp_path) as store:
        for number in range(MAX_PLACES, MAX_PLACES + 10):
            store.add_spans([polled(number)])
        later = {span.name for span in store.flow(asked.trace_id)}
        assert store.build(asked.trace_id) is not None
        troubles = store.held().troubles
        assert len(store.flow_logs(asked.trace_id)) == MAX_FLOW_LINES
    with closing(sqlite3.connect(tmp_path / "index.db")) as index:
        (sizes,) = index.execute("select length(places), length(logs) from flow").fetchall()

    assert not told
    assert len(first) == MAX_PLACES + 1
    assert len(later) == MAX_PLACES + 1
    assert later >= {"POST /orders", "poll 0", *(f"poll {MAX_PLACES + at}" for at in range(10))}
    assert any("in part" in trouble for trouble in troubles)
    assert max(sizes) <= 8 * (MAX_PLACES + 1)


def test_a_log_line_that_comes_later_changes_nothing_of_its_flow(tmp_path: Path) -> None:
    asked, sent, processed = order(1)
    with DiskStore(tmp_path) as store:
        store.add_logs([LogLine(NOW, "early", trace_id=asked.trace_id)])
        assert store.find(()).flows == ()
        store.add_spans([asked, sent])
        (before,) = store.find(()).flows
        store.add_logs([LogLine(NOW, "late", trace_id=asked.trace_id)])
        store.add_spans([replace(processed, start_ns=NOW, end_ns=NOW + S, attributes={})])  # only mentions it
        (after,) = store.find(()).flows

    assert unbuilt(after) == unbuilt(before)
    assert after.start_ns == asked.start_ns


def test_a_flow_that_cannot_be_read_for_a_moment_stays_listed(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.add_spans(order(1))
        (found,) = store.find(()).flows
    (segment,) = (tmp_path / "segments").glob("*.seg")

    watching = Watching()
    with DiskStore(tmp_path) as store:
        kept = segment.rename(segment.with_suffix(".away"))
        segment.symlink_to(segment)  # cannot be opened
        store.watch(watching)
        store.add_spans(order(2))
        watching.wait(lambda told: bool(told))
        assert found.id in {flow.id for flow in store.find(()).flows}
        with pytest.raises(OSError, match="symbolic links"):
            store.build(found.id)
        segment.unlink()
        kept.rename(segment)
        assert store.build(found.id) is not None


@pytest.mark.parametrize("is_built", [False, True])
def test_a_flow_that_a_damaged_segment_cost_stays_listed_and_is_told_to_be_lost(
    tmp_path: Path, is_built: bool
) -> None:
    with DiskStore(tmp_path) as store:
        watching = Watching()
        store.watch(watching)
        store.add_spans(order(1))
        if is_built:
            watching.wait(lambda told: bool(told))
        (before,) = store.find(()).flows
    with DiskStore(tmp_path) as store:
        store.add_spans(order(2))

    damage(tmp_path)
    watching = Watching()
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        store.add_spans(order(3))
        watching.wait(lambda told: f"{3:032x}" in {each.id for each in told})
        _, _, after = store.find(()).flows
        assert sorted(store.ids(before.id[:31])) == [f"{number:032x}" for number in (1, 2, 3)]
        assert len(store.find((AttributeTerm("messaging.system", "=", "kafka"),)).flows) == 2
        with pytest.raises(LostError, match=before.id):
            store.build(before.id)
        assert store.build("f" * 32) is None
        assert store.held().troubles[0].endswith(" are damaged; what was in them is lost")

    assert unbuilt(after) == unbuilt(before)


def test_a_flow_that_is_lost_in_part_shows_the_rest_and_its_row_says_what_was_known(tmp_path: Path) -> None:
    asked, sent, processed = order(1, failed=True)
    late = replace(processed, span_id="5" * 16, parent_id=processed.span_id, end_ns=NOW + 9 * S)
    watching = Watching()
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        store.add_spans([asked, sent])
        watching.wait(lambda told: bool(told))
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        store.add_spans([processed])
        watching.wait(lambda told: told[-1].spans == 3)
        (before,) = store.find(()).flows
    damage(tmp_path)

    watching = Watching()
    with DiskStore(tmp_path) as store:
        built = store.build(before.id)
        store.watch(watching)
        store.add_spans([late])  # it grows on
        watching.wait(lambda told: bool(told))
        (after,) = store.find(()).flows

    assert built is not None
    assert (built.summary, built.flow.spans, built.unread) == (before, (processed,), 1)
    assert after == watching.told[0] == replace(before, spans=4, completion_ns=8 * S)


def test_what_a_damaged_segment_left_of_a_flow_that_has_no_row_is_listed(tmp_path: Path) -> None:
    asked, sent, processed = order(1)
    with DiskStore(tmp_path) as store:
        store.add_spans([asked, sent])
    with DiskStore(tmp_path) as store:
        store.add_spans([processed])
    damage(tmp_path)
    for index in tmp_path.glob("index.db*"):
        index.unlink()

    watching = Watching()
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        watching.wait(lambda told: bool(told))
        (found,) = store.find(()).flows

    assert (found.id, found.name, found.spans) == (asked.trace_id, "process orders", 1)


def test_a_search_among_attributes_goes_on_where_a_page_ended(tmp_path: Path) -> None:
    wanted = (AttributeTerm("tenant", "=", "even"),)
    with DiskStore(tmp_path) as store:
        for number in range(1, 451):
            asked = order(number)[0]
            tenant = "even" if number % 2 == 0 else "odd"
            store.add_spans([replace(asked, attributes={**asked.attributes, "tenant": tenant})])
        found: list[str] = []
        page = store.find(wanted, limit=100)
        found += [flow.id for flow in page.flows]
        while page.next is not None:
            page = store.find(wanted, limit=100, after=page.next)
            found += [flow.id for flow in page.flows]

    assert found == [f"{number:032x}" for number in range(450, 0, -2)]


def test_a_flow_stands_where_its_entry_began_before_it_is_built_and_after(tmp_path: Path) -> None:
    """Else a list that is read page by page would lose what is built, and moved, meanwhile."""
    entry = Span("1" * 32, "1" * 16, "POST /orders", 1000, 1040, kind=Kind.SERVER)
    # By a clock that is behind: before what it was called by.
    called = Span("1" * 32, "2" * 16, "POST /charge", 990, 1060, parent_id="1" * 16, kind=Kind.SERVER)
    for number, orders in enumerate(([entry, called], [called, entry])):
        with DiskStore(tmp_path / str(number)) as store:
            for each in orders:
                store.add_spans([each])
                store.find(())  # whose row is written then
            (before,) = store.find(()).flows
            built = store.build(entry.trace_id)
        assert (before.start_ns, before.completion_ns, before.is_analysed) == (1000, 60, False)
        assert built is not None
        assert (built.summary.start_ns, built.summary.completion_ns) == (1000, 60)


def test_where_no_page_ended_is_an_error(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        for after in ("", "1", f"{2**63}-{'0' * 32}", f"1-{'0' * 31}"):
            with pytest.raises(ValueError, match="not where a page ended"):
                store.find((), after=after)


@pytest.mark.parametrize("said", ["A" * 32, "1" * 31, "z" * 32, "\t" * 32, ""])
def test_what_is_no_flow_id_takes_no_flow_away(tmp_path: Path, said: str) -> None:
    asked = replace(order(1)[0], attributes={"tracekit.flow.id": said})
    watching = Watching()
    with DiskStore(tmp_path) as store:
        store.watch(watching)
        store.add_spans([asked])
        watching.wait(lambda told: bool(told))
        (found,) = store.find(()).flows

    assert found == watching.told[0]
    assert found.id == asked.trace_id
