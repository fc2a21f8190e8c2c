"""Log lines: with the ids of their span and flow, without secrets, and over OTLP too.

What the application set up (levels, handlers, formats, processors, renderers) stays as it is and may
be set up anew at any time, because nothing is added to it: structlog's bound loggers are given our
processors as they run, right before the renderer, and the standard library's records are met between
`Logger.handle` and the handlers. Of structlog, the output is redacted as well as what is exported; of
the standard library, only what is exported. (Wrapping structlog's own functions instead would put our
frames between it and the application, and its call-site parameters would name us.)

By hand, before the renderer: `processors=[…, add_ids, redact, export, JSONRenderer()]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from tracekit.guard import shielded
from tracekit.logs.processors import Export, Redact, add_ids, export, redact
from tracekit.logs.records import SPAN_ID, TRACE_ID, error_of, ids
from tracekit.patching import Function, Integration, Patches
from tracekit.redaction import REDACTOR, Redactor
from tracekit.semconv import FLOW_ID

if TYPE_CHECKING:
    import logging

__all__ = ["INTEGRATIONS", "Export", "Redact", "add_ids", "export", "integrations", "redact"]

Line = TypeVar("Line")
Processor: TypeAlias = Callable[[Any, str, Any], Any]  # structlog's own type is as wide

_SLOT: Final = "_processors"


class _Woven(list[Processor]):
    """A chain of processors with ours among them; `plain` is the application's.

    `dropped` is called where a processor raises: structlog drops the line then (`DropEvent`).
    """

    __slots__ = ("_dropped", "plain")

    def __init__(
        self, plain: Iterable[Processor], woven: Iterable[Processor], dropped: Callable[[], None]
    ) -> None:
        super().__init__(woven)
        self.plain = plain
        self._dropped = dropped

    def __iter__(self) -> Iterator[Processor]:
        # Not a wrapper around the last one: that would be a frame of ours above the application's.
        try:
            yield from super().__iter__()
        except GeneratorExit:
            self._dropped()
            raise


def _woven(plain: Iterable[Processor], ours: Export) -> _Woven:
    processors = list(plain)
    redacts = any(isinstance(processor, Redact) for processor in processors)
    exports = any(isinstance(processor, Export) for processor in processors)

    def finish(logger: object, method: str, line: Line) -> Line:
        error = error_of(line.get("exc_info")) if isinstance(line, Mapping) else None
        if not redacts:
            line = Redact(ours.redactor)(logger, method, line)
        line = add_ids(logger, method, line)  # no secrets in these
        if not exports:
            ours.line(logger, method, line, error)
        return line

    return _Woven(plain, [*processors[:-1], finish, *processors[-1:]], ours.dropped)


def _install_structlog(ours: Export, patches: Patches) -> None:
    import structlog

    bound: type[object] = structlog.BoundLoggerBase

    def get(logger: object) -> _Woven:
        return _woven(vars(logger)[_SLOT], ours)

    def put(logger: object, processors: Iterable[Processor]) -> None:
        vars(logger)[_SLOT] = processors.plain if isinstance(processors, _Woven) else processors

    # A property of the class hides what each logger, cached ones too, keeps under the same name.
    setattr(bound, _SLOT, property(get, put))
    patches.on_undo(lambda: delattr(bound, _SLOT))


def _install_logging(ours: Export, patches: Patches) -> None:
    def handling(original: Function) -> Function:
        def handle(logger: logging.Logger, record: logging.LogRecord) -> object:
            _mark(record)
            here, outer = ours.handling(logger)
            try:
                return original(logger, record)
            finally:
                here.skip = outer

        return handle

    def calling(original: Function) -> Function:
        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> object:
            ours.record(logger, record)
            return original(logger, record)

        return call_handlers

    patches.wrap("logging:Logger.handle", handling)
    patches.wrap("logging:Logger.callHandlers", calling)


def _mark(record: logging.LogRecord) -> None:
    # A formatter that asks for the ids gets "" outside a span. Not in a record factory: there,
    # an application's `extra={"trace_id": …}` would raise KeyError.
    with shielded("the ids of a log record"):
        found = ids()
        for name in (TRACE_ID, SPAN_ID, FLOW_ID):
            vars(record).setdefault(name, found.get(name, ""))


def integrations(redactor: Redactor = REDACTOR) -> Sequence[Integration]:
    """How log lines are instrumented, with these rules of redaction."""
    ours = Export(redactor)
    return (
        Integration("structlog", "structlog", "", functools.partial(_install_structlog, ours)),
        Integration("logging", "logging", "", functools.partial(_install_logging, ours)),
    )


INTEGRATIONS: Final = integrations()
