"""Search: what somebody looks for among flows, as a value. `completion > 1s queue = orders error lamp`.

A query holds if every term of it holds. Text is compared without regard to case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

NumberField: TypeAlias = Literal[
    "completion",
    "response",
    "waited",
    "spans",
    "errors",
    "retries",
    "duplicates",
    "open",
    "status",
    "started",
]
"""Times in ns, `started` in Unix ns. A flow that lacks the number (nobody waited) meets no term on it."""

TextField: TypeAlias = Literal["name", "service", "queue", "break"]
"""`name` is the entry's; of a flow's services, queues (destinations) and breaks (codes) one is enough."""

Comparison: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]


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
    """`order.id = 17`: a span of the flow has this attribute, with a value that reads so."""

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
