"""What a half-typed query may go on with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.flow.completion import MAX_COMPLETIONS, completions
from tracekit.flow.search import PRESENCES, parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.flow.search import TextField

KNOWN: Final[Mapping[TextField, Sequence[str]]] = {
    "queue": ("orders", "order.confirmed", "payments"),
    "name": ("POST /orders", "GET /"),
}


def completed(text: str) -> list[str]:
    """The text with each completion at its end."""
    return [text[: each.start] + each.text for each in completions(text, len(text), KNOWN)]


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("comp", ["completion > "]),
        ("lamp re", ["lamp retries", "lamp response > ", "lamp retries > "]),
        ("Que", ["queue = "]),
        ("lamp !re", ["lamp !retries"]),
        ("queue = o", ["queue = orders", "queue = order.confirmed"]),
        ("queue=PAY", ["queue=payments"]),
        ("queue != ", ["queue != orders", "queue != order.confirmed", "queue != payments"]),
        ("name = po", ['name = "POST /orders"']),
        ('name = "POST /', ['name = "POST /orders"']),
        ("service = x", []),
        ("xyz", []),
        ('"half', []),
    ],
)
def test_what_was_begun_is_completed(text: str, offered: list[str]) -> None:
    assert completed(text) == offered


def test_only_what_stands_before_the_cursor_counts() -> None:
    assert [each.text for each in completions("queue = o error", 9, KNOWN)] == ["orders", "order.confirmed"]


def test_nothing_begun_offers_every_field() -> None:
    assert set(PRESENCES) < set(completed(""))
    assert len(completed("")) <= MAX_COMPLETIONS


@given(st.text('queuname=!" x/O>', max_size=20), st.integers(0, 20))
def test_whatever_was_typed_completions_are_few_and_in_it(text: str, cursor: int) -> None:
    found = completions(text, cursor, KNOWN)

    assert len(found) <= MAX_COMPLETIONS
    assert all(0 <= each.start <= cursor for each in found)


@pytest.mark.parametrize("text", ["queue = o", 'name = "GET', "queue!="])
def test_a_value_that_was_completed_can_be_read(text: str) -> None:
    assert all(parse(each) for each in completed(text))
