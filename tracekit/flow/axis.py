"""The time axis of a drawing: moments to columns, with stretches folded in which nothing works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_FOLDED_SHARE: Final = 5
"""A folded stretch takes this part of the width: one fifth."""
_WORTH_FOLDING: Final = 0.3
"""An idle stretch is folded if it would take more than this of what is left to draw."""

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Axis:
    """`stops` are moments and their columns, between which time runs evenly; `folds` the stretches
    that are not drawn to scale."""

    width: int
    stops: tuple[tuple[int, float], ...]
    folds: tuple[Interval, ...]

    def column(self, moment: int) -> float:
        """Where a moment stands; before the first and after the last stop, at the edge."""
        before_at, before_x = self.stops[0]
        for at, x in self.stops:
            if moment < at:
                span = at - before_at
                return before_x + (x - before_x) * (moment - before_at) / span if span else before_x
            before_at, before_x = at, x
        return before_x

    def cells(self, start: int, end: int) -> tuple[int, int]:
        """First column and the one after the last; never empty, never outside."""
        first = min(int(self.column(start)), self.width - 1)
        return first, min(max(first + 1, round(self.column(end))), self.width)


def axis_of(busy: Iterable[Interval], start: int, end: int, width: int) -> Axis:
    """The axis from start to end. `busy` is when something works; what lies between may be folded."""
    idle = _between(sorted(busy), start, end)
    folds: list[Interval] = []
    left = end - start
    for stretch in sorted(idle, key=lambda each: each[0] - each[1]):
        if len(folds) == _FOLDED_SHARE - 2 or stretch[1] - stretch[0] <= _WORTH_FOLDING * left:
            break
        folds.append(stretch)
        left -= stretch[1] - stretch[0]
    folds.sort()

    fold_columns = width / _FOLDED_SHARE
    scale = (width - fold_columns * len(folds)) / left if left > 0 else 0.0
    at, x = start, 0.0
    stops = [(at, x)]
    for fold_start, fold_end in folds:
        x += (fold_start - at) * scale
        stops += [(fold_start, x), (fold_end, x + fold_columns)]
        at, x = fold_end, x + fold_columns
    stops.append((end, x + (end - at) * scale))
    return Axis(width, tuple(stops), tuple(folds))


def _between(busy: list[Interval], start: int, end: int) -> list[Interval]:
    idle = []
    until = start
    for begin, finish in busy:
        if begin > until:
            idle.append((until, begin))
        until = max(until, finish)
    if until < end:
        idle.append((until, end))
    return idle
