"""Views: flows and log lines as JSON, small whatever they hold."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest

from tracekit.collector import cut, views
from tracekit.collector.archive import Built, Page, Summary
from tracekit.flow import Flow, build_flow
from tracekit.model import Event, Link, LogLine, Service
from tracekit.testing.spans import BEGINNING, MS, at, processed, request, sent, shop, span

if TYPE_CHECKING:
    from tracekit.model import Value


def summary_of(flow: Flow) -> Summary:
    return Summary(
        flow.id, flow.name, flow.entry.service.name, flow.start_ns, flow.response_ns, flow.completion_ns
    )


def seen(flow: Flow) -> dict[str, object]:
    """The view, as a client reads it."""
    text = json.dumps(views.flow(Built(summary_of(flow), flow)), allow_nan=False)
    found: dict[str, object] = json.loads(text)
    return found


SUMMARY = Summary(
    "1" * 32, "POST /orders", "orders", BEGINNING, 84 * MS, 2630 * MS, 1987 * MS, 202, 12, 1, 0, 1, 0,
    ("orders", "billing"), ("orders",), ("headers_lost",), True, True,
)  # fmt: skip


def test_a_summary_has_the_archive_s_fields_and_its_moment_as_text() -> None:
    assert views.page(Page((SUMMARY,), "cursor")) == {
        "flows": [
            {
                **{field.name: getattr(SUMMARY, field.name) for field in fields(SUMMARY)},
                "start_ns": str(BEGINNING),
                "services": ["orders", "billing"],
                "destinations": ["orders"],
                "breaks": ["headers_lost"],
                "omitted": 0,
            }
        ],
        "next": "cursor",
    }


def test_a_flow_shows_its_spans_in_the_order_of_the_tree() -> None:
    entry = request(end=20)
    work = replace(
        span("work", 5, 9, parent=entry, failed=True, attributes={"order.id": 17}),
        status_message="no lamp",
        events=(Event("exception", at(8), {"exception.type": "KeyError"}),),
        links=(Link("2" * 32, "3" * 16, {"a": True}),),
        scope="shop",
        service=Service("orders", instance="pod-1"),
    )

    spans = seen(build_flow([entry, work]))["spans"]

    assert isinstance(spans, list)
    assert [each["parent"] for each in spans] == [None, 0]
    assert spans[1] == {
        "trace_id": entry.trace_id,
        "span_id": work.span_id,
        "parent_id": entry.span_id,
        "parent": 0,
        "name": "work",
        "label": "work",
        "service": "orders",
        "instance": "pod-1",
        "scope": "shop",
        "kind": "internal",
        "status": "error",
        "status_message": "no lamp",
        "start_ns": str(at(5)),
        "end_ns": str(at(9)),
        "duration_ns": 4 * MS,
        "attributes": {"order.id": 17},
        "links": [{"trace_id": "2" * 32, "span_id": "3" * 16, "attributes": {"a": True}}],
        "events": [
            {"name": "exception", "time_ns": str(at(8)), "attributes": {"exception.type": "KeyError"}}
        ],
        "omitted": 0,
    }


def test_a_flow_shows_its_messages_with_their_waits_and_who_says_so() -> None:
    send = sent()
    consumed = processed(send, 100, published=15, attributes={"messaging.kafka.offset": 48213})

    assert seen(build_flow([send, consumed]))["edges"] == [
        {
            "creation": 0,
            "consuming": 1,
            "system": "kafka",
            "destination": "orders",
            "group": "notification",
            "consumer": "notification",
            "relation": "parent and link",
            "wait": {
                "start_ns": str(at(15)),
                "end_ns": str(at(100)),
                "duration_ns": 85 * MS,
                "source": "broker",
                "skew_ns": 0,
            },
            "partition": None,
            "offset": "48213",
            "message_id": None,
        }
    ]


def test_a_flow_shows_its_breaks_with_evidence_and_cure() -> None:
    found = seen(build_flow([processed(None, attributes={"tracekit.messaging.context": "absent"})]))

    breaks = found["breaks"]
    assert isinstance(breaks, list)
    assert [(each["span"], each["reason"]) for each in breaks] == [(0, "headers_lost")]
    assert breaks[0]["evidence"]
    assert breaks[0]["cure"].startswith("Instrument the producer")


def test_a_flow_shows_its_paths_which_touch() -> None:
    flow = build_flow(shop())
    found = seen(flow)

    path = found["completion_path"]
    assert isinstance(path, list)
    assert sum(each["duration_ns"] for each in path) == flow.completion_ns
    waits = [each for each in path if each["kind"] == "wait"]
    assert [flow.edges[each["edge"]].destination for each in waits] == [
        "order.confirmed",
        "notification.sent",
    ]
    assert [flow.spans[each["span"]].name for each in waits] == [
        "process order.confirmed",
        "process notification.sent",
    ]
    assert found["omitted"] == {"spans": 0, "edges": 0, "breaks": 0, "blocking_path": 0, "completion_path": 0}


def test_an_open_span_has_no_end() -> None:
    spans = seen(build_flow([request(end=None)]))["spans"]

    assert isinstance(spans, list)
    assert (spans[0]["end_ns"], spans[0]["duration_ns"]) == (None, None)


@pytest.mark.parametrize(
    ("value", "shown", "omitted"),
    [
        ("plain", "plain", 0),
        ("x" * 2000, "x" * 1024 + "… (2000 characters)", 0),
        (2**53, 2**53, 0),
        (2**53 + 1, str(2**53 + 1), 0),
        (-(2**63), str(-(2**63)), 0),
        (1.5, 1.5, 0),
        (float("nan"), "nan", 0),
        (float("-inf"), "-inf", 0),
        (True, True, 0),
        (None, None, 0),
        (b"\x00\xff", "00ff", 0),
        ((1, "a", (2,)), [1, "a", [2]], 0),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, 0),
        (tuple(range(40)), list(range(32)), 8),
        (((((("deep",),),),),), [[[["…"]]]], 1),
        ("\ud800", "\ud800", 0),
    ],
)
def test_a_value_is_shown_as_json_and_bounded(value: Value, shown: object, omitted: int) -> None:
    spans = seen(build_flow([span("work", attributes={"key": value})]))["spans"]

    assert isinstance(spans, list)
    assert (spans[0]["attributes"], spans[0]["omitted"]) == ({"key": shown}, omitted)


def test_a_span_with_too_much_is_cut_and_says_so() -> None:
    fat = replace(
        span("work", attributes={f"k{i}": "x" * 5000 for i in range(500)}),
        events=tuple(Event("tick", at(i)) for i in range(500)),
    )

    spans = seen(build_flow([fat]))["spans"]

    assert isinstance(spans, list)
    shown = len(spans[0]["attributes"]) + len(spans[0]["events"])
    assert shown + spans[0]["omitted"] == 1000
    assert len(json.dumps(spans[0])) < 2 * cut.MAX_RECORD


def test_a_flow_with_too_many_spans_is_cut_and_says_so() -> None:
    entry = request(end=9000)
    flow = build_flow([entry, *(span("work", i, i + 1, parent=entry) for i in range(3000))])

    found = seen(flow)

    spans, omitted = found["spans"], found["omitted"]
    assert isinstance(spans, list)
    assert isinstance(omitted, dict)
    assert (len(spans), omitted["spans"]) == (1000, 2001)
    assert found["completion_path"]


def test_a_flow_with_fat_spans_stays_small() -> None:
    entry = request(end=9000)
    fat = {f"k{i}": "x" * 5000 for i in range(50)}
    flow = build_flow([entry, *(span("work", i, i + 1, parent=entry, attributes=fat) for i in range(900))])

    found = seen(flow)

    assert len(json.dumps(found)) < 2 * cut.MAX_TOTAL
    spans, omitted = found["spans"], found["omitted"]
    assert isinstance(spans, list)
    assert isinstance(omitted, dict)
    assert len(spans) + omitted["spans"] == 901


def test_a_log_line_is_shown() -> None:
    line = LogLine(
        at(5), {"said": "hello"}, 9, "INFO", {"order.id": 17}, "1" * 32, "2" * 16, Service("orders"), "order"
    )

    assert views.logs([line]) == {
        "logs": [
            {
                "time_ns": str(at(5)),
                "severity": 9,
                "severity_text": "INFO",
                "service": "orders",
                "trace_id": "1" * 32,
                "span_id": "2" * 16,
                "event_name": "order",
                "body": {"said": "hello"},
                "attributes": {"order.id": 17},
                "omitted": 0,
            }
        ],
        "omitted": 0,
    }


def test_of_too_many_lines_the_first_are_shown() -> None:
    found = views.logs([LogLine(at(i), f"{i}") for i in range(1010)])

    assert isinstance(found["logs"], list)
    assert (len(found["logs"]), found["omitted"]) == (1000, 10)
