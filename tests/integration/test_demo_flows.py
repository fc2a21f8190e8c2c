"""What the demo expects of a flow, and how long it watches: spans in, a verdict out."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from tracekit_demo.expected import EXPECTED, Edge, missing, seen, surplus
from tracekit_demo.scenarios import ENDINGS, MODES, Scenario, stream
from tracekit_demo.watch import Watch, Watched

from tracekit.collector.disk import DiskStore
from tracekit.flow import build_flow
from tracekit.model import Kind, Link, Service, Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracekit_demo.scenarios import Ending

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000

CHARGE = Edge("orders POST /orders", "call", "payment POST /charge")
RESERVE = Edge("orders POST /orders", "call", "inventory POST /reserve")


def span(
    number: int, service: str, name: str, kind: Kind, parent: int | None = None, *, end_ms: int | None = None
) -> Span:
    return Span(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        name=name,
        kind=kind,
        start_ns=number * MS,
        end_ns=(100 - number if end_ms is None else end_ms) * MS,
        service=Service(service),
    )


ENTRY = span(1, "orders", "POST /orders", Kind.SERVER)
CALL = span(2, "orders", "POST", Kind.CLIENT, 1)
CHARGED = span(3, "payment", "POST /charge", Kind.SERVER, 2)


def sent(topic: str) -> Span:
    return Span(
        trace_id=TRACE,
        span_id=f"{4:016x}",
        parent_id=f"{1:016x}",
        name=f"send {topic}",
        kind=Kind.PRODUCER,
        start_ns=4 * MS,
        end_ns=9 * MS,
        service=Service("orders"),
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
        },
    )


def consumed(topic: str, service: str) -> Span:
    return Span(
        trace_id=TRACE,
        span_id=f"{5:016x}",
        parent_id=f"{4:016x}",
        name=f"process {topic}",
        kind=Kind.CONSUMER,
        start_ns=50 * MS,
        end_ns=60 * MS,
        parent_is_remote=True,
        service=Service(service),
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
        },
    )


def test_every_kind_of_order_has_its_list_of_edges() -> None:
    assert set(EXPECTED) == {(mode, ending) for mode in MODES for ending in ENDINGS}


def test_an_edge_goes_from_the_operation_that_called_to_the_one_that_answered() -> None:
    assert seen(build_flow([ENTRY, CALL, CHARGED])) == {CHARGE: 1}


def test_an_edge_goes_from_the_operation_that_published_to_the_one_that_consumed() -> None:
    flow = build_flow([ENTRY, sent("order.created"), consumed("order.created", "payment")])

    assert seen(flow) == {
        Edge("orders POST /orders", "order.created", "payment process order.created"): 1,
    }


def test_an_edge_that_is_not_there_is_named() -> None:
    flow = build_flow([ENTRY, CALL, CHARGED])

    assert missing(flow, Scenario("sync", "declined")) == ()
    assert RESERVE in missing(flow, Scenario("sync"))


def test_an_edge_that_is_there_twice_is_named() -> None:
    again = [span(12, "orders", "POST", Kind.CLIENT, 1), span(13, "payment", "POST /charge", Kind.SERVER, 12)]

    assert surplus(build_flow([ENTRY, CALL, CHARGED, *again]), Scenario("sync", "declined")) == (CHARGE,)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "archive") as archive:
        yield archive


def test_a_flow_is_done_once_its_edges_are_there(archive: DiskStore) -> None:
    watch = Watch(archive)
    watch.add(1, Scenario("sync", "declined"), TRACE, 402)
    archive.add_spans([ENTRY, CALL])
    assert watch.next_done(0) is None

    archive.add_spans([CHARGED])
    done = watch.next_done(5)

    assert done is not None
    assert done.defects == ()


def test_a_wait_that_comes_before_all_else_is_no_flow_yet(archive: DiskStore) -> None:
    wait = replace(
        sent("order.created"), name="wait order.created", attributes={"tracekit.messaging.wait": True}
    )
    watch = Watch(archive, patience_s=0.1)
    watch.add(1, Scenario("async", "crashed"), TRACE, 202)
    archive.add_spans([wait])

    done = watch.next_done(30)

    assert done is not None
    assert done.defects == ("no span arrived",)


def test_after_some_patience_a_flow_is_shown_with_what_it_lacks(archive: DiskStore) -> None:
    archive.add_spans([ENTRY, CALL])
    watch = Watch(archive, patience_s=1)
    watch.add(1, Scenario("sync", "declined"), TRACE, 500)

    done = watch.next_done(30)

    assert done is not None
    assert done.defects == (
        "the answer was 500, not 402",
        f"missing: {CHARGE}",
        "on no edge: orders POST",
    )


@pytest.mark.parametrize(
    ("mode", "ending", "answer"),
    [
        ("sync", "accepted", 201),
        ("sync", "declined", 402),
        ("sync", "malformed", 422),
        ("sync", "crashed", 500),
        ("async", "accepted", 202),
        ("async", "crashed", 202),
        ("hybrid", "accepted", 202),
        ("hybrid", "declined", 402),
    ],
)
def test_the_caller_is_told_what_is_known_by_then(mode: str, ending: str, answer: int) -> None:
    found = {(s.mode, s.ending): s.answer for s in (Scenario(m, e) for m in MODES for e in ENDINGS)}

    assert found[mode, ending] == answer  # type: ignore[index]  # the table's text is one of the literals


def test_the_stream_begins_with_each_mode_and_soon_has_had_all_endings_in_each() -> None:
    orders = stream(Random(1))
    first = [next(orders) for _ in range(21)]

    assert first[:3] == [Scenario(mode) for mode in MODES]
    assert {(order.mode, order.ending) for order in first} == set(EXPECTED)


def test_what_comes_too_late_and_must_not_be_there_is_found_at_the_end(archive: DiskStore) -> None:
    watch = Watch(archive)
    watch.add(1, Scenario("sync", "declined"), TRACE, 402)
    archive.add_spans([ENTRY, CALL, CHARGED])
    done = watch.next_done(30)
    assert done is not None

    archive.add_spans([span(13, "payment", "POST /charge", Kind.SERVER, 2)])
    watch.settle([done])

    assert done.defects == (f"not expected: {CHARGE}",)


def failing(each: Span) -> Span:
    return replace(each, status=Status.ERROR)


@pytest.mark.parametrize(
    ("spans", "ending", "defects"),
    [
        ([ENTRY, CALL, failing(CHARGED)], "declined", ("failed: payment POST /charge",)),
        ([ENTRY, failing(CALL), CHARGED], "declined", ()),
        ([failing(ENTRY), failing(CALL), failing(CHARGED)], "crashed", ()),
        ([ENTRY, CALL, CHARGED], "crashed", ("nothing failed",)),
        ([ENTRY, CALL, replace(CHARGED, end_ns=None)], "declined", ("still open: payment POST /charge",)),
    ],
)
def test_what_fails_is_a_fault_but_where_the_order_must_fail(
    spans: list[Span], ending: Ending, defects: tuple[str, ...]
) -> None:
    scenario = Scenario("sync", ending)
    watched = Watched(1, scenario, TRACE, scenario.answer, 0.0, build_flow(spans))

    assert watched.defects == defects


DOUBLE_PROCESS = replace(
    consumed("order.created", "payment"),
    span_id=f"{15:016x}",
    parent_id=f"{5:016x}",
    parent_is_remote=False,
    links=(Link(TRACE, f"{4:016x}"),),
)


@pytest.mark.parametrize(
    "double",
    [
        span(12, "orders", "POST", Kind.CLIENT, 1),
        replace(sent("order.created"), span_id=f"{14:016x}"),
        DOUBLE_PROCESS,
    ],
    ids=["call", "send", "process"],
)
def test_a_span_that_is_there_twice_is_a_fault(double: Span) -> None:
    spans = [ENTRY, sent("order.created"), failing(consumed("order.created", "payment"))]
    crashed = Scenario("async", "crashed")
    whole = Watched(1, crashed, TRACE, 202, 0.0, build_flow(spans))
    doubled = Watched(1, crashed, TRACE, 202, 0.0, build_flow([*spans, double]))

    assert whole.defects == ()
    assert doubled.defects == (f"on no edge: {double.service.name} {double.name}",)


def test_a_message_of_whose_wait_nobody_knows_is_a_fault() -> None:
    unsent = replace(sent("order.created"), end_ns=None)
    flow = build_flow([ENTRY, unsent, failing(consumed("order.created", "payment"))])

    defects = Watched(1, Scenario("async", "crashed"), TRACE, 202, 0.0, flow).defects

    assert defects == (
        "nobody knows how long it waited: order.created for payment",
        "still open: orders send order.created",
    )
