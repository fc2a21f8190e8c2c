"""Waiting: until a condition is met and nothing new comes, in a thread or in a task.

How one waits is written once, as steps: each asks for a condition to be met within some seconds, and is
told whether it was. `blocking` and `awaiting` take such steps with a store's notice of changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from tracekit.collector.changes import Changes

T = TypeVar("T")

Step: TypeAlias = tuple[Callable[[], bool], float]
Steps: TypeAlias = Generator[Step, bool, T]
Outcome: TypeAlias = Literal["met", "late", "restless"]
"""`restless`: the condition was met, but new spans kept coming until the time was over."""


def until(
    is_met: Callable[[], bool], arrived: Callable[[], int], timeout_s: float, quiet_s: float
) -> Steps[Outcome]:
    """Steps until the condition is met, and `arrived` stays the same for `quiet_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        if not (yield is_met, max(0.0, deadline - time.monotonic())):
            return "late"
        seen = arrived()
        came_more = yield (lambda: arrived() != seen), quiet_s  # noqa: B023 - used before the next turn
        if not came_more and is_met():
            return "met"
        if time.monotonic() >= deadline:
            return "restless"


def blocking(steps: Steps[T], changes: Changes) -> T:
    """What the steps give; this thread waits."""
    __tracebackhide__ = True
    step, given = _next(steps, None)
    while step is not None:
        step, given = _next(steps, changes.wait(*step))
    assert given is not None
    return given[0]


async def awaiting(steps: Steps[T], changes: Changes) -> T:
    """What the steps give; this task waits, and its event loop goes on."""
    __tracebackhide__ = True
    step, given = _next(steps, None)
    while step is not None:
        step, given = _next(steps, await changes.wait_async(*step))
    assert given is not None
    return given[0]


def _next(steps: Steps[T], met: bool | None) -> tuple[Step | None, tuple[T] | None]:
    """The next step, or what they gave at the end."""
    __tracebackhide__ = True
    try:
        return (next(steps) if met is None else steps.send(met)), None
    except StopIteration as end:
        return None, (end.value,)
