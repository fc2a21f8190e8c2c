"""Text for a terminal: made harmless, cut to columns, and durations as people say them.

What spans carry is written by strangers. A control character, an escape sequence or a mark that turns
the direction of writing is shown by its code, never sent to the terminal.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: controls, format marks (bidi, zero width), surrogates, unassigned, line breaks."""

_US, _MS, _S = 1_000, 1_000_000, 1_000_000_000


def harmless(text: str) -> str:
    """The text with everything that is not plainly visible written as its escape code."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape", "backslashreplace").decode("ascii")
        if unicodedata.category(char) in _UNSAFE
        else char
        for char in text
    )


def columns(text: str) -> int:
    """How many columns a harmless text takes in a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def fitted(text: str, width: int) -> str:
    """The text made harmless and exactly this wide: cut with an ellipsis, or filled with blanks."""
    text = shortened(text, width)
    return text + " " * (width - columns(text))


def shortened(text: str, width: int) -> str:
    """The text made harmless and at most this wide."""
    text = harmless(text[: 4 * max(width, 1)])
    if columns(text) <= width:
        return text
    if width < 1:
        return ""
    kept, room = [], width - 1
    for char in text:
        room -= _columns(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def duration(ns: int) -> str:
    """A length of time with its unit: `84 ms`, `1.91 s`, `500 µs`, `2 m 03 s`."""
    if ns < _MS:
        us = round(ns / _US)
        return f"{us} µs" if 0 < us < 1000 else "0 ms" if us == 0 else "1 ms"
    if ns < 10 * _MS and round(ns / _MS, 1) < 10:
        return f"{_plain(ns / _MS, 1)} ms"
    if round(ns / _MS) < 1000:
        return f"{round(ns / _MS)} ms"
    if round(ns / _S, 2) < 10:
        return f"{_plain(ns / _S, 2)} s"
    if round(ns / _S, 1) < 60:
        return f"{_plain(ns / _S, 1)} s"
    seconds = round(ns / _S)
    if seconds < 3600:
        return f"{seconds // 60} m {seconds % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} m"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24:02} h"


def _plain(value: float, digits: int) -> str:
    """Without zeros that say nothing: 3.2, not 3.20."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def counted(count: int, noun: str) -> str:
    """`1 retry`, `2 retries`, `0 breaks`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("ry") else f"{count} {noun}s"
