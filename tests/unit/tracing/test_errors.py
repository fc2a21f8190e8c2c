"""An error on its span: whatever its text is, the span is told and is ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit
from tracekit.testing import capture
from tracekit.tracing.errors import record_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

KIB_8 = 8_192


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class InterruptingError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def recorded(error: Exception) -> ReadableSpan:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    span = provider.get_tracer("tests").start_span("work")
    try:
        raise error
    except Exception as raised:
        record_error(span, raised)
    span.end()
    (found,) = exporter.get_finished_spans()
    return found


def event_of(span: ReadableSpan) -> dict[str, Any]:
    (event,) = span.events
    return dict(event.attributes or {})


def test_an_error_without_a_text_is_called_by_its_type() -> None:
    span = recorded(MuteError())
    assert span.status.description == "MuteError"
    assert event_of(span)["exception.message"] == "MuteError"
    assert "MuteError" in event_of(span)["exception.stacktrace"]


def test_a_long_text_is_cut_and_the_place_it_was_raised_at_stays() -> None:
    span = recorded(ValueError("x" * 100_000))
    event = event_of(span)
    assert len(span.status.description or "") == KIB_8
    assert len(event["exception.message"]) == KIB_8
    assert len(event["exception.stacktrace"]) <= KIB_8
    assert "in recorded" in event["exception.stacktrace"]


def test_of_many_frames_the_last_stay() -> None:
    def deep(left: int) -> NoReturn:
        deeper(left - 1) if left else fail()
        raise AssertionError

    def deeper(left: int) -> NoReturn:
        deep(left)

    def fail() -> NoReturn:
        raise ValueError("the end")

    try:
        deep(200)
    except ValueError as error:
        stacktrace = event_of(recorded(error))["exception.stacktrace"]
    assert len(stacktrace) <= KIB_8
    assert stacktrace.endswith("ValueError: the end\n")
    assert "in fail" in stacktrace


def test_secrets_in_its_text_do_not_leave() -> None:
    span = recorded(ValueError("refused: password=hunter2"))
    event = event_of(span)
    shown = (span.status.description, event["exception.message"], event["exception.stacktrace"])
    assert not [text for text in shown if text is None or "password=hunter2" in text]


@pytest.mark.parametrize("error", [MuteError, InterruptingError])
def test_the_span_of_a_generator_ends_whatever_its_error_is(error: type[Exception]) -> None:
    @tracekit.traced_generator
    def rows() -> Iterator[int]:
        yield 1
        raise error

    with capture() as flows:
        with pytest.raises((error, KeyboardInterrupt)):
            list(rows())
        assert [span.name.rpartition(".")[2] for span in flows.spans] == ["rows"]
