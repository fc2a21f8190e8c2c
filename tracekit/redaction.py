"""Redaction: secrets in values that are about to leave, found by their key or by their looks.

Pure: a value goes in, the same value comes out where there is nothing to hide, else a copy; what the
caller owns is never changed. One place for log lines, attributes, exception texts and URLs.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import operator
import re
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType, NoneType
from typing import Any, Final, TypeAlias

from tracekit.guard import count_drop, shielded

REDACTED: Final = "[redacted]"
FAILED: Final = "[redaction failed]"
"""Stands where a redactor raised, or where a value was too large or too deep to look through."""

Rule: TypeAlias = Callable[[str], str]
"""Takes a text, gives it back without what the rule is about."""

_NAMES: Final = (
    r"authorization|cookies?|passw(?:or)?ds?|passphrase|passcode|pwd|secrets?|token|credentials?|cvv2?|cvc2?"
    r"|(?:api|private|secret|signing|encryption|access|account)[-_. ]?key"
)
_ROOTS: Final = (
    "authorization",
    "cookie",
    "pass",
    "pwd",
    "secret",
    "token",
    "credential",
    "key",
    "cvv",
    "cvc",
)
"""Of each name a part: most texts hold none, and looking for these is cheap."""
_QUOTED: Final = r"""b?"[^"]*"|b?'[^']*'"""
_BARE: Final = r"""b?["']?[^\s&;,)\]}"']+"""

# `tokens` is not here: max_tokens and input_tokens are numbers that people look at.
_KEY: Final = re.compile(rf"(?:{_NAMES})$", re.IGNORECASE)
_ASSIGNED: Final = re.compile(rf"((?:{_NAMES})\s?=(?!=)\s?)(?!\[redact)(?:{_QUOTED}|{_BARE})", re.IGNORECASE)
_IN_DICT: Final = re.compile(
    rf"""((?:{_NAMES})["']\s?(?::\s?|,\s?(?=b?["'])))(?!\[redact)(?:{_QUOTED}|{_BARE})""", re.IGNORECASE
)
_HEADER: Final = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)(\s?:\s?)[^\r\n\"']+", re.IGNORECASE
)
_USERINFO: Final = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_BEARER: Final = re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
# Possessive, and never from within a word: each character is looked at once, however long the text.
_JWT: Final = re.compile(r"(?<![\w-])eyJ[\w-]++\.[\w-]++(?:\.[\w-]*+)*+")
_DIGITS: Final = re.compile(r"(?<![0-9A-Za-z.])\d(?:[ -]?\d){12,18}(?![0-9A-Za-z])")
_EMAIL: Final = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
# Issuers' ranges and lengths (ISO/IEC 7812). Without them one in ten ids and timestamps is a "card".
_CARD: Final = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11,16}|35(?:2[89]|[3-8]\d)\d{12,15}|6(?:011|4[4-9]\d|5\d\d)\d{12,15}"
    r"|62\d{14,17}|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{8,15}"
)
_SHORTEST_CARD: Final = 13
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

_HARMLESS: Final = (
    bool,
    float,
    complex,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
# Iterated as their own classes have it, not as a subclass may: that could be endless, or wait for a disk.
_SEQUENCES: Final[tuple[type[Collection[object]], ...]] = (list, tuple, set, frozenset, deque)
_NUMBERS: Final = frozenset({NoneType, bool, int, float})
_CARD_MIN, _CARD_MAX = 10**12, 10**19
_MAX_DEPTH: Final = 16
_MAX_KEY: Final = 200
_MAX_REPR: Final = 1_000_000
_MAX_WORK: Final = 100_000
"""What one value may cost, some 100 ms: 1 for a number, 10 for a text or a pair, 50 for what holds others."""
_PAIR: Final = 10


def without_assignments(text: str) -> str:
    """The text without `password=…`, `'token': '…'`, `Cookie: …` and `://user:password@`."""
    assigned, quoted, named = "=" in text, "'" in text or '"' in text, ":" in text
    if not (assigned or quoted or named):
        return text
    lowered = text.lower()
    if any(root in lowered for root in _ROOTS):
        if assigned:
            text = _ASSIGNED.sub(rf"\1{REDACTED}", text)
        if quoted:
            text = _IN_DICT.sub(rf"\1{REDACTED}", text)
        if named:
            text = _HEADER.sub(rf"\1\2{REDACTED}", text)
    return _USERINFO.sub(REDACTED, text) if named and "@" in text else text


def without_tokens(text: str) -> str:
    """The text without bearer tokens and JSON web tokens."""
    if "earer" in text or "EARER" in text:
        text = _BEARER.sub(rf"\1{REDACTED}", text)
    return _JWT.sub(REDACTED, text) if "eyJ" in text else text


def without_cards(text: str) -> str:
    """The text without card numbers: digits of an issuer's range whose Luhn sum is right."""
    if len(text) < _SHORTEST_CARD:
        return text
    return _DIGITS.sub(lambda found: REDACTED if _is_card(found[0]) else found[0], text)


def without_emails(text: str) -> str:
    """The text without e-mail addresses."""
    return _EMAIL.sub(REDACTED, text) if "@" in text else text


def _is_card(text: str) -> bool:
    digits = text.replace(" ", "").replace("-", "")
    if not _CARD.fullmatch(digits):
        return False
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])) % 10 == 0


@functools.lru_cache(maxsize=4096)
def _matches(pattern: re.Pattern[str], key: str) -> bool:
    return pattern.search(key) is not None


class _Work:
    """How much one call may still look at: it is the application that waits for it."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MAX_WORK

    def affords(self, value: object, at_least: int = 1) -> bool:
        """Whether there is something left for this value; then it is spent."""
        if self.left < 0:
            return False
        cost = 1 if type(value) in _NUMBERS else _PAIR if isinstance(value, str) else 50
        self.left -= max(cost, at_least)
        if self.left < 0:
            count_drop("internal", "a value too large to look through for secrets")
        return self.left >= 0


@dataclass(frozen=True, slots=True)
class Redactor:
    """What counts as secret: keys by a pattern (at the end of the key), texts by rules."""

    keys: re.Pattern[str] = _KEY
    rules: tuple[Rule, ...] = (without_assignments, without_tokens, without_cards)

    def with_rules(self, *rules: Rule) -> Redactor:
        """A redactor with further rules, e.g. `without_emails`."""
        return replace(self, rules=(*self.rules, *rules))

    def text(self, text: str) -> str:
        """The text without secrets; FAILED where a rule raised."""
        with shielded("redaction"):
            for rule in self.rules:
                text = rule(text)
            return text
        return FAILED

    def value(self, value: object, key: object = "") -> object:
        """The value as it may be shown under this key; the same object where there is nothing to hide.

        Looks into dicts, lists, tuples, sets, deques, bytes and pairs (name, value), as far as
        `_MAX_WORK` goes: FAILED stands for the rest. Of any other object it looks at its repr, and
        gives that, redacted, in the object's place if it holds a secret, or FAILED if it is too long.
        """
        if isinstance(value, str):
            return self._str(value, key)
        with shielded("redaction"):
            return self._value(value, key, _Work(), 0)
        return FAILED

    def items(self, values: Mapping[str, object]) -> dict[str, object]:
        """The mapping as it may be shown, as a new dict. A value that fails fails alone."""
        return {key: self.value(value, key) for key, value in values.items()}

    def _value(self, value: object, key: object, work: _Work, depth: int) -> object:
        if value is None or isinstance(value, _HARMLESS):
            return value if value is None or isinstance(value, bool) or not self._is_secret(key) else REDACTED
        if isinstance(value, str):
            return self._str(value, key)
        if self._is_secret(key):
            return REDACTED
        if isinstance(value, int):
            return REDACTED if _CARD_MIN <= value < _CARD_MAX and self._hides(str(value)) else value
        if isinstance(value, bytes | bytearray):
            found = bytes(value).decode("latin-1")
            hidden = self.text(found)
            return value if hidden == found else hidden.encode("latin-1", "replace")
        if isinstance(value, (dict, MappingProxyType, *_SEQUENCES)) and depth >= _MAX_DEPTH:
            count_drop("internal", "a value too deep to look through for secrets")
            return FAILED
        if isinstance(value, dict):
            return self._mapping(value, dict.items(value), work, depth + 1)
        if isinstance(value, MappingProxyType):
            return self._mapping(value, value.items(), work, depth + 1)
        for kind in _SEQUENCES:
            if isinstance(value, kind):
                return self._sequence(
                    value, list(islice(kind.__iter__(value), work.left + 1)), work, depth + 1
                )
        with shielded("redaction"):
            shown = repr(value)
            if len(shown) > _MAX_REPR:
                count_drop("internal", "an object too large to look through for secrets")
                return FAILED
            hidden = self.text(shown)
            return value if hidden == shown else hidden
        return FAILED

    def _str(self, value: str, key: object) -> str:
        if self._is_secret(key):
            return REDACTED
        hidden = self.text(value)
        return value if hidden == value else hidden

    def _mapping(self, values: object, pairs: Collection[Any], work: _Work, depth: int) -> object:
        after: dict[object, object] = {}
        same = True
        for key, value in list(islice(pairs, work.left // _PAIR + 1)):
            if not work.affords(value, _PAIR):
                after[FAILED] = FAILED
                return after
            after[key] = self._value(value, key, work, depth)
            same = same and after[key] is value
        return values if same else after

    def _sequence(self, values: object, items: list[object], work: _Work, depth: int) -> object:
        after: list[object] = []
        for item in items:
            if not work.affords(item):
                after.append(FAILED)
                break
            # Most of what is long holds numbers: these need no more than a look.
            is_plain = type(item) is float or (type(item) is int and item < _CARD_MIN)
            after.append(item if is_plain else self._value(item, "", work, depth))
        if isinstance(values, tuple) and len(items) == 2 and self._is_secret(items[0]):
            after[1:] = [REDACTED]
        if len(after) == len(items) and all(map(operator.is_, after, items)):
            return values
        if isinstance(values, set | frozenset):
            return set(after)
        return tuple(after) if isinstance(values, tuple) else after

    def _is_secret(self, key: object) -> bool:
        if isinstance(key, bytes):
            key = key.decode("latin-1")
        return isinstance(key, str) and _matches(self.keys, key[-_MAX_KEY:])

    def _hides(self, text: str) -> bool:
        return self.text(text) != text


REDACTOR: Final = Redactor()
"""The default: keys and texts as section "PII" of the specification has them, e-mail left alone."""
