"""`tracekit demo`: the shop, and its orders as flows."""

from __future__ import annotations

import argparse
import importlib
import signal
from pathlib import Path
from typing import Final

HELP: Final = "start a shop of six services, and watch its orders as flows"

_USAGE: Final = """\
tracekit demo [--once] [--fault NAME] [--kafka HOST:PORT] [--database URL] [--data FOLDER]
       tracekit demo fault [NAME [off]] [--data FOLDER]
       tracekit demo tour"""

_EPILOG: Final = """\
An order a second is placed, over HTTP (sync), by events (async), or by both (hybrid); some are declined,
malformed, or crash. The first in each mode is drawn as a tree, each further one is a line that ends with
the id of its flow; in a terminal, type an order's number and Enter to see it as a tree.
  ▇ work   ░ waiting in a queue   ╱╱ idle time, folded   ✕ error
"waited" is time in queues on the way to the end of the flow; what waited beside that way delayed nothing.

It needs nothing but this machine: Kafka and the databases are on board. Several may run at once, but only
one on the same --kafka. Ctrl-C ends all of it.

Its flows are kept on disk, and a second start shows the last of them. From another terminal `tracekit flows`,
`tracekit flow ID` and `tracekit tail` ask for them; `tracekit demo fault NAME` makes something go wrong in
the shop, and the flows say so; `tracekit demo fault` lists the faults.
"""

_FAULT_EPILOG: Final = """\
faults, and what the flows show:
  slow-payment      the charge takes 1.8 s: the long call is on the way to the answer
  failing-payment   the charge fails: the error, and where it came from
  slow-consumer     notification rests after each message: the wait grows, its handler's time does not
  dropped-headers   inventory publishes stock.reserved without headers: the break, and what follows apart

Without NAME it says which are on. They end with `off`, and with the demo.
"""
_TOUR: Final = "send one order through every system there is, and draw its flow"
_TOUR_EPILOG: Final = """\
Each station is a process of its own, which takes the order from one system and hands it on by the next:
  HTTP (FastAPI, httpx) → gRPC → GraphQL (strawberry, gql) → Kafka (kafka-python, aiokafka, confluent-kafka)
  → RabbitMQ (pika, aio-pika) → ActiveMQ (stomp.py) → SNS → SQS (boto3) → Pub/Sub → Redis Streams (redis-py)

Servers that are installed are started for it, and ended with it; Kafka is on board. A server of your own is
taken where it is named: KAFKA_BOOTSTRAP_SERVERS, RABBITMQ_URL, ACTIVEMQ_STOMP (host:port), AWS_ENDPOINT_URL,
PUBSUB_EMULATOR_HOST, REDIS_URL. What is not there is left out, and named with the line that installs it.

The exit code is 0 if what came out is one flow: every station in order, every wait known, and no break.
Ctrl-C ends all of it.
"""
_FAULTS: Final = ("slow-payment", "failing-payment", "slow-consumer", "dropped-headers")


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = _EPILOG
    parser.usage = _USAGE
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
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        help="where its flows are kept (default: tracekit/demo in $XDG_DATA_HOME, which is ~/.local/share; "
        "with --once: nowhere)",
    )
    parser.add_argument(
        "--fault",
        choices=_FAULTS,
        metavar="NAME",
        help="with this fault from the start: " + ", ".join(_FAULTS) + "; --once then exits with 1",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    fault = commands.add_parser(
        "fault",
        prog="tracekit demo fault",
        usage="tracekit demo fault [NAME [off]] [--data FOLDER]",
        help="make something go wrong in the shop of the demo that runs",
        description="make something go wrong in the shop of the demo that runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_FAULT_EPILOG,
    )
    fault.add_argument("name", nargs="?", choices=_FAULTS, metavar="NAME", help="which of those below")
    fault.add_argument("state", nargs="?", choices=("on", "off"), default="on", metavar="off", help="end it")
    fault.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        default=argparse.SUPPRESS,
        help="the directory of the demo that is meant",
    )
    commands.add_parser(
        "tour",
        prog="tracekit demo tour",
        help=_TOUR,
        description=_TOUR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_TOUR_EPILOG,
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo until it is done, or until Ctrl-C."""
    # By name: the demo is a user of tracekit, and nothing in tracekit depends on it.
    if args.command == "fault":
        switch = importlib.import_module("tracekit_demo.switch").switch
        return int(switch(args.name, on=args.state == "on", data=args.data))
    if args.command == "tour":
        return int(importlib.import_module("tracekit_demo.tour.runner").run())
    runner = importlib.import_module("tracekit_demo.runner")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, _Interrupt())
    try:
        return int(
            runner.run(
                once=args.once, kafka=args.kafka, database=args.database, data=args.data, fault=args.fault
            )
        )
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all has ended; Python itself needs a moment yet


class _Interrupt:
    """The first Ctrl-C ends the demo; who presses it once more changes nothing."""

    def __init__(self) -> None:
        self._is_heard = False

    def __call__(self, *_: object) -> None:
        if not self._is_heard:
            self._is_heard = True
            raise KeyboardInterrupt
