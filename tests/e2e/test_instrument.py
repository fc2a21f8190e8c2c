"""`opentelemetry-instrument`: it loads tracekit too; and what it does without, for comparison."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.e2e.programs import OPENTELEMETRY_INSTRUMENT
from tests.e2e.shop import edges_of, place, seen, shop, spans_of, wait_for_orders

if TYPE_CHECKING:
    import pytest

    from tracekit.model import Span
    from tracekit.testing import FlowSink


def test_it_loads_tracekit_beside_contrib_and_nothing_is_doubled(
    flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[tuple[str, str]] = []
    add_spans = flow_sink.store.add_spans

    def counting(spans: Any) -> None:
        received.extend((span.trace_id, span.span_id) for span in spans)
        add_spans(spans)

    monkeypatch.setattr(flow_sink.store, "add_spans", counting)
    with shop(flow_sink, ["east"], under=OPENTELEMETRY_INSTRUMENT) as running_shop:
        place(running_shop.fronts["east"], "theirs-1")
        flow = wait_for_orders(flow_sink, "theirs-", 1)["theirs-1"]

        # contrib, switched on by itself, shows its sends too: INTERNAL spans under its SERVER spans.
        assert Counter({key: n for key, n in seen(flow).items() if key[1] != "INTERNAL"}) == spans_of("east")
        assert [edge for edge in flow.edges if not edge.name.endswith(" http send")] == edges_of("east")
        flow.assert_complete()
        assert {span.attributes.get("tracekit.flow.id") for span in flow.spans} == {flow.id}
        assert [times for times in Counter(received).values() if times > 1] == []
        for service, program in running_shop.programs.items():
            lines = [line for line in program.stderr.splitlines() if line.startswith("tracekit: ")]
            assert len(lines) == 1, program.stderr
            assert lines[0].startswith(f"tracekit: {service} -> where the application's providers export | ")


def test_without_tracekit_an_order_is_two_traces_and_the_worker_s_call_hangs_on_nothing(
    flow_sink: FlowSink,
) -> None:
    variables = {
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "tracekit",
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
    }
    with shop(flow_sink, ["east"], under=OPENTELEMETRY_INSTRUMENT, **variables) as running_shop:
        place(running_shop.fronts["east"], "alone-1")

        def reserved() -> list[Span]:
            return [span for span in flow_sink.spans if span.name == "POST /reserve/{number}"]

        flow_sink.wait_for(lambda: bool(reserved()), timeout_s=60, says="the order, reserved")

    (stock,) = reserved()
    (order,) = [span for span in flow_sink.spans if span.name == "POST /orders/{number}"]
    (call,) = [span for span in flow_sink.spans if span.span_id == stock.parent_id]
    assert (call.service.name, call.name, call.parent_id) == ("worker.east", "POST", None)
    assert order.trace_id != stock.trace_id == call.trace_id
    assert {span.trace_id for span in flow_sink.spans} == {order.trace_id, stock.trace_id}
