"""Quick spans: beside the SDK's, nobody can tell which is which."""

from __future__ import annotations

import copy
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from tracekit.tracing.processors import FlowProcessor
from tracekit.tracing.quick import QuickSpan, QuickSpans, can_be_quick, watch_starts

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

REMOTE = SpanContext(
    0xA, 0xB, is_remote=True, trace_flags=TraceFlags(3), trace_state=TraceState([("a", "b")])
)
OTHER = SpanContext(0xC, 0xD, is_remote=True, trace_flags=TraceFlags(1))


class Counted(IdGenerator):
    """The same ids in each run."""

    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    def generate_trace_id(self) -> int:
        self._last += 1
        return self._last


class Seen(SpanProcessor):
    """What a processor is given."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def started(
    *, quick: bool, parent: Span = INVALID_SPAN, sampler: sampling.Sampler = sampling.DEFAULT_ON
) -> tuple[Span, Seen]:
    """The same span, begun in one way or the other, and where its end is seen."""
    seen = Seen()
    provider = TracerProvider(
        sampler, Resource({"service.name": "shop"}), shutdown_on_exit=False, id_generator=Counted()
    )
    provider.add_span_processor(seen)
    tracer = provider.get_tracer("tracekit", schema_url="https://example.com/1")
    attributes: dict[str, Any] = {"name": "orders", "number": 4711, "truth": True}
    if quick:
        assert isinstance(tracer, SdkTracer)
        begin = QuickSpans(tracer, FlowProcessor("shop")).start
        return begin("send orders", SpanKind.PRODUCER, parent, attributes, [Link(OTHER, {})], 1_000), seen
    context = trace.set_span_in_context(parent, Context())
    stock = tracer.start_span("send orders", context, SpanKind.PRODUCER, attributes, [Link(OTHER, {})], 1_000)
    return stock, seen


def _many(span: Span) -> None:
    for number in range(200):
        span.add_event(f"event {number}", {"number": number}, 5)
        span.add_link(SpanContext(1, number + 1, is_remote=True))
        span.set_attribute(f"attribute {number}", number)


def _attributes(span: Span) -> None:
    span.set_attribute("a list", [1, 2])
    span.set_attributes({"text": "x", "number": 5})
    span.set_attribute("", 1)
    span.set_attribute("float", 1.5)


def _late(span: Span) -> None:
    span.end(3_000)
    span.set_attribute("late", 1)
    span.add_event("late")
    span.add_link(OTHER)
    span.set_status(StatusCode.ERROR)
    span.update_name("late")
    span.end(9_000)


def _block(span: Span) -> None:
    with pytest.raises(ValueError, match="no such order"), span:
        raise ValueError("no such order")


DONE: dict[str, Callable[[Span], object]] = {
    "nothing": lambda _: None,
    "attributes": _attributes,
    "an event": lambda span: span.add_event("seen", {"a": [1, 2]}, 2_000),
    "a link": lambda span: span.add_link(REMOTE, {"a": 1}),
    "a link to nowhere": lambda span: span.add_link(trace.INVALID_SPAN_CONTEXT),
    "a status": lambda span: span.set_status(Status(StatusCode.ERROR, "declined")),
    "a status that stays": lambda span: [span.set_status(StatusCode.OK), span.set_status(StatusCode.ERROR)],
    "a name": lambda span: span.update_name("publish orders"),
    "more than fits": _many,
    "after its end": _late,
}


def told(span: ReadableSpan) -> dict[str, Any]:
    """All that a span says of itself."""
    own = span.get_span_context()
    assert own is not None
    assert span.instrumentation_scope is not None
    found: dict[str, Any] = json.loads(span.to_json())
    return {
        **found,
        "own": (*own, own.trace_state.to_header()),
        "parent": None if span.parent is None else tuple(span.parent),
        "times": (span.start_time, span.end_time),
        "scope": span.instrumentation_scope.to_json(),
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "attributes": dict(span.attributes or {}),
    }


@pytest.mark.parametrize("done", DONE)
def test_what_is_done_to_a_span_shows_as_on_the_sdk_s(done: str) -> None:
    shown = []
    for quick in (False, True):
        span, seen = started(quick=quick, parent=NonRecordingSpan(REMOTE))
        DONE[done](span)
        if span.is_recording():
            span.end(3_000)
        (ended,) = seen.ended
        shown.append(told(ended))

    assert shown[0]["attributes"]
    assert shown[1] == shown[0]


def test_a_block_that_raises_shows_as_on_the_sdk_s() -> None:
    shown = []
    for quick in (False, True):
        span, seen = started(quick=quick)
        _block(span)
        (ended,) = seen.ended
        (event,) = ended.events
        shown.append(
            (ended.status.status_code, ended.status.description, event.name, set(event.attributes or ()))
        )

    assert shown[0][0] is StatusCode.ERROR
    assert shown[1] == shown[0]


PARENTS = {
    "none": INVALID_SPAN,
    "remote": NonRecordingSpan(REMOTE),
    "remote, unsampled": NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=True)),
    "local": NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=False, trace_flags=TraceFlags(1))),
    "local, unsampled": NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=False, trace_flags=TraceFlags(2))),
}
SAMPLERS = {
    "default": sampling.DEFAULT_ON,
    "default off": sampling.DEFAULT_OFF,
    "on": sampling.ALWAYS_ON,
    "off": sampling.ALWAYS_OFF,
    "none of many": sampling.TraceIdRatioBased(0.0),
    "all of many": sampling.ParentBasedTraceIdRatio(1.0),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("parent", PARENTS)
def test_ids_flags_and_state_are_those_of_the_sdk(parent: str, sampler: str) -> None:
    shown = []
    for quick in (False, True):
        span, seen = started(quick=quick, parent=PARENTS[parent], sampler=SAMPLERS[sampler])
        own = span.get_span_context()
        span.end(3_000)
        shown.append((*own, own.trace_state.to_header(), len(seen.ended), [one.parent for one in seen.ended]))

    assert shown[1] == shown[0]


def test_an_unsampled_caller_leaves_a_mark() -> None:
    span, seen = started(quick=True, parent=PARENTS["remote, unsampled"], sampler=sampling.ALWAYS_ON)
    span.end()

    assert (seen.ended[0].attributes or {})["tracekit.context.sampled"] is False


def test_a_span_that_two_threads_end_is_handed_on_once() -> None:
    for _ in range(50):
        span, seen = started(quick=True)
        gate = threading.Barrier(2)

        def end(span: Span = span, gate: threading.Barrier = gate) -> None:
            gate.wait(5)
            span.end()

        threads = [threading.Thread(target=end) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(seen.ended) == 1


def test_attributes_that_are_put_after_its_end_do_not_count() -> None:
    span, seen = started(quick=True)
    assert isinstance(span, QuickSpan)
    span.put({"partition": "3"})
    span.end()
    span.put({"partition": "5"})

    assert (seen.ended[0].attributes or {})["partition"] == "3"


def test_this_sdk_can_be_stood_in_for() -> None:
    assert can_be_quick()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "10"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
        ("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true"),
    ],
)
def test_where_a_limit_may_be_met_the_sdk_makes_them(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    assert not can_be_quick()


def test_a_span_that_a_finalizer_ends_under_its_own_lock_hangs_nobody() -> None:
    span, seen = started(quick=True)
    held: Any = span

    def end() -> None:
        with held._lock:
            span.end()

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(5)

    assert (thread.is_alive(), len(seen.ended)) == (False, 1)


def through(processors: list[SpanProcessor]) -> Span:
    """A quick span that has started, whose end goes to these."""
    flow = FlowProcessor("shop", processors)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(flow)
    tracer = provider.get_tracer("tracekit")
    assert isinstance(tracer, SdkTracer)
    return QuickSpans(tracer, flow).start("send orders", SpanKind.PRODUCER, INVALID_SPAN, {"a": 1}, (), 1_000)


def test_a_processor_may_keep_copies_of_what_it_is_given() -> None:
    seen = Seen()
    span = through([seen])
    span.end()

    (copied,) = copy.deepcopy(seen.ended)
    assert (copied.name, dict(copied.attributes or {})) == ("send orders", {"a": 1})


class Proxy:
    """Passes on to a processor, and has nothing itself."""

    def __init__(self, inner: SpanProcessor) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_processor_may_be_a_proxy_or_have_methods_of_its_own() -> None:
    heard: list[str] = []
    single: Any = Seen()
    single.on_start = lambda *_, **__: heard.append("start")
    proxy: Any = Proxy(Seen())

    assert not watch_starts([Seen()])
    assert watch_starts([single])
    assert watch_starts([proxy])
