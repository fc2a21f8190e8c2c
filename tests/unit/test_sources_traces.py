"""Traces of a Jaeger as they are kept, and what a flow's line tells of a query."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.unit.test_sources_jaeger import APART, ENTRY, FLOW, NOW, OTHER, SEND, orders
from tracekit.collector.archive import summary_of
from tracekit.flow import build_flow, build_flows
from tracekit.flow.search import matches, parse
from tracekit.model import Link, Span
from tracekit.otlp import encode_spans
from tracekit.sources.jaeger_traces import Trace, Traces, packed, parted
from tracekit.sources.line import may_meet, tells


def traces(*spans: Span) -> list[Trace]:
    found = parted(json.loads(encode_spans(spans, "json")))
    return [packed(trace_id, parts) for trace_id, parts in found.items()]


def kept(*spans: Span, max_bytes: int = 1_000_000) -> Traces:
    found = Traces(max_bytes)
    for trace in traces(*spans):
        found.put(trace)
    return found


def test_a_packed_trace_gives_back_its_spans() -> None:
    own, apart = traces(ENTRY, APART, SEND)

    assert ([*own.unpacked()], [*apart.unpacked()]) == ([ENTRY, SEND], [APART])
    assert (own.spans, own.start_ns, own.end_ns, own.begins) == (2, NOW, NOW + 40, {FLOW: NOW})
    assert ({**apart.begins}, {*apart.linked}) == ({FLOW: NOW + 50}, {FLOW})


HUB = Span(
    "d" * 32, "d" * 16, "process orders", NOW + 60, NOW + 90, kind=APART.kind, service=APART.service,
    links=tuple(Link(f"{n:032x}", "b" * 16, {"tracekit.flow.id": f"{n:032x}"}) for n in range(1, 4)),
)  # fmt: skip
BARE = replace(ENTRY, trace_id="e" * 32, attributes={})
BELOW = replace(BARE, span_id="f" * 16, parent_id="a" * 16)


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([ENTRY, SEND, APART], id="over a link"),
        pytest.param([*orders(3), HUB], id="a batch of three"),
        pytest.param([BARE, BELOW], id="without the flow's id"),
        pytest.param([APART], id="without its entry"),
        pytest.param([replace(SEND, parent_id="9" * 16, attributes={})], id="without anything"),
    ],
)
def test_every_flow_of_what_is_kept_is_known(spans: list[Span]) -> None:
    flows = build_flows(spans)

    assert {flow.id for flow in flows} <= kept(*spans).flows().keys()
    begun = {flow.id: flow.start_ns for flow in flows}
    assert {id_: at for id_, at in kept(*spans).flows().items() if id_ in begun} == begun


def test_those_of_a_flow_and_those_that_link_to_a_trace_are_found() -> None:
    found = kept(ENTRY, SEND, APART, HUB)

    assert [each.id for each in found.of_flow(FLOW)] == [OTHER, FLOW]
    assert [each.id for each in found.of_flow(f"{1:032x}")] == [HUB.trace_id]
    assert [each.id for each in found.linking(FLOW)] == [OTHER]


def test_what_grew_takes_the_place_of_what_it_was() -> None:
    found = kept(ENTRY)
    assert (found.has(FLOW, 1), found.has(FLOW, 2)) == (True, False)
    for trace in traces(ENTRY, SEND):
        found.put(trace)

    assert (len(found), found.has(FLOW, 2)) == (1, True)


def test_what_began_first_makes_room_for_more() -> None:
    found = kept(*orders(100), max_bytes=100_000)

    listed = sorted(found.flows())
    assert 15 < len(listed) < 30
    assert listed == [f"{n:032x}" for n in range(101 - len(listed), 101)]
    assert found.floor_ns > NOW - len(listed) * 1_000_000_000 - 1_000_000_000


@pytest.mark.parametrize(
    ("query", "is_told"),
    [
        ("", True),
        ("completion > 69ns", True),
        ("completion > 70ns", True),
        ("waited = 41ns service=BILLING", True),
        ("response <= 40ns", True),
        ("status = 200", True),
        ("queue = orders", True),
        ("queue != orders", True),
        ("post", True),
        ("nowhere", True),
        ("error", True),
        ("break", False),
        ("order.id = 3", False),
    ],
)
def test_a_line_tells_what_the_flow_does(query: str, is_told: bool) -> None:
    flow, asked = build_flow([ENTRY, SEND, APART]), parse(query, now_ns=0)

    assert tells(asked) is is_told
    assert may_meet(asked, summary_of(flow)) is (matches(asked, flow) if is_told else True)
