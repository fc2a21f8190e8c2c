"""The demo's home: the directory of one running demo, and the faults that are on in its shop.

`running` there is locked as long as the demo runs, whatever becomes of it, and holds its process id.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracekit_demo.shop import faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FAULTS: Final[Mapping[str, str]] = {
    faults.SLOW_PAYMENT: "payment's card network takes 1.8 s a charge, not 30 ms",
    faults.FAILING_PAYMENT: "payment's card network hangs up on every charge",
    faults.SLOW_CONSUMER: "notification rests 4 s after each message: its mail server is throttled",
    faults.DROPPED_HEADERS: "inventory publishes stock.reserved by an old client, without headers",
}
"""The faults there are, and what goes wrong."""


class TakenError(RuntimeError):
    """Another demo has this home; the text says which."""


class Home:
    """The directory of one demo. Its faults are its own: they begin and end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults_folder = folder / "faults"
        self._lock = folder / "running"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have it to ourselves within the block. Raises TakenError, or OSError where it cannot be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TakenError(f"another demo runs there (process {self._holder()})") from None
            lock.truncate(0)
            print(os.getpid(), file=lock, flush=True)
            shutil.rmtree(self.faults_folder, ignore_errors=True)
            self.faults_folder.mkdir()
            try:
                yield
            finally:
                shutil.rmtree(self.faults_folder, ignore_errors=True)

    def is_held(self) -> bool:
        """Whether a demo runs here."""
        try:
            with self._lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _holder(self) -> str:
        return self._lock.read_text().strip() or "unknown"

    def faults_on(self) -> tuple[str, ...]:
        """The faults that are on now."""
        return tuple(name for name in FAULTS if (self.faults_folder / name).exists())

    def switch(self, fault: str, *, on: bool) -> None:
        """Switch a fault of the demo that runs here."""
        if on:
            (self.faults_folder / fault).touch()
        else:
            (self.faults_folder / fault).unlink(missing_ok=True)


def default_folder() -> Path:
    """Where a demo is at home unless told otherwise."""
    given = os.environ.get("XDG_DATA_HOME", "")
    data = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "share"
    return data / "tracekit" / "demo"
