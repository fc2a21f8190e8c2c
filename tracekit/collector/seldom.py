"""Seldom: one log line for a trouble, then at most one a minute, which says how often it was."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

_logger = logging.getLogger("tracekit")
_QUIET_S: Final = 60.0


class Seldom:
    """Says one kind of trouble, from any thread."""

    def __init__(self, trouble: str) -> None:
        self._trouble = trouble
        self._lock = threading.Lock()
        self._times = 0
        self._spoke: float | None = None

    def say(self, what: object, error: BaseException | None = None) -> None:
        """Count it, and log it unless that was done within the last minute; an error with its traceback."""
        now = time.monotonic()
        with self._lock:
            self._times += 1
            if self._spoke is not None and now - self._spoke < _QUIET_S:
                return
            self._spoke = now
        _logger.error("tracekit: %s (%d in all): %s", self._trouble, self._times, what, exc_info=error)
