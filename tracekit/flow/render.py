"""A flow as text: a line a span and a line a wait, as in the drawing of DESIGN, or all in one line."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tracekit import semconv
from tracekit.flow import facts
from tracekit.flow.axis import Axis, axis_of
from tracekit.flow.kin import lost, ran_meanwhile
from tracekit.flow.labels import labels
from tracekit.flow.remarks import remarks
from tracekit.flow.text import columns, counted, duration, fitted, harmless, shortened
from tracekit.model import Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracekit.flow.axis import Interval
    from tracekit.flow.build import Flow
    from tracekit.flow.edges import MessageEdge
    from tracekit.flow.kin import Kin

Style: TypeAlias = Literal["wait", "bad", "dim"]
WORK: Final = "▇"
WAIT: Final = "░"
_IDLE: Final = "╱╱"

# Amber is for waiting only, red for what is wrong only: so says DESIGN.
_ANSI: Final[dict[Style, str]] = {"wait": "33", "bad": "31", "dim": "2"}
_DURATION, _MARK, _SPACE = 8, 2, 3
_LEAD: Final = 8
"""Dots lead to a bar within this many columns; farther off they would be noise."""
_NAME: Final = 48
_NAMES: Final = 3
"""Names take at most so many quarters of what the other columns leave; bars have the rest.

A longer one takes what is free before its own bar too: its duration then stands farther right.
"""
_DEEPEST: Final = 12
"""Deeper levels are drawn at this one."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line: whose, what, when. `edge` for a wait, else the place of the span in the tree."""

    owner: str
    text: str
    start_ns: int
    end_ns: int
    is_wait: bool = False
    is_open: bool = False
    has_failed: bool = False


def render(
    flow: Flow,
    *,
    width: int = 100,
    color: bool = False,
    comes_from: Sequence[Kin] = (),
    goes_on_in: Sequence[Kin] = (),
) -> str:
    """The whole flow, every line at most `width` columns (40 at least). `color`: with ANSI codes.

    `comes_from` are flows that it probably comes from, `goes_on_in` those that it probably goes on in.
    """
    width = max(width, 40)
    names = labels(flow.tree)
    rows = list(_rows(flow, names))
    owners = min(max(columns(shortened(row.owner, width // 5)) for row in rows), width // 5) + 2
    room = width - owners - _MARK - _DURATION - _SPACE
    what = min(max(columns(shortened(row.text, width)) for row in rows), room * _NAMES // 4)
    axis = axis_of(
        [(row.start_ns, row.end_ns) for row in rows if not row.is_wait],
        min(row.start_ns for row in rows),
        max(flow.end_ns, max(row.end_ns for row in rows)),
        room - what,
    )
    lines = [*_headline(flow, names[0], width, goes_on_in, color=color)]
    unmarked = [fold for fold in axis.folds if not any(_is_marked(row, axis, fold) for row in rows)]
    for row in rows:
        mark = _styled("✕", "bad", color=color) if row.has_failed else " "
        length = "open" if row.is_open else duration(row.end_ns - row.start_ns)
        first, after = axis.cells(row.start_ns, row.end_ns)
        over = min(max(columns(shortened(row.text, width)) - what, 0), first)
        text = fitted(row.text, what + over)
        line = (
            f"{_styled(fitted(row.owner, owners), 'dim', color=color)}"
            f"{_styled(text, 'wait', color=color) if row.is_wait else text}"
            f" {mark}{length:>{_DURATION}}{' ' * _SPACE}"
            f"{_lead(row, axis, over, unmarked, color=color)}{_bar(row, axis, first, after, color=color)}"
        )
        lines.append(line.rstrip())
    below = [
        *_remarks(flow, width, color=color),
        *_breaks(flow, names, width, color=color),
        *_origins(comes_from, width),
        *_broken_off(flow, names, goes_on_in, width, color=color),
    ]
    return "\n".join([*lines, *below])


def render_line(flow: Flow) -> str:
    """The flow in one line, for a console or a log."""
    names = labels(flow.tree)
    name = shortened(names[0], _NAME)
    answered = f" {said}" if (said := _answer(flow)) else ""
    done = f"{'done in' if not flow.open_spans else 'open after'} {duration(flow.completion_ns)}"
    arrow = " ->" if answered else ""
    notes = [f"waited {duration(sum(on.values()))} on {_queues_named(on)}"] if (on := _queues(flow)) else []
    notes += _counts(flow, _blame(flow, names))
    if flow.breaks:
        reasons = ", ".join(dict.fromkeys(each.reason for each in flow.breaks))
        notes.append(f"{counted(len(flow.breaks), 'break')}: {reasons}")
    return f"{name}{answered}{arrow} {done}" + (f" ({', '.join(notes)})" if notes else "")


def _answer(flow: Flow) -> str:
    """`202 in 84 ms`; empty where nobody waits, or still does."""
    if flow.response_ns is None:
        return ""
    status = facts.http_status(flow.entry)
    failed = "failed " if status is None and flow.entry.status is Status.ERROR else ""
    return f"{failed or (f'{status} ' if status is not None else '')}in {duration(flow.response_ns)}"


def _queues(flow: Flow) -> dict[tuple[str, str, str], int]:
    """How long the end of the flow waited in each queue: a destination and who reads it."""
    queues: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for edge, waited_ns in flow.delays:
        queues[_queue(edge)] += waited_ns
    return queues


def _queue(edge: MessageEdge) -> tuple[str, str, str]:
    return edge.system, edge.destination, edge.consumer


def _queues_named(queues: Mapping[tuple[str, str, str], int]) -> str:
    """The destination that took longest, and how many there are besides."""
    by_name: defaultdict[str, int] = defaultdict(int)
    for (_, name, _), waited in queues.items():
        by_name[name] += waited
    first = min(by_name, key=lambda name: (-by_name[name], name))
    more = f" and {len(by_name) - 1} more" if len(by_name) > 1 else ""
    return shortened(first or "a queue", _NAME) + more


def _counts(flow: Flow, blame: str = "") -> list[str]:
    """What went otherwise than planned, as far as there is any; `blame` says what failed."""
    kinds = (
        (flow.retries, "retry", ""),
        (flow.duplicates, "duplicate", ""),
        (len(flow.errors), "error", f": {blame}" if blame else ""),
        (len(flow.open_spans), "open span", ""),
    )
    return [counted(count, noun) + why for count, noun, why in kinds if count]


def _cause(span: Span) -> str:
    """Why a span failed: the type of its error, else the description of its status; empty if it did not.

    An HTTP status is the weakest: it says that something failed, and not what.
    """
    if span.status is not Status.ERROR:
        return ""
    raised = [facts.text(event.attributes, semconv.EXCEPTION_TYPE) for event in span.events]
    said = [facts.text(span.attributes, semconv.ERROR_TYPE), *reversed(raised), span.status_message]
    known = [cause for cause in said if cause and cause != "_OTHER"]
    return next((cause for cause in known if not cause.isdigit()), known[0] if known else "")


def _blame(flow: Flow, names: tuple[str, ...]) -> str:
    """The failure that the others came from, as far as can be told: the innermost that says why."""
    for span, name, children in zip(flow.spans, names, flow.tree.children, strict=True):
        if (cause := _cause(span)) and not any(_cause(flow.spans[child]) for child in children):
            return shortened(f"{span.service.name} {name}: {cause}", 2 * _NAME)
    return ""


def _headline(flow: Flow, name: str, width: int, goes_on_in: Sequence[Kin], *, color: bool) -> Iterator[str]:
    """What there is, the two numbers first; on a further line where it does not fit."""
    done = "done in" if not flow.open_spans else "open after"
    said = [answer] if (answer := _answer(flow)) else []
    said.append(f"{done} {duration(flow.completion_ns)}")
    if queues := _queues(flow):
        number = len({_queue(edge) for edge in flow.edges if edge.wait is not None})
        some = f"{len(queues)} of " if len(queues) < number else ""
        said.append(f"waited {duration(sum(queues.values()))} in {some}{counted(number, 'queue')}")
    said += _counts(flow)
    elsewhere = ", ".join(harmless(each.flow.id[:8]) for each in goes_on_in)
    there = f", {len(goes_on_in)} in {elsewhere}" if goes_on_in else ""
    said.append(counted(len(flow.breaks), "break") + there)
    line = shortened(name, min(_NAME, width // 2)) + "  "
    indent = " " * columns(line) if columns(line) <= width // 3 else "  "
    # The id stands at the end of the last line, so the last fact makes room for it.
    flow_id = harmless(flow.id[:8])
    said[-1] += "   " + flow_id
    filled = False
    for fact in said:
        if filled and columns(line) + 3 + columns(fact) > width:
            yield _painted(line, color=color)
            line, filled = indent, False
        line += f" · {fact}" if filled else fact
        filled = True
    line = line.removesuffix(flow_id)
    yield f"{_painted(line, color=color)}{_styled(flow_id, 'dim', color=color)}"


def _painted(line: str, *, color: bool) -> str:
    """A piece of the headline with its waiting in amber, and in red what is wrong."""
    if not color:
        return line
    parts = []
    for part in line.split(" · "):
        fact = part.strip()
        wrong = re.search(r"\d (break|error)s?(, \d+ in \S.*)?$", fact) and fact != "0 breaks"
        style: Style | None = "wait" if fact.startswith("waited ") else "bad" if wrong else None
        parts.append(_styled(part, style, color=color) if style else part)
    return " · ".join(parts)


def _rows(flow: Flow, names: tuple[str, ...]) -> Iterator[_Row]:
    """The tree, drawn from the top: a message's wait stands between its creation and its consumer."""
    tree = flow.tree
    shown = {id(edge) for edge in tree.arrivals if edge is not None}
    elsewhere: defaultdict[int, list[MessageEdge]] = defaultdict(list)
    before: dict[int, MessageEdge] = {}
    at_span = {id(span): at for at, span in enumerate(tree.spans)}
    for edge in flow.edges:
        if edge.wait is not None and id(edge) not in shown:
            if edge.creation is None:
                before.setdefault(at_span[id(edge.consuming)], edge)
            else:
                elsewhere[at_span[id(edge.creation)]].append(edge)

    # What is left to draw: a span by its place, or a message that a span drawn elsewhere consumed.
    stack: list[tuple[int | MessageEdge, str, str]] = [(root, "", "") for root in reversed(tree.roots)]
    while stack:
        item, own, below = stack.pop()
        if not isinstance(item, int):
            consumer = names[at_span[id(item.consuming)]]
            yield _wait_row(item, f"{own}{_waited(item)} → {consumer}")
            continue
        edge_in = tree.arrivals[item] or before.get(item)
        if edge_in is not None and edge_in.wait is not None:
            yield _wait_row(edge_in, f"{own}{_waited(edge_in)}")
            own, below = f"{below}└ ", f"{below}  "
        span = tree.spans[item]
        cause = _cause(span)
        again = facts.resends(span) if facts.is_producing(span) else 0
        tries = f", {counted(again, 'retry')}" if again else ""
        yield _span_row(span, f"{own}{names[item]}{tries}{': ' if cause else ''}{cause}", flow.end_ns)
        inner: list[int | MessageEdge] = [*elsewhere[item], *tree.children[item]]
        deeper = len(below) < 2 * _DEEPEST
        for index in range(len(inner) - 1, -1, -1):
            is_last = index == len(inner) - 1
            branch, rail = ("└ ", "  ") if is_last else ("├ ", "│ ")
            stack.append((inner[index], below + branch, below + rail if deeper else below))


def _waited(edge: MessageEdge) -> str:
    skew = edge.wait.skew_ns if edge.wait else 0
    apart = f", clocks {duration(skew)} apart" if skew else ""
    return f"{edge.destination or 'message'} waited{apart}"


def _wait_row(edge: MessageEdge, text: str) -> _Row:
    assert edge.wait is not None
    return _Row(edge.system, text, edge.wait.start_ns, edge.wait.end_ns, is_wait=True)


def _span_row(span: Span, text: str, until_ns: int) -> _Row:
    return _Row(
        span.service.name,
        text,
        span.start_ns,
        max(span.start_ns, until_ns if span.end_ns is None else span.end_ns),
        is_open=span.end_ns is None,
        has_failed=span.status is Status.ERROR,
    )


def _lead(row: _Row, axis: Axis, over: int, unmarked: list[Interval], *, color: bool) -> str:
    """What stands before a bar, of which a long name has taken `over` columns.

    Idle time that no bar shows is marked here, in the first row behind it; then it is `unmarked` no longer.
    """
    first, _ = axis.cells(row.start_ns, row.end_ns)
    cells = ["·" if over < first <= _LEAD else " "] * (first - over)
    for fold in [*unmarked]:
        middle = _middle(axis, fold) - over
        if fold[1] <= row.start_ns and 0 <= middle < len(cells) - 1:
            cells[middle : middle + 2] = _IDLE
            unmarked.remove(fold)
    lead = "".join(cells)
    return _styled(lead, "dim", color=color) if lead.strip() else lead


def _bar(row: _Row, axis: Axis, first: int, after: int, *, color: bool) -> str:
    cells = [WAIT if row.is_wait else WORK] * (after - first)
    for fold in axis.folds:
        if _is_marked(row, axis, fold):
            middle = _middle(axis, fold) - first
            cells[middle : middle + 2] = _IDLE
    if row.is_open:
        cells[-1] = "›"
    bar = "".join(cells)
    return _styled(bar, "wait", color=color) if row.is_wait else bar


def _middle(axis: Axis, fold: Interval) -> int:
    """The column where the mark of a folded stretch begins."""
    return int((axis.column(fold[0]) + axis.column(fold[1])) / 2) - 1


def _is_marked(row: _Row, axis: Axis, fold: Interval) -> bool:
    """Whether the row's bar goes through this stretch, and has room for its mark."""
    first, after = axis.cells(row.start_ns, row.end_ns)
    return (
        row.start_ns <= fold[0]
        and fold[1] <= row.end_ns
        and 0 <= _middle(axis, fold) - first < after - first - 1
    )


def _remarks(flow: Flow, width: int, *, color: bool) -> Iterator[str]:
    """What took long, each with the mark of its bar."""
    for number, each in enumerate(remarks(flow)):
        if number == 0:
            yield ""
        mark = _styled(WAIT, "wait", color=color) if each.kind == "wait" else WORK
        for at, line in enumerate(_wrapped(harmless(each.text), width - 2)):
            yield f"{mark}{line[1:]}" if at == 0 else line


def _breaks(flow: Flow, names: tuple[str, ...], width: int, *, color: bool) -> Iterator[str]:
    """Each break with its code, where, what proves it and what to do."""
    at_span = {id(span): name for span, name in zip(flow.spans, names, strict=True)}
    for each in flow.breaks:
        where = f"{at_span[id(each.at)]} ({each.at.service.name})"
        code = _styled(f"✕ {each.reason}", "bad", color=color)
        yield ""
        yield f"{code}  {shortened(where, width - len(each.reason) - 4)}"
        for sentence in (each.evidence, each.cure):
            yield from _wrapped(harmless(sentence), width - 2)


def _origins(comes_from: Sequence[Kin], width: int) -> Iterator[str]:
    """Where what begins with a break probably comes from."""
    for each in comes_from:
        yield from _wrapped(
            f"It probably belongs to {_called(each.flow)}, which has the same {_id(each)}.", width - 2
        )


def _broken_off(
    flow: Flow, names: tuple[str, ...], goes_on_in: Sequence[Kin], width: int, *, color: bool
) -> Iterator[str]:
    """The breaks with which other flows begin that should have been part of this one."""
    at_span = {id(span): name for span, name in zip(flow.spans, names, strict=True)}
    for each in goes_on_in:
        if (broken := lost(each.flow)) is None:
            continue
        code = _styled(f"✕ {broken.reason}", "bad", color=color)
        yield ""
        yield f"{code}  {shortened(_called(each.flow), width - len(broken.reason) - 4)}"
        during = ran_meanwhile(flow, each.flow)
        ran = f" was sent while {at_span[id(during)]} ({during.service.name}) ran, and" if during else ""
        yield from _wrapped(harmless(broken.evidence), width - 2)
        yield from _wrapped(
            f"It{harmless(ran)} has the same {_id(each)}: probably it belongs here.", width - 2
        )
        yield from _wrapped(broken.cure, width - 2)


def _called(flow: Flow) -> str:
    """`4e296456, process stock.reserved (notification)`."""
    return harmless(f"{flow.id[:8]}, {labels(flow.tree)[0]} ({flow.entry.service.name})")


def _id(kin: Kin) -> str:
    return f"{shortened(kin.key, _NAME)} {shortened(kin.value, _NAME)}"


def _wrapped(sentence: str, width: int) -> Iterator[str]:
    """Lines of whole words, indented; a word that is too long is cut."""
    line = ""
    for word in sentence.split(" "):
        if line and columns(line) + 1 + columns(word) > width:
            yield f"  {line}"
            line = ""
        line = shortened(f"{line} {word}" if line else word, width)
    yield f"  {line}"


def _styled(text: str, style: Style, *, color: bool) -> str:
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m" if color else text
