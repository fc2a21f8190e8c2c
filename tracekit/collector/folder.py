"""Folder: one data directory, held by one process, in the layout of one version."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final, Self

from tracekit.collector import shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

VERSION: Final = 2

_LOCK: Final = "tracekit.lock"
_VERSION: Final = "tracekit.version"
_CURE: Final = "give another directory with --data"


class FolderError(Exception):
    """The data directory cannot be used; says why, and what to do."""


class Folder:
    """A data directory that this process holds until `close`. Files in it that are not ours stay.

    It is made where it is missing, for its owner alone. One in an older layout is brought forward.
    `segments` and `index` are where those are to be put.
    """

    def __init__(self, path: Path) -> None:
        """Raises FolderError."""
        self.path = path
        self.segments = path / "segments"
        self.index = path / "index.db"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise FolderError(f"{path} is no directory. Move it away, or {_CURE}") from error
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            self._hold()
            if self.index.is_dir():
                raise FolderError(
                    f"{self.index} is a directory, where a file is meant. Move it away, or {_CURE}"
                )
            bring_forward(path, VERSION, MIGRATIONS)
        except OSError as error:
            self.close()
            raise _unusable(path, error) from error
        except BaseException:
            self.close()
            raise

    def _hold(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            by = f"process {holder}" if holder else "another process"
            raise FolderError(f"{self.path} is in use by {by}. Stop it, or {_CURE}") from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def check(self) -> None:
        """Raises FolderError where the directory, its lock or its segments are not there any more."""
        try:
            is_ours = os.path.samestat((self.path / _LOCK).stat(), os.fstat(self._lock))
            if is_ours and self.segments.is_dir():
                return
        except FileNotFoundError:
            pass
        raise FolderError(
            f"{self.path} was removed or replaced while it was in use, and what was in it is gone. "
            "Start again, and leave it alone meanwhile"
        )

    def close(self) -> None:
        """Let others have it. The lock's file stays: deleted, it could be locked twice."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def bring_forward(path: Path, version: int, migrations: Mapping[int, Callable[[Path], None]]) -> None:
    """Bring a directory to this version, step by step: `migrations[n]` goes from n to n + 1.

    A step that was interrupted is done again from its beginning. Raises FolderError for what is newer, or
    says no version; OSError.
    """
    found = _version(path)
    if found > version:
        raise FolderError(
            f"{path} was written by a newer tracekit: its layout is version {found}, this tracekit knows "
            f"versions up to {version}. Update tracekit, or {_CURE}"
        )
    for step in range(found, version):
        migrations[step](path)
        _note_version(path, step + 1)


def _version(path: Path) -> int:
    """0 where none is noted: that layout had no such file, and a new directory is brought forward alike."""
    try:
        text = (path / _VERSION).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise FolderError(
            f"{path / _VERSION} is damaged: it says {text[:20]!r}, where a version like {VERSION} is meant. "
            f"Write the version into it, or {_CURE}"
        )
    return int(text)


def _note_version(path: Path, version: int) -> None:
    """At once or not at all, also where the power fails."""
    fresh = path / f"{_VERSION}.new"
    with fresh.open("w", encoding="ascii") as file:
        file.write(f"{version}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path / _VERSION)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _segments_apart(path: Path) -> None:
    """Version 0 had the segments beside everything else."""
    segments = path / "segments"
    segments.mkdir(mode=0o700, exist_ok=True)
    for segment in path.glob("[0-9]" * 8 + ".seg"):
        segment.replace(segments / segment.name)
    with contextlib.suppress(FileNotFoundError):
        (path / "next").replace(segments / "next")


def _shapes_folded(path: Path) -> None:
    """In version 1 the index could be searched for words in Python alone."""
    shapes.fold_all(path / "index.db")


MIGRATIONS: Final[Mapping[int, Callable[[Path], None]]] = {0: _segments_apart, 1: _shapes_folded}


def _unusable(path: Path, error: OSError) -> FolderError:
    return FolderError(
        f"{path} cannot be used: {error.strerror or error}. Make it one that this user can write, or {_CURE}"
    )
