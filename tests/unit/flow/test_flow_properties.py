"""What holds for any spans whatever: cycles, collisions, parents that never come."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.flow import Knowledge, build_flows, render, render_line
from tracekit.model import Kind, Link, Service, Span, Status
from tracekit.testing.spans import batch, processed, request, sent, shop, span

TRACES = st.sampled_from(["a" * 32, "b" * 32, "0" * 16 + "a" * 16])
IDS = st.sampled_from([f"{i:016x}" for i in range(8)])
FLOWS = st.sampled_from([{}, {"tracekit.flow.id": "a" * 32}, {"tracekit.flow.id": "b" * 32}])
OPERATIONS = st.sampled_from(
    [{}, *({"messaging.operation.type": o} for o in ("send", "create", "process", "receive", "settle"))]
)
PUBLISHED = st.one_of(
    st.just({}), st.builds(lambda at: {"tracekit.messaging.published_at": at}, st.integers(0, 60))
)

LINKS = st.builds(Link, TRACES, IDS, FLOWS)
SPANS = st.builds(
    Span,
    trace_id=TRACES,
    span_id=IDS,
    name=st.sampled_from(["one", "two"]),
    start_ns=st.integers(0, 50),
    end_ns=st.one_of(st.none(), st.integers(0, 60)),
    parent_id=st.one_of(st.none(), IDS),
    parent_is_remote=st.one_of(st.none(), st.booleans()),
    kind=st.sampled_from(Kind),
    status=st.sampled_from(Status),
    attributes=st.builds(
        lambda *parts: {k: v for part in parts for k, v in part.items()}, FLOWS, OPERATIONS, PUBLISHED
    ),
    links=st.lists(LINKS, max_size=3).map(tuple),
    service=st.sampled_from([Service("x"), Service("y")]),
)
GRAPHS = st.lists(SPANS, max_size=14)


def known_flows() -> list[Span]:
    producers = [sent(start=i, end=i + 1) for i in range(3)]
    entry = request("POST /later", 5, 50)
    send = sent("later", 10, 20, parent=entry)
    return [*shop(), *producers, batch(producers), entry, send, processed(send, 60, 70), span("nightly")]


@given(st.permutations(known_flows()))
@settings(max_examples=40, deadline=None)
def test_spans_in_any_order_give_the_same_flows(spans: list[Span]) -> None:
    assert build_flows(spans) == build_flows(known_flows())


@given(GRAPHS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_graph_in_any_order_gives_the_same_flows(spans: list[Span], chance: object) -> None:
    mixed = list(spans)
    chance.shuffle(mixed)  # type: ignore[attr-defined]  # a random.Random

    assert build_flows(mixed) == build_flows(spans)


@given(GRAPHS)
@settings(max_examples=200, deadline=None)
def test_any_graph_gives_flows_that_hold_all_spans_and_can_be_drawn(spans: list[Span]) -> None:
    known = Knowledge(is_quiet=True, dropped={"x": 1}, consumers={"orders": frozenset({"y"})})
    flows = build_flows(spans, known=known)

    placed = {(s.trace_id, s.span_id) for flow in flows for s in flow.spans}
    assert placed == {(s.trace_id, s.span_id) for s in spans}
    assert all(count == 1 for count in Counter(flow.id for flow in flows).values())
    for flow in flows:
        assert render(flow)
        assert render_line(flow)
        assert all(wait.duration_ns >= 0 and wait.skew_ns >= 0 for wait in flow.waits)


@given(GRAPHS)
@settings(max_examples=200, deadline=None)
def test_in_any_graph_the_segments_of_a_path_touch_and_explain_its_time(spans: list[Span]) -> None:
    for flow in build_flows(spans):
        path = flow.completion_path
        assert sum(segment.duration_ns for segment in path) == flow.completion_ns
        assert all(segment.duration_ns > 0 for segment in path)
        assert all(one.end_ns == following.start_ns for one, following in pairwise(path))
        assert not path or (path[0].start_ns, path[-1].end_ns) == (flow.start_ns, flow.end_ns)
