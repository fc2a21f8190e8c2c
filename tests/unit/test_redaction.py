"""Redaction: what counts as secret, what is left alone, and what happens when it fails."""

from __future__ import annotations

import enum
import itertools
import re
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit import guard
from tracekit.redaction import FAILED, REDACTED, REDACTOR, Redactor, without_emails

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
CARD = "4111 1111 1111 1111"


@pytest.fixture
def shielding() -> Iterator[None]:
    """The shield as users have it: it swallows and counts."""
    before = guard._drops.reraise
    guard.reraise(False)
    guard.forget()
    yield
    guard.reraise(before)
    guard.forget()


@dataclass
class Login:
    user: str
    password: str


@pytest.mark.parametrize(
    "key",
    [
        "authorization", "Authorization", "http.request.header.authorization", "cookie", "Set-Cookie",
        "set_cookie", "x-api-key", "X_API_KEY", "apiKey", "password", "db_password", "userPasswd", "secret",
        "client_secret", "token", "access_token", "refreshToken", "csrf-token", "credentials", "private_key",
        "aws_secret_access_key", "cvv",
    ],
)  # fmt: skip
def test_a_value_is_hidden_by_its_key(key: str) -> None:
    assert REDACTOR.value("x", key) == REDACTED


@pytest.mark.parametrize(
    "key",
    ["max_tokens", "input_tokens", "token_count", "tokenizer", "secretary", "cookie_banner", "key", "event"],
)
def test_a_key_that_only_resembles_a_secret_is_left_alone(key: str) -> None:
    assert REDACTOR.value("x", key) == "x"


@pytest.mark.parametrize("value", [None, True, False])
def test_whether_a_secret_is_there_may_be_told(value: object) -> None:
    assert REDACTOR.value(value, "password") is value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sent Bearer abc123def456", "sent Bearer [redacted]"),
        (f"got {JWT}.", "got [redacted]"),
        (f"card {CARD} declined", "card [redacted] declined"),
        ("4111-1111-1111-1111", "[redacted]"),
        ("amex 378282246310005", "amex [redacted]"),
        ("mastercard 5555555555554444", "mastercard [redacted]"),
        ("password=hunter2, user=ann", "password=[redacted], user=ann"),
        ("Login(user='ann', password='hun ter')", "Login(user='ann', password=[redacted])"),
        ("{'token': 'abc', 'n': 1}", "{'token': [redacted], 'n': 1}"),
        ('{"token": 12, "n": 1}', '{"token": [redacted], "n": 1}'),
        ("[(b'cookie', b'sid=1')]", "[(b'cookie', [redacted])]"),
        ("Cookie: sid=1; theme=dark\nHost: a", "Cookie: [redacted]\nHost: a"),
        ("Authorization: Basic YW5uOmh1bnRlcg==", "Authorization: [redacted]"),
        ("GET /pay?token=abc&page=2", "GET /pay?token=[redacted]&page=2"),
        ("postgresql://ann:hunter2@db/shop", "postgresql://[redacted]@db/shop"),
        ("password='cut off", "password=[redacted] off"),
        ("SET password = 'x' WHERE id = 1", "SET password = [redacted] WHERE id = 1"),
    ],
)
def test_a_secret_in_a_text_is_hidden(text: str, expected: str) -> None:
    assert REDACTOR.text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the Luhn sum is wrong
        "order 1732400000123456789 stored",  # nanoseconds
        "550e8400-e29b-41d4-a716-446655440000",
        "0af7651916cd43dd8448eb211c80319c",
        "the bearer of bad news",
        "unexpected token in line 4",
        "https://shop.example/orders?page=2",
        "ann@example.com",
        "if token == expected",
        "",
    ],
)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert REDACTOR.value(text) is text


def test_e_mail_addresses_are_hidden_on_request() -> None:
    assert (
        REDACTOR.with_rules(without_emails).text("from ann.b+c@mail.example.com to x")
        == "from [redacted] to x"
    )


def test_a_card_number_as_an_integer_is_hidden() -> None:
    assert (REDACTOR.value(4111111111111111), REDACTOR.value(4111111111111112)) == (
        REDACTED,
        4111111111111112,
    )


def test_nested_values_are_hidden_wherever_they_are() -> None:
    given_ = {
        "user": {"name": "ann", "password": "x", "cards": [CARD, "none"]},
        "headers": [("cookie", "sid=1"), (b"x-api-key", b"k"), ("accept", "*/*")],
        "note": (f"Bearer {JWT}", b"Bearer abcdef123456"),
    }

    assert REDACTOR.items(given_) == {
        "user": {"name": "ann", "password": REDACTED, "cards": [REDACTED, "none"]},
        "headers": [("cookie", REDACTED), (b"x-api-key", REDACTED), ("accept", "*/*")],
        "note": ("Bearer [redacted]", b"Bearer [redacted]"),
    }


def test_what_the_caller_owns_is_not_changed() -> None:
    inner = {"password": "x"}
    outer = [inner]

    REDACTOR.value(outer)

    assert outer == [{"password": "x"}]
    assert outer[0] is inner


@pytest.mark.parametrize(
    "value",
    [
        1, 1.5, None, True, "text", b"bytes", Decimal("3.10"), UUID(int=5), datetime(2026, 1, 1, tzinfo=UTC),
        {"a": [1, {"b": (2, 3)}]}, OrderedDict(a=1), {1, 2}, frozenset({1}), range(3), object(),
        ValueError("no"),
    ],
)  # fmt: skip
def test_a_value_without_secrets_is_the_same_object(value: object) -> None:
    assert REDACTOR.value(value, "detail") is value


def test_an_object_whose_repr_shows_a_secret_gives_way_to_that_repr_redacted() -> None:
    assert REDACTOR.value(Login("ann", "hunter2")) == "Login(user='ann', password=[redacted])"


def test_an_exception_whose_message_holds_a_secret_gives_way_to_its_repr_redacted() -> None:
    assert REDACTOR.value(ValueError("password=hunter2")) == "ValueError('password=[redacted]')"


def raising(text: str) -> str:
    raise LookupError(text)


def test_a_rule_that_raises_gives_the_failure_mark_and_is_counted(shielding: None) -> None:
    redactor = Redactor(rules=(raising,))

    assert redactor.items({"a": "x", "n": 1}) == {"a": FAILED, "n": 1}
    assert guard.dropped() == {"internal": 1}


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_an_object_that_cannot_be_looked_at_fails_alone(shielding: None) -> None:
    assert REDACTOR.items({"bad": Hostile(), "good": "x"}) == {"bad": FAILED, "good": "x"}
    assert REDACTOR.value(["x", Hostile(), {"bad": Hostile()}]) == ["x", FAILED, {"bad": FAILED}]


@dataclass
class Loaded:
    rows: list[int]


def test_an_object_whose_repr_is_huge_is_hidden(shielding: None) -> None:
    loaded = [Loaded([1] * 100), Loaded([1] * 10**6)]

    assert REDACTOR.value(loaded) == [loaded[0], FAILED]
    assert guard.dropped() == {"internal": 1}


def endless() -> object:
    loop: list[object] = []
    loop.append(loop)
    return loop


def exponential() -> object:
    value: object = "x"
    for _ in range(14):
        value = [value] * 14
    return value


@pytest.mark.parametrize("make", [endless, exponential])
def test_a_value_too_large_to_look_through_ends(make: Callable[[], object], shielding: None) -> None:
    assert FAILED in repr(REDACTOR.value(make()))
    assert set(guard.dropped()) == {"internal"}


class Unending(Sequence[int]):
    """As a lazy sequence is: it is not known what asking for an item costs."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __getitem__(self, at: Any) -> Any:
        return at


class UnendingList(list[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class UnendingDict(dict[str, int]):
    def __iter__(self) -> Iterator[str]:
        return map(str, itertools.count())

    def items(self) -> Any:
        return ((name, 1) for name in self)


@pytest.mark.parametrize(
    "value",
    [range(10**12), Unending(), UnendingList([1]), UnendingDict(a=1), itertools.count(), 10**5000],
    ids=["range", "sequence", "list", "dict", "iterator", "integer"],
)
def test_what_has_no_end_is_not_walked(value: object) -> None:
    assert REDACTOR.value(value, "detail") is value
    assert REDACTOR.value([value], "detail") == [value]


class Level(enum.IntEnum):
    """An int that ranges do not know."""

    CARD = 4111111111111111


def test_a_card_number_by_name_is_hidden() -> None:
    assert REDACTOR.value([Level.CARD, 4111111111111111]) == [REDACTED, REDACTED]


@pytest.mark.parametrize(
    ("many", "looked_at"),
    [
        pytest.param([1] * 10**7, 100_000, id="numbers"),
        pytest.param(["x"] * 10**6, 10_000, id="texts"),
        pytest.param([{"password": "x"}] * 10**6, 2_000, id="dicts"),
        pytest.param(deque([b"x"] * 10**6), 2_000, id="bytes"),
    ],
)
def test_of_a_long_sequence_the_first_items_are_looked_at(
    many: Collection[object], looked_at: int, shielding: None
) -> None:
    began = time.perf_counter()
    shown = REDACTOR.value(many)
    took = time.perf_counter() - began

    assert isinstance(shown, list)
    assert len(shown) <= looked_at + 1
    assert shown[-1] == FAILED
    assert shown[0] == REDACTOR.value(next(iter(many)))
    assert guard.dropped() == {"internal": 1}
    assert took < 5  # all of them took twenty


def test_of_a_large_dict_the_first_pairs_are_looked_at(shielding: None) -> None:
    shown = REDACTOR.value(dict.fromkeys(range(10**6), "x"))

    looked_at: dict[object, str] = dict.fromkeys(range(10_000), "x")
    assert shown == looked_at | {FAILED: FAILED}
    assert guard.dropped() == {"internal": 1}


def test_of_a_value_with_many_parts_all_together_are_limited(shielding: None) -> None:
    shown = REDACTOR.value([[{"n": 1}] * 1_000] * 1_000)

    assert isinstance(shown, list)
    assert sum(len(inner) for inner in shown) < 3_000


@given(st.text(alphabet=st.sampled_from("password=token:'\"[] redc&;,@/41-eyJ.\nBearer ")))
@settings(max_examples=300, deadline=None)
def test_what_is_redacted_stays_as_it_is_when_redacted_again(text: str) -> None:
    once = REDACTOR.text(text)

    assert REDACTOR.text(once) == once


@pytest.mark.parametrize(
    "piece", ["password=", "token='", "eyJ", "eyJa.", "4 ", "4-1", "a@", "Bearer ", "://a:", '"', "x"]
)
def test_the_time_grows_with_the_length_of_the_text_only(piece: str) -> None:
    redactor = REDACTOR.with_rules(without_emails)

    def seconds(size: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        times = []
        for _ in range(3):
            start = time.perf_counter()
            redactor.text(text)
            times.append(time.perf_counter() - start)
        return min(times)

    # Ten times the text takes a hundred times as long where a rule is quadratic.
    assert seconds(40_000) < 40 * seconds(4_000)


def test_keys_can_be_chosen() -> None:
    assert Redactor(keys=re.compile("^iban$")).items({"iban": "x", "password": "y"}) == {
        "iban": REDACTED,
        "password": "y",
    }


def test_a_long_text_that_only_begins_like_tokens_is_read_once() -> None:
    short, long = (min(_seconds("eyJ-" * number) for _ in range(3)) for number in (2_000, 20_000))

    assert long < short * 60  # ten times the text; a rule that starts over everywhere takes a hundred times


def _seconds(text: str) -> float:
    began = time.perf_counter()
    assert REDACTOR.text(text) == text
    return time.perf_counter() - began
