"""The rows of `tracekit flows` and the lines of `tracekit tail`: what a person sees of a flow's summary."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import pytest

from tracekit.cli.rows import line, table
from tracekit.cli.terminal import wrapped
from tracekit.collector.archive import Summary
from tracekit.flow.text import columns

MS: Final = 1_000_000
AT: Final = datetime(2026, 11, 24, 14, 2, 11).astimezone()

ORDER: Final = Summary(
    id="9f3c1a7e00000000000000000000000a",
    name="POST /orders",
    service="orders",
    start_ns=int(AT.timestamp()) * 1000 * MS,
    response_ns=84 * MS,
    completion_ns=2630 * MS,
    waited_ns=1940 * MS,
    status=202,
    services=("orders", "payment", "notification"),
    destinations=("order.confirmed", "notification.sent"),
    is_settled=True,
    is_analysed=True,
)
LEGACY: Final = replace(
    ORDER,
    name="process legacy.events",
    response_ns=None,
    status=None,
    waited_ns=0,
    errors=1,
    retries=2,
    services=("reporting",),
    breaks=("headers_lost",),
)


def rows(*flows: Summary, width: int = 110, color: bool = False, now: datetime = AT) -> list[str]:
    return [*table(flows, now, width=width, color=color)]


def test_a_flow_is_a_row_with_its_two_numbers_its_waiting_and_its_marks() -> None:
    assert rows(ORDER, replace(LEGACY, retries=0)) == [
        "when      flow                      answer  done in  waited  marks                         id",
        "14:02:11  POST /orders           202 84 ms   2.63 s  1.94 s                                9f3c1a7e",
        "14:02:11  process legacy.events          –   2.63 s       –  1 error, break: headers_lost  9f3c1a7e",
    ]


def test_the_services_are_shown_where_there_is_room() -> None:
    assert rows(ORDER, width=100) == [
        "when      flow             answer  done in  waited  services                       id",
        "14:02:11  POST /orders  202 84 ms   2.63 s  1.94 s  orders, payment, notification  9f3c1a7e",
    ]


@pytest.mark.parametrize("width", [40, 50, 60, 72, 80, 100, 160, 300])
def test_a_row_is_never_wider_than_the_terminal(width: int) -> None:
    wide = replace(LEGACY, name="GET /" + "name/" * 50, breaks=("headers_lost", "clock_skew") * 9)
    foreign = replace(ORDER, name="注文" * 40, services=("出荷",) * 30)

    assert [row for row in rows(ORDER, wide, foreign, width=width) if columns(row) > width] == []


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (80, "when flow answer done in waited marks id"),
        (77, "when flow answer done in waited marks id"),
        (72, "flow answer done in waited marks id"),
        (60, "flow done in waited marks id"),
        (48, "flow done in marks id"),
    ],
)
def test_marks_are_whole_where_names_are_cut_and_columns_left_out(width: int, headings: str) -> None:
    heading, order, broken = rows(ORDER, replace(LEGACY, retries=0, errors=0), width=width)

    assert " ".join(heading.split()) == headings
    assert "  break: headers_lost  " in broken
    assert "POST /o" in order
    assert max(map(columns, (heading, order, broken))) <= width


def test_for_a_few_columns_more_or_less_of_many_marks_nothing_is_left_out() -> None:
    wide = replace(LEGACY, breaks=("headers_lost", "clock_skew") * 9)

    assert rows(ORDER, wide)[0].split()[:3] == ["when", "flow", "answer"]


def test_a_column_that_says_nothing_is_left_out() -> None:
    assert "marks" not in rows(ORDER)[0]
    assert "marks" in rows(ORDER, LEGACY)[0]


def test_what_did_not_begin_today_says_when() -> None:
    assert rows(ORDER, now=AT + timedelta(days=1))[1].startswith("24 Nov 14:02  POST /orders")
    assert rows(ORDER, now=AT + timedelta(days=60))[1].startswith("2026-11-24  POST /orders")


def test_a_moment_that_no_calendar_has_is_shown_all_the_same() -> None:
    assert "POST /orders" in rows(replace(ORDER, start_ns=2**64 - 1))[1]


def test_what_is_not_analysed_yet_does_not_say_that_nothing_waited() -> None:
    early = replace(ORDER, waited_ns=0, is_analysed=False)

    assert rows(early)[1].split()[7:9] == ["s", "?"]
    assert line(early, AT, color=False).endswith("done in 2.63 s (not analysed yet)   9f3c1a7e")


def test_while_a_flow_grows_what_it_had_waited_stands_with_a_question_mark() -> None:
    grows = replace(ORDER, is_analysed=False)

    assert rows(grows)[1].split()[7:10] == ["s", "1.94", "s?"]
    assert "(waited 1.94 s in 2 queues, so far)" in line(grows, AT, color=False)


def test_waiting_is_amber_and_what_is_wrong_is_red_with_its_word() -> None:
    (_, waited, wrong) = rows(ORDER, LEGACY, color=True)

    assert "\x1b[33m1.94 s\x1b[0m" in waited
    assert "\x1b[31m" not in waited
    assert "\x1b[31m1 error, break: headers_lost, 2 retries" in wrong
    assert "\x1b[33m" not in wrong


def test_names_that_would_drive_the_terminal_are_shown_by_their_codes() -> None:
    evil = "\x1b[2J\r\n\u202e"
    hostile = replace(ORDER, name=evil, id=evil, services=(evil,), destinations=(evil,), breaks=(evil,))

    for shown in (rows(hostile)[1], line(hostile, AT, color=False)):
        assert shown.isprintable()
        assert "\\x1b[2J" in shown


def test_a_line_says_what_a_row_says_in_words() -> None:
    assert line(ORDER, AT, color=False) == (
        "14:02:11  POST /orders 202 in 84 ms -> done in 2.63 s (waited 1.94 s in 2 queues)   9f3c1a7e"
    )
    assert line(LEGACY, AT + timedelta(days=1), color=False) == (
        "24 Nov 14:02  process legacy.events done in 2.63 s (1 error, break: headers_lost, 2 retries)"
        "   9f3c1a7e"
    )
    one = replace(ORDER, destinations=("orders",), open_spans=1)
    assert line(one, AT, color=False) == (
        "14:02:11  POST /orders 202 in 84 ms -> open after 2.63 s (waited 1.94 s on orders, 1 open span)"
        "   9f3c1a7e"
    )


@pytest.mark.parametrize("color", [False, True])
def test_a_line_is_broken_between_words_and_its_colours_take_no_room(color: bool) -> None:
    said = wrapped(f"  {line(LEGACY, AT, color=color)}", 60)

    plain = re.sub(r"\x1b\[\d+m", "", said)
    assert ("\x1b" in said, plain.splitlines()) == (
        color,
        [
            "  14:02:11  process legacy.events done in 2.63 s (1 error,",
            "    break: headers_lost, 2 retries)   9f3c1a7e",
        ],
    )


def test_a_word_that_is_longer_than_the_terminal_stays_whole() -> None:
    address = "http://127.0.0.1:4320/" + "x" * 80

    assert wrapped(f"flows are at {address} now", 60).splitlines() == [
        "flows are at",
        f"    {address}",
        "    now",
    ]
