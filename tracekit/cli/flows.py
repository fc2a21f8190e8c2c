"""`tracekit flows`: the latest flows, as a table."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tracekit.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit.collector.archive import Summary
    from tracekit.sources import Source

HELP: Final = "list the latest flows, or those that meet a query"

_EPILOG: Final = f"""\
examples:
  tracekit flows                                  the latest 20
  tracekit flows error                            with an error somewhere
  tracekit flows 'completion > 1s' queue=orders   slow, and through the queue orders
  tracekit flows order.id=17 --json               one JSON object a line

{terminal.QUERY_HELP}

The answer is what the caller waited for; done is when the last work that it set off ended; waited is time in
queues; with a ? while nothing was built of what came last. Waiting is amber, errors and breaks are red.
`tracekit flow ID` shows one as a tree.
"""


def configure_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    terminal.add_query(parser)
    parser.add_argument(
        "-n", "--limit", metavar="N", type=_count, default=20, help="at most so many (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    terminal.add_source(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number, 1 or more")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    from tracekit.collector import views
    from tracekit.sources import SourceError

    terminal.speak_plainly()
    query = terminal.query_of(arguments.query)
    try:
        server = terminal.source(arguments)
        found = _found(server, query, arguments.limit)
        if arguments.json:
            for flow in found:
                print(json.dumps(views.summary(flow)))
            return 0
        flows = list(found)
        if not flows:
            print(_none_meets(query) if query else terminal.no_flows(server))
            return 0
    except SourceError as error:
        return terminal.fail("flows", error)
    from tracekit.cli.rows import table

    color = terminal.is_colored(sys.stdout)
    for row in table(flows, datetime.now().astimezone(), width=terminal.width(), color=color):
        print(row)
    return 0


def _none_meets(query: str) -> str:
    from tracekit.flow.search import perhaps

    meant = perhaps(query)
    return f"no flow meets: {query}" + (f" (perhaps you meant {shlex.quote(meant)})" if meant else "")


def _found(source: Source, query: str, limit: int) -> Iterator[Summary]:
    """So many flows, from as many pages as it takes: a page may be short, though there is more."""
    from tracekit.collector.schemas import MAX_LIMIT

    after: str | None = None
    asked: set[str | None] = set()
    while limit > 0 and after not in asked:  # a server that leads back would never end
        asked.add(after)
        page = source.find(query, limit=min(limit, MAX_LIMIT), after=after)
        yield from page.flows[:limit]
        limit -= len(page.flows)
        after = page.next
        if after is None:
            return
