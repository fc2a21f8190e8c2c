"""The search language: what is understood, what is not and why, and what a query holds for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.flow import build_flow
from tracekit.flow.search import (
    MAX_LENGTH,
    MAX_TERMS,
    AttributeTerm,
    NumberTerm,
    Query,
    SearchError,
    TextTerm,
    Word,
    matches,
    parse,
    perhaps,
    written,
)
from tracekit.model import Event, Service
from tracekit.testing.spans import MS, at, processed, request, sent, shop, span

if TYPE_CHECKING:
    from tracekit.flow import Flow
    from tracekit.model import Value

S = 1_000 * MS
NOW = at(0)
"""14 November 2023, 22:13:20 UTC."""


# -- what is understood -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", ()),
        ("  \t\n ", ()),
        ("completion > 1s", (NumberTerm("completion", ">", S),)),
        ("completion>1s", (NumberTerm("completion", ">", S),)),
        ("Completion >=1.5S", (NumberTerm("completion", ">=", S + 500 * MS),)),
        ("response<= 250ms", (NumberTerm("response", "<=", 250 * MS),)),
        ("answer <= 250ms", (NumberTerm("response", "<=", 250 * MS),)),
        ("Done > 1s", (NumberTerm("completion", ">", S),)),
        ("queued > 1s", (NumberTerm("waited", ">", S),)),
        ('"done" = 1s', (AttributeTerm("done", "=", "1s"),)),
        ("done", (Word("done"),)),
        ("waited != 3us", (NumberTerm("waited", "!=", 3_000),)),
        ("waited = 3µs", (NumberTerm("waited", "=", 3_000),)),
        ("waited < 2m", (NumberTerm("waited", "<", 120 * S),)),
        ("waited > 1h", (NumberTerm("waited", ">", 3_600 * S),)),
        ("waited > 1d", (NumberTerm("waited", ">", 86_400 * S),)),
        ("waited > 7ns", (NumberTerm("waited", ">", 7),)),
        ("waited > 0", (NumberTerm("waited", ">", 0),)),
        ("status>=500", (NumberTerm("status", ">=", 500),)),
        ("spans = 12", (NumberTerm("spans", "=", 12),)),
        ("errors = 0", (NumberTerm("errors", "=", 0),)),
        ("error = 0", (NumberTerm("errors", "=", 0),)),
        ("break > 2", (NumberTerm("breaks", ">", 2),)),
        ("breaks = 0", (NumberTerm("breaks", "=", 0),)),
        ("error", (NumberTerm("errors", ">", 0),)),
        ("retries", (NumberTerm("retries", ">", 0),)),
        ("!error", (NumberTerm("errors", "=", 0),)),
        ("pay !Breaks", (Word("pay"), NumberTerm("breaks", "=", 0))),
        ("-open", (NumberTerm("open", "=", 0),)),
        ("duplicates", (NumberTerm("duplicates", ">", 0),)),
        ("break", (NumberTerm("breaks", ">", 0),)),
        ("open", (NumberTerm("open", ">", 0),)),
        ("started > 10m", (NumberTerm("started", ">", NOW - 600 * S),)),
        ("started > 99999d", (NumberTerm("started", ">", 0),)),
        ("started < 2023-11-14T22:13:20", (NumberTerm("started", "<", NOW),)),
        ("started < 2023-11-14T23:13:20.000000001+01:00", (NumberTerm("started", "<", NOW + 1),)),
        ('started < "2023-11-14 22:13:20.25z"', (NumberTerm("started", "<", NOW + 250 * MS),)),
        ("started >= 1970-01-02", (NumberTerm("started", ">=", 86_400 * S),)),
        ("queue = order.confirmed", (TextTerm("queue", "=", "order.confirmed"),)),
        ("service=orders", (TextTerm("service", "=", "orders"),)),
        ("service != orders", (TextTerm("service", "!=", "orders"),)),
        ("break=headers_lost", (TextTerm("break", "=", "headers_lost"),)),
        ('name = "POST /orders"', (TextTerm("name", "=", "POST /orders"),)),
        ('name = ""', (TextTerm("name", "=", ""),)),
        ("order.id = 17", (AttributeTerm("order.id", "=", "17"),)),
        ('"completion" > 3', (AttributeTerm("completion", ">", "3"),)),
        ('"a tenant"=acme', (AttributeTerm("a tenant", "=", "acme"),)),
        ("url.full=http://x/?a=b&c<d", (AttributeTerm("url.full", "=", "http://x/?a=b&c<d"),)),
        ("lamp", (Word("lamp"),)),
        ("hello! café 10.0.0.7:80", (Word("hello!"), Word("café"), Word("10.0.0.7:80"))),
        ('"error"', (Word("error"),)),
        (r'"a \"b\" \\ c"', (Word(r'a "b" \ c'),)),
        (
            "completion > 1s queue=orders lamp error",
            (
                NumberTerm("completion", ">", S),
                TextTerm("queue", "=", "orders"),
                Word("lamp"),
                NumberTerm("errors", ">", 0),
            ),
        ),
    ],
)
def test_a_query_is_read(text: str, query: Query) -> None:
    assert parse(text, now_ns=NOW) == query


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("name=POST /orders", 'name="POST /orders"'),
        ("error name = POST /orders completion > 1s", 'name="POST /orders"'),
        ("service=orders pay now started > 10m", 'service="orders pay now"'),
        ("order.note!=to ann", 'order.note!="to ann"'),
        ('"a tenant"=acme corp', '"a tenant"="acme corp"'),
        ('name="POST /orders"', None),
        ('name="POST" orders', None),
        ('service=orders "pay"', None),
        ("service=orders error pay", None),
        ("completion > 1s pay", None),
        ("", None),
    ],
)
def test_words_behind_a_value_without_quotes_were_perhaps_part_of_it(text: str, meant: str | None) -> None:
    assert perhaps(text) == meant


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        (
            "complition > 1s",
            0,
            "no field is called `complition` (at character 1 of the query); `completion` ",
        ),
        ("lamp complition > 1s", 5, "no field is called `complition`"),
        ("topic = orders", 0, "`queue` perhaps"),
        ("xyzzy = 1", 0, "there are break, breaks, completion"),
        ("xyzzy = 1", 0, 'for an attribute put its key in quotes: `"xyzzy"`'),
        ("completion > 1", 13, "`1` is no time with a unit"),
        ("completion > fast", 13, "write `completion > 1s`"),
        ("spans > many", 8, "`many` is no whole number"),
        ("spans > -1", 8, "whole number"),
        ("spans > 99999999999999999999", 8, "whole number"),
        ("spans > 9999999999999999999", 8, "too large"),
        ("completion > 999999999999d", 13, "too large"),
        ("started > yesterday", 10, "no date in ISO 8601 and no time ago (at character 11"),
        ("started > 2023-99-14", 10, "no date"),
        ("started > 2023-11-14T10:00+99:00", 10, "no date"),
        ("started > 1969-11-14", 10, "no date"),
        ("started > 9999-11-14", 10, "too large"),
        ("started > 10m", 10, "no present"),
        ("queue > orders", 8, "`queue` is text"),
        ("break > headers_lost", 8, "whole number"),
        ("completion", 0, "write `completion > 1s`"),
        ("service", 0, "write `service = orders`"),
        ("completion >", 12, "no value after `completion >`"),
        ("done >", 6, "write one: `done > 1s`"),
        ("completion > = 3", 13, "no value"),
        ("completion == 1s", 12, "no value"),
        ("> 1s", 0, "`>` without a field"),
        ("a b and c", 4, "all terms must hold"),
        ("NOT a", 0, '`"NOT"`'),
        ("-lamp", 0, "cannot be ruled out"),
        ("a !lamp", 2, "`!lamp`: a word cannot be ruled out"),
        ("!lamp", 0, 'for the word itself write `"!lamp"`'),
        ("not error", 0, "a no is written `service != orders` or `!error`"),
        ("service:orders", 0, "compare with `=`: `service = …`"),
        ('"lamp', 0, "a quote without an end"),
        ('name = "POST', 7, "a quote without an end"),
        ('"lamp\\"', 0, "a quote without an end"),
        ('la"mp"', 2, "a quote inside of a word"),
        ('""', 0, "nothing between"),
        ('"" = 3', 0, "an attribute without a name"),
        ("lamp \ud800", 5, "no text"),
        ("a " * MAX_TERMS + "b", 2 * MAX_TERMS, f"more than {MAX_TERMS} terms"),
        ("a" * (MAX_LENGTH + 1), MAX_LENGTH, f"{MAX_LENGTH} of them at most"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place_and_the_cure(text: str, position: int, says: str) -> None:
    with pytest.raises(SearchError) as caught:
        parse(text)

    assert caught.value.position == position
    assert says in str(caught.value)


PIECES = st.sampled_from(
    [
        *'"\\<>=!.-: \t',
        "completion",
        "started",
        "name",
        "order.id",
        "1s",
        "10m",
        "2023-11-14",
        "and",
        "17",
        "é",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=40))
def test_whatever_is_written_is_a_query_or_an_error_in_its_bounds(text: str) -> None:
    try:
        query = parse(text, now_ns=NOW)
    except SearchError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 (not raising is right too)
    else:
        assert parse(written(query)) == query


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["error", "completion", "a b", "-x"]
)
COMPARISONS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
NUMBERS = st.integers(0, 2**62)
TERMS = st.one_of(
    st.builds(
        NumberTerm, st.sampled_from(["completion", "started", "breaks", "status"]), COMPARISONS, NUMBERS
    ),
    st.builds(TextTerm, st.sampled_from(["name", "break"]), st.sampled_from(["=", "!="]), TEXTS),
    st.builds(AttributeTerm, TEXTS.filter(bool), COMPARISONS, TEXTS),
    st.builds(Word, TEXTS.filter(bool)),
)


@given(st.lists(TERMS, max_size=5).map(tuple))
def test_every_query_can_be_written_and_read_again(query: Query) -> None:
    assert parse(written(query)) == query


def test_a_query_is_written_in_one_way() -> None:
    query = parse('COMPLETION>1500ms   error name="POST /x" "order.id"=17 started>1h lamp', now_ns=NOW)

    assert written(query) == (
        'completion > 1500ms errors > 0 name = "POST /x" order.id = 17 started > 2023-11-14T21:13:20Z lamp'
    )


# -- what it holds for --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow() -> Flow:
    """The shop's flow: 202 in 84 ms, done in 2630 ms, 12 spans, one of them failed, no break."""
    return build_flow(shop())


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("completion = 2630ms", True),
        ("completion > 2630ms", False),
        ("completion >= 2630ms", True),
        ("completion < 2630ms", False),
        ("completion <= 2630ms", True),
        ("completion != 2630ms", False),
        ("completion != 2631ms", True),
        ("response = 84ms", True),
        ("waited = 1935ms", True),
        ("status = 202", True),
        ("spans = 12", True),
        ("error", True),
        ("errors = 1", True),
        ("retries", False),
        ("duplicates", False),
        ("open", False),
        ("break", False),
        ("breaks = 0", True),
        ("started >= 2023-11-14T22:13:20Z", True),
        ("started > 2023-11-14T22:13:20Z", False),
        ('name = "post /ORDERS"', True),
        ("name = POST", False),
        ("service = payment", True),
        ("service = pay", False),
        ("service != payment", False),
        ("service != shipping", True),
        ("queue = order.confirmed", True),
        ("queue != order.confirmed", False),
        ("break = headers_lost", False),
        ("break != headers_lost", True),
        ("POST", True),
        ("pay", True),
        ("CONFIRMED", True),
        ("lamp", False),
        ("pay lamp", False),
        ("http.response.status_code = 200", True),
        ("http.response.status_code > 300", False),
        ("http.response.status_code != 200", True),
        ("http.route = /charge", True),
        ("http.route = /charg", False),
        ("messaging.system=RabbitMQ", True),
        ("order.id = 17", False),
    ],
)
def test_a_query_holds_for_a_flow(flow: Flow, text: str, holds: bool) -> None:
    assert matches(parse(text), flow) is holds


@pytest.mark.parametrize(
    ("value", "comparison", "wanted", "holds"),
    [
        (17, "=", "17", True),
        (17, "=", "17.0", True),
        (17, "=", "017", True),
        (17.5, ">", "9", True),
        ("17", ">", "9", True),
        ("17", "=", "17.0", False),
        ("b", ">", "a", True),
        ("2026-11-24", "<", "2026-11-30", True),
        ("b", ">", "9", False),
        (17, "<", "many", False),
        (17, "!=", "many", True),
        (True, "=", "TRUE", True),
        (True, "=", "1", False),
        (b"\x01\xff", "=", "01FF", True),
        ((1, 2, 3), "=", "2", True),
        ((1, 2, 3), ">", "3", False),
        ({"a": 1}, "=", "1", False),
        (float("nan"), "=", "nan", True),
        (float("inf"), ">", "1", False),
        (2**63 + 1, "=", str(2**63), False),
    ],
)
def test_an_attribute_is_compared_as_what_it_is(
    value: Value, comparison: str, wanted: str, holds: bool
) -> None:
    flow = build_flow([span("work", attributes={"the.key": value})])

    assert matches(parse(f"the.key {comparison} {wanted}"), flow) is holds


def test_an_attribute_may_be_an_event_s_or_the_service_s() -> None:
    service = Service("orders", attributes={"service.version": "1.10"})
    work = replace(
        span("work"), events=(Event("exception", at(1), {"exception.type": "KeyError"}),), service=service
    )

    flow = build_flow([work])

    assert matches(parse("exception.type = KeyError service.version = 1.10"), flow)


def test_nobody_waited_so_no_term_on_the_response_holds() -> None:
    flow = build_flow([sent()])

    assert not any(matches(parse(f"response {how} 1s"), flow) for how in ("<", ">", "!="))


def test_a_queue_that_nobody_read_yet_is_found() -> None:
    entry = request()

    flow = build_flow([entry, sent("orders", parent=entry)])

    assert matches(parse("queue = orders"), flow)


def test_a_break_is_found_by_its_code() -> None:
    flow = build_flow([processed(None, attributes={"tracekit.messaging.context": "absent"})])

    assert matches(parse("break breaks = 1 break = headers_lost lost"), flow)
