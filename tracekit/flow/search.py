"""Search: what somebody looks for among flows, as a value. `completion > 1s queue = orders error lamp`.

A query is terms between blanks, and holds if every term of it holds; text is compared without regard to
case. A term is
- a field, a comparison, a value, with blanks around the comparison or without: `response>=250ms`,
  `status >= 500`, `queue != orders`, `break=headers_lost`. Times have a unit (ns us ms s m h d), and may be
  called as they are on the screen: `answer` is the response, `done` the completion, `queued` what it waited;
- `started > 10m`, later than ten minutes ago, or `started < 2026-11-24T10:00` (UTC where it says no zone);
- any attribute: what has a dot, or stands in quotes, is its key: `order.id = 17`, `"tenant" = acme`;
- `error`, `retries`, `duplicates`, `break`, `open`: there is at least one; `!error`: there is none;
- a word, found in the flow's name, a service, a destination or a break's code.
Quotes keep blanks and what is otherwise special: `name = "POST /orders"`; in them a backslash keeps a
quote and a backslash.

Bounds: a query has at most `MAX_LENGTH` characters and `MAX_TERMS` terms. One file, though a long one: what
can be written, how it is written and what it holds for change together.
"""

from __future__ import annotations

import difflib
import itertools
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias, TypeVar, cast, get_args

from tracekit.flow import facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracekit.flow.build import Flow
    from tracekit.model import Attributes, Span, Value

MAX_LENGTH: Final = 2_000
MAX_TERMS: Final = 20
_MAX_NUMBER: Final = 2**63 - 1  # what an index can hold

NumberField: TypeAlias = Literal[
    "completion",
    "response",
    "waited",
    "spans",
    "errors",
    "retries",
    "duplicates",
    "breaks",
    "open",
    "status",
    "started",
]
"""Times in ns, `started` in Unix ns. A flow that lacks the number (nobody waited) meets no term on it."""

TextField: TypeAlias = Literal["name", "service", "queue", "break"]
"""`name` is the entry's; of a flow's services, queues (destinations) and breaks (codes) one is enough."""

Comparison: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]


class SearchError(ValueError):
    """A query that cannot be read: what was not understood, and the cure; `position` is where, from 0."""

    def __init__(self, position: int, problem: str, cure: str) -> None:
        super().__init__(f"{problem} (at character {position + 1} of the query); {cure}")
        self.position = position


@dataclass(frozen=True, slots=True)
class NumberTerm:
    """`completion > 1s`."""

    field: NumberField
    comparison: Comparison
    value: int


@dataclass(frozen=True, slots=True)
class TextTerm:
    """`queue = orders`: the whole text is this; with `!=`, that of none is."""

    field: TextField
    comparison: Literal["=", "!="]
    value: str


@dataclass(frozen=True, slots=True)
class AttributeTerm:
    """`order.id = 17`: a span of the flow has this attribute, with a value that compares so.

    A span's events and its service speak for it too. Numbers are compared as numbers, where both sides
    are; of a list one item is enough; `!=` is met by another value, not by none.
    """

    key: str
    comparison: Comparison
    value: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word without a field: the flow's name, a service, a destination or a break's code contains it."""

    text: str


Term: TypeAlias = NumberTerm | TextTerm | AttributeTerm | Word
Query: TypeAlias = tuple[Term, ...]
"""Terms that all hold. The empty query is every flow."""

NUMBER_FIELDS: Final[tuple[NumberField, ...]] = get_args(NumberField)
TEXT_FIELDS: Final[tuple[TextField, ...]] = get_args(TextField)
_LENGTHS: Final = frozenset({"completion", "response", "waited"})
_FIELDS: Final = (*NUMBER_FIELDS, *TEXT_FIELDS)
_BARE: Final[Mapping[str, NumberField]] = {
    "error": "errors",
    "errors": "errors",
    "retry": "retries",
    "retries": "retries",
    "duplicate": "duplicates",
    "duplicates": "duplicates",
    "break": "breaks",
    "breaks": "breaks",
    "open": "open",
}
"""Words that mean: at least one."""
PRESENCES: Final = ("error", "retries", "duplicates", "break", "open")
"""The same, each once."""
_ALIASES: Final[Mapping[str, NumberField]] = {
    "answer": "response",
    "done": "completion",
    "queued": "waited",
}
"""Fields by the words that tables and lines of flows have for them."""
_MEANT: Final = {
    "destination": "queue",
    "topic": "queue",
    "duration": "completion",
    "latency": "response",
    "time": "started",
    "since": "started",
}
"""What those mean who know other tools."""
_NOT: Final = ("!", "-")
_CONNECTIVES: Final = frozenset({"and", "or", "not"})
_UNITS: Final = {
    "d": 86_400 * 10**9,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
_ORDERS: Final[Mapping[Comparison, Sequence[int]]] = {
    "=": (0,),
    "!=": (-1, 1),
    "<": (-1,),
    "<=": (-1, 0),
    ">": (1,),
    ">=": (0, 1),
}

_BLANKS: Final = re.compile(r"\s*")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_WORD: Final = re.compile(r'(?:[^\s"=<>!]|!(?!=))+')
_COMPARISON: Final = re.compile("[!<>]=|[<>=]")
_VALUE: Final = re.compile(r'[^\s"=<>!][^\s"]*|![^\s"=]+')
_DURATION: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)(ns|us|µs|μs|ms|s|m|h|d)")
_WHOLE: Final = re.compile("[0-9]{1,19}")
_MOMENT: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})?)?",
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(r"[\w./][\w./-]*")


def parse(text: str, *, now_ns: int | None = None) -> Query:
    """The query that somebody wrote; `now_ns` (Unix ns) is what `started > 10m` counts from.

    Raises SearchError.
    """
    if len(text) > MAX_LENGTH:
        raise SearchError(
            MAX_LENGTH, f"a query of {len(text)} characters", f"use {MAX_LENGTH} of them at most"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SearchError(error.start, "a character that is no text", "leave it out") from None
    return tuple(_Reader(text, now_ns).terms())


def written(query: Query) -> str:
    """The query as text, in the one way that all who show it agree on; parsed again it is the same."""
    return " ".join(map(_written, query))


def perhaps(text: str) -> str | None:
    """The term that was perhaps meant where words follow a value that has no quotes; else None.

    `name=POST /orders` is read as a name and a word: `name="POST /orders"`. Raises SearchError.
    """
    query = parse(text, now_ns=0)
    for at, term in enumerate(query):
        words = [*itertools.takewhile(lambda each: isinstance(each, Word), query[at + 1 :])]
        if not words or isinstance(term, (NumberTerm, Word)):
            continue
        value = " ".join([term.value, *(word.text for word in words if isinstance(word, Word))])
        if value in text:  # as it stands there: none of them is in quotes
            key = plain(term.key) if isinstance(term, AttributeTerm) else term.field
            return f"{key}{term.comparison}{_quoted(value)}"
    return None


def matches(query: Query, flow: Flow) -> bool:
    """Whether every term of the query holds for this flow."""
    return all(_holds(term, flow) for term in query)


def destinations(flow: Flow) -> tuple[str, ...]:
    """The destinations that its spans and its messages name, in the order of its tree."""
    named = [facts.destination(span.attributes) for span in flow.spans]
    return tuple(dict.fromkeys(filter(None, (*named, *(edge.destination for edge in flow.edges)))))


# -- reading ------------------------------------------------------------------------------------------


class _Reader:
    """Reads a text from left to right; `at` is how far it came."""

    def __init__(self, text: str, now_ns: int | None) -> None:
        self._text = text
        self._now_ns = now_ns
        self._at = 0

    def terms(self) -> Iterator[Term]:
        count = 0
        while self._skip() < len(self._text):
            count += 1
            if count > MAX_TERMS:
                raise SearchError(self._at, f"more than {MAX_TERMS} terms", "look for less at once")
            yield self._term()

    def _skip(self) -> int:
        """Past blanks; where that leads to."""
        if blanks := _BLANKS.match(self._text, self._at):
            self._at = blanks.end()
        return self._at

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

    def _text_of(self, plain: re.Pattern[str]) -> tuple[str, bool] | None:
        """What stands here, as `plain` or in quotes, and whether it was quoted; None if neither does."""
        start = self._at
        quoted = self._take(_QUOTED)
        found = (
            self._take(plain) if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL)
        )
        if self._text[self._at : self._at + 1] == '"':
            raise SearchError(
                self._at,
                "a quote without an end" if self._at == start else "a quote inside of a word",
                'put the whole text in quotes, and write \\" for a quote in it',
            )
        return None if found is None else (found, quoted is not None)

    def _term(self) -> Term:
        start = self._at
        named = self._text_of(_WORD)
        if named is None:
            said = self._take(_COMPARISON)
            raise SearchError(start, f"`{said}` without a field before it", "write `completion > 1s`")
        name, is_quoted = named
        after = self._at
        self._skip()
        comparison = cast("Comparison | None", self._take(_COMPARISON))
        if comparison is None:
            self._at = after
            return _word(start, name, is_quoted=is_quoted)
        self._skip()
        value_at = self._at
        value = self._text_of(_VALUE)
        field = _ALIASES.get(name.lower(), name.lower())
        if value is None:
            raise SearchError(
                value_at,
                f"no value after `{name} {comparison}`",
                f"write one: `{name} {comparison} {_example(field)}`, in quotes what begins with = < > or !",
            )
        if not name:
            raise SearchError(start, "an attribute without a name", 'write `"name" = value`')
        if is_quoted or (field not in _FIELDS and field not in _BARE and "." in name):
            return AttributeTerm(name, comparison, value[0])
        if field in TEXT_FIELDS and not (field == "break" and comparison not in ("=", "!=")):
            return _text_term(value_at, field, comparison, value[0])
        if field in NUMBER_FIELDS or field in _BARE:
            number = _BARE.get(field) or cast("NumberField", field)
            return NumberTerm(number, comparison, self._number(value_at, number, value[0]))
        return _no_such_field(start, name)

    def _number(self, at: int, field: NumberField, value: str) -> int:
        """The value of a number field. Raises SearchError."""
        if field == "started":
            number = _moment_ns(value)
            if number is None and (ago := _duration_ns(value)) is not None:
                if self._now_ns is None:
                    raise SearchError(at, f"`{value}` ago, and no present to count from", "give a date")
                number = max(0, self._now_ns - ago)
        elif field in _LENGTHS:
            number = _duration_ns(value)
        else:
            number = int(value) if _WHOLE.fullmatch(value) else None
        if number is None:
            raise SearchError(at, f"`{value}` is no {_kind(field)}", f"write `{field} > {_example(field)}`")
        if number > _MAX_NUMBER:
            raise SearchError(at, f"`{value}` is too large", "no flow has as much")
        return number


def _word(at: int, text: str, *, is_quoted: bool) -> Term:
    if is_quoted:
        if not text:
            raise SearchError(at, "quotes with nothing between them", "leave them out")
        return Word(text)
    lower = text.lower()
    if lower in _BARE:
        return NumberTerm(_BARE[lower], ">", 0)
    if lower[:1] in _NOT and lower[1:] in _BARE:
        return NumberTerm(_BARE[lower[1:]], "=", 0)
    cure = f'for the word itself write `"{text}"`'
    if lower in _FIELDS:
        raise SearchError(
            at,
            f"`{text}` without a comparison",
            f"write `{lower} {_comparison(lower)} {_example(lower)}`; {cure}",
        )
    if lower in _CONNECTIVES:
        raise SearchError(
            at,
            f"`{text}` between terms",
            f"all terms must hold, and a no is written `service != orders` or `!error`; {cure}",
        )
    if text.startswith(_NOT):
        raise SearchError(
            at,
            f"`{text}`: a word cannot be ruled out",
            f"a field can, and what is counted: `service != orders`, `!error`; {cure}",
        )
    field, colon, _ = lower.partition(":")
    if colon and (field in _FIELDS or field in _BARE):
        raise SearchError(at, f"`{text}` with a colon", f"compare with `=`: `{field} = …`; {cure}")
    return Word(text)


def _text_term(at: int, field: TextField, comparison: Comparison, value: str) -> TextTerm:
    if comparison not in ("=", "!="):
        raise SearchError(at, f"`{field}` is text, and has no more and less", f"write `{field} = {value}`")
    return TextTerm(field, comparison, value)


def _no_such_field(at: int, name: str) -> NoReturn:
    lower = name.lower()
    near = _MEANT.get(lower) or next(iter(difflib.get_close_matches(lower, _FIELDS, n=1)), None)
    meant = f"`{near}` perhaps" if near else f"there are {', '.join(sorted(_FIELDS))}"
    raise SearchError(
        at, f"no field is called `{name}`", f'{meant}; for an attribute put its key in quotes: `"{name}"`'
    )


def _comparison(field: str) -> str:
    return "=" if field in TEXT_FIELDS else ">"


def _kind(field: NumberField) -> str:
    if field == "started":
        return "date in ISO 8601 and no time ago"
    return "time with a unit (ns, us, ms, s, m, h or d)" if field in _LENGTHS else "whole number"


def _example(field: str) -> str:
    examples = {"started": "10m", "status": "499", "break": "headers_lost", "name": '"POST /orders"'}
    return examples.get(field, "1s" if field in _LENGTHS else "orders" if field in TEXT_FIELDS else "1")


def _duration_ns(text: str) -> int | None:
    if text == "0":
        return 0
    found = _DURATION.fullmatch(text.lower())
    return int(Decimal(found[1]) * _UNITS[found[2].replace("µ", "u").replace("μ", "u")]) if found else None


def _moment_ns(text: str) -> int | None:
    """Unix ns of a date or a moment, in UTC where it says no zone; None if it is neither, or before 1970."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    date, time, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{time or '00:00'}")
        offset = datetime.fromisoformat(f"{date}T00:00{(zone or 'Z').upper()}").utcoffset()
    except ValueError:
        return None
    assert offset is not None
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC) - offset
    ns = (since.days * 86_400 + since.seconds) * 10**9 + int((fraction or "0").ljust(9, "0"))
    return ns if ns >= 0 else None


# -- writing ------------------------------------------------------------------------------------------


def _written(term: Term) -> str:
    if isinstance(term, Word):
        reserved = {*_FIELDS, *_BARE, *_CONNECTIVES}
        return _quoted(term.text) if term.text.lower() in reserved else plain(term.text)
    if isinstance(term, NumberTerm):
        return f"{term.field} {term.comparison} {_number_written(term)}"
    if isinstance(term, TextTerm):
        return f"{term.field} {term.comparison} {plain(term.value)}"
    key = plain(term.key) if "." in term.key else _quoted(term.key)
    return f"{key} {term.comparison} {plain(term.value)}"


def plain(text: str) -> str:
    """The text as a value in a query: in quotes where it needs some."""
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _number_written(term: NumberTerm) -> str:
    if term.field == "started":
        seconds, ns = divmod(term.value, 10**9)
        fraction = f".{ns:09}".rstrip("0").rstrip(".")
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
    if term.field not in _LENGTHS or not term.value:
        return str(term.value)
    unit = next(unit for unit, ns in _UNITS.items() if term.value % ns == 0)
    return f"{term.value // _UNITS[unit]}{unit}"


# -- matching -----------------------------------------------------------------------------------------


def _holds(term: Term, flow: Flow) -> bool:
    if isinstance(term, NumberTerm):
        number = _number_of(term.field, flow)
        return number is not None and _order(number, term.value) in _ORDERS[term.comparison]
    if isinstance(term, TextTerm):
        is_one = term.value.casefold() in (text.casefold() for text in _texts(term.field, flow))
        return is_one is (term.comparison == "=")
    if isinstance(term, Word):
        word = term.text.casefold()
        return any(word in text.casefold() for field in TEXT_FIELDS for text in _texts(field, flow))
    return any(
        _compares(value, term.comparison, term.value)
        for span in flow.spans
        for attributes in _attributes(span)
        if (value := attributes.get(term.key)) is not None
    )


def _number_of(field: NumberField, flow: Flow) -> int | None:
    match field:
        case "completion":
            return flow.completion_ns
        case "response":
            return flow.response_ns
        case "waited":
            return flow.waited_ns
        case "spans":
            return len(flow.spans)
        case "errors":
            return len(flow.errors)
        case "retries":
            return flow.retries
        case "duplicates":
            return flow.duplicates
        case "breaks":
            return len(flow.breaks)
        case "open":
            return len(flow.open_spans)
        case "status":
            return facts.http_status(flow.entry)
        case "started":
            return flow.start_ns


def _texts(field: TextField, flow: Flow) -> Sequence[str]:
    match field:
        case "name":
            return (flow.name,)
        case "service":
            return flow.services
        case "queue":
            return destinations(flow)
        case "break":
            return [each.reason for each in flow.breaks]


def _attributes(span: Span) -> Iterator[Attributes]:
    yield span.attributes
    for event in span.events:
        yield event.attributes
    yield span.service.attributes


def _compares(value: Value, comparison: Comparison, wanted: str) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_compares(item, comparison, wanted) for item in value)
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, bytes):
        value = value.hex()
    if not isinstance(value, (str, int, float)):
        return False
    orders, theirs = _ORDERS[comparison], _decimal(wanted)
    # `1.1` and `1.10` are one number, and two texts.
    mine = None if isinstance(value, str) and comparison in ("=", "!=") else _decimal(value)
    if mine is not None and theirs is not None:
        return _order(mine, theirs) in orders
    if comparison in ("=", "!=") or (mine is None and theirs is None):
        return _order(str(value).casefold(), wanted.casefold()) in orders
    return False


_O = TypeVar("_O", int, str, Decimal)


def _order(one: _O, other: _O) -> int:
    """1 where the one is more, -1 where it is less, 0 where they are equal."""
    return (one > other) - (one < other)


def _decimal(value: str | int | float) -> Decimal | None:
    """The number, exactly; None for text that is none, and for what is beyond all numbers."""
    if isinstance(value, str) and len(value) > 40:
        return None
    try:
        number = Decimal(str(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
