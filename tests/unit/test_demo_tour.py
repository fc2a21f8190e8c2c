"""What the tour expects of its flow: spans in, what it lacks out."""

from __future__ import annotations

from tracekit_demo.tour.whole import lacks, visited

from tracekit.flow import build_flow
from tracekit.testing.spans import called, processed, request, sent

SHOP = request(service="shop")
CALL = called("http://http/orders", 10, 60, parent=SHOP)
HTTP = request(start=12, end=58, service="http", parent=CALL)
SENT = sent("tour-pika", 20, 30, parent=HTTP)
PIKA = processed(SENT, 70, 80, service="pika")


def test_a_flow_through_all_stations_lacks_nothing() -> None:
    flow = build_flow([SHOP, CALL, HTTP, SENT, PIKA])

    assert visited(flow) == ("shop", "http", "pika")
    assert [*lacks(flow, ["shop", "http", "pika"])] == []


def test_a_station_that_the_order_did_not_come_to_is_named() -> None:
    flow = build_flow([SHOP, CALL, HTTP, SENT])

    assert [*lacks(flow, ["shop", "http", "pika"])] == [
        "it went through shop, http, and was to go through shop, http, pika",
        "0 messages from http to pika, not one",
    ]


def test_a_call_that_led_past_its_station_is_named() -> None:
    flow = build_flow([SHOP, CALL, HTTP])

    assert [*lacks(flow, ["shop", "grpc"])] == [
        "it went through shop, http, and was to go through shop, grpc",
        "no call from shop to grpc",
    ]


def test_a_message_that_was_handled_twice_is_named() -> None:
    again = processed(SENT, 90, 95, service="pika")
    flow = build_flow([SHOP, CALL, HTTP, SENT, PIKA, again])

    assert [*lacks(flow, ["shop", "http", "pika"])] == ["2 messages from http to pika, not one"]
