"""Files: read and written at an offset, by their descriptor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class opened:  # noqa: N801 - reads as a phrase: with opened(path) as file
    """A file descriptor for the time of a block."""

    __slots__ = ("_file", "_flags", "_path")

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self._path = path
        self._flags = flags

    def __enter__(self) -> int:
        self._file = os.open(self._path, self._flags | os.O_CLOEXEC, 0o600)
        return self._file

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def write_all(file: int, offset: int, *pieces: bytes) -> None:
    rest = b"".join(pieces)
    while rest:
        written = os.pwrite(file, rest, offset)
        offset += written
        rest = rest[written:]


def cut(file: int, end: int) -> None:
    try:
        os.ftruncate(file, end)
    except OSError:
        return  # what comes next is written over it


def sync(path: Path, flags: int) -> None:
    try:
        with opened(path, flags) as file:
            os.fsync(file)
    except FileNotFoundError:
        return  # dropped meanwhile


def read_all(file: int, offset: int, number: int) -> bytes:
    """So many bytes, fewer only at the end of the file."""
    pieces = []
    while number > 0 and (piece := os.pread(file, number, offset)):
        pieces.append(piece)
        offset += len(piece)
        number -= len(piece)
    return b"".join(pieces)
