"""Errors: how the end of some work stands on its span."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from opentelemetry.trace import Status, StatusCode

from tracekit import semconv

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def outcome(span: Span, error: BaseException) -> str:
    """Tell the span how its work ended; the error's type, "" where it was cancelled.

    What was cancelled is neither done nor failed: marked, and kept out of error rates.
    """
    if isinstance(error, Exception):
        record_error(span, error)
        return type(error).__name__
    span.set_attribute(semconv.CANCELLED, True)
    return ""


def record_error(span: Span, error: BaseException) -> None:
    """The error on its span: its type, its text, and where it was raised.

    Not by `record_exception`: that writes `exception.escaped` too, which the conventions took back.
    """
    if span.is_recording():
        span.set_attribute(semconv.ERROR_TYPE, type(error).__name__)
        span.add_event(
            semconv.EXCEPTION_EVENT,
            {
                semconv.EXCEPTION_TYPE: _qualified(type(error)),
                semconv.EXCEPTION_MESSAGE: str(error),
                semconv.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(error)),
            },
        )
        span.set_status(Status(StatusCode.ERROR, str(error)))


def _qualified(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
