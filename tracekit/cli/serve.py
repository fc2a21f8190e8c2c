"""`tracekit serve`: the collector on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import shlex
import signal
import sqlite3
import sys
import threading
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Final, TextIO, cast
from urllib.parse import urlsplit

from tracekit import _settings
from tracekit.cli import terminal
from tracekit.cli.called import us
from tracekit.cli.rows import moment
from tracekit.cli.terminal import size
from tracekit.flow.text import counted, harmless
from tracekit.sources import API_PORT, DEFAULT_SERVER, LOOPBACK, ApiSource, SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tracekit.collector.archive import Held
    from tracekit.collector.cut import Json
    from tracekit.collector.disk import DiskStore
    from tracekit.collector.forward import Forwarder
    from tracekit.collector.server import CollectorServer

HELP: Final = "collect telemetry on this machine: keep every flow, answer questions"

_EPILOG: Final = """\
examples:
  tracekit serve                                      on the standard ports, until Ctrl-C
  tracekit serve --data ./flows --max-size 500MB      in a directory of its own
  tracekit serve --http-port 0 --grpc-port 0 --port 0 on free ports, beside another one
  tracekit serve --forward http://collector:4318      and everything goes on to another collector
  tracekit serve --jaeger http://jaeger:16686         flows are those of a Jaeger, which has the spans

Services send OTLP to it without any setting: it listens where OTEL_EXPORTER_OTLP_ENDPOINT points unless it is
set. What was answered is on disk, and there after a restart, until --max-size is reached: then the oldest
goes. `tracekit flows`, `flow`, `tail` and `doctor` ask it; so can anything else, at /api/openapi.json.
"""

_UNITS: Final = ("", "K", "M", "G", "T")
_LEAST_BYTES: Final = 10_000_000
_LOOK_S: Final = 1.0
_ROOM: Final = "Make room on its disk, or give another directory with --data"
_NO_ROOM: Final = "senders get 503 and try again; free some, or start with a smaller --max-size"
_FULL: Final = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "database or disk is full")
_MAX_COMPLAINTS: Final = 1000


def configure_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    http, grpc = (_port_of(_settings.DEFAULT_ENDPOINTS[name]) for name in ("http/protobuf", "grpc"))
    ports = {
        "--http-port": (http, "of OTLP over HTTP"),
        "--grpc-port": (grpc, "of OTLP over gRPC"),
        "--port": (API_PORT, "of the query API"),
    }
    for option, (default, what) in ports.items():
        parser.add_argument(
            option,
            metavar="PORT",
            type=_port,
            default=default,
            help=f"the port {what} (default: {default}; 0: a free one)",
        )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=_directory,
        default=_default_data(),
        help="the directory that everything is kept in (default: %(default)s)",
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        type=_size,
        default="2GB",
        help="about so much disk, for seconds a fifth more; the oldest goes first (default: %(default)s)",
    )
    parser.add_argument(
        "--forward",
        metavar="URL",
        help="send everything on to another collector, over OTLP; with OTEL_EXPORTER_OTLP_HEADERS",
    )
    parser.add_argument(
        "--forward-protocol",
        choices=("http/protobuf", "grpc"),
        default="http/protobuf",
        help="how it is sent on (default: %(default)s)",
    )
    parser.add_argument(
        "--jaeger",
        metavar="URL",
        help="show the flows of a Jaeger that has the spans, by its query API; log lines are kept here",
    )
    parser.add_argument(
        "--jaeger-page",
        type=_page,
        metavar="URL",
        help="where a person sees the traces in Jaeger, for links to them (default: as --jaeger)",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but what goes wrong")


def _port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _page(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a URL, as http://127.0.0.1:16686")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a port, 0 to 65535; 0 takes a free one")
    return int(text)


def _size(text: str) -> int:
    """Bytes; with a unit: 500MB, 1.5G, 2GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE | re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a size; e.g. 500MB or 2GB")
    number, unit, is_binary = found.groups()
    power = _UNITS.index(unit.upper())
    wanted = int(float(number) * (1024 if is_binary else 1000) ** power)
    if wanted < _LEAST_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r}: must be {size(_LEAST_BYTES)} or more")
    return wanted


def _directory(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: must not be empty; leave the option out")
    return Path(text).absolute()


def _default_data() -> Path:
    """Where a user's data is. Source: the XDG Base Directory Specification; a relative one does not count."""
    named = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".local" / "share") / "tracekit"


def _headers() -> Mapping[str, str]:
    from opentelemetry.util.re import parse_env_headers

    return parse_env_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""), liberal=True)


def run(arguments: argparse.Namespace) -> int:
    terminal.speak_plainly()
    end = _End()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A shell that runs us in the background, and nohup, have them ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        return _serve(arguments, end)
    except _EndedError:
        return 0


def _serve(arguments: argparse.Namespace, end: _End) -> int:
    try:
        from tracekit.collector.folder import FolderError
        from tracekit.collector.forward import Forwarder
        from tracekit.collector.server import CollectorError, PortTakenError
    except ModuleNotFoundError as error:
        return terminal.fail(
            "serve",
            f'the extra "serve" is not installed (there is no {error.name}). '
            "pip install '.[serve]' in tracekit's clone",
        )
    complaints = _Complaints(arguments.data)
    logger = logging.getLogger("tracekit")
    logger.addHandler(complaints)
    logger.propagate = False
    with ExitStack() as started:
        try:
            forward = arguments.forward and Forwarder(
                arguments.forward, protocol=arguments.forward_protocol, headers=_headers()
            )
            archive = _archive(arguments, complaints)
            end.is_awaited = True
            started.callback(_close, archive, complaints)
            server = started.enter_context(_collector(arguments, archive, forward))
        except (FolderError, OSError, SourceError, ValueError) as error:
            return terminal.fail("serve", error)
        except sqlite3.Error as error:
            return terminal.fail("serve", f"{arguments.data} cannot be used: {error}. {_ROOM}")
        except PortTakenError as error:
            return terminal.fail("serve", f"{error}{_neighbour(arguments)}")
        except CollectorError as error:
            return terminal.fail("serve", error)
        if _hosts(arguments) is None:
            _say(_open_to_all(arguments.host), sys.stderr)
        held = archive.held()
        with suppress(OSError):
            complaints.say(_short_of_room(disk_usage(arguments.data).free, held, arguments.data))
        if not arguments.quiet:
            for row in _greeting(server, held, arguments):
                _say(row, sys.stdout)
        try:
            _watch(archive, end.asked, complaints, quiet=arguments.quiet)
        except FolderError as error:
            return terminal.fail("serve", error)
        server.stop()  # what is under way is finished
        if forward and (loss := forward.loss()):
            complaints.say(loss)
        held = archive.held()
    if not arguments.quiet:
        _say(f"\nended: {_amount(held, arguments)} in {arguments.data}", sys.stdout)
    return 0


def _archive(arguments: argparse.Namespace, complaints: _Complaints) -> DiskStore:
    if arguments.jaeger is None:
        from tracekit.collector.disk import DiskStore

        return DiskStore(arguments.data, max_bytes=arguments.max_size, progress=complaints.say)
    from tracekit.sources.jaeger_archive import JaegerArchive

    return JaegerArchive(
        arguments.data, arguments.jaeger, max_bytes=arguments.max_size, progress=complaints.say
    )


def _collector(
    arguments: argparse.Namespace, archive: DiskStore, forward: Forwarder | None
) -> CollectorServer:
    from tracekit.collector.api import create_api
    from tracekit.collector.server import CollectorServer, connections_alone

    server: CollectorServer = CollectorServer(
        archive,
        host=arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        pages=create_api(
            archive,
            _hosts(arguments),
            more=lambda: _more(server, arguments),
            troubles=forward.troubles if forward else tuple,
            jaeger=arguments.jaeger_page or arguments.jaeger or "",
        ),
        pages_port=arguments.port,
        forward=forward,
        max_connections=connections_alone(),
    )
    return server


def _hosts(arguments: argparse.Namespace) -> Collection[str] | None:
    """The names by which it may be called; None, once it is open to others: by any."""
    from tracekit.collector.app import LOOPBACK as NAMES

    return NAMES if arguments.host in NAMES else None


class _EndedError(BaseException):
    """Somebody asked for the end before there was anything to finish."""


class _End:
    """What signals call: ends what begins at once, and lets what runs end what it does."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.is_awaited = False

    def __call__(self, *_: object) -> None:
        self.asked.set()
        if not self.is_awaited:
            raise _EndedError


def _close(archive: DiskStore, complaints: _Complaints) -> None:
    try:
        archive.close()
    except (OSError, sqlite3.Error) as error:
        complaints.say(f"{archive.folder.path} was not closed well: {error}")


def _say(text: str, stream: TextIO) -> None:
    """That nobody reads it, or that its disk is full, is no reason to collect no more."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # for what is still in its buffer, too
        os.close(nowhere)


class _Complaints(logging.Handler):
    """Says on standard error what goes wrong, each thing once, whatever the numbers in it are.

    A full disk fails the segments, the index and the senders, each in its own words: it is one thing.
    """

    def __init__(self, data: Path) -> None:
        super().__init__(logging.WARNING)
        self._data = data
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage().removeprefix("tracekit: "))

    def say(self, trouble: str) -> None:
        """Say it; nothing, where it is empty."""
        if any(sign in trouble for sign in _FULL):
            trouble = f"no room left on {self._data}: {_NO_ROOM}"
        kind = re.sub(r"\d+", "", trouble)
        if kind and kind not in self._said and len(self._said) < _MAX_COMPLAINTS:
            self._said.add(kind)
            _say(f"tracekit serve: {harmless(trouble)}", sys.stderr)


def _watch(archive: DiskStore, stop: threading.Event, complaints: _Complaints, *, quiet: bool) -> None:
    """Wait for the end; say meanwhile what goes wrong, and once, unless quiet, that there is no room left.

    Raises FolderError where the directory is gone.
    """
    is_told = quiet
    while True:
        archive.folder.check()
        held = archive.held()
        for trouble in held.troubles:
            complaints.say(trouble)
        if not is_told and archive.counts()["traces"].dropped:
            is_told = True
            _say(
                f"--max-size {size(held.max_bytes)} is full: from now on the oldest flows make room for new "
                "ones; a larger one keeps more",
                sys.stdout,
            )
        if stop.wait(_LOOK_S):
            return


def _greeting(server: CollectorServer, held: Held, arguments: argparse.Namespace) -> Iterator[str]:
    """Where it listens, what it has, and how to go on."""
    what = " log lines and metrics only" if arguments.jaeger else ""
    yield f"tracekit is collecting{what}; Ctrl-C ends it"
    yield f"  OTLP  {server.http_endpoint} (HTTP), {server.grpc_endpoint} (gRPC){what and ': no spans'}"
    yield f"  API   {server.pages_endpoint}/api/flows"
    oldest = (
        "" if held.oldest_ns is None else f", since {moment(held.oldest_ns, datetime.now().astimezone())}"
    )
    data = arguments.data
    if arguments.jaeger:
        yield f"  flows from {arguments.jaeger}; log lines sent here are shown with them"
    yield f"  data  {data}: {_amount(held, arguments)} of {size(held.max_bytes)}{oldest}"
    if arguments.forward:
        yield f"  to    {arguments.forward}"
    if held.flows or arguments.jaeger:
        option = "" if server.pages_endpoint == DEFAULT_SERVER else f" --server {server.pages_endpoint}"
        yield f"  look  {us()} flows{option}"
    else:
        demo = data / "demo"
        if data == _default_data() and any((demo / "segments").glob("*.seg")):
            yield f"  demo  its flows: {us()} serve --data {shlex.quote(str(demo))}"
        yield terminal.first_flow(server.http_endpoint)


def _short_of_room(free: int, held: Held, data: Path) -> str:
    """What there is to say of the room on the disk; empty where there is enough."""
    wanted = held.max_bytes - held.bytes
    if free >= wanted:
        return ""
    return (
        f"{size(free)} are free on the disk of {data}, and --max-size {size(held.max_bytes)} allows for "
        f"{size(wanted)} more: once it is full, {_NO_ROOM}"
    )


def _amount(held: Held, arguments: argparse.Namespace) -> str:
    return size(held.bytes) if arguments.jaeger else f"{counted(held.flows, 'flow')}, {size(held.bytes)}"


def _more(server: CollectorServer, arguments: argparse.Namespace) -> dict[str, Json]:
    """What the status says besides the archive: so that others find the way here, and know who it is."""
    return {
        "pid": os.getpid(),
        "data": str(arguments.data),
        **({"jaeger": arguments.jaeger} if arguments.jaeger else {}),
        "otlp_http": server.http_endpoint,
        "otlp_grpc": server.grpc_endpoint,
        **cast("dict[str, Json]", server.status()),
    }


def _neighbour(arguments: argparse.Namespace) -> str:
    """Who has the ports, if it is one of us."""
    host = arguments.host if arguments.host in LOOPBACK else "127.0.0.1"
    try:
        more = (
            ApiSource(f"http://{host}:{arguments.port or API_PORT}", silence_s=1.0)
            .get("/api/status")
            .get("more")
        )
    except SourceError:
        return ""
    if not isinstance(more, dict) or "pid" not in more:
        return ""
    return f". A `tracekit serve` is running: process {more['pid']}, with its data in {more.get('data')}"


def _open_to_all(host: str) -> str:
    return (
        f"tracekit serve: --host {host}: whoever reaches this address can read all flows and send some; "
        "there are no passwords"
    )
