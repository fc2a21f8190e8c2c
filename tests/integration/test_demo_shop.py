"""The shop: every way in which an order can go, and what is to be seen of it on its flow."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tracekit_demo.broker import embedded_broker
from tracekit_demo.client import place
from tracekit_demo.collector import collecting
from tracekit_demo.scenarios import ENDINGS, MODES, Ending, Mode, Scenario
from tracekit_demo.services import CONSUMING, SERVING, Services
from tracekit_demo.shop.topics import TOPICS
from tracekit_demo.watch import Watch, Watched

from tracekit.model import Kind, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tracekit.flow import Flow
    from tracekit.model import LogLine


@dataclass(frozen=True)
class Visit:
    """One order of each kind, placed in a shop of its own, and what came of them."""

    done: Mapping[tuple[Mode, Ending], Watched]
    logs: tuple[LogLine, ...]
    folder: Path

    def flow(self, mode: Mode, ending: Ending) -> Flow:
        flow = self.done[mode, ending].flow
        assert flow is not None
        return flow

    def rows(self, service: str, query: str) -> Counter[str]:
        with sqlite3.connect(self.folder / f"{service}.db") as database:
            found = Counter(value for (value,) in database.execute(query))
        database.close()
        return found


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("shop")
    with collecting(folder / "home", is_public=False) as collector, embedded_broker(TOPICS) as kafka:
        settings = {**kafka.environment, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with Services(folder) as services:
            services.start([*SERVING, *CONSUMING], settings)
            services.wait_ready([*SERVING, *CONSUMING])
            watch = Watch(collector.archive, patience_s=20)
            orders = [Scenario(mode, ending) for mode in MODES for ending in ENDINGS]
            for number, scenario in enumerate(orders, 1):
                watch.add(number, scenario, *place(services.port("orders"), scenario))
            done: dict[tuple[Mode, Ending], Watched] = {}
            while len(done) < len(MODES) * len(ENDINGS):
                if (watched := watch.next_done(1)) is not None:
                    done[watched.scenario.mode, watched.scenario.ending] = watched
            watch.settle(done.values())
        yield Visit(done, tuple(collector.archive.logs()), folder)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_the_flow_of_an_order_is_exactly_what_it_must_be(visit: Visit, mode: Mode, ending: Ending) -> None:
    assert visit.done[mode, ending].defects == ()


def failed(flow: Flow) -> set[str]:
    """The operations that say they failed; a client that was refused says so too, by convention."""
    return {
        f"{span.service.name} {span.name}"
        for span in flow.spans
        if span.status is Status.ERROR and span.kind in {Kind.SERVER, Kind.CONSUMER}
    }


@pytest.mark.parametrize("mode", ["sync", "hybrid"])
@pytest.mark.parametrize(
    ("ending", "status", "failures"),
    [
        ("accepted", None, set()),
        ("declined", 402, set()),
        ("malformed", 422, set()),
        ("crashed", 500, {"orders POST /orders", "payment POST /charge"}),
    ],
)
def test_called_how_an_order_ends_is_told_by_status_and_error(
    visit: Visit, mode: Mode, ending: Ending, status: int | None, failures: set[str]
) -> None:
    flow = visit.flow(mode, ending)

    accepted = 201 if mode == "sync" else 202
    assert flow.entry.attributes["http.response.status_code"] == (status or accepted)
    assert failed(flow) == failures


@pytest.mark.parametrize(
    ("ending", "topics", "failures"),
    [
        (
            "accepted",
            {"order.created", "payment.authorized", "stock.reserved", "notification.sent"},
            set(),
        ),
        ("declined", {"order.created", "payment.declined"}, set()),
        ("malformed", {"order.created", "order.rejected"}, set()),
        ("crashed", {"order.created"}, {"payment process order.created"}),
    ],
)
def test_by_events_how_an_order_ends_is_told_by_event_and_error(
    visit: Visit, ending: Ending, topics: set[str], failures: set[str]
) -> None:
    flow = visit.flow("async", ending)

    assert {edge.destination for edge in flow.edges} == topics
    assert failed(flow) == failures


def test_a_handler_that_raises_says_what_was_raised(visit: Visit) -> None:
    flow = visit.flow("async", "crashed")

    (crashed,) = [span for span in flow.spans if span.kind is Kind.CONSUMER]

    assert crashed.attributes["error.type"] == "RuntimeError"


def test_the_consumers_have_settings_that_their_client_has_nothing_to_say_against(visit: Visit) -> None:
    assert [line.body for line in visit.logs if "Recommend" in str(line.body)] == []


def test_every_log_line_of_an_order_belongs_to_its_flow(visit: Visit) -> None:
    flow = visit.flow("async", "accepted")
    spans = {(span.trace_id, span.span_id): span.service.name for span in flow.spans}

    said = [
        (spans[line.trace_id, line.span_id], line.service.name)
        for line in visit.logs
        if (line.trace_id, line.span_id) in spans
    ]

    assert {there for there, _ in said} >= {"orders", "payment", "inventory", "notification", "audit"}
    assert all(there == says for there, says in said)


@pytest.mark.parametrize(
    ("service", "query", "expected"),
    [
        (
            "orders",
            "SELECT mode || ' ' || status FROM orders",
            {
                "sync done": 1,
                "async done": 1,
                "hybrid done": 1,
                "sync declined": 1,
                "async declined": 1,
                "hybrid declined": 1,
                "sync rejected": 1,
                "async rejected": 1,
                "hybrid rejected": 1,
                "sync placed": 1,
                "async placed": 1,
                "hybrid placed": 1,
            },
        ),
        ("payment", "SELECT status FROM payments", {"charged": 3, "declined": 3}),
        ("inventory", "SELECT sku FROM reservations", {"lamp": 3}),
        ("notification", "SELECT text FROM notifications", {"Your lamp is on its way.": 3}),
        ("analytics", "SELECT sku FROM sales", {"lamp": 1}),
        ("audit", "SELECT event FROM audit_records", {"order.confirmed": 1, "notification.sent": 2}),
    ],
)
def test_each_service_did_its_work_once(
    visit: Visit, service: str, query: str, expected: Mapping[str, int]
) -> None:
    assert visit.rows(service, query) == expected
