"""Cut: what others wrote, made small enough for an answer, as JSON. Pure.

Bounds: a text has at most `MAX_TEXT` characters, and says how many it had; a list or a map in a value
`MAX_ITEMS` items, four deep; attributes are at most `MAX_ATTRIBUTES`; one record has about `MAX_RECORD`
characters, all records of an answer about `MAX_TOTAL`. What was left out is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracekit.model import Attributes, Value

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Object: TypeAlias = dict[str, Json]

MAX_TEXT: Final = 1_024
MAX_ITEMS: Final = 32
MAX_ATTRIBUTES: Final = 128
MAX_RECORD: Final = 32 * 1024
MAX_TOTAL: Final = 2 * 1024 * 1024
_DEEPEST: Final = 4
_SHORT: Final = 64
"""A text that is no longer is never cut."""
_SAFE: Final = 2**53
"""JavaScript's numbers are whole up to here."""

R = TypeVar("R")


def shown(records: Sequence[R], most: int, view: Callable[[int, R, Cut], Object]) -> list[Json]:
    """The first of these records, so many at most, and about `MAX_TOTAL` characters together."""
    found: list[Json] = []
    room = MAX_TOTAL
    for place, record in enumerate(records[:most]):
        cut = Cut()
        found.append(view(place, record, cut))
        room -= MAX_RECORD - cut.room
        if room < 0:
            break
    return found


class Cut:
    """Makes the values of one record small; `omitted` counts what it left out of lists and maps."""

    def __init__(self) -> None:
        self.room = MAX_RECORD
        self.omitted = 0

    def text(self, text: str) -> str:
        """The text; its beginning and its length, where it is too long."""
        size = len(text)
        if size > _SHORT and size > (most := min(MAX_TEXT, max(self.room, _SHORT))):
            self.room -= most + 8
            return f"{text[:most]}… ({size} characters)"
        self.room -= size + 8
        return text

    def texts(self, texts: Sequence[str]) -> list[Json]:
        return [self.text(text) for text in self.items(texts)]

    def items(self, items: Sequence[R]) -> Sequence[R]:
        """The first of them, none where there is no room left."""
        shown = items[: MAX_ITEMS if self.room > 0 else 0]
        self.omitted += len(items) - len(shown)
        return shown

    def attributes(self, attributes: Attributes, most: int = MAX_ATTRIBUTES, deep: int = 0) -> Object:
        found: Object = {}
        for key, value in attributes.items():
            if len(found) == most or self.room <= 0:
                break
            found[self.text(key)] = self.value(value, deep)
        self.omitted += len(attributes) - len(found)
        return found

    def value(self, value: Value, deep: int = 0) -> Json:
        if isinstance(value, str):
            return self.text(value)
        self.room -= 8
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if abs(value) <= _SAFE else str(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, bytes):
            return self.text(value.hex())
        if deep == _DEEPEST:
            self.omitted += 1
            return "…"
        if isinstance(value, Mapping):
            return self.attributes(value, MAX_ITEMS, deep + 1)
        return [self.value(item, deep + 1) for item in self.items(value)]
