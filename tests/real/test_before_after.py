"""What a person with the stock Jaeger sees of an order, with today's instrumentations and with tracekit."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.programs import OPENTELEMETRY_INSTRUMENT, TRACEKIT_RUN
from tests.e2e.shop import place, shop
from tests.integration.servers.jaeger import jaeger
from tests.real.stack import eventually
from tracekit.sources.jaeger import Jaeger
from tracekit.sources.jaeger_api import JaegerApi

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tracekit.model import Span

pytestmark = pytest.mark.real

ORDERS = 5
HOUR_NS = 3600 * 10**9
MOST_TRACES = 200
CONTRIB = {
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "tracekit",
    "OTEL_PROPAGATORS": "tracecontext,baggage",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
}


def test_today_an_order_is_two_traces_in_jaeger_and_the_worker_s_call_hangs_on_nothing(
    tmp_path: Path,
) -> None:
    traces = ordered(tmp_path, OPENTELEMETRY_INSTRUMENT, CONTRIB)

    assert len(traces) == 2 * ORDERS
    of_requests = [spans for spans in traces if any(span.name == "POST /orders/{number}" for span in spans)]
    of_calls = [spans for spans in traces if any(span.name == "POST /reserve/{number}" for span in spans)]
    assert (len(of_requests), len(of_calls)) == (ORDERS, ORDERS)
    for spans in of_calls:
        (first,) = [span for span in spans if span.parent_id is None]
        assert (first.service.name, first.name) == ("worker.east", "POST")


def test_with_tracekit_it_is_one_whole_trace(tmp_path: Path) -> None:
    traces = ordered(tmp_path, TRACEKIT_RUN, {"TRACEKIT_WAIT_SPANS": "true"})

    assert len(traces) == ORDERS
    for spans in traces:
        assert sorted((span.service.name, span.name) for span in spans) == [
            ("front.east", "POST /orders/{number}"),
            ("front.east", "send orders.east"),
            ("stock", "POST /reserve/{number}"),
            ("worker.east", "POST"),
            ("worker.east", "process orders.east"),
            ("worker.east", "wait orders.east"),
        ]
        assert [span.name for span in spans if span.parent_id is None] == ["POST /orders/{number}"]


def ordered(folder: Path, under: Sequence[str], variables: dict[str, str]) -> list[list[Span]]:
    """The traces in a Jaeger, once five orders were placed and reserved."""
    with jaeger(folder) as storage:
        sink: Any = SimpleNamespace(
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": storage.http, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        )
        quick = {
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
        with shop(sink, ["east"], under=under, **variables, **quick) as running:
            for number in range(ORDERS):
                place(running.fronts["east"], str(number))
            api, asked = JaegerApi(storage.query), Jaeger(storage.query)

            def found() -> dict[str, list[Span]]:
                traces: dict[str, list[Span]] = {}
                now_ns = time.time_ns()
                for service in api.services():
                    for trace_id in api.traces(service, now_ns - HOUR_NS, now_ns + HOUR_NS, MOST_TRACES):
                        traces[trace_id] = [*asked.trace(trace_id)]
                return traces

            def reserved() -> bool:
                names = [span.name for spans in found().values() for span in spans]
                orders, reserves = (names.count(f"POST /{what}/{{number}}") for what in ("orders", "reserve"))
                return orders == reserves == ORDERS

            assert eventually(reserved), found()
        # Ended, all have sent what they had.
        return [*found().values()]
