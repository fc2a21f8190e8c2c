"""Determinism: ids and times that are the same in every run of a test."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final
from unittest import mock

from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk._logs import _internal as sdk_logs
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator

from tracekit.testing.spans import BEGINNING, MS

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRACES: Final = 0x7ACE << 112  # a trace id whose upper half is empty reads as one that was cut


class CountedIds(IdGenerator):
    """Ids in order: the first trace is 7ace…0001, the first span 0…01."""

    def __init__(self) -> None:
        self._traces = itertools.count(1)
        self._spans = itertools.count(1)

    def generate_trace_id(self) -> int:
        return _TRACES + next(self._traces)

    def generate_span_id(self) -> int:
        return next(self._spans)


class CountedTime:
    """A clock that goes on by one millisecond whenever it is read. Called, it gives Unix nanoseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now_ns = BEGINNING

    def __call__(self) -> int:
        with self._lock:
            self._now_ns += MS
            return self._now_ns


@contextmanager
def determined() -> Iterator[None]:
    """Within the block ids are counted, and `time.time_ns()` is a counted time; other clocks are as ever."""
    ids, clock = CountedIds(), CountedTime()

    def give_ids() -> IdGenerator:
        return ids

    with ExitStack() as undo:
        # Every provider that is made from here on, the application's own too.
        undo.enter_context(mock.patch.object(sdk, "RandomIdGenerator", give_ids))
        existing = trace.get_tracer_provider()
        if isinstance(existing, TracerProvider):
            undo.enter_context(mock.patch.object(existing, "id_generator", ids))
        undo.enter_context(mock.patch.object(time, "time_ns", clock))
        for module in (sdk, sdk_logs):
            undo.enter_context(mock.patch.object(module, "time_ns", clock))
        yield
