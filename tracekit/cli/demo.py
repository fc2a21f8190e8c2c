"""`tracekit demo`: the shop, and its orders as flows."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

HELP: Final = "start a shop of six services, and watch its orders as flows"

_EPILOG: Final = """\
An order a second is placed, over HTTP (sync), by events (async), or by both (hybrid); some are declined,
malformed, or crash. The first in each mode is drawn as a tree, each further one is a line that ends with
the id of its flow; in a terminal, type an order's number and Enter to see it as a tree.
  ▇ work   ░ waiting in a queue   ╱╱ idle time, folded   ✕ error
"waited" is time in queues on the way to the end of the flow; what waited beside that way delayed nothing.

It needs nothing but this machine: Kafka and the databases are on board. Several may run at once, but only
one on the same --kafka. Ctrl-C ends all of it.
"""


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--once",
        action="store_true",
        help="one order in each mode, then end; the exit code is 0 if every flow is whole",
    )
    parser.add_argument(
        "--kafka",
        metavar="HOST:PORT",
        help="a Kafka of your own (default: one on board); KAFKA_* variables are handed on to the services",
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        help="a database of your own, postgresql+psycopg://… (default: SQLite files)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo until it is done, or until Ctrl-C."""
    # By name: the demo is a user of tracekit, and nothing in tracekit depends on it.
    runner = importlib.import_module("tracekit_demo.runner")
    return int(runner.run(once=args.once, kafka=args.kafka, database=args.database))
