"""OpenTelemetry log records, made of lines of structlog and of records of the standard library.

An object is named, not shown, and of bytes only the number is told: they may be a message. Everything
is redacted, and everything fits OTLP: its encoder refuses a whole batch for one bad value.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import logging
import pathlib
import sys
import time
import traceback
import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from opentelemetry import context, trace
from opentelemetry._logs import LogRecord, SeverityNumber

from tracekit.context import flow_id
from tracekit.guard import count_drop, shielded
from tracekit.redaction import FAILED, Redactor
from tracekit.semconv import EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE, EXCEPTION_TYPE, FLOW_ID

TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"

# What the record says by itself, or says in another form.
_OF_STRUCTLOG: Final = frozenset({"level", "timestamp", "logger", "exc_info", "exception"})
_OF_LOGGING: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_BODIES: Final = ("event", "message", "msg")  # the last two: EventRenamer may have been there before us
_AS_TEXT: Final = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
    pathlib.PurePath,
)
_MAX_DEPTH: Final = 8
_MAX_CONTAINERS: Final = 2_000
_MAX_ITEMS: Final = 10_000  # of all containers of a line: it is the application that waits for them
_TOO_LARGE: Final = "<too large>"
_INT64: Final = 1 << 63


def ids() -> dict[str, str]:
    """Trace, span and flow id of the current span, as log lines carry them; empty outside a span."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    found = {TRACE_ID: trace.format_trace_id(span.trace_id), SPAN_ID: trace.format_span_id(span.span_id)}
    flow = flow_id()
    if flow is not None:
        found[FLOW_ID] = flow
    return found


def error_of(exc_info: object) -> BaseException | None:
    """The exception that an `exc_info` means: a tuple, an exception, or True for the one handled now."""
    if isinstance(exc_info, tuple) and len(exc_info) == 3:
        exc_info = exc_info[1]
    elif exc_info is not None and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1] if exc_info else None
    return exc_info if isinstance(exc_info, BaseException) else None


def severity(level: int) -> SeverityNumber:
    """OpenTelemetry's number for a level of the standard library; a level in between is a step more.

    Source: logs data model, "Mapping of SeverityNumber".
    """
    if level <= 0:
        return SeverityNumber.UNSPECIFIED
    step = min(level // 10, 5)
    return SeverityNumber(1 + 4 * step + min(level - 10 * step, 3))


def of_structlog(
    level: int, line: Mapping[str, object], error: BaseException | None, redactor: Redactor
) -> LogRecord:
    """The record of an event dict, which is redacted already; `error` is the exception, which is not."""
    body = next((name for name in _BODIES if name in line), "")
    given = {
        name: value
        for name, value in line.items()
        if name != body and name not in _OF_STRUCTLOG and not name.startswith("_")
    }
    shown = line.get("exception")
    stacktrace = shown if isinstance(shown, str) else ""
    if error is None and stacktrace:
        handled = sys.exc_info()[1]
        error = handled if type(handled).__name__ in stacktrace else None
    attributes = _attributes(given)
    attributes.update(_of_error(error, stacktrace, redactor))
    return _record(time.time_ns(), level, logging.getLevelName(level), _body(line.get(body)), attributes)


def of_logging(record: logging.LogRecord, redactor: Redactor) -> LogRecord:
    """The record of a record of the standard library; its `extra` become attributes."""
    given = {
        name: value
        for name, value in vars(record).items()
        if name not in _OF_LOGGING and not name.startswith("_")
    }
    attributes = redactor.items(_attributes(given))
    attributes.update(_of_error(error_of(record.exc_info), record.exc_text or "", redactor))
    body = redactor.value(_body(_message(record, redactor)))
    return _record(int(record.created * 1e9), record.levelno, record.levelname, body, attributes)


def _message(record: logging.LogRecord, redactor: Redactor) -> object:
    if not record.args:
        return record.msg
    try:
        if isinstance(record.args, Mapping):
            return str(record.msg) % redactor.items(record.args)
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # Arguments that do not fit: the application's mistake, and its handlers say so.
        return record.msg
    except Exception as error:  # noqa: BLE001 - an argument whose text raises must not cost the line
        count_drop("internal", "a log line's argument", error=error)
        return record.msg


def _attributes(given: Mapping[str, object]) -> dict[str, object]:
    attributes = plain(given)
    span = trace.get_current_span().get_span_context()
    if span.is_valid and FLOW_ID not in attributes:
        attributes[FLOW_ID] = flow_id() or ""
    # The record has fields of its own for these.
    if attributes.get(TRACE_ID) in ("", trace.format_trace_id(span.trace_id)):
        del attributes[TRACE_ID]
    if attributes.get(SPAN_ID) in ("", trace.format_span_id(span.span_id)):
        del attributes[SPAN_ID]
    if attributes.get(FLOW_ID) == "":
        del attributes[FLOW_ID]
    return attributes


def _of_error(error: BaseException | None, stacktrace: str, redactor: Redactor) -> dict[str, object]:
    attributes: dict[str, object] = {}
    if error is not None:
        attributes[EXCEPTION_TYPE] = _type_name(error)
        attributes[EXCEPTION_MESSAGE] = redactor.text(_text(error))
        stacktrace = stacktrace or "".join(traceback.format_exception(error))
    if stacktrace:
        attributes[EXCEPTION_STACKTRACE] = redactor.text(_text(stacktrace))
    return attributes


def _body(said: object) -> object:
    if said is None or isinstance(said, Mapping | bytes):
        return plain({"": said})[""]
    return _text(said)


def _record(
    time_ns: int, level: int, level_name: str, body: object, attributes: Mapping[str, object]
) -> LogRecord:
    return LogRecord(
        timestamp=time_ns,
        context=context.get_current(),
        severity_number=severity(level),
        severity_text=level_name,
        body=cast("Any", body),
        attributes=cast("Any", attributes),
    )


def plain(values: Mapping[str, object]) -> dict[str, object]:
    """The values as OTLP can carry them, in new containers; a value that raises fails alone."""
    left = _Left(iter(range(_MAX_CONTAINERS)), iter(range(_MAX_ITEMS)))
    found: dict[str, object] = {}
    for name, value in values.items():
        key = _text(name)
        if isinstance(value, str):
            found[key] = _text(value)
            continue
        found[key] = FAILED
        with shielded("a log line's attribute"):
            found[key] = _plain(value, 0, left)
    return found


class _Left(NamedTuple):
    """How many containers, and how many items of containers, one line may still have."""

    containers: Iterator[int]
    items: Iterator[int]


def _plain(value: object, depth: int, left: _Left) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value, depth, left)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else f"{value:#x}"[:64]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, BaseException):
        return f"{_type_name(value)}: {_text(value)}"
    if next(left.containers, None) is None or depth >= _MAX_DEPTH:
        return _TOO_LARGE
    if isinstance(value, dict):  # any other mapping may be endless, or ask a disk for its items
        own = dict.items(value)
        pairs = [pair for pair, _ in zip(own, left.items, strict=False)]
        found = {_text(name) or "''": _plain(item, depth + 1, left) for name, item in pairs}
        return found if len(pairs) == len(own) else {**found, _TOO_LARGE: True}
    # A named tuple may be a message (aiokafka's headers and positions are), so it is an object.
    if type(value) in (list, tuple, set, frozenset):
        given = cast("Collection[object]", value)
        items = [item for item, _ in zip(given, left.items, strict=False)]
        shown = [_plain(item, depth + 1, left) for item in items]
        return shown if len(items) == len(given) else [*shown, _TOO_LARGE]
    return f"<{_type_name(value)}>"


def _text(value: object) -> str:
    if type(value) is str and value.isascii():
        return value
    with shielded("a log line's text"):
        text = str(value)
        return text if text.isascii() else text.encode(errors="replace").decode()  # no lone surrogates
    return FAILED


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
