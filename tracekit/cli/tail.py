"""`tracekit tail`: flows as they settle, a line each."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tracekit.cli import terminal

if TYPE_CHECKING:
    import argparse

    from tracekit.collector.archive import Summary

HELP: Final = "print each flow as it is done"

_EPILOG: Final = f"""\
examples:
  tracekit tail                         every flow
  tracekit tail service=payment error   those with an error that went through payment
  tracekit tail --json | jq .name       one JSON object a line

{terminal.QUERY_HELP}

A flow is printed once nothing more comes of it, and again if something does after all and changes its line.
Ctrl-C ends it; a server that is started anew does not.
"""

_KNOWN: Final = 1000
"""So many flows are known to have been printed."""


def configure_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    terminal.add_query(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    terminal.add_source(parser)


def run(arguments: argparse.Namespace) -> int:
    from tracekit.cli.rows import line
    from tracekit.collector import views
    from tracekit.sources import Notice, SourceError

    terminal.speak_plainly()
    color = terminal.is_colored(sys.stdout)
    known: OrderedDict[str, Summary] = OrderedDict()
    try:
        for told in terminal.source(arguments).follow(terminal.query_of(arguments.query)):
            if isinstance(told, Notice):
                terminal.say(f"tracekit tail: {told.text}", sys.stderr)
                continue
            if known.pop(told.id, None) != told:
                if arguments.json:
                    print(json.dumps(views.summary(told)), flush=True)
                else:
                    terminal.say(line(told, datetime.now().astimezone(), color=color))
            known[told.id] = told
            if len(known) > _KNOWN:
                known.popitem(last=False)
    except SourceError as error:
        return terminal.fail("tail", error)
    except KeyboardInterrupt:  # which is how it ends
        return 0
    raise AssertionError("what is followed has no end")
