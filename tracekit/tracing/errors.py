"""Errors: how the end of some work stands on its span."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Status, StatusCode

from tracekit import semconv
from tracekit.guard import shielded
from tracekit.redaction import REDACTOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Span

_MAX_TEXT: Final = 8_192
_MAX_PART: Final = _MAX_TEXT // 2  # of a stacktrace: a long text leaves room for where it was raised


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
    """The error on its span: its type, its text, and where it was raised, cut and without secrets.

    Not by `record_exception`: that writes `exception.escaped` too, which the conventions took back.
    """
    with shielded("an error on its span"):
        if not span.is_recording():
            return
        span.set_attribute(semconv.ERROR_TYPE, type(error).__name__)
        text = _text(error)
        span.set_status(Status(StatusCode.ERROR, text))
        span.add_event(
            semconv.EXCEPTION_EVENT,
            {
                semconv.EXCEPTION_TYPE: _qualified(type(error)),
                semconv.EXCEPTION_MESSAGE: text,
                semconv.EXCEPTION_STACKTRACE: _stacktrace(error),
            },
        )


def partly_failed(span: Span, answers: Sequence[object]) -> str:
    """Tell the span that some of its messages failed: those whose answer is the name of an error.

    Gives one of these names, whatever the order the same one; "" where none failed.
    """
    failure = min((said for said in answers if isinstance(said, str) and said), default="")
    if failure:
        span.set_attribute(semconv.ERROR_TYPE, failure)
        span.set_status(Status(StatusCode.ERROR, "not all messages were taken"))
    return failure


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the application's own mistake, and no reason to lose its span
        return type(error).__name__
    return REDACTOR.text(text[:_MAX_TEXT])


def _stacktrace(error: BaseException) -> str:
    """The end of it, for that says what was raised and where. Whole parts: half a line may hide a key."""
    left = _MAX_TEXT
    parts: list[str] = []
    for part in reversed(traceback.format_exception(error)):
        cut = part if len(part) <= _MAX_PART else f"{part[:_MAX_PART]}\n"
        left -= len(cut)
        if left < 0:
            break
        parts.append(cut)
    return REDACTOR.text("".join(reversed(parts)))


def _qualified(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
