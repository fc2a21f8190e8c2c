"""Changes: what a store tells those who wait for it, in threads and in asyncio.

Nobody sleeps and looks again: a waiter's condition is looked at once, and then after each change.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Changes:
    """A count of changes, and those who wait for the next one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._version = 0
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def version(self) -> int:
        """How many changes there were; it never goes back."""
        return self._version

    def announce(self) -> None:
        """Say that something changed. Never under a lock that a waiter's condition takes."""
        with self._changed:
            self._version += 1
            listeners = tuple(self._listeners.values())
            self._changed.notify_all()
        for listener in listeners:
            listener()

    def wait(self, is_met: Callable[[], bool], timeout_s: float) -> bool:
        """Block this thread until the condition is met; False where it was not within the time."""
        until = time.monotonic() + timeout_s
        while True:
            seen = self._version
            if is_met():
                return True
            with self._changed:
                if not self._changed.wait_for(lambda: self._version != seen, until - time.monotonic()):  # noqa: B023
                    return False

    async def wait_async(self, is_met: Callable[[], bool], timeout_s: float) -> bool:
        """The same for a task: its event loop goes on meanwhile."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # A loop that was closed under its task takes no calls; nobody waits there any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        with self._listening(wake), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_met():
                    await changed.wait()
                    changed.clear()
            return True
        return False

    @contextlib.contextmanager
    def _listening(self, listener: Callable[[], None]) -> Iterator[None]:
        key = object()
        with self._changed:
            self._listeners[key] = listener
        try:
            yield
        finally:
            with self._changed:
                del self._listeners[key]
