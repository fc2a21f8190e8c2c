"""The words of a query, as the shell hands them over."""

from __future__ import annotations

import shlex

import pytest

from tracekit.cli.terminal import QUERY_HELP, query_of
from tracekit.flow.search import AttributeTerm, NumberTerm, Term, TextTerm, Word, parse

SLOW = NumberTerm("completion", ">", 1_000_000_000)
PLACED = TextTerm("name", "=", "POST /orders")


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        ("'completion > 1s' pay", (SLOW, Word("pay"))),
        ("completion '>' 1s pay", (SLOW, Word("pay"))),
        ("'completion > 1s pay'", (SLOW, Word("pay"))),
        ("""'name = "POST /orders"' order.id=17""", (PLACED, AttributeTerm("order.id", "=", "17"))),
        ("name = 'POST /orders'", (PLACED,)),
        ("name= 'POST /orders'", (PLACED,)),
        ("", ()),
    ],
)
def test_however_it_is_quoted_the_query_is_the_one_that_was_meant(
    typed: str, terms: tuple[Term, ...]
) -> None:
    assert parse(query_of(shlex.split(typed))) == terms


def test_the_help_s_examples_are_queries() -> None:
    _, *rows = QUERY_HELP.splitlines()
    examples = [word for row in rows for word in shlex.split(row[:58])]  # what they mean stands behind

    assert "completion > 1s" in examples
    assert [len(parse(example, now_ns=10**18)) for example in examples] == [1] * len(examples)
