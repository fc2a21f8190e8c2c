"""`tracekit flow ID`: one flow as a tree, with its waits, its breaks and what was logged."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from tracekit import semconv
from tracekit.cli import terminal
from tracekit.cli.called import us
from tracekit.cli.terminal import styled
from tracekit.flow.text import columns, counted, duration, fitted, harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.flow import Flow
    from tracekit.flow.kin import Kin
    from tracekit.flow.search import Query
    from tracekit.model import LogLine
    from tracekit.sources import Source

HELP: Final = "show one flow as a tree: tracekit flow 9f3c1a7e"

_EPILOG: Final = """\
examples:
  tracekit flow                  the latest
  tracekit flow 9f3c             the one whose id begins so
  tracekit flow 9f3c --logs      and what its services logged, each line at its moment
  tracekit flow 9f3c --json      all that is known of it

  ▇ work   ░ waiting in a queue   ╱╱ idle time, folded   ✕ error   › still open
The two numbers come first: what the caller waited, and when all that it set off was done. A break is a place
where the flow should go on and does not; it comes with its evidence and its cure.
"""

_UNREAD: Final = """\
what came of it in {} cannot be read
  The segment is damaged, or its disk fails; `tracekit doctor` tells where."""
_NO_LOGS: Final = """\
Jaeger has no log lines. `{0} serve --jaeger {1}` takes those that are sent to it, and shows
them with its flows: {0} flow ID --logs"""
_GAP: Final = "  "
_SERVICE: Final = 20
_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
_MAX_SEVERITY: Final = 24
_LEVEL: Final = 5
_ERROR: Final = 17
"""OTLP's number of the lowest level that is an error."""
_LEAST: Final = 30
_PAGES: Final = 3
_ROWS: Final = 40
"""Rows that one log line may take."""


def configure_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "id",
        metavar="ID",
        nargs="?",
        type=_id,
        help="its id, or the first digits of it, four or more (default: the latest flow)",
    )
    parser.add_argument("--logs", action="store_true", help="the log lines too")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    terminal.add_source(parser)


def _id(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{4,32}", text.strip()):
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be a flow's id, or the first four or more of its digits (0-9, a-f); "
            "`tracekit flows` lists them"
        )
    return text.strip()


def run(arguments: argparse.Namespace) -> int:
    from tracekit.flow import kin
    from tracekit.sources import LostError, NotFoundError, SourceError

    terminal.speak_plainly()
    flow_id = arguments.id
    try:
        source = terminal.source(arguments)
        if flow_id is None:
            latest = source.find("", limit=1).flows
            if not latest:
                print(terminal.no_flows(source))
                return 0
            flow_id = latest[0].id
        if arguments.json:
            print(json.dumps(source.document(flow_id, with_logs=arguments.logs)))
            return 0
        flow = source.flow(flow_id)
        comes_from = list(islice(_kin(source, flow, kin.earlier(flow)), 1))
        later = (each for each in _kin(source, flow, kin.later(flow)) if kin.lost(each.flow))
        goes_on_in = list(islice(later, kin.MAX_KIN))
        lines = source.logs(flow.id) if arguments.logs else ()
        unread = source.document(flow.id).get("unread")
    except LostError:
        return terminal.fail(
            "flow",
            f"flow {flow_id} came, and is lost: its spans were in a part of a segment that is damaged; "
            "`tracekit doctor` tells what was found damaged",
        )
    except NotFoundError as error:
        if arguments.source == "jaeger":
            return terminal.fail("flow", error)
        return terminal.fail(
            "flow",
            f"no flow is called {flow_id}: it never came, or was dropped to make room; `tracekit "
            "flows` lists those kept",
        )
    except SourceError as error:
        return terminal.fail("flow", error)
    from tracekit.flow import render

    width, color = terminal.width(), terminal.is_colored(sys.stdout)
    print(render(flow, width=width, color=color, comes_from=comes_from, goes_on_in=goes_on_in))
    if isinstance(unread, int) and unread:
        print(f"\n{styled('✕ incomplete', 'bad', color=color)}  {_UNREAD.format(counted(unread, 'request'))}")
    if arguments.logs and arguments.source == "jaeger":
        print(f"\n{styled(_NO_LOGS.format(us(), source.jaeger()), 'dim', color=color)}")
    elif arguments.logs:
        print()
        for row in _logged(flow, lines, width=width, color=color):
            print(row)
    return 0


def _kin(source: Source, flow: Flow, queries: Sequence[Query]) -> Iterator[Kin]:
    """Other flows that meet one of these, from `_PAGES` pages each: a page may be short, or empty."""
    from tracekit.flow import kin
    from tracekit.flow.search import written
    from tracekit.sources import NotFoundError

    seen = {flow.id}
    for query in queries:
        after: str | None = None
        for _ in range(_PAGES):
            page = source.find(written(query), limit=kin.MAX_KIN + 1, after=after)
            for row in page.flows:
                if row.id not in seen:
                    seen.add(row.id)
                    with suppress(NotFoundError):  # it was dropped meanwhile
                        yield kin.kin(source.flow(row.id), query)
            after = page.next
            if after is None:
                break


def _logged(flow: Flow, lines: Sequence[LogLine], *, width: int, color: bool) -> Iterator[str]:
    """The log lines, each with its moment since the flow began, its service and its level."""
    if not lines:
        yield styled("nothing was logged in this flow's spans", "dim", color=color)
        return
    moments = [_since(line.time_ns - flow.start_ns) for line in lines]
    first = max(map(len, moments))
    who = min(max(columns(harmless(line.service.name)) for line in lines), _SERVICE)
    indent = first + who + _LEVEL + 3 * len(_GAP)
    for line, moment in zip(lines, moments, strict=True):
        level, is_bad = fitted(_level(line), _LEVEL), line.severity >= _ERROR
        text = f"{_body(line.body)}{_details(line)}"
        rows = textwrap.wrap(harmless(text), max(width - indent, _LEAST), max_lines=_ROWS, placeholder=" …")
        yield _GAP.join(
            (
                styled(moment.rjust(first), "dim", color=color),
                styled(fitted(line.service.name, who), "dim", color=color),
                styled(level, "bad" if is_bad else None, color=color),
                *rows[:1],
            )
        )
        yield from (" " * indent + row for row in rows[1:])


def _level(line: LogLine) -> str:
    """By OTLP's numbers, of which each level has four; what has none, as it calls itself."""
    if 1 <= line.severity <= _MAX_SEVERITY:
        return _LEVELS[(line.severity - 1) // 4]
    return line.severity_text.upper()


def _since(ns: int) -> str:
    return f"+{duration(ns)}" if ns >= 0 else f"-{duration(-ns)}"


def _body(body: object) -> str:
    return body if isinstance(body, str) else json.dumps(body, default=str)


def _details(line: LogLine) -> str:
    """Its attributes, but what every line of the flow has."""
    return "".join(
        f"  {key}={_body(value)}" for key, value in line.attributes.items() if key != semconv.FLOW_ID
    )
