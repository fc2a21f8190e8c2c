"""The shield: failures of ours are counted and logged, never raised into the application.

What tracekit leaves out or gets wrong is one count with a reason (`tracekit.dropped`). The counts
are the only state of the process that `configure()` does not own: a failure before it, or after it
was undone, must be seen too.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Reason: TypeAlias = Literal[
    "internal",  # a bug of ours, or a processor, sampler, redactor or exporter that raised
    "invalid_context",  # a traceparent or tracestate that nobody could read
    "invalid_flow_header",  # a tracekit-flow that nobody could read
    "invalid_baggage",  # a baggage entry that nobody could read, or past the limits
    "size",  # no room on the message for our headers
    "too_many_attributes",  # the message has as many attributes as its broker takes
    "oversized",  # the client refused a message with our headers; it was sent without them
    "export",  # an export failed, and what it held is lost
    "queue_full",  # more spans or lines than the export queue holds
    "late",  # still unsent when the time for flushing was over, or still open
]

_logger = logging.getLogger("tracekit")
_QUIET_S: Final = 60.0  # a reason is logged once, then at most once in this many seconds


class _Drops:
    """Counts by reason, and when each reason was last logged."""

    def __init__(self) -> None:
        # Reentrant: a finalizer that runs inside may count too.
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._renew)
        self._counts: dict[Reason, int] = {}
        self._logged: dict[tuple[str, str], float] = {}
        self._logging = threading.local()
        self.reraise = False

    def _renew(self) -> None:
        self._lock = threading.RLock()  # a thread of the parent may have held it

    def add(self, reason: Reason, what: str, number: int, error: Exception | None) -> None:
        now = time.monotonic()
        with self._lock:
            total = self._counts[reason] = self._counts.get(reason, 0) + number
            last = self._logged.get((reason, what))
            speak = last is None or now - last >= _QUIET_S
            if speak:
                self._logged[reason, what] = now
        # A log handler may export through us and fail again: then the count is enough.
        if not speak or getattr(self._logging, "busy", False):
            return
        self._logging.busy = True
        try:
            _logger.warning(
                "tracekit: %s left out (%s, %d in all); the application is not affected",
                what,
                reason,
                total,
                exc_info=error,
            )
        except Exception:  # noqa: BLE001 - a handler of the application's failed: the count is enough
            return
        finally:
            self._logging.busy = False

    def counts(self) -> dict[Reason, int]:
        with self._lock:
            return dict(self._counts)

    def forget(self) -> None:
        with self._lock:
            self._counts.clear()
            self._logged.clear()


_drops = _Drops()


def count_drop(reason: Reason, what: str, number: int = 1, error: Exception | None = None) -> None:
    """Count something that was left out, and log it: `what` is a few words, never a value."""
    _drops.add(reason, what, number, error)


def dropped() -> Mapping[Reason, int]:
    """What was left out since the process began, by reason."""
    return _drops.counts()


class shielded:  # noqa: N801 - reads as a phrase: with shielded("send")
    """A block whose failure is ours: counted under `reason`, logged, and swallowed.

    Catches `Exception` only: cancellation and Ctrl-C belong to the application.
    """

    __slots__ = ("_reason", "_what")

    def __init__(self, what: str, reason: Reason = "internal") -> None:
        self._what = what
        self._reason = reason

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        _drops.add(self._reason, self._what, 1, error)
        return not _drops.reraise


def swallow(what: str, error: Exception, reason: Reason = "internal") -> None:
    """Count and log a failure of ours that was caught: a shield for hot paths, where `try` is free."""
    _drops.add(reason, what, 1, error)
    if _drops.reraise:
        raise error


def reraise(on: bool) -> None:
    """Let shields raise again. For tracekit's own suite: there our bugs must show."""
    _drops.reraise = on


def forget() -> None:
    """Start the counts anew. For tracekit's own suite."""
    _drops.forget()
