"""What a flow's line alone tells of a query, so that few flows need to be built for it. Pure."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final

from tracekit.flow.search import TEXT_FIELDS, NumberTerm, TextTerm, Word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracekit.collector.archive import Summary
    from tracekit.flow.search import Comparison, NumberField, Query, Term, TextField

_NUMBERS: Final[Mapping[NumberField, str]] = {
    "completion": "completion_ns",
    "response": "response_ns",
    "waited": "waited_ns",
    "spans": "spans",
    "errors": "errors",
    "retries": "retries",
    "duplicates": "duplicates",
    "open": "open_spans",
    "status": "status",
    "started": "start_ns",
}
"""All but `breaks`: a line has each reason once."""
_COMPARED: Final[Mapping[Comparison, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def tells(query: Query) -> bool:
    """Whether a line tells all that the query asks."""
    return all(map(_is_told, query))


def may_meet(query: Query, line: Summary) -> bool:
    """Whether a flow with this line may meet the query; it does, where the line tells all."""
    return all(_holds(term, line) for term in query if _is_told(term))


def _is_told(term: Term) -> bool:
    return isinstance(term, (TextTerm, Word)) or (isinstance(term, NumberTerm) and term.field in _NUMBERS)


def _holds(term: Term, line: Summary) -> bool:
    if isinstance(term, NumberTerm):
        number = getattr(line, _NUMBERS[term.field])
        return number is not None and _COMPARED[term.comparison](number, term.value)
    if isinstance(term, TextTerm):
        is_one = term.value.casefold() in (text.casefold() for text in _texts(term.field, line))
        return is_one is (term.comparison == "=")
    assert isinstance(term, Word)
    word = term.text.casefold()
    return any(word in text.casefold() for field in TEXT_FIELDS for text in _texts(field, line))


def _texts(field: TextField, line: Summary) -> Sequence[str]:
    match field:
        case "name":
            return (line.name,)
        case "service":
            return line.services
        case "queue":
            return line.destinations
        case "break":
            return line.breaks
