"""Turns: questions that are answered in threads, so many at once; the others wait in a line.

The threads are daemons: the end of the process does not wait for an answer that nobody waits for.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class FullError(Exception):
    """So many are under way already."""


class Turns(Generic[T]):
    """Bounds: `most_at_once` are being answered, `most` under way with those that wait."""

    def __init__(self, most_at_once: int, most: int) -> None:
        self._most_at_once = most_at_once
        self._most = most
        self._lock = threading.Lock()
        self._line: deque[tuple[Future[T], Callable[[], T]]] = deque()
        self._answering = 0

    def ask(self, answer: Callable[[], T]) -> Future[T]:
        """What `answer` will give; cancelled while it waits, it is not called. Raises FullError."""
        asked: Future[T] = Future()
        with self._lock:
            if self._answering < self._most_at_once:
                asked.set_running_or_notify_cancel()
                thread = threading.Thread(
                    target=self._run, args=(asked, answer), name="tracekit-collector-question", daemon=True
                )
                thread.start()
                self._answering += 1
                return asked
            if self._answering + sum(not each.cancelled() for each, _ in self._line) >= self._most:
                raise FullError
            self._line.append((asked, answer))
        return asked

    def _run(self, asked: Future[T], answer: Callable[[], T]) -> None:
        following: tuple[Future[T], Callable[[], T]] | None = asked, answer
        while following is not None:
            asked, answer = following
            try:
                asked.set_result(answer())
            except BaseException as error:  # noqa: BLE001 - who asked has it
                asked.set_exception(error)
            following = self._next()

    def _next(self) -> tuple[Future[T], Callable[[], T]] | None:
        with self._lock:
            while self._line:
                following = self._line.popleft()
                if following[0].set_running_or_notify_cancel():
                    return following
            self._answering -= 1
        return None
