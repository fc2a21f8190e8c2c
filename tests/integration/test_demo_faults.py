"""The demo's faults: how they are switched, and what a flow says of what went wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tracekit_demo import findings
from tracekit_demo.findings import Handled
from tracekit_demo.home import FAULTS, Home, TakenError, default_folder
from tracekit_demo.scenarios import Scenario
from tracekit_demo.shop import faults
from tracekit_demo.switch import switch
from tracekit_demo.watch import Watch, Watched

from tracekit.cli import demo as command
from tracekit.collector.disk import DiskStore
from tracekit.flow import build_flow
from tracekit.model import Event, Kind, Service, Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER = "1bf7651916cd43dd8448eb211c80319c"
MS = 1_000_000
S = 1_000_000_000


def span(
    number: int, service: str, name: str, kind: Kind, parent: int | None, start_ms: int, end_ms: int
) -> Span:
    return Span(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        parent_is_remote=kind in {Kind.SERVER, Kind.CONSUMER},
        name=name,
        kind=kind,
        start_ns=start_ms * MS,
        end_ns=end_ms * MS,
        service=Service(service),
    )


def message(
    number: int, service: str, kind: Kind, topic: str, parent: int, start_ms: int, end_ms: int
) -> Span:
    done = "process" if kind is Kind.CONSUMER else "send"
    return replace(
        span(number, service, f"{done} {topic}", kind, parent, start_ms, end_ms),
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.type": done,
            "messaging.destination.name": topic,
            "order.id": "17",
        },
    )


def order(end_ms: int) -> Span:
    entry = span(1, "orders", "POST /orders", Kind.SERVER, None, 0, end_ms)
    return replace(entry, attributes={"order.id": "17"})


def created() -> Span:
    return message(2, "orders", Kind.PRODUCER, "order.created", 1, 5, 10)


def failing(failed: Span, error: str, said: str = "") -> Span:
    event = Event("exception", 0, {"exception.type": error, "exception.message": said})
    return replace(failed, status=Status.ERROR, events=(event,))


# -- switching them ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    with home.held():
        yield home


def test_a_fault_is_on_in_the_shop_from_its_switch_to_its_end(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTS_FOLDER", str(home.faults_folder))
    seen = [faults.is_on(faults.SLOW_PAYMENT)]
    for on in (True, False):
        assert switch(faults.SLOW_PAYMENT, on=on, data=home.folder) == 0
        seen.append(faults.is_on(faults.SLOW_PAYMENT))

    assert seen == [False, True, False]


def test_the_faults_are_listed_with_those_that_are_on(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.switch(faults.SLOW_CONSUMER, on=True)

    assert switch(None, on=True, data=home.folder) == 0
    assert [tuple(line.split()[:2]) for line in capsys.readouterr().out.splitlines()] == [
        ("slow-payment", "off"),
        ("failing-payment", "off"),
        ("slow-consumer", "on"),
        ("dropped-headers", "off"),
    ]


def test_without_a_demo_a_fault_says_so_and_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert switch("slow-payment", on=True, data=tmp_path) == 1
    assert capsys.readouterr().err == (
        f"tracekit demo: no demo runs in {tmp_path}. Start one in another terminal: "
        f"tracekit demo --data {tmp_path}\n"
    )


def test_a_home_has_one_demo_at_a_time_and_ends_its_faults_with_it(home: Home) -> None:
    home.switch(faults.SLOW_PAYMENT, on=True)

    with (
        pytest.raises(TakenError, match=r"another demo runs there \(process \d+\)"),
        Home(home.folder).held(),
    ):
        pass
    assert home.faults_on() == (faults.SLOW_PAYMENT,)


def test_a_demo_that_was_killed_leaves_neither_its_lock_nor_its_faults(tmp_path: Path) -> None:
    program = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from tracekit_demo.home import Home\n"
        "home = Home(Path(sys.argv[1]))\n"
        "with home.held():\n"
        "    home.switch('slow-payment', on=True)\n"
        "    print('held', flush=True)\n"
        "    signal.pause()\n"
    )
    home = Home(tmp_path)
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        was_held = home.is_held()
        holder.send_signal(signal.SIGKILL)

    assert (was_held, home.is_held()) == (True, False)
    with home.held():
        assert home.faults_on() == ()


@pytest.mark.parametrize(
    ("given", "expected"), [("/data", "/data/tracekit/demo"), ("", None), ("relative", None)]
)
def test_its_home_is_where_programs_keep_their_data(
    given: str, expected: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert str(default_folder()) == (expected or f"{tmp_path}/.local/share/tracekit/demo")


def test_the_command_knows_the_faults_that_there_are() -> None:
    assert tuple(FAULTS) == command._FAULTS
    assert all(f"  {name} " in command._FAULT_EPILOG for name in FAULTS)


# -- what a flow says -------------------------------------------------------------------------------


def test_a_failure_is_told_once_where_it_came_from() -> None:
    call = replace(span(2, "orders", "POST", Kind.CLIENT, 1, 10, 90), status=Status.ERROR)
    charge = span(3, "payment", "POST /charge", Kind.SERVER, 2, 20, 80)
    flow = build_flow(
        [failing(order(100), "HTTPStatusError"), call, failing(charge, "ConnectionError", "hung up\nat noon")]
    )

    assert list(findings.failures(flow, lambda _: False, 500)) == [
        "payment POST /charge failed: ConnectionError: hung up; the caller got 500"
    ]


def test_a_failure_that_was_meant_to_be_is_none() -> None:
    charge = span(3, "payment", "POST /charge", Kind.SERVER, 1, 20, 80)
    watched = Watched(1, Scenario("sync", "crashed"), TRACE, 500, 0.0)

    flow = build_flow([order(100), failing(charge, "X")])

    assert list(findings.failures(flow, watched.may_fail, 500)) == []


def test_a_handler_that_fails_says_that_nothing_follows() -> None:
    handler = failing(message(3, "payment", Kind.CONSUMER, "order.created", 2, 20, 50), "ConnectionError")

    (said,) = findings.failures(build_flow([order(20), created(), handler]), lambda _: False, 202)

    assert said == (
        "payment process order.created failed: ConnectionError; what should follow from its message "
        "did not happen"
    )


EARLIER = [
    Handled(3, "order.confirmed", "notification", 300 * MS, 27 * MS),
    Handled(6, "order.confirmed", "notification", 2900 * MS, 25 * MS),
]


def test_a_wait_that_grows_for_a_handler_that_is_as_fast_as_ever_is_named() -> None:
    now = Handled(9, "order.confirmed", "notification", 5500 * MS, 26 * MS)

    ((_, said),) = findings.grown_waits([now], EARLIER)

    assert said == (
        "notification falls behind: order.confirmed waited 300 ms (#3), then 2.9 s (#6), now 5.5 s; "
        "its handler took 25 ms, now 26 ms, so messages come faster than it takes them"
    )


def test_a_wait_that_grows_is_told_from_where_it_began_to_grow() -> None:
    earlier = [Handled(2, "order.confirmed", "notification", 400 * MS, 27 * MS), *EARLIER]

    ((_, said),) = findings.grown_waits(
        [Handled(9, "order.confirmed", "notification", 5500 * MS, 26 * MS)], earlier
    )

    assert "waited 300 ms (#3), then 2.9 s (#6), now 5.5 s;" in said


@pytest.mark.parametrize(
    "now",
    [
        Handled(9, "order.confirmed", "notification", 2800 * MS, 26 * MS),
        Handled(9, "order.confirmed", "notification", 5500 * MS, 400 * MS),
        Handled(9, "order.confirmed", "audit", 5500 * MS, 26 * MS),
        Handled(9, "stock.reserved", "notification", 5500 * MS, 26 * MS),
        Handled(9, "order.confirmed", "notification", 900 * MS, 26 * MS),
    ],
    ids=["it shrinks", "the handler is slow", "nothing came before", "it is another queue", "it is short"],
)
def test_a_wait_that_says_nothing_of_its_consumer_is_not_named(now: Handled) -> None:
    earlier = EARLIER[:1] if now.waited_ns < S else EARLIER

    assert list(findings.grown_waits([now], earlier)) == []


# -- when an order is done --------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "archive") as archive:
        yield archive


def lost_half() -> list[Span]:
    """The first span of what follows without context: a flow of its own."""
    headless = message(9, "payment", Kind.CONSUMER, "order.created", 1, 400, 430)
    state = {**headless.attributes, "tracekit.messaging.context": "absent"}
    return [
        replace(headless, trace_id=OTHER, parent_id=None, parent_is_remote=None, attributes=state),
    ]


def test_where_context_is_lost_the_rest_is_found_by_its_order_and_the_break_named(
    archive: DiskStore,
) -> None:
    watch = Watch(archive, patience_s=60)
    watch.add(1, Scenario("async"), TRACE, 202)
    archive.add_spans([order(20), *lost_half()])

    done = watch.next_done(30)

    assert done is not None
    assert [flow.id for flow in done.rest] == [OTHER]
    assert done.slow == ()
    ((mark, said),) = done.said(is_drawn=False)
    assert mark == "✕"
    assert said == (
        "headers_lost  process order.created (payment), after orders POST /orders: "
        "The message brought no context. What follows is a flow of its own, 1bf76519, found by its order.id. "
        "Instrument the producer, and keep the message headers wherever it is copied."
    )
    assert done.said(is_drawn=True) == (), "the break stands under the tree of what follows"


def test_a_message_that_still_waits_is_not_lost_and_is_named_when_patience_ends(
    archive: DiskStore,
) -> None:
    archive.add_spans([order(20), created(), *lost_half()])
    watch = Watch(archive, patience_s=2)
    watch.add(1, Scenario("async", "crashed"), TRACE, 202)

    done = watch.next_done(30)

    assert done is not None
    assert done.rest == ()
    assert done.remarks == (
        "order.created still waits for payment process order.created, 2 s after the order",
    )


def test_a_failure_that_explains_what_is_missing_is_not_waited_out(archive: DiskStore) -> None:
    watch = Watch(archive, patience_s=60)
    watch.add(1, Scenario("sync"), TRACE, 500)
    archive.add_spans([failing(order(20), "ConnectionError", "hung up")])

    done = watch.next_done(30)

    assert done is not None
    assert done.said(is_drawn=True) == (
        ("✕", "orders POST /orders failed: ConnectionError: hung up; the caller got 500"),
    )


def test_an_order_that_is_made_to_crash_says_that_it_failed_and_why(archive: DiskStore) -> None:
    watch = Watch(archive, patience_s=0.1)
    watch.add(1, Scenario("sync", "crashed"), TRACE, 500)
    archive.add_spans([failing(order(20), "RuntimeError", "no such card")])

    done = watch.next_done(30)

    assert done is not None
    assert done.remarks == ("orders POST /orders failed: RuntimeError: no such card; the caller got 500",)
    assert not done.is_explained


def test_what_took_long_is_marked_as_work_or_as_a_wait_and_not_as_wrong(archive: DiskStore) -> None:
    handler = message(3, "payment", Kind.CONSUMER, "order.created", 2, 4000, 5900)
    earlier = Handled(1, "order.created", "payment", 30 * MS, 1890 * MS)
    watch = Watch(archive, patience_s=0.1)
    watch._earlier.append(earlier)
    watch.add(2, Scenario("async", "crashed"), TRACE, 202)
    archive.add_spans([order(20), created(), handler])

    done = watch.next_done(30)

    assert done is not None
    assert [mark for mark, _ in done.slow] == ["░", "▇"]


@pytest.mark.parametrize(
    ("earlier_ms", "said"),
    [
        (5600, "order.created waited 5.99 s for payment, which then took 30 ms: payment was behind, or not "),
        (300, "payment falls behind: order.created waited 300 ms (#1), now 5.99 s; its handler took 30 ms, "),
    ],
    ids=["it is long as before", "it grows"],
)
def test_a_long_wait_is_told_once_whether_it_grows_or_not(
    archive: DiskStore, earlier_ms: int, said: str
) -> None:
    handler = message(3, "payment", Kind.CONSUMER, "order.created", 2, 6000, 6030)
    watch = Watch(archive, patience_s=0.1)
    watch._earlier.append(Handled(1, "order.created", "payment", earlier_ms * MS, 30 * MS))
    watch.add(2, Scenario("async", "crashed"), TRACE, 202)
    archive.add_spans([order(20), created(), handler])

    done = watch.next_done(30)

    assert done is not None
    ((mark, sentence),) = done.slow
    assert mark == "░"
    assert sentence.startswith(said)
