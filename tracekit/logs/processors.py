"""Processors of log lines: ids in, secrets out, and the line over OTLP.

For structlog, where they may be put into a chain by hand; the standard library's records go through
the same `Export`.
"""

from __future__ import annotations

import functools
import logging
import threading
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from opentelemetry import context
from opentelemetry._logs import Logger, LogRecord, get_logger
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

from tracekit.guard import shielded
from tracekit.logs import records
from tracekit.redaction import REDACTOR, Redactor

Line = TypeVar("Line")  # an event dict; or what the processors before ours made of one

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "err": logging.ERROR,
    "exception": logging.ERROR,
    "failure": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}


def add_ids(logger: object, method: str, line: Line) -> Line:
    """Trace, span and flow id into the line. What the application set by these names stays."""
    with shielded("the ids of a log line"):
        if isinstance(line, MutableMapping):
            for name, value in records.ids().items():
                line.setdefault(name, value)
    return line


@dataclass(frozen=True, slots=True)
class Redact:
    """The line without secrets.

    A traceback with a secret in it becomes text (`exception`), for no renderer would redact it.
    """

    redactor: Redactor = REDACTOR

    def __call__(self, logger: object, method: str, line: Line) -> Line:
        if isinstance(line, str):
            return cast("Line", self.redactor.text(line))
        if isinstance(line, MutableMapping):
            with shielded("the redaction of a traceback"):
                self._redact_traceback(line)
            for name, value in list(line.items()):
                hidden = value if name == "exc_info" else self.redactor.value(value, name)
                if hidden is not value:
                    line[name] = hidden
        return line

    def _redact_traceback(self, line: MutableMapping[str, object]) -> None:
        error = records.error_of(line.get("exc_info"))
        if error is None:
            return
        shown = "".join(traceback.format_exception(error))
        hidden = self.redactor.text(shown)
        if hidden != shown:
            del line["exc_info"]
            line["exception"] = hidden.rstrip("\n")


class _Here(threading.local):
    """What this thread is in the middle of: one line, on its way from its export to the handlers."""

    busy = False
    exported: logging.Logger | None = None
    """The logger that is about to be given, for output, a line that structlog's side has exported."""
    skip = False


@dataclass(frozen=True, slots=True)
class Export:
    """The line as a log record of OpenTelemetry; the line itself stays as it is."""

    redactor: Redactor = REDACTOR
    _here: _Here = field(default_factory=_Here, repr=False)
    _loggers: Callable[[str], Logger] = field(
        default_factory=lambda: functools.lru_cache(maxsize=1024)(get_logger), repr=False
    )

    def __call__(self, logger: object, method: str, line: Line) -> Line:
        if isinstance(line, MutableMapping):
            error = records.error_of(line.get("exc_info"))
            self.line(logger, method, Redact(self.redactor)(logger, method, dict(line)), error)
        else:
            self.line(logger, method, Redact(self.redactor)(logger, method, line))
        return line

    def line(self, logger: object, method: str, line: object, error: BaseException | None = None) -> None:
        """Export a line of structlog, unless the logger below it is silent or exports by itself.

        The line is redacted already, `error` (its exception) is not.
        """
        level = _LEVELS.get(method, logging.INFO)
        while isinstance(logger, logging.LoggerAdapter):
            logger = logger.logger
        standard = logger if isinstance(logger, logging.Logger) else None
        if standard is not None and (not standard.isEnabledFor(level) or _exports_already(standard)):
            return
        values = line if isinstance(line, Mapping) else {"event": line}
        name = standard.name if standard is not None else values.get("logger")
        scope = name if isinstance(name, str) and name else "structlog"
        if self._send(scope, level, lambda: records.of_structlog(level, values, error, self.redactor)):
            self._here.exported = standard

    def record(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Export a record of the standard library, unless it is a line of structlog, exported before."""
        if not self._here.skip and not _exports_already(logger):
            self._send(record.name, record.levelno, lambda: records.of_logging(record, self.redactor))

    def dropped(self) -> None:
        """Forget the line of structlog that was exported: it never becomes a record."""
        self._here.exported = None

    def handling(self, logger: logging.Logger) -> tuple[_Here, bool]:
        """Note that this logger handles a record now; what to put back as `skip` afterwards."""
        here = self._here
        outer, here.skip = here.skip, here.exported is logger
        if here.skip:
            here.exported = None
        return here, outer

    def _send(self, scope: str, level: int, record: Callable[[], LogRecord]) -> bool:
        here = self._here
        if here.busy or _is_ours(scope) or context.get_value(_SUPPRESS_INSTRUMENTATION_KEY):
            return False
        here.busy = True
        try:
            with shielded("a log line's export"):
                logger = self._loggers(scope)
                if logger.enabled(severity_number=records.severity(level)):
                    logger.emit(record())
                    return True
        finally:
            here.busy = False
        return False


def _is_ours(scope: str) -> bool:
    # Lines about telemetry would make telemetry, and so on for ever.
    return scope.startswith(("opentelemetry.", "tracekit.")) or scope in ("opentelemetry", "tracekit")


def _exports_already(logger: logging.Logger) -> bool:
    """Whether a handler of OpenTelemetry's own stands at this logger or above it."""
    above: logging.Logger | None = logger
    while above is not None:
        if any(type(handler).__module__.startswith("opentelemetry.") for handler in above.handlers):
            return True
        above = above.parent if above.propagate else None
    return False


redact: Final = Redact()
"""The line without secrets, by the default rules."""
export: Final = Export()
"""The line as a log record of OpenTelemetry, redacted by the default rules."""
