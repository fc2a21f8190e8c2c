"""The shield: what is ours never reaches the application, not even when its own logging fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tracekit import guard

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Full(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise OSError("log disk full")


@pytest.fixture
def failing_log() -> Iterator[None]:
    handler = _Full()
    logging.getLogger("tracekit").addHandler(handler)
    yield
    logging.getLogger("tracekit").removeHandler(handler)


@pytest.mark.shield
def test_a_log_handler_that_raises_does_not_break_the_shield(failing_log: None) -> None:
    with guard.shielded("a test"):
        raise ValueError("ours")
    guard.swallow("a test", ValueError("ours"))

    assert guard.dropped() == {"internal": 2}
