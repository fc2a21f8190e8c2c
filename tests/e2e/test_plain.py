"""Two programs that know nothing of tracing, started as they are: one flow an order.

Two workers share one consumer group, so each reads two of the topic's four partitions. What the front
sends has no key: any partition takes it, and either worker.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.shop import Shop, edges_of, path_of, place, seen, shop, spans_of, wait_for_orders
from tracekit.testing import FlowSink

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDERS: Final = 200
IN_FLIGHT: Final = 20


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Shop]:
    with FlowSink() as sink, shop(sink, ["east"], 2) as running_shop:
        yield running_shop


def test_an_order_is_one_flow_with_the_worker_s_call_inside(two_workers: Shop) -> None:
    assert place(two_workers.fronts["east"], "one-1") == 202

    flows = wait_for_orders(two_workers.sink, "one-", 1)

    (flow,) = flows.values()
    assert seen(flow) == spans_of("east")
    assert flow.edges == edges_of("east")
    flow.assert_complete()
    flow.assert_no_orphans()
    assert {span.trace_id for span in flow.spans} == {flow.id}
    assert {span.attributes.get("tracekit.flow.id") for span in flow.spans} == {flow.id}
    assert flow.response_time is not None
    assert flow.completion_time > flow.queue_wait("orders.east") > 0


def test_its_log_lines_stand_in_its_spans_and_carry_its_id(two_workers: Shop) -> None:
    place(two_workers.fronts["east"], "logs-1")

    flow = wait_for_orders(two_workers.sink, "logs-", 1)["logs-1"]

    lines = {
        (line.body, line.span_id, line.attributes.get("tracekit.flow.id"))
        for line in flow.logs
        if line.service.name != "stock" and "HTTP/1.1" not in str(line.body)  # uvicorn's, of each request
    }
    assert lines == {
        ("order taken", flow.span("POST /orders/{number}").span_id, flow.id),
        ("order logs-1 reserved: 200", flow.span("process orders.east").span_id, flow.id),
    }


def test_200_orders_20_in_flight_and_two_workers_are_200_equal_flows(two_workers: Shop) -> None:
    numbers = [f"many-{each}" for each in range(ORDERS)]
    front = two_workers.fronts["east"]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        statuses = Counter(pool.map(place, [front] * ORDERS, numbers))

    flows = wait_for_orders(two_workers.sink, "many-", ORDERS)

    assert statuses == {202: ORDERS}
    assert sorted(flows) == sorted(numbers)
    assert len({flow.id for flow in flows.values()}) == ORDERS
    for number, flow in flows.items():
        assert seen(flow) == spans_of("east"), flow
        assert flow.edges == edges_of("east"), flow
        assert flow.breaks == (), flow
        assert {str(path_of(span)).rpartition("/")[2] for span in flow.spans if path_of(span)} == {number}
    assert len({flow.span("process orders.east").service.instance for flow in flows.values()}) == 2
    assert dict(two_workers.sink.dropped) == {}
