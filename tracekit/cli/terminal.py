"""Terminal: what the commands have in common where they speak to people, and where they ask a server."""

from __future__ import annotations

import os
import re
import shutil
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final, Literal, TextIO, TypeAlias

from tracekit import _settings
from tracekit.cli.called import us
from tracekit.flow.text import columns, harmless

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tracekit.sources import ApiSource, Source

Style: TypeAlias = Literal["wait", "bad", "good", "dim"]

# As tracekit.flow.render: amber is for waiting, red for what is wrong and says so in words.
_ANSI: Final[dict[Style, str]] = {"wait": "33", "bad": "31", "good": "32", "dim": "2"}
_WIDTH: Final = 100
"""Columns where nobody says how wide it is, as in a file."""
_LEAST_WIDTH: Final = 40
_INDENT: Final = "    "
_CODE: Final = re.compile(r"\x1b\[\d+m")

QUERY_HELP: Final = """\
A query is terms that all hold; quote it where the shell would take > or < for itself:
  'completion > 1s'  'response >= 250ms'  'waited > 5s'    times, with a unit: ns us ms s m h d
  'done > 1s'  'answer >= 250ms'                          two of them, as the table calls them
  status=500  'spans > 100'  'started > 10m'              numbers; since when: ten minutes ago
  'status != 202'                                         answers but this; what nobody waited for has none
  service=payment  queue=orders  'name = "POST /orders"'  whole names; break=headers_lost: a break's code
  error  retries  duplicates  break  open                 there is at least one; '!error': there is none
  order.id=17                                             an attribute of any of its spans
  pay                                                     a word in its name, services, queues or breaks\
"""


def add_server(parser: argparse.ArgumentParser) -> None:
    """The option that says whom to ask."""
    from tracekit.sources import DEFAULT_SERVER

    parser.add_argument(
        "--server",
        metavar="URL",
        default=DEFAULT_SERVER,
        help=f"the `tracekit serve` to ask (default: {DEFAULT_SERVER})",
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say where flows are read from."""
    from tracekit.sources import DEFAULT_JAEGER, DEFAULT_SERVER

    parser.add_argument(
        "--source",
        choices=("serve", "jaeger"),
        default="serve",
        help="what has the flows: a `tracekit serve` (the default), or a Jaeger that has their spans",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help=f"where that is (default: {DEFAULT_SERVER}; for Jaeger, its query API: {DEFAULT_JAEGER})",
    )


def add_query(parser: argparse.ArgumentParser) -> None:
    """The words that say which flows; options may stand between them."""
    parser.set_defaults(is_intermixed=True)
    parser.add_argument(
        "query", metavar="QUERY", nargs="*", help="which flows: terms that all hold, see below (default: all)"
    )


def query_of(words: Sequence[str]) -> str:
    """The query that the arguments make: what the shell took for one word, though it has blanks, is one."""
    return " ".join(
        f'"{word}"' if " " in word and before.endswith(("=", "<", ">")) and '"' not in word else word
        for before, word in zip(["", *words], words, strict=False)
    )


def server(arguments: argparse.Namespace) -> ApiSource:
    """The server to ask. Raises SourceError for a wrong URL."""
    from tracekit.sources import ApiSource

    return ApiSource(arguments.server, us=us())


def source(arguments: argparse.Namespace) -> Source:
    """Where flows are read from. Raises SourceError for a wrong URL."""
    from tracekit.sources import DEFAULT_JAEGER, DEFAULT_SERVER, ApiSource, JaegerSource

    if arguments.source == "jaeger":
        return JaegerSource(arguments.server or DEFAULT_JAEGER)
    return ApiSource(arguments.server or DEFAULT_SERVER, us=us())


def width() -> int:
    """Columns of the terminal, or of a file."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns


def is_colored(stream: TextIO) -> bool:
    """Whether colours are wanted there. Source: no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Style | None, *, color: bool) -> str:
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m" if color and style else text


def say(line: str, stream: TextIO | None = None) -> None:
    """Print the line at once, to standard output by default; on a terminal broken between words."""
    stream = stream or sys.stdout
    print(wrapped(line, width()) if stream.isatty() else line, file=stream, flush=True)


def wrapped(line: str, width: int) -> str:
    """The line on as many as it takes, each at most so wide (40 at least), but for a word that is longer.

    Further ones are indented. Colours take no room.
    """
    rows: list[str] = []
    row, words = "", line.split(" ")
    for at, word in enumerate(words):
        longer = f"{row} {word}" if at else word
        if row.strip() and columns(_CODE.sub("", longer)) > max(width, _LEAST_WIDTH):
            rows.append(row.rstrip())
            longer = f"{_INDENT}{word}"
        row = longer
    return "\n".join([*rows, row])


def speak_plainly() -> None:
    """Let a terminal that lacks our marks show question marks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def first_flow(endpoint: str | None) -> str:
    """How to send a first flow there; None: by default."""
    default = _settings.DEFAULT_ENDPOINTS["http/protobuf"]
    is_default = endpoint is None or endpoint.replace("127.0.0.1", "localhost") == default
    there = "" if is_default else f', endpoint="{endpoint}"'
    option = "" if is_default else f" --endpoint {endpoint}"
    return (
        "Two lines in a service send the first one:\n"
        "    import tracekit\n"
        f'    tracekit.configure("orders"{there})\n'
        f"Without a change to it: {us()} run{option} -- python worker.py"
    )


def size(number: int) -> str:
    """Bytes as people say them: `31 MB`, `2 GB`."""
    value, unit = float(number), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    shown = f"{value:.0f}" if unit == "bytes" or value >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return f"{shown} {unit}"


def fail(command: str, why: object) -> int:
    """Say why it cannot be done; the exit code for that."""
    print(f"tracekit {command}: {harmless(str(why))}", file=sys.stderr)
    return 1


def no_flows(server: Source) -> str:
    """What to say where there is nothing to show yet."""
    if (jaeger := server.jaeger()) is not None:
        return (
            f"There are no flows: {harmless(jaeger)}, which has their spans, got none in the last 24 hours."
        )
    endpoint = server.endpoint()
    return f"There are no flows yet. {first_flow(endpoint and harmless(endpoint))}"
