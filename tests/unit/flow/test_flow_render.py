"""How a flow reads in a terminal."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tracekit.flow import build_flow, render, render_line
from tracekit.flow.text import columns, duration, harmless, shortened
from tracekit.model import Event, Kind, Service, Span, Status
from tracekit.testing.spans import at, batch, called, processed, request, sent, shop, span

DRAWING = """\
POST /orders  202 in 84 ms · done in 2.63 s · waited 1.94 s in 2 of 3 queues · 1 error
              0 breaks   7b804b04
orders        POST /orders                              84 ms   ▇▇▇
orders        ├ POST payment /charge                    43 ms   ▇▇
payment       │ └ POST /charge                          38 ms   ▇▇
orders        ├ POST inventory /reserve                 18 ms   ·▇▇
inventory     │ └ POST /reserve                         14 ms   ··▇
orders        └ send order.confirmed                     8 ms   ··▇
kafka           ├ order.confirmed waited                52 ms   ··░░░
analytics       │ └ process order.confirmed             11 ms   ····▇
kafka           └ order.confirmed waited               1.91 s   ··░░░░░╱╱░░░
notification      └ process order.confirmed            598 ms               ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇
notification        ├ send mail                     ✕   42 ms               ▇▇
notification        ├ send mail                         41 ms                                   ▇▇
notification        └ send notification.sent             3 ms                                     ▇
rabbitmq              └ notification.sent waited        22 ms                                     ░
audit                   └ process notification.sent     18 ms                                      ▇"""


def test_a_flow_reads_as_in_the_drawing() -> None:
    assert render(build_flow(shop())) == DRAWING


def test_a_flow_in_one_line_has_both_numbers_and_the_waiting() -> None:
    entry = request(end=41)
    send = sent("orders.created", 20, 30, parent=entry)
    failed = processed(send, 1000, 1100, published=30, failed=True)
    done = processed(send, 1660, 3200, published=30)

    assert render_line(build_flow([entry, send, failed, done])) == (
        "POST /orders 202 in 41 ms -> done in 3.2 s (waited 1.63 s on orders.created, 1 retry, 1 error)"
    )


@pytest.mark.parametrize(
    ("spans", "line"),
    [
        ([span("nightly", end=2630)], "nightly done in 2.63 s"),
        ([request("GET /x", end=12, status=200)], "GET /x 200 in 12 ms -> done in 12 ms"),
        ([request(end=None), span("step", 10, 20, parent=request())],
         "POST /orders open after 20 ms (1 open span)"),
        ([span("Charge", kind=Kind.SERVER, failed=True)],
         "Charge failed in 10 ms -> done in 10 ms (1 error)"),
        ([processed(None, 0, 10, attributes={"tracekit.messaging.context": "absent"})],
         "process orders done in 10 ms (1 break: headers_lost)"),
    ],
)  # fmt: skip
def test_one_line_says_what_there_is(spans: list[Span], line: str) -> None:
    assert render_line(build_flow(spans)) == line


def test_breaks_stand_below_with_code_evidence_and_cure() -> None:
    lost = processed(None, 0, 10, attributes={"tracekit.messaging.context": "absent"})

    assert render(build_flow([lost])).splitlines()[2:] == [
        "",
        "✕ headers_lost  process orders (notification)",
        "  The message brought no context.",
        "  Instrument the producer, and keep the message headers wherever it is copied.",
    ]


def test_what_took_long_stands_below_with_the_mark_of_its_bar() -> None:
    entry = request(end=1960)
    call = called("http://b/x", 5, 1850, parent=entry)
    charge = request("POST /charge", 10, 1840, service="payment", parent=call)
    send = sent(start=1900, end=1910, parent=entry)
    flow = build_flow([entry, call, charge, send, processed(send, 9000, 9030, published=1910)])

    assert render(flow, width=80).splitlines()[-3:] == [
        "▇ payment POST /charge took 1.83 s of the 1.96 s that the caller waited",
        "░ orders waited 7.09 s for notification, which then took 30 ms: notification was",
        "  behind, or not there yet",
    ]
    assert "\x1b[33m░\x1b[0m orders waited" in render(flow, color=True)


def test_skew_is_shown_with_the_wait() -> None:
    send = sent(start=0, end=8)

    text = render(build_flow([send, processed(send, 10, published=15)]))

    assert "orders waited, clocks 5 ms apart" in text


def test_waits_side_by_side_are_not_added_up() -> None:
    entry = request(end=20)
    send = sent("orders", 10, 12, parent=entry)
    slow = processed(send, 1000, 1010, published=12, service="mail")
    quick = processed(send, 900, 910, published=12, service="audit")
    flow = build_flow([entry, send, slow, quick])

    assert "done in 1.01 s · waited 988 ms in 1 of 2 queues" in render(flow)
    assert "done in 1.01 s (waited 988 ms on orders)" in render_line(flow)


def test_where_nobody_waited_for_a_message_its_longest_wait_is_said() -> None:
    entry = request(end=500)
    send = sent("orders", 10, 12, parent=entry)
    first = processed(send, 52, 60, published=12, service="mail")
    second = processed(send, 72, 80, published=12, service="audit")

    assert "waited 60 ms in 1 of 2 queues" in render(build_flow([entry, send, first, second]))


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (replace(request(), attributes={"error.type": "RuntimeError"}), ": RuntimeError"),
        (replace(request(), attributes={"error.type": "_OTHER"}, status_message="no card"), ": no card"),
        (
            replace(
                request(),
                attributes={"error.type": "500"},
                events=(Event("exception", at(5), {"exception.type": "KeyError"}),),
            ),
            ": KeyError",
        ),
        (replace(request(), attributes={"error.type": "500"}), ": 500"),
        (request(), ""),
    ],
)
def test_an_error_says_what_failed(failure: Span, why: str) -> None:
    flow = build_flow([replace(failure, status=Status.ERROR)])

    assert render(flow).splitlines()[1].startswith(f"orders  POST /orders{why} ✕")
    assert render_line(flow).endswith(f"(1 error{': orders POST /orders' if why else ''}{why})")


@pytest.mark.parametrize(("failed", "why"), [(False, ""), (True, ": KafkaTimeoutError")])
def test_a_send_says_how_often_it_was_tried_again(failed: bool, why: str) -> None:
    told = {"tracekit.messaging.retries": 2} | ({"error.type": "KafkaTimeoutError"} if failed else {})
    flow = build_flow([sent(failed=failed, attributes=told)])

    assert " · 2 retries · " in render(flow)
    assert render(flow).splitlines()[-1].startswith(f"orders  send orders, 2 retries{why} ")
    assert "(2 retries" in render_line(flow)


def test_of_several_errors_the_innermost_is_named() -> None:
    entry = replace(request(), status=Status.ERROR, attributes={"error.type": "500"})
    charge = span("charge", 1, 5, parent=entry, service="payment", attributes={"error.type": "BankError"})
    flow = build_flow([entry, replace(charge, status=Status.ERROR)])

    assert render_line(flow).endswith("(2 errors: payment charge: BankError)")


@pytest.mark.parametrize(("width", "is_whole"), [(80, False), (100, True), (140, True)])
def test_a_name_is_cut_only_where_bars_would_have_no_room(width: int, is_whole: bool) -> None:
    spans = [request(end=90)]
    for depth in range(1, 16):
        spans.append(span("reserve the stock of it", depth, 90, parent=spans[-1]))

    assert ("…" not in render(build_flow(spans), width=width)) == is_whole


def test_a_long_name_takes_what_is_free_before_its_bar() -> None:
    entry = request(end=100)
    late = span("reserve all that is in the stock", 90, 100, parent=entry)

    drawn = render(build_flow([entry, late]), width=60).splitlines()

    assert drawn[2:] == [
        "orders  POST /orders                     100 ms   ▇▇▇▇▇▇▇▇▇▇",
        "orders  └ reserve all that is in the stock     10 ms       ▇",
    ]


def test_each_message_of_a_batch_has_a_line() -> None:
    entry = request()
    sends = [sent(start=start, end=start + 2, parent=entry) for start in (10, 20)]

    drawn = render(build_flow([entry, *sends, batch(sends)])).splitlines()

    assert [line[:46].rstrip() for line in drawn[1:]] == [
        "orders   POST /orders",
        "orders   ├ send orders",
        "kafka    │ └ orders waited → process orders",
        "orders   └ send orders",
        "kafka      └ orders waited",
        "billing      └ process orders",
    ]


def test_a_wait_before_the_first_span_we_know_stands_above_it() -> None:
    consumed = processed(sent(), 100, 120, published=15)

    drawn = render(build_flow([consumed])).splitlines()

    assert [line[:30].rstrip() for line in drawn[1:3]] == [
        "kafka         orders waited",
        "notification  └ process orders",
    ]


@pytest.mark.parametrize("width", [1, 40, 60, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    entry = request()
    wide = span("数据" * 40, 10, 20, parent=entry, service="とても長いサービスの名前です")
    chain = [entry, wide]
    for depth in range(60):
        chain.append(span("deep" * 10, 10, 20, parent=chain[-1], span_id=f"{depth:016x}"))
    lost = span("x" * 200, parent_id="ab" * 8, trace_id=entry.trace_id)

    text = render(build_flow([*chain, lost]), width=width)

    assert max(map(columns, text.splitlines())) <= max(width, 40)


def test_what_strangers_write_cannot_reach_the_terminal() -> None:
    evil = "a\x1b[31mred\r\nnew\u202egnp.exe\u200b\x9b\ud800"
    entry = replace(request(), name=evil, service=Service(evil), trace_id=evil)
    below = span(evil, parent=entry, span_id=evil, service=evil)
    lost = span(evil, trace_id=evil, span_id="1", parent_id=evil + "!", service=evil)
    flow = build_flow([entry, below, lost])

    for text in (*render(flow, width=200).splitlines(), render_line(flow)):
        assert text.isprintable()
    assert r"a\x1b[31mred\r\nnew\u202egnp.exe\u200b\x9b\ud800" in render(flow, width=400)


def test_colour_is_amber_for_waiting_and_red_for_what_is_wrong() -> None:
    painted = render(build_flow(shop()), color=True)

    amber = [line for line in painted.splitlines() if "\x1b[33m" in line]
    red = [line for line in painted.splitlines() if "\x1b[31m" in line]
    assert all("waited" in line for line in amber)
    assert len(amber) == 4
    assert [("error" in line, "✕" in line) for line in red] == [(True, False), (False, True)]
    plain = painted
    for code in ("33", "31", "2", "0"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert [line.rstrip() for line in plain.splitlines()] == render(build_flow(shop())).splitlines()


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("http://payment:8001/charge?card=1", "POST payment:8001 /charge"),
        ("http://user:secret@payment/charge", "POST payment /charge"),
        ("http://[bad", "POST"),
    ],
)
def test_a_call_is_labelled_with_whom_it_calls_and_for_what(url: str, label: str) -> None:
    entry = request()

    text = render(build_flow([entry, called(url, 10, 20, parent=entry)]))

    assert text.splitlines()[2].split("└ ")[1].split("  ")[0] == label


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ms"), (400, "0 ms"), (500_000, "500 µs"), (999_900, "1 ms"), (3_400_000, "3.4 ms"),
        (8_000_000, "8 ms"), (9_990_000, "10 ms"), (84_000_000, "84 ms"), (999_600_000, "1 s"),
        (1_914_000_000, "1.91 s"), (3_200_000_000, "3.2 s"), (12_340_000_000, "12.3 s"),
        (59_990_000_000, "1 m 00 s"), (123_000_000_000, "2 m 03 s"), (3_720_000_000_000, "1 h 02 m"),
        (86_399_000_000_000, "1 d 00 h"), (360_000_000_000_000, "4 d 04 h"),
    ],
)  # fmt: skip
def test_a_duration_is_said_as_people_say_it(ns: int, text: str) -> None:
    assert duration(ns) == text


def test_a_text_is_cut_to_its_columns() -> None:
    assert shortened("order.confirmed", 8) == "order.c…"
    assert shortened("数据库", 5) == "数据…"
    assert harmless("naïve 数据 🚀") == "naïve 数据 🚀"


def test_long_idle_stretches_are_folded() -> None:
    send = sent(start=0, end=10)
    consumed = processed(send, 3_600_000, 3_600_010)

    rows = render(build_flow([send, consumed])).splitlines()

    assert "╱╱" in rows[2]
    assert rows[1].count("▇") > 10
    assert rows[3].count("▇") > 10
    assert at(3_600_000) - at(0) == 3_600_000_000_000


def test_idle_time_that_no_bar_shows_is_marked_before_the_next_one() -> None:
    entry = request(end=10)
    late = [span(name, start, start + 10, parent=entry) for name, start in (("mail", 7000), ("audit", 7010))]

    first, mail, audit = render(build_flow([entry, *late]), width=60).splitlines()[-3:]

    assert "╱╱" not in first
    assert re.fullmatch(r"orders  ├ mail +10 ms +╱╱ +▇+", mail)
    assert "╱╱" not in audit
    assert columns(mail) < 60
