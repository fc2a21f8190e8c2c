"""Completion: what a half-typed query may go on with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracekit.flow.search import MAX_LENGTH, NUMBER_FIELDS, PRESENCES, TEXT_FIELDS, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tracekit.flow.search import TextField

MAX_COMPLETIONS: Final = 20
_BEGUN_VALUE: Final = re.compile(r'(?:^|\s)(?P<field>\w+)\s*!?=\s*(?P<begun>"[^"]*|[^\s"]*)$')
_BEGUN_WORD: Final = re.compile(r'(?:^|\s)(?P<begun>[^\s"]*)$')


@dataclass(frozen=True, slots=True)
class Completion:
    """Put `text` in the place of what stands from `start` to the cursor."""

    start: int
    text: str


def completions(text: str, cursor: int, known: Mapping[TextField, Sequence[str]]) -> tuple[Completion, ...]:
    """What may stand at the cursor, `MAX_COMPLETIONS` at most: a field, or a value of one that is text.

    `known` are the values that are known, of each field in the order in which to offer them.
    """
    before = text[: min(cursor, MAX_LENGTH)]
    if value := _BEGUN_VALUE.search(before):
        field, begun = value["field"].lower(), value["begun"].removeprefix('"')
        offered = (plain(name) for each, names in known.items() if each == field for name in names
                   if name.casefold().startswith(begun.casefold()))  # fmt: skip
        return _some(value.start("begun"), offered)
    if word := _BEGUN_WORD.search(before):
        begun = word["begun"].lower()
        if begun.startswith("!"):
            return _some(
                word.start("begun"), (f"!{each}" for each in PRESENCES if each.startswith(begun[1:]))
            )
        terms = (*PRESENCES, *(f"{field} > " for field in NUMBER_FIELDS), *(f"{f} = " for f in TEXT_FIELDS))
        return _some(word.start("begun"), (term for term in terms if term.startswith(begun)))
    return ()


def _some(start: int, texts: Iterable[str]) -> tuple[Completion, ...]:
    return tuple(Completion(start, text) for text, _ in zip(texts, range(MAX_COMPLETIONS), strict=False))
