"""Shapes: what rows of the index share, and how SQLite searches them as `flow.search` does in Python.

A shape has its texts once more, for the search: `folded` holds each of them casefolded, after a mark that
says whose it is, and before an end. Mark and end are bytes that UTF-8 does not have, so that nothing that
a text says looks like one.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from tracekit.flow.search import NumberTerm, TextTerm, Word

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tracekit.flow.search import Comparison, Term, TextField

MAX_NAMES: Final = 100
"""Services, destinations and codes of breaks in a row; of more, the first."""
MAX_NAME: Final = 500
"""Characters of a name; of a longer one the first, and a search knows no others."""
NO_STATUS: Final = -1

SIGNS: Final[Mapping[Comparison, str]] = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
TABLE: Final = """
create table if not exists shape(
    id integer primary key, name text, service text, status int, services text, destinations text,
    breaks text, broken int, folded blob,
    unique(name, service, status, services, destinations, breaks, broken)
);
"""
"""`services`, `destinations` and `breaks` are lists in JSON; `broken` is how many breaks there are."""

_MARKS: Final[Mapping[TextField, bytes]] = {
    "name": b"\xf8",
    "service": b"\xf9",
    "queue": b"\xfa",
    "break": b"\xfb",
}
_END: Final = b"\xff"


def folded(
    name: str, service: str, services: Iterable[str], destinations: Iterable[str], breaks: Iterable[str]
) -> bytes:
    """The column of that name, from the others."""
    texts: Mapping[TextField, Iterable[str]] = {
        "name": (name,),
        "service": dict.fromkeys((service, *services)),
        "queue": destinations,
        "break": breaks,
    }
    return b"".join(_MARKS[field] + _fold(text) + _END for field, some in texts.items() for text in some)


def condition(term: Term) -> tuple[str, list[object]] | None:
    """A term as a condition on shapes in SQL, and its values; None where shapes do not answer it."""
    if isinstance(term, Word):
        return "instr(folded, ?)", [_fold(term.text)]
    if isinstance(term, TextTerm):
        # A name that was cut is met by what would be cut to it.
        texts = dict.fromkeys((term.value, term.value[:MAX_NAME]))
        is_there = " or ".join("instr(folded, ?)" for _ in texts)
        sought: list[object] = [_MARKS[term.field] + _fold(text) + _END for text in texts]
        return f"{'' if term.comparison == '=' else 'not '}({is_there})", sought
    if isinstance(term, NumberTerm) and term.field == "status":
        return f"status <> {NO_STATUS} and status {SIGNS[term.comparison]} ?", [within(term.value)]
    if isinstance(term, NumberTerm) and term.field == "breaks":
        return f"broken {SIGNS[term.comparison]} ?", [within(term.value)]
    return None


def within(value: int) -> int:
    """The nearest number that SQLite has: it has 64 bits."""
    return max(min(value, (1 << 63) - 1), -(1 << 63))


def _fold(text: str) -> bytes:
    return text.casefold().encode("utf-8", "surrogatepass")


# The list of flows was kept from the latest on: where rows are added in front, half of each page stays empty.
_FOLD: Final = """
begin immediate;
create table folded_shape(
    id integer primary key, name text, service text, status int, services text, destinations text,
    breaks text, broken int, folded blob,
    unique(name, service, status, services, destinations, breaks, broken)
);
insert into folded_shape
    select id, name, service, status, services, destinations, breaks, json_array_length(breaks),
        folded(name, service, services, destinations, breaks)
    from shape;
drop table shape;
drop index if exists listing;
alter table folded_shape rename to shape;
commit;
pragma incremental_vacuum;
"""


def _folded(name: str, service: str, *lists: str) -> bytes:
    return folded(name, service, *map(json.loads, lists))


def fold_all(index: Path) -> None:
    """Bring the index of a data directory of version 1 forward, whose shapes had no texts for the search.

    All of it, or nothing; done twice, it is as done once. An index that is damaged or missing is left as it
    is. Raises sqlite3.Error where the disk has no room for it.
    """
    if not index.exists():
        return
    with closing(sqlite3.connect(index, isolation_level=None)) as connection:
        connection.create_function("folded", 5, _folded, deterministic=True)
        try:
            connection.executescript(_FOLD)
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise
