"""The delegating meter provider: one meter for each thing that is asked for."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tracekit.tracing.meters import DelegatingMeterProvider


def test_who_asks_for_a_meter_again_gets_the_same_one() -> None:
    provider = DelegatingMeterProvider()

    first = provider.get_meter("shop", "1", "https://shop/1", {"a": [1], "b": "x"})

    assert provider.get_meter("shop", "1", "https://shop/1", {"b": "x", "a": [1]}) is first


def test_meters_that_differ_in_anything_are_apart() -> None:
    provider = DelegatingMeterProvider()
    asked = [
        provider.get_meter("shop"),
        provider.get_meter("other"),
        provider.get_meter("shop", "1"),
        provider.get_meter("shop", None, "1"),
        provider.get_meter("shop", attributes={"a": 1}),
        provider.get_meter("shop", attributes={"a": "1"}),
    ]

    assert len({id(meter) for meter in asked}) == len(asked)


def test_instruments_of_a_shared_meter_follow_the_target() -> None:
    provider, reader = DelegatingMeterProvider(), InMemoryMetricReader()
    counters = [provider.get_meter("shop").create_counter(name) for name in ("orders", "returns")]

    provider.target = MeterProvider([reader], shutdown_on_exit=False)
    for counter in counters:
        counter.add(1)

    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert [metric.name for metric in scope.metrics] == ["orders", "returns"]
