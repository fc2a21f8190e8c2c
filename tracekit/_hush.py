"""What is said of exports that fail: once, by us, and not every second by each exporter."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracekit._exporters import Counted

_QUIET_S: Final = 60.0
_NOBODY_S: Final = 3600.0
_NOBODY: Final = (
    "tracekit: nobody listens at %s: telemetry is lost until somebody does "
    "(OTEL_TRACES_EXPORTER=none and the like: be quiet)"
)
UNSENT: Final = "telemetry that was unsent at the end"
_OURS: Final = "tracekit"
_GIVING_UP: Final = ("due to timeout, max retries or shutdown.", "Shutdown in progress, aborting retry.")
_SPEAKERS: Final = (
    "opentelemetry.exporter.",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk._logs._internal.export",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.sdk.trace.export",
)


class _Once(logging.Filter):
    """Lets a message through once a minute, whatever its values are; that nobody listens, once an hour.

    That is said by our line about what was lost, and the SDK's lines about it are kept back.
    """

    def __init__(self, counted: Sequence[Counted]) -> None:
        super().__init__()
        self._counted = counted
        self._said: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _OURS:
            return self._is_due_of_ours(record)
        try:
            return self._is_due_of_theirs(record)
        except Exception:  # noqa: BLE001 - somebody else's arguments: their text, their hash
            return True

    def _is_due_of_theirs(self, record: logging.LogRecord) -> bool:
        # Not `getMessage()`, which raises where the arguments do not fit.
        if ("refused" in str(record.args) or str(record.msg).endswith(_GIVING_UP)) and any(
            one.is_refused() for one in self._counted if _is_speaker(one, record.name)
        ):
            return False
        return self._is_due((record.name, record.msg), _QUIET_S)

    def _is_due_of_ours(self, record: logging.LogRecord) -> bool:
        what = record.args[0] if isinstance(record.args, tuple) and record.args else None
        for one in self._counted:
            # Given up in the middle of an export, that of gRPC raises.
            is_about_it = what in (one.what, UNSENT) or (what == "an exporter" and one.given_up)
            if is_about_it and one.is_refused():
                place = _place(one.exporter._endpoint)  # noqa: SLF001 - that it has one, `is_refused` has seen
                record.msg, record.args, record.exc_info = _NOBODY, (place,), None
                return self._is_due(place, _NOBODY_S)
        return True

    def _is_due(self, what: object, quiet_s: float) -> bool:
        now = time.monotonic()
        last = self._said.get(what)
        if last is not None and now - last < quiet_s:
            return False
        self._said[what] = now
        return True


def _place(endpoint: str) -> str:
    """The endpoint without its path, and without a password."""
    url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}".removeprefix("://")


def _is_speaker(one: Counted, logger: str) -> bool:
    """Whether this logger is that of the exporter's module."""
    return any(kind.__module__ == logger for kind in type(one.exporter).__mro__)


def hush(counted: Sequence[Counted]) -> Callable[[], None]:
    """Keep the exporters from saying every second that nobody listens; gives what undoes it."""
    once = _Once(counted)
    # A logger's filter is asked for its own records only, not for those of the loggers below.
    loggers = [
        logger
        for name, logger in [*logging.root.manager.loggerDict.items()]
        if isinstance(logger, logging.Logger) and (name == _OURS or name.startswith(_SPEAKERS))
    ]
    for logger in loggers:
        logger.addFilter(once)

    def undo() -> None:
        for logger in loggers:
            logger.removeFilter(once)

    return undo
