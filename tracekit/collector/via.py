"""Via: the collectors that a request has passed, so that one who gets it again knows.

The header of HTTP that is for this, and over gRPC metadata of that name. Source: RFC 9110, 7.6.3.
Bounds: `MAX_HOPS` of them; comments, and what is no entry, are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HEADER: Final = "via"
MAX_HOPS: Final = 16

_COMMENT: Final = re.compile(r"\([^()]*\)")
_WORD: Final = r"[\w!#$%&'*+.^`|~-]{1,64}"
_ENTRY: Final = re.compile(rf"(?:{_WORD}/)?{_WORD}[ \t]+([^\s,()\"]{{1,255}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Via:
    """The header as it came, and the version of HTTP by which it did."""

    said: str = ""
    version: str = "1.1"

    def has(self, name: str) -> bool:
        """Whether who is called so has had the request."""
        return name in self.said and any(entry[1] == name for entry in self._entries())

    def further(self, name: str) -> str | None:
        """The header to send on, by who is called so; None where it has passed too many."""
        passed = [entry[0] for entry in self._entries()]
        return None if len(passed) >= MAX_HOPS else ", ".join((*passed, f"{self.version} {name}"))

    def _entries(self) -> list[re.Match[str]]:
        parts = _COMMENT.sub("", self.said).split(",")
        return [entry for part in parts if part.isascii() and (entry := _ENTRY.fullmatch(part.strip()))]
