"""Traffic: rates, waits and errors of services and destinations, as flows tell them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tracekit.collector.archive import Built, Summary
from tracekit.collector.traffic import (
    MAX_SPANS,
    MINUTE_NS,
    DestinationTraffic,
    Durations,
    ServiceTraffic,
    Traffic,
)
from tracekit.flow import build_flow, build_flows
from tracekit.model import Service
from tracekit.testing.spans import MS, at, batch, processed, request, sent, shop, span

if TYPE_CHECKING:
    from tracekit.flow import Flow
    from tracekit.model import Span

SECOND = 1_000


class Clock:
    """Seconds after the beginning."""

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds

    def __call__(self) -> int:
        return at(self.seconds * SECOND)


def built(flow: Flow) -> Built:
    return Built(Summary(flow.id, flow.name, "", flow.start_ns, None, flow.completion_ns), flow)


def traffic_of(*flows: Flow, clock: Clock | None = None) -> Traffic:
    traffic = Traffic(clock or Clock())
    traffic([built(flow) for flow in flows])
    return traffic


def near(ns: int, found: int | None) -> bool:
    return found is not None and abs(found - ns) <= 0.03 * ns


def services(traffic: Traffic) -> dict[str, ServiceTraffic]:
    return {each.service: each for each in traffic.seen().services}


def queues(traffic: Traffic) -> dict[tuple[str, str, str | None], DestinationTraffic]:
    return {(each.system, each.destination, each.consumer): each for each in traffic.seen().destinations}


def test_nothing_seen_is_nothing_told() -> None:
    seen = Traffic(Clock()).seen()

    assert (seen.services, seen.destinations, seen.omitted) == ((), (), 0)
    assert seen.window_ns > 0


def test_services_have_their_spans_requests_messages_and_errors() -> None:
    found = services(traffic_of(build_flow(shop())))

    assert {name: (s.spans, s.requests, s.messages, s.errors) for name, s in found.items()} == {
        "orders": (4, 1, 0, 0),
        "payment": (1, 1, 0, 0),
        "inventory": (1, 1, 0, 0),
        "analytics": (1, 0, 1, 0),
        "notification": (4, 0, 1, 1),
        "audit": (1, 0, 1, 0),
    }


def test_destinations_have_their_producers_messages_waits_and_errors() -> None:
    found = queues(traffic_of(build_flow(shop())))

    assert list(found) == [
        ("kafka", "order.confirmed", "analytics"),
        ("kafka", "order.confirmed", "notification"),
        ("rabbitmq", "notification.sent", "audit"),
    ]
    queue = found["kafka", "order.confirmed", "notification"]
    assert (queue.producers, queue.messages, queue.errors) == ({"orders": 1}, 1, 0)
    assert (queue.wait_sources, queue.waits.count, queue.handling.count) == ({"broker": 1}, 1, 1)
    assert near(1913 * MS, queue.waits.p50_ns)
    assert near(598 * MS, queue.handling.p50_ns)


def test_a_message_that_failed_is_an_error_of_its_consumer() -> None:
    send = sent()
    flow = build_flow([send, processed(send, failed=True)])

    assert queues(traffic_of(flow))["kafka", "orders", "notification"].errors == 1


def test_a_destination_that_nobody_reads_is_there_with_its_producers() -> None:
    found = traffic_of(build_flow([sent("orders")])).seen().destinations

    assert found == (
        DestinationTraffic("kafka", "orders", None, {"orders": 1}, 0, 0, Durations(), {}, Durations()),
    )


@pytest.mark.parametrize("durations", [range(1, 101), [7], [1, 1000], [3] * 19 + [400]])
def test_percentiles_are_within_three_percent(durations: list[int]) -> None:
    requests = [request(f"GET /{at_}", 10 * at_, 10 * at_ + ms) for at_, ms in enumerate(durations)]
    exact = sorted(durations)

    def rank(share: int) -> int:
        return exact[-(-len(exact) * share // 100) - 1]

    found = services(traffic_of(*build_flows(requests)))["orders"].durations

    assert found.count == len(exact)
    assert near(rank(50) * MS, found.p50_ns)
    assert near(rank(95) * MS, found.p95_ns)
    assert near(exact[-1] * MS, found.max_ns)


def test_a_flow_that_is_built_again_replaces_what_it_gave() -> None:
    spans = shop()
    clock = Clock()
    traffic = traffic_of(build_flow(spans[:6]), clock=clock)

    traffic([built(build_flow(spans))])
    traffic([built(build_flow(spans))])

    assert traffic.seen() == traffic_of(build_flow(spans), clock=clock).seen()


def test_a_batch_counts_once_however_many_flows_it_served() -> None:
    sends = [sent(start=i, end=i + 1) for i in range(20)]
    flows = build_flows([*sends, batch(sends)])
    traffic = traffic_of(*flows)

    traffic(list(map(built, flows)))

    assert len(flows) == 20
    found = services(traffic)["billing"]
    assert (found.spans, found.messages, found.durations.count) == (1, 20, 1)
    queue = queues(traffic)["kafka", "orders", "billing"]
    assert (queue.producers, queue.messages, queue.waits.count, queue.handling.count) == (
        {"orders": 20},
        20,
        20,
        1,
    )


def test_what_is_older_than_the_window_is_gone() -> None:
    clock = Clock()
    traffic = traffic_of(build_flow(shop()), clock=clock)

    clock.seconds = 14 * 60
    assert traffic.seen().services
    clock.seconds = 15 * 60
    assert not traffic.seen().services
    traffic([built(build_flow(shop()))])
    assert not traffic.seen().services


def test_the_window_is_as_long_as_there_was_something_to_see() -> None:
    clock = Clock(10)
    traffic = traffic_of(build_flow([request("GET /", 0, 4 * SECOND)]), clock=clock)

    assert traffic.seen().window_ns == 6 * SECOND * MS
    clock.seconds = 3600
    assert 14 * MINUTE_NS <= traffic.seen().window_ns <= 15 * MINUTE_NS


def test_what_ends_in_the_future_counts_as_now() -> None:
    clock = Clock(10)
    traffic = traffic_of(build_flow([request("GET /", 0, 9e7)]), clock=clock)

    assert traffic.seen().services
    clock.seconds += 15 * 60
    assert not traffic.seen().services


def test_what_was_seen_before_the_clock_was_set_back_is_gone() -> None:
    clock = Clock(10)
    traffic = traffic_of(build_flow([request("GET /", 0, 4 * SECOND)]), clock=clock)

    clock.seconds -= 60
    assert traffic.seen().services
    clock.seconds -= 3600
    assert not traffic.seen().services


def test_more_names_than_there_is_room_for_are_counted() -> None:
    traffic = Traffic(Clock(), max_counters=20)
    traffic([built(build_flow([span("work", i, i + 1, service=f"s{i}")])) for i in range(30)])

    seen = traffic.seen()

    assert (len(seen.services), seen.omitted) == (20, 10)


def test_a_flow_that_was_forgotten_counts_twice() -> None:
    traffic = Traffic(Clock(), max_flows=2)
    for service in ("a", "b", "c", "a", "c"):
        traffic([built(build_flow([span("work", service=service)]))])

    assert {each.service: each.spans for each in traffic.seen().services} == {"a": 2, "b": 1, "c": 1}


def test_of_a_flow_that_is_too_large_the_first_spans_count() -> None:
    entry = request()
    flow = build_flow([entry, *(span("work", i, i + 1, parent=entry) for i in range(MAX_SPANS + 4))])

    seen = traffic_of(flow).seen()

    assert (seen.services[0].spans, seen.omitted) == (MAX_SPANS, 5)


def test_long_names_are_cut() -> None:
    def named(each: Span) -> Span:
        return replace(each, service=Service("x" * 100_000))

    assert traffic_of(build_flow([named(request())])).seen().services[0].service == "x" * 200
