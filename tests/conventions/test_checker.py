"""The checker of the conventions: silent on what is right, and each kind of mistake has its line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.conventions.checker import DURATION_BOUNDARIES, OURS, Metric, metrics_of, violations
from tracekit import semconv
from tracekit.model import Event, Kind, Link, Span, Status

if TYPE_CHECKING:
    from tracekit.model import Attributes, Value

SEND: Attributes = {
    "messaging.system": "kafka",
    "messaging.operation.name": "send",
    "messaging.operation.type": "send",
    "messaging.destination.name": "orders",
    "messaging.destination.partition.id": "3",
    "messaging.kafka.offset": 12,
    "messaging.kafka.message.key": "7",
    "messaging.client.id": "shop",
    "server.address": "localhost",
    "server.port": 9092,
    "tracekit.flow.id": "ab" * 16,
}
SERVER: Attributes = {
    "http.request.method": "POST",
    "http.response.status_code": 201,
    "http.route": "/orders",
    "http.request.header.accept": ["*/*"],
    "url.path": "/orders",
    "url.scheme": "http",
    "network.protocol.version": "1.1",
}
CLIENT: Attributes = {
    "http.request.method": "GET",
    "server.address": "localhost",
    "server.port": 8080,
    "url.full": "http://localhost:8080/",
}
DURATION = Metric(
    name="messaging.process.duration",
    instrument="histogram",
    unit="s",
    points=[
        {"messaging.system": "kafka", "messaging.operation.name": "process", "tracekit.flow.end": "process"}
    ],
    boundaries=DURATION_BOUNDARIES,
)


def span(name: str, kind: Kind, attributes: Attributes, **changes: Value) -> Span:
    """A span; of the attributes, those given by `changes` (with `__` for `.`) are other, or gone if None."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    kept = {**attributes, **changed}
    return Span(
        trace_id="1" * 32,
        span_id="2" * 16,
        name=name,
        start_ns=1,
        end_ns=2,
        kind=kind,
        attributes={key: value for key, value in kept.items() if value is not None},
    )


def sent(name: str = "send orders", kind: Kind = Kind.PRODUCER, **changes: Value) -> Span:
    return span(name, kind, SEND, **changes)


def processed(**changes: Value) -> Span:
    operation: dict[str, Value] = {
        "messaging__operation__name": "process",
        "messaging__operation__type": "process",
    }
    return span("process orders", Kind.CONSUMER, SEND, **{**operation, **changes})


@pytest.mark.parametrize(
    "healthy",
    [
        sent(),
        sent(kind=Kind.CLIENT),
        sent("publish orders", messaging__operation__name="publish"),
        sent(messaging__system="nats"),
        processed(messaging__consumer__group__name="billing", messaging__kafka__message__tombstone=True),
        processed(error__type="shop.OutOfStock"),
        span(
            "poll",
            Kind.CLIENT,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "poll",
                "messaging.operation.type": "receive",
            },
        ),
        span("POST /orders", Kind.SERVER, SERVER),
        span("GET", Kind.CLIENT, CLIENT),
        span("charge", Kind.INTERNAL, {"tracekit.flow.id": "x"}),
        replace(sent(), links=(Link("3" * 32, "4" * 16, {"messaging.message.id": "1"}),)),
        replace(sent(), events=(Event("exception", 1, {"exception.type": "KeyError"}),)),
    ],
    ids=lambda healthy: f"{healthy.kind.name} {healthy.name}",
)
def test_a_healthy_span_has_no_violation(healthy: Span) -> None:
    assert violations([healthy]) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("messaging.url", '["localhost:9092"]'),
        ("messaging.destination", "orders"),
        ("messaging.kafka.partition", 3),
        ("messaging.destination_kind", "topic"),
        ("messaging.consumer_group", "billing"),
    ],
)
def test_names_that_contrib_emits_are_flagged(name: str, value: Value) -> None:
    assert violations([replace(sent(), attributes={**SEND, name: value})]) == [
        f"span 'send orders': {name} is no attribute of the conventions"
    ]


def problem(one: Span) -> str:
    """The one violation of this span."""
    (line,) = violations([one])
    return line.partition(": ")[2]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (
            sent(messaging__client_id="shop"),
            "messaging.client_id is deprecated; instead: messaging.client.id",
        ),
        (
            sent(messaging__kafka__message__offset=1),
            "messaging.kafka.message.offset is deprecated; instead: messaging.kafka.offset",
        ),
        (
            sent(messaging__destination__partition__id=3),
            "messaging.destination.partition.id is 3, not of type string",
        ),
        (sent(server__port="9092"), "server.port is '9092', not of type int"),
        (sent(server__port=True), "server.port is True, not of type int"),
        (
            sent(messaging__rocketmq__message__keys=["a", 1]),
            "messaging.rocketmq.message.keys is ['a', 1], not of type string[]",
        ),
        (sent(shop__order=1), "shop.order is no attribute of the conventions"),
        (
            sent(network__transport="carrier pigeon"),
            "network.transport is 'carrier pigeon', not one of tcp, udp, pipe, unix, quic",
        ),
        (sent(messaging__system=7), "messaging.system is 7, not of type str"),
        (sent(messaging__system=None), "messaging.system is missing; messaging.send.producer requires it"),
        (
            sent(messaging__operation__name=None),
            "messaging.operation.name is missing; messaging.send.producer requires it",
        ),
        (sent(messaging__operation__type=None), "messaging.operation.type is missing"),
        (
            sent("send", messaging__destination__name=None, server__address=None),
            "messaging.destination.name is missing; a single message has one",
        ),
        (
            sent(kind=Kind.INTERNAL),
            "kind INTERNAL with messaging.operation.type=send; it is CLIENT or PRODUCER",
        ),
        (
            replace(processed(), kind=Kind.CLIENT),
            "kind CLIENT with messaging.operation.type=process; it is CONSUMER",
        ),
        (sent("orders send"), "the name is not 'send orders'"),
        (
            sent("send orders", messaging__destination__template="orders-{n}"),
            "the name is not 'send orders-{n}'",
        ),
        (
            sent(messaging__kafka__message__tombstone=False),
            "messaging.kafka.message.tombstone is False; it is set only when true",
        ),
        (replace(sent(), status=Status.ERROR), "error.type is missing; the status is ERROR"),
        (
            replace(sent(), links=(Link("3" * 32, "4" * 16, {"messaging.url": "x"}),)),
            "a link's messaging.url is no attribute of the conventions",
        ),
        (
            replace(sent(), events=(Event("exception", 1, {}),)),
            "event 'exception': neither exception.type nor exception.message",
        ),
        (span("POST", Kind.SERVER, SERVER, url__path=None), "url.path is missing; http.server requires it"),
        (span("GET", Kind.CLIENT, CLIENT, url__full=None), "url.full is missing; http.client requires it"),
        (
            span("GET", Kind.CLIENT, CLIENT, http__request__method="get"),
            (
                "http.request.method is 'get', not one of CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, "
                "PUT, TRACE, QUERY, _OTHER"
            ),
        ),
        (span("POST http send", Kind.INTERNAL, SERVER), "kind INTERNAL with http.*; it is CLIENT or SERVER"),
        (
            span("POST", Kind.SERVER, SERVER, http__method="POST"),
            "http.method is deprecated; instead: http.request.method",
        ),
        (
            span("POST", Kind.SERVER, SERVER, http__request__header__accept="*/*"),
            "http.request.header.accept is '*/*', not of type string[]",
        ),
        (
            span("c", Kind.CLIENT, {"rpc.method": "Pay", "server.address": "x"}),
            "rpc.system.name is missing; rpc.call.client requires it",
        ),
        (
            span("SELECT", Kind.CLIENT, {"db.query.text": "SELECT 1"}),
            "db.system.name is missing; db.client requires it",
        ),
    ],
)
def test_each_mistake_of_a_span_has_its_line(bad: Span, expected: str) -> None:
    assert problem(bad) == expected


def test_an_old_value_is_flagged() -> None:
    bad = sent("publish orders", messaging__operation__name="publish", messaging__operation__type="publish")

    assert problem(bad) == "messaging.operation.type is 'publish', an old value"


def test_a_refinement_adds_what_its_system_requires() -> None:
    bad = processed(messaging__system="rocketmq", messaging__rocketmq__namespace="shop")

    assert problem(bad) == (
        "messaging.consumer.group.name is missing; messaging.rocketmq.process.consumer requires it"
    )


def test_a_fleeting_destination_is_not_in_the_name() -> None:
    reply = sent("send localhost:9092", messaging__destination__temporary=True)

    assert violations([reply]) == []


def test_spans_and_metrics_of_a_foreign_scope_are_exempt() -> None:
    scope = "opentelemetry.instrumentation.kafka"
    bad = replace(sent("old"), scope=scope, attributes={"messaging.url": "x"})

    assert violations([bad], [replace(DURATION, unit="ms", scope=scope)], foreign={scope}) == []


def test_the_same_violation_is_told_once() -> None:
    assert len(violations([sent("x"), sent("x")])) == 1


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (replace(DURATION, instrument="counter"), "a counter, not a histogram"),
        (replace(DURATION, unit="ms"), "its unit is 'ms', not 's'"),
        (
            replace(DURATION, points=[{"messaging.operation.name": "process"}]),
            "messaging.system is missing; it is required",
        ),
        (
            replace(DURATION, boundaries=(0, 5, 10)),
            f"its bucket boundaries are (0, 5, 10), not {DURATION_BOUNDARIES}",
        ),
        (
            replace(DURATION, points=[{**DURATION.points[0], "messaging.destination": "orders"}]),
            "messaging.destination is no attribute of the conventions",
        ),
        (replace(DURATION, name="messaging.publish.duration"), "no metric of the conventions"),
        (Metric("tracekit.flow.duration", "counter", "s"), "a counter, not a histogram"),
        (Metric("tracekit.flow.duration", "histogram", "ms"), "its unit is 'ms', not 's'"),
        (Metric("tracekit.flow.length", "histogram", "s"), "no metric of the conventions"),
    ],
)
def test_each_mistake_of_a_metric_has_its_line(bad: Metric, expected: str) -> None:
    assert violations([], [bad]) == [f"metric {bad.name!r}: {expected}"]


def test_healthy_metrics_have_no_violation() -> None:
    counter = Metric(
        "messaging.client.sent.messages",
        "counter",
        "{message}",
        [{"messaging.system": "kafka", "messaging.operation.name": "send"}],
    )

    assert violations([], [DURATION, counter, Metric("tracekit.dropped", "counter", "{item}")]) == []


def test_metrics_are_taken_from_the_reader_of_the_sdk() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("shop")
    boundaries: Any = list(DURATION_BOUNDARIES)
    duration = meter.create_histogram(DURATION.name, unit="s", explicit_bucket_boundaries_advisory=boundaries)
    duration.record(0.2, {"messaging.system": "kafka"})
    meter.create_up_down_counter("http.server.active_requests", unit="{request}").add(1)

    assert metrics_of(reader.get_metrics_data()) == [
        Metric(DURATION.name, "histogram", "s", [{"messaging.system": "kafka"}], DURATION_BOUNDARIES, "shop"),
        Metric("http.server.active_requests", "updowncounter", "{request}", [{}], None, "shop"),
    ]


def test_what_is_ours_is_what_the_registry_describes() -> None:
    registry = yaml.safe_load(OURS.read_text(encoding="utf-8"))["groups"]
    described = [
        *(each["id"] for group in registry for each in group.get("attributes", ()) if "id" in each),
        *(group["metric_name"] for group in registry if group["type"] == "metric"),
        *(group["name"] for group in registry if group["type"] == "event"),
    ]

    ours = [
        value
        for value in vars(semconv).values()
        if str(value).startswith("tracekit.") and value != semconv.__name__
    ]
    assert sorted(described) == sorted(ours)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"tracekit.flow.id": 7}, "tracekit.flow.id is 7, not of type string"),
        ({"tracekit.flow.name": "x"}, "tracekit.flow.name is no attribute of the conventions"),
        (
            {"tracekit.messaging.context": "lost"},
            "tracekit.messaging.context is 'lost', not one of absent, invalid, skipped",
        ),
    ],
)
def test_what_is_ours_is_held_against_our_registry(attribute: Attributes, expected: str) -> None:
    assert violations([span("charge", Kind.INTERNAL, attribute)]) == [f"span 'charge': {expected}"]
