"""Tally: what a request holds and loses, counted while it is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sized

MAX_ITEMS: Final = 500_000
"""Attributes, links, events, points and list items in a request: two bytes of it become 100 in memory."""

S = TypeVar("S", bound="Sized")


class OtlpError(ValueError):
    """A request of which nothing can be kept. Its text holds nothing of what was sent."""


class Refused(Exception):  # noqa: N818 (it is no error of the program)
    """A record that is not kept, the others being."""

    def __init__(self, reason: str, number: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.number = number


class Tally:
    """Counts what a request holds and loses, and keeps the first reason."""

    def __init__(self) -> None:
        self.rejected = 0
        self.reason = ""
        self._left = MAX_ITEMS

    def reject(self, reason: str, number: int = 1) -> None:
        self.rejected += number
        self.reason = self.reason or reason

    def warn(self, reason: str) -> None:
        self.reason = self.reason or reason

    def counted(self, items: S) -> S:
        """The same items. Raises OtlpError where the request holds too many."""
        self._left -= len(items)
        if self._left < 0:
            raise OtlpError(f"more than {MAX_ITEMS} attributes, links, events, points and list items")
        return items
