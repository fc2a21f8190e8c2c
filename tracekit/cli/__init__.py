"""The command line: `tracekit COMMAND`, one module a command.

A command's module has `HELP` (one line), `configure_parser(parser)` and `run(arguments) -> int`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    import argparse

# Whatever else is needed is imported below `main`: there a Ctrl-C is caught.

_COMMANDS: Final = ("run", "serve", "flows", "flow", "tail", "doctor", "demo")


class Command(Protocol):
    """What a command's module offers."""

    HELP: str

    def configure_parser(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, arguments: argparse.Namespace) -> int: ...


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name; its exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        # Before 3.12 Python wraps one that comes while it imports, where a class tells a value its name.
        if isinstance(error.__cause__, KeyboardInterrupt):
            return 130
        raise
    except BrokenPipeError:  # the reader of our output has enough
        # What is left in the buffer goes nowhere; the interpreter would complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(given: list[str]) -> int:
    import argparse
    import importlib

    parser = argparse.ArgumentParser(
        prog="tracekit",
        description="One flow, end to end: tracing for Python services that talk over HTTP and queues.",
        epilog="In code, one line does the same as `tracekit run`: tracekit.configure('orders')",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    # `tracekit run` goes before a program that is waited for: it loads no other command.
    named = given[:1] if given and given[0] in _COMMANDS else []
    for name in named or _COMMANDS:
        command = cast("Command", importlib.import_module(f"tracekit.cli.{name}"))
        child = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure_parser(child)
        child.set_defaults(run=command.run)
        if named and child.get_default("is_intermixed") and "--" not in given:
            arguments = child.parse_intermixed_args(given[1:])
            return command.run(arguments)
    if not given:
        parser.print_help(sys.stderr)
        return 2
    arguments = parser.parse_args(given)
    return int(arguments.run(arguments))


def _version() -> str:
    from importlib.metadata import version

    return version("tracekit")
