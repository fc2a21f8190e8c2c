"""Rows: a flow's summary as a row of a table, and as a line of its own."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from tracekit.cli.terminal import styled
from tracekit.flow.text import columns, counted, duration, fitted, harmless, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.cli.terminal import Style
    from tracekit.collector.archive import Summary

ID_DIGITS: Final = 8
"""So much of an id is shown; it does where one is asked for."""
_HEADINGS: Final = ("when", "flow", "answer", "done in", "waited", "marks", "services", "id")
_WHEN, _FLOW, _ANSWER, _WAITED, _MARKS, _SERVICES = 0, 1, 2, 4, 5, 6
_DROPPED: Final = (_WHEN, _ANSWER, _WAITED)
"""What is left out where even names cut short leave no room for the marks, one after another."""
_WORTH_IT: Final = 48
"""For what of the marks goes beyond this, nothing is left out."""
_NAME: Final = 48
_LEAST_NAME: Final = 8
_LEAST_WIDTH: Final = 40
_LEAST_SERVICES: Final = 12
_FAIR_SERVICES: Final = 30
"""Services are shown in what is left over; else where they and the name share, and they have so much."""
_GAP: Final = "  "
_NONE: Final = "–"
_UNKNOWN: Final = "?"


class _Cell(NamedTuple):
    text: str
    style: Style | None = None


def table(flows: Sequence[Summary], now: datetime, *, width: int, color: bool) -> Iterator[str]:
    """A line of headings and a line a flow, each at most `width` columns (40 at least).

    A flow that did not begin on the day of `now` says on which. Where there is little room, services are
    left out, then the ends of names, then further columns; marks are cut last.
    """
    rows = [_cells(flow, now) for flow in flows]
    widths = _widths(rows, max(width, _LEAST_WIDTH))
    for row in ([_Cell(heading, "dim") for heading in _HEADINGS], *rows):
        cells = [
            _painted(cell, room, to_right=_ANSWER <= at <= _WAITED, color=color)
            for at, (cell, room) in enumerate(zip(row, widths, strict=True))
            if room
        ]
        yield _GAP.join(cells).rstrip()


def line(flow: Summary, now: datetime, *, color: bool) -> str:
    """The flow in one line, as `tracekit.flow.render_line` writes it, between its time and its id."""
    answered = f" {answer} ->" if (answer := _answer(flow, " in ")) else ""
    done = f"{'open after' if flow.open_spans else 'done in'} {duration(flow.completion_ns)}"
    said = [each for each in (_waited(flow), _marked(flow)) if each.text]
    notes = ", ".join(styled(harmless(each.text), each.style, color=color) for each in said)
    return (
        f"{moment(flow.start_ns, now)}  {shortened(flow.name, _NAME)}{answered} {done}"
        f"{f' ({notes})' if notes else ''}   {styled(harmless(flow.id[:ID_DIGITS]), 'dim', color=color)}"
    )


def _cells(flow: Summary, now: datetime) -> list[_Cell]:
    waited = duration(flow.waited_ns) if flow.waited_ns else _NONE if flow.is_analysed else ""
    return [
        _Cell(moment(flow.start_ns, now), "dim"),
        _Cell(flow.name),
        _Cell(_answer(flow) or _NONE),
        _Cell(duration(flow.completion_ns)),
        _Cell(waited + ("" if flow.is_analysed else _UNKNOWN), "wait" if flow.waited_ns else "dim"),
        _marked(flow),
        _Cell(", ".join(flow.services), "dim"),
        _Cell(flow.id[:ID_DIGITS], "dim"),
    ]


def moment(ns: int, now: datetime) -> str:
    """A moment in local time, as short as it can be told from those of other days and years."""
    at = _local(ns)
    if at.date() == now.date():
        return f"{at:%H:%M:%S}"
    return f"{at:%d %b %H:%M}" if at.year == now.year else f"{at:%Y-%m-%d}"


def _local(ns: int) -> datetime:
    """The local time; of what no calendar has, the epoch."""
    try:
        return datetime.fromtimestamp(ns / 1e9).astimezone()
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0).astimezone()


def _answer(flow: Summary, between: str = " ") -> str:
    """`202 84 ms`; empty where nobody waits, or still does."""
    if flow.response_ns is None:
        return ""
    status = "" if flow.status is None else str(flow.status)
    return f"{status}{between}{duration(flow.response_ns)}".strip()


def _waited(flow: Summary) -> _Cell:
    if not flow.waited_ns:
        return _Cell("" if flow.is_analysed else "not analysed yet")
    only = flow.destinations[0] if len(flow.destinations) == 1 else None
    where = f" on {shortened(only, _NAME)}" if only else f" in {counted(len(flow.destinations), 'queue')}"
    until = "" if flow.is_analysed else ", so far"
    return _Cell(f"waited {duration(flow.waited_ns)}{where if flow.destinations else ''}{until}", "wait")


def _marked(flow: Summary) -> _Cell:
    """What went otherwise than planned, the worst first."""
    kinds = (
        (flow.errors, "error"),
        (flow.duplicates, "duplicate"),
        (flow.retries, "retry"),
        (flow.open_spans, "open span"),
    )
    marks = [counted(count, noun) for count, noun in kinds if count]
    if flow.breaks:
        breaks = f"break{'s' if len(flow.breaks) > 1 else ''}: {', '.join(flow.breaks)}"
        marks.insert(1 if flow.errors else 0, breaks)
    return _Cell(", ".join(marks), "bad" if flow.errors or flow.breaks else None)


def _widths(rows: Sequence[Sequence[_Cell]], width: int) -> list[int]:
    """Columns for each cell of a row; 0 where it is left out."""
    texts = [[columns(shortened(cell.text, width)) for cell in row] for row in rows]
    wanted = [max(column) for column in zip(*texts, strict=True)]
    widths = [max(room, len(heading)) for room, heading in zip(wanted, _HEADINGS, strict=True)]
    name, services = min(widths[_FLOW], _NAME), widths[_SERVICES]
    widths[_FLOW] = widths[_SERVICES] = 0
    if not wanted[_MARKS]:
        widths[_MARKS] = 0
    beyond = max(widths[_MARKS] - _WORTH_IT, 0)
    least = min(name, _LEAST_NAME)
    for column in _DROPPED:
        if _room(widths, width) + beyond >= least:
            break
        widths[column] = 0
    widths[_MARKS] -= max(least - _room(widths, width), 0)
    room = _room(widths, width)
    widths[_FLOW] = min(name, room)
    left = room - widths[_FLOW] - len(_GAP)
    if left >= _LEAST_SERVICES:
        widths[_SERVICES] = min(services, left)
    elif (shares := _shared(room - len(_GAP), name, services))[1] >= _FAIR_SERVICES:
        widths[_FLOW], widths[_SERVICES] = shares
    return widths


def _room(widths: Sequence[int], width: int) -> int:
    """What the columns leave for a further one."""
    return width - sum(widths) - len(_GAP) * sum(map(bool, widths))


def _shared(room: int, *wanted: int) -> list[int]:
    """As much as each wants; where that is too much, the widest give way first."""
    given = [0] * len(wanted)
    for turn, at in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[at] = min(wanted[at], room // (len(wanted) - turn))
        room -= given[at]
    return given


def _painted(cell: _Cell, room: int, *, to_right: bool, color: bool) -> str:
    text = fitted(cell.text, room)
    if to_right:
        text = text.rstrip().rjust(room)
    return styled(text, cell.style, color=color)
