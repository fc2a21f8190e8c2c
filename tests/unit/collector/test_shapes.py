"""A shape's texts and numbers: SQLite finds by them what `matches` does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracekit.collector import shapes
from tracekit.collector.shapes import MAX_NAME
from tracekit.flow import build_flow, facts
from tracekit.flow.search import NumberTerm, TextTerm, Word, destinations, matches
from tracekit.testing.spans import processed, request, sent

if TYPE_CHECKING:
    from pathlib import Path

    from tracekit.flow import Flow
    from tracekit.flow.search import Term

INSERT: Final = "insert into shape values(null,?,?,?,?,?,?,?,?)"
HOSTILE: Final = "\x00\x01\x1f\x7f\xf8\xff aAİıiIßẞsS\u212akKﬁΣςσ\u0307%_'\"\\[],\U0001f600\ud7ff\uffff"
texts = st.text(st.sampled_from(HOSTILE), max_size=6)


def flow(name: str, service: str, queue: str, status: int) -> Flow:
    entry = request(name, status=status, service=service)
    send = sent("orders", parent=entry)
    lost = processed(None, 30, 40, attributes={"tracekit.messaging.context": "absent"}, ambient=send)
    again = replace(lost, span_id="9" * 16, name="again")
    named = {**send.attributes, "messaging.destination.name": queue}
    return build_flow([entry, replace(send, attributes=named), lost, again])


def is_met(term: Term, by: Flow) -> bool:
    """In SQLite, by the shape of the flow."""
    codes = dict.fromkeys(each.reason for each in by.breaks)
    lists = by.services, destinations(by), codes
    status = facts.http_status(by.entry)
    name, service = by.name[:MAX_NAME], by.entry.service.name[:MAX_NAME]
    row = name, service, shapes.NO_STATUS if status is None else status, "", "", "", len(by.breaks)
    condition = shapes.condition(term)
    assert condition is not None
    with closing(sqlite3.connect(":memory:")) as index:
        index.executescript(shapes.TABLE)
        index.execute(INSERT, (*row, shapes.folded(name, service, *lists)))
        found = index.execute(f"select id from shape where {condition[0]}", condition[1]).fetchall()
    return bool(found)


terms = st.one_of(
    st.builds(Word, texts.filter(bool)),
    st.builds(
        TextTerm, st.sampled_from(["name", "service", "queue", "break"]), st.sampled_from(["=", "!="]), texts
    ),
    st.builds(
        NumberTerm,
        st.sampled_from(["status", "breaks"]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from([0, 1, 2, 3, 500, 2**63 - 1]),
    ),
)


@given(texts, texts, texts, st.sampled_from([0, 2, 500]), terms)
@example("ß", "s", "s", 200, TextTerm("name", "=", "SS"))
@example("\u212a", "s", "s", 200, Word("k"))
@example("İ", "s", "s", 200, Word("i"))
@example("a", "b", "c", 200, Word("ab"))
@example("a\xff\xf9b", "c", "d", 200, TextTerm("service", "=", "b"))
@settings(deadline=None, max_examples=500)
def test_a_shape_meets_what_its_flow_meets(
    name: str, service: str, queue: str, status: int, term: Term
) -> None:
    made = flow(name, service, queue, status)

    assert is_met(term, made) == matches((term,), made)


@pytest.mark.parametrize(
    "term",
    [
        *(TextTerm("name", sign, f"{'ß' * 400}{'x' * 400}") for sign in ("=", "!=")),
        *(TextTerm("name", sign, "ß" * 400) for sign in ("=", "!=")),
        TextTerm("name", "=", "ss" * 300),
        Word("sx"),
        Word("y"),
    ],
)
def test_of_a_long_name_the_first_characters_are_searched(term: Term) -> None:
    made = flow("ß" * 400 + "x" * 400, "s", "q", 200)

    assert is_met(term, made) == matches((term,), made)


def test_a_name_is_found_by_what_the_list_shows_of_it() -> None:
    made = flow("x" * 800, "s", "q", 200)

    assert is_met(TextTerm("name", "=", "x" * MAX_NAME), made)


def test_what_a_shape_does_not_say_is_no_condition_on_it() -> None:
    assert shapes.condition(NumberTerm("spans", ">", 1)) is None


# -- version 1 ----------------------------------------------------------------------------------------

VERSION_1: Final = """
create table shape(
    id integer primary key, name text, service text, status int, services text, destinations text,
    breaks text,
    unique(name, service, status, services, destinations, breaks)
);
insert into shape values(
    7, 'GET /Straße', 'shop', 200, '["shop", "größe"]', '["orders"]', '["headers_lost"]'
);
insert into shape values(9, '', '', -1, '[]', '[]', '[]');
"""


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as index:
        return index.execute("select * from shape order by id").fetchall()


def version_1(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as index:
        index.executescript(VERSION_1)
    return path


FOLDED: Final = [
    (
        *(7, "GET /Straße", "shop", 200, '["shop", "größe"]', '["orders"]', '["headers_lost"]', 1),
        b"\xf8get /strasse\xff\xf9shop\xff\xf9gr\xc3\xb6sse\xff\xfaorders\xff\xfbheaders_lost\xff",
    ),
    (9, "", "", -1, "[]", "[]", "[]", 0, b"\xf8\xff\xf9\xff"),
]


def test_shapes_of_version_1_get_their_texts_and_keep_their_numbers(tmp_path: Path) -> None:
    index = version_1(tmp_path / "index.db")

    for _ in range(2):  # once more, where it was interrupted before that was noted
        shapes.fold_all(index)
        assert rows(index) == FOLDED


def test_bringing_shapes_forward_that_fails_in_the_middle_changes_nothing_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = version_1(tmp_path / "index.db")
    before, folded = rows(index), shapes.folded

    def fails(name: str, *rest: Any) -> bytes:
        assert name, "as if the process ended here"
        return folded(name, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(shapes, "folded", fails)
        shapes.fold_all(index)
    assert rows(index) == before

    shapes.fold_all(index)
    assert rows(index) == FOLDED


def test_an_index_that_is_missing_or_damaged_is_left_as_it_is(tmp_path: Path) -> None:
    shapes.fold_all(tmp_path / "index.db")
    assert not (tmp_path / "index.db").exists()

    for number, said in enumerate((b"", b"no database" * 1000)):
        damaged = tmp_path / f"{number}.db"
        damaged.write_bytes(said)
        shapes.fold_all(damaged)
        assert damaged.read_bytes() == said
