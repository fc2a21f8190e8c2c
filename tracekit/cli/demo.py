"""`tracekit demo`: the shop, and its orders as flows."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

HELP: Final = "start a shop of six services, and watch its orders as flows"


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--once", action="store_true", help="one order in each mode; 0 if all flows are whole"
    )
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a Kafka of your own (default: one on board)")
    parser.add_argument("--database", metavar="URL", help="a PostgreSQL of your own (default: SQLite files)")


def run(args: argparse.Namespace) -> int:
    """Run the demo until it is done, or until Ctrl-C."""
    # By name: the demo is a user of tracekit, and nothing in tracekit depends on it.
    runner = importlib.import_module("tracekit_demo.runner")
    return int(runner.run(once=args.once, kafka=args.kafka, database=args.database))
