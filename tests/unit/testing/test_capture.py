"""`capture`: this process traced into memory, as often as one likes, and nothing left of it."""

from __future__ import annotations

import logging
import os
import time

import pytest
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Status, StatusCode

import tracekit
from tracekit import _configure, guard
from tracekit.model import Kind, Service
from tracekit.testing import NotSeenError, capture
from tracekit.testing.spans import BEGINNING, MS

tracer = trace.get_tracer("shop", "1.0")
meter = metrics.get_meter("shop")


def place_order() -> None:
    with tracer.start_as_current_span("place order", attributes={"order.id": 7}) as span:
        span.add_event("priced", {"cents": 1200})
        with tracer.start_as_current_span("charge") as charge:
            charge.set_status(Status(StatusCode.ERROR, "declined"))


def test_a_span_is_there_when_it_ended_and_reads_as_over_otlp() -> None:
    with capture("shop") as seen:
        with tracer.start_as_current_span("place order", attributes={"order.id": 7}):
            assert not seen.spans
        (span,) = seen.spans

    assert (span.name, span.kind, span.service) == (
        "place order",
        Kind.INTERNAL,
        Service("shop", instance=span.service.instance),
    )
    assert span.attributes == {"order.id": 7, "tracekit.flow.id": span.trace_id}
    assert (span.scope, span.parent_id) == ("shop", None)


def test_what_was_captured_can_be_read_after_the_end() -> None:
    counter = meter.create_counter("orders")
    with capture("shop") as seen:
        place_order()
        counter.add(2, {"channel": "web"})

    assert seen.flow().snapshot() == "place order (shop)\n  charge (shop) ✕"
    (orders,) = seen.metrics["orders"]
    assert (orders.value, orders.attributes, orders.instrument) == (2, {"channel": "web"}, "sum")


def test_it_can_be_done_again_and_sees_only_its_own() -> None:
    with capture("one") as first:
        place_order()
    place_order()
    with capture("two") as second:
        place_order()

    assert [flow.services for flow in (*first.flows, *second.flows)] == [("one",), ("two",)]


def test_nothing_of_it_is_left() -> None:
    before = propagate.get_global_textmap()
    with capture("shop"):
        assert _configure.is_configured()
        assert propagate.get_global_textmap() is not before

    assert not _configure.is_configured()
    assert propagate.get_global_textmap() is before
    with tracer.start_as_current_span("later") as span:
        assert not span.is_recording()


def test_it_is_undone_after_an_error_too() -> None:
    with pytest.raises(LookupError), capture("shop"):
        raise LookupError

    assert not _configure.is_configured()


def test_a_configure_of_the_application_takes_effect_and_is_seen() -> None:
    with capture("test") as seen:
        place_order()
        tracekit.configure("orders", quiet=True)
        place_order()

    assert [flow.services for flow in seen.flows] == [("test",), ("orders",)]
    assert not _configure.is_configured()


def test_metrics_have_the_boundaries_and_units_that_were_asked_for() -> None:
    duration = meter.create_histogram("wait", "s", explicit_bucket_boundaries_advisory=[0.5, 1])
    with capture("shop") as seen:
        duration.record(0.75, {"queue": "orders"})
        duration.record(0.25, {"queue": "orders"})
        (point,) = seen.metrics["wait"]

    assert (point.instrument, point.unit, point.attributes) == ("histogram", "s", {"queue": "orders"})
    assert (point.count, point.value, point.bounds, point.buckets) == (2, 1.0, (0.5, 1.0), (1, 1, 0))


def test_log_lines_of_a_flow_are_with_it() -> None:
    with capture("shop") as seen:
        with tracer.start_as_current_span("place order"):
            logging.getLogger("shop").warning("order %s is late", 7)
        logging.getLogger("shop").warning("elsewhere")

    assert [line.body for line in seen.logs] == ["order 7 is late", "elsewhere"]
    assert [line.body for line in seen.flow().logs] == ["order 7 is late"]


def test_only_what_was_dropped_meanwhile_is_told() -> None:
    guard.count_drop("size", "something before")
    with capture("shop") as seen:
        guard.count_drop("size", "something else", 2)
    guard.count_drop("late", "something after")

    assert seen.dropped == {"size": 2}
    assert "dropped: size 2" in seen.report()


def test_variables_of_the_process_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with capture("shop") as seen:
        place_order()

    assert len(seen.spans) == 2
    assert (os.environ["OTEL_SDK_DISABLED"], os.environ["OTEL_TRACES_SAMPLER"]) == ("true", "always_off")


def test_variables_that_are_given_count() -> None:
    with capture("shop", environment={"OTEL_TRACES_SAMPLER": "always_off"}) as seen:
        place_order()

    assert seen.spans == ()
    assert "OTEL_TRACES_SAMPLER" not in os.environ


def test_a_parent_that_is_still_running_is_known() -> None:
    with capture("shop") as seen:
        with tracer.start_as_current_span("place order"):
            with tracer.start_as_current_span("charge"):
                pass
            running = [each.reason for each in seen.flow().breaks]
        ended = seen.flow().breaks

    assert (running, ended) == (["parent_running"], ())


def test_deterministic_runs_are_equal() -> None:
    runs = []
    for _ in range(2):
        with capture("shop", deterministic=True) as seen:
            place_order()
        runs.append(seen.spans)

    assert runs[0] == runs[1]
    assert [span.service.attributes for span in runs[0]] == [span.service.attributes for span in runs[1]]
    assert [(span.trace_id, span.span_id) for span in runs[0]] == [
        ("7ace0000000000000000000000000001", "0000000000000001"),
        ("7ace0000000000000000000000000001", "0000000000000002"),
    ]
    assert all((span.start_ns - BEGINNING) % MS == 0 for span in runs[0])
    assert time.time_ns() > BEGINNING + 1_000 * MS


def test_what_it_says_at_start_up_can_be_read() -> None:
    with capture("shop") as seen:
        assert seen.report_line.startswith("tracekit: shop -> here | ")


def test_where_no_span_came_it_says_what_is_traced() -> None:
    with capture("shop") as seen, pytest.raises(NotSeenError) as caught:
        seen.wait_for_flow("place order", timeout_s=0)

    assert "no span arrived\nonly this process is seen, for others take `flow_sink`" in str(caught.value)
    assert seen.report_line in str(caught.value)


def test_where_spans_are_open_still_it_says_so() -> None:
    with (
        capture("shop") as seen,
        tracer.start_as_current_span("place order"),
        pytest.raises(NotSeenError, match="no span arrived\nspans are open still"),
    ):
        seen.wait_for_flow("place order", timeout_s=0)


def test_a_name_that_resembles_another_is_asked_about() -> None:
    with capture("shop") as seen:
        place_order()
        with pytest.raises(NotSeenError, match="did you mean `place order`\\?"):
            seen.wait_for_flow("place ordr", timeout_s=0)
        with pytest.raises(NotSeenError, match="did you mean `charge`\\?"):
            seen.wait_for_flow("place order", "charges", timeout_s=0)
