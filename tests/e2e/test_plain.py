"""Two programs that know nothing of tracing, started as they are: one flow an order.

Two workers read two topics, each filled by a front of its own: the embedded broker cannot form a group
of two kafka-python members (the second one waits for partitions for ever, or dies with
InvalidRequestError), so what the second worker adds here is a second process, not a rebalance.
"""

from __future__ import annotations

import http.client
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
from tracekit_demo.broker import embedded_broker

from tests.e2e.programs import OPENTELEMETRY_INSTRUMENT, TRACEKIT_RUN, Program, listening, running, uvicorn
from tracekit.model import Kind
from tracekit.testing import FlowSink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.model import Span
    from tracekit.testing import CheckedFlow

ORDERS: Final = 200
IN_FLIGHT: Final = 20
PATIENCE_S: Final = 60
PATH: Final = ("POST /orders/{number}", "send orders", "process orders", "POST", "POST /reserve/{number}")


class Shop(NamedTuple):
    """The programs, running: the fronts' URLs by name, and what they export to."""

    sink: FlowSink
    fronts: dict[str, str]
    programs: dict[str, Program]


@contextmanager
def shop(sink: FlowSink, names: Sequence[str], *, under: Sequence[str] = TRACEKIT_RUN) -> Iterator[Shop]:
    """For each name a front, its topic and its worker; and one stock for all."""
    with ExitStack() as ends:
        broker = ends.enter_context(embedded_broker([f"orders.{name}" for name in names]))

        def start(service: str, command: Sequence[str], **variables: str) -> None:
            settings = {**sink.env, **broker.environment, "OTEL_SERVICE_NAME": service, **variables}
            traced = [*under, *(["--"] if under is TRACEKIT_RUN else []), *command]
            bound = sockets.get(service)
            programs[service] = ends.enter_context(running(traced, settings, listening=bound))

        programs: dict[str, Program] = {}
        sockets, urls = {}, {}
        for service in ("stock", *(f"front.{name}" for name in names)):
            sockets[service], urls[service] = ends.enter_context(listening())
        start("stock", uvicorn("stock:app", sockets["stock"]))
        for name in names:
            front, worker = f"front.{name}", f"worker.{name}"
            topic = f"orders.{name}"
            start(front, uvicorn("app:app", sockets[front]), TOPIC=topic)
            start(worker, ["python", "worker.py"], TOPIC=topic, GROUP=worker, STOCK_URL=urls["stock"])
        try:
            yield Shop(sink, {name: urls[f"front.{name}"] for name in names}, programs)
        except BaseException as error:
            for service, program in programs.items():
                error.add_note(f"--- {service} said:\n{program.stdout}{program.stderr}")
            raise


@pytest.fixture(scope="module")
def two_of_each() -> Iterator[Shop]:
    with FlowSink() as sink, shop(sink, ["east", "west"]) as running_shop:
        yield running_shop


def place(front: str, number: str) -> int:
    """Order it, from outside of every instrumentation; the answer's status."""
    parts = urlsplit(front)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", f"/orders/{number}")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def orders(sink: FlowSink, prefix: str) -> dict[str, CheckedFlow]:
    """The flows of these orders, by number. Each number has one."""
    found: dict[str, CheckedFlow] = {}
    for flow in sink.flows:
        numbers = {str(path).rpartition("/")[2] for path in map(path_of, flow.spans) if path}
        for number in numbers:
            if number.startswith(prefix):
                assert number not in found, f"{number} has two flows\n{flow}\n{found[number]}"
                found[number] = flow
    return found


def path_of(span: Span) -> object:
    return span.attributes.get("url.path", "")


def reserved(sink: FlowSink, prefix: str) -> int:
    """How many of these orders the stock has reserved."""
    return sum(
        span.kind is Kind.SERVER and str(path_of(span)).startswith(f"/reserve/{prefix}")
        for span in sink.spans
    )


def wait_for_orders(sink: FlowSink, prefix: str, number: int) -> dict[str, CheckedFlow]:
    sink.wait_for(
        lambda: reserved(sink, prefix) >= number,
        timeout_s=PATIENCE_S,
        says=f"{number} orders {prefix}…, reserved",
    )
    return orders(sink, prefix)


def spans_of(name: str) -> Counter[tuple[str, str, str]]:
    """What an order that came in by this front is made of."""
    return Counter(
        [
            (f"front.{name}", "SERVER", "POST /orders/{number}"),
            (f"front.{name}", "PRODUCER", f"send orders.{name}"),
            (f"worker.{name}", "CONSUMER", f"process orders.{name}"),
            (f"worker.{name}", "CLIENT", "POST"),
            ("stock", "SERVER", "POST /reserve/{number}"),
        ]
    )


def edges_of(name: str) -> list[tuple[str, str, str, str, str]]:
    """And how these hang together."""
    front, worker = f"front.{name}", f"worker.{name}"
    return sorted(
        [
            (front, "POST /orders/{number}", "call", front, f"send orders.{name}"),
            (front, f"send orders.{name}", "message", worker, f"process orders.{name}"),
            (worker, f"process orders.{name}", "call", worker, "POST"),
            (worker, "POST", "call", "stock", "POST /reserve/{number}"),
        ]
    )


def seen(flow: CheckedFlow) -> Counter[tuple[str, str, str]]:
    return Counter((span.service.name, span.kind.name, span.name) for span in flow.spans)


def test_an_order_is_one_flow_with_the_worker_s_call_inside(two_of_each: Shop) -> None:
    assert place(two_of_each.fronts["east"], "one-1") == 202

    flows = wait_for_orders(two_of_each.sink, "one-", 1)

    (flow,) = flows.values()
    assert seen(flow) == spans_of("east")
    assert flow.edges == edges_of("east")
    flow.assert_complete()
    flow.assert_no_orphans()
    assert {span.trace_id for span in flow.spans} == {flow.id}
    assert {span.attributes.get("tracekit.flow.id") for span in flow.spans} == {flow.id}
    assert flow.response_time is not None
    assert flow.completion_time > flow.queue_wait("orders.east") > 0


def test_its_log_lines_stand_in_its_spans_and_carry_its_id(two_of_each: Shop) -> None:
    place(two_of_each.fronts["west"], "logs-1")

    flow = wait_for_orders(two_of_each.sink, "logs-", 1)["logs-1"]

    lines = {
        (line.body, line.span_id, line.attributes.get("tracekit.flow.id"))
        for line in flow.logs
        if line.service.name != "stock" and "HTTP/1.1" not in str(line.body)  # uvicorn's, of each request
    }
    assert lines == {
        ("order taken", flow.span("POST /orders/{number}").span_id, flow.id),
        ("order logs-1 reserved: 200", flow.span("process orders.west").span_id, flow.id),
    }


def test_200_orders_20_in_flight_and_two_workers_are_200_equal_flows(two_of_each: Shop) -> None:
    sides = ["east", "west"]
    numbers = [f"many-{each}-{sides[each % 2]}" for each in range(ORDERS)]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        fronts = [two_of_each.fronts[number.rpartition("-")[2]] for number in numbers]
        statuses = Counter(pool.map(place, fronts, numbers))

    flows = wait_for_orders(two_of_each.sink, "many-", ORDERS)

    assert statuses == {202: ORDERS}
    assert sorted(flows) == sorted(numbers)
    assert len({flow.id for flow in flows.values()}) == ORDERS
    for number, flow in flows.items():
        side = number.rpartition("-")[2]
        assert seen(flow) == spans_of(side), flow
        assert flow.edges == edges_of(side), flow
        assert flow.breaks == (), flow
        assert {str(path_of(span)).rpartition("/")[2] for span in flow.spans if path_of(span)} == {number}
    assert dict(two_of_each.sink.dropped) == {}
