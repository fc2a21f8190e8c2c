"""What the tour can reach: servers by their address, or found on this machine and started for it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tracekit_demo.broker import BrokerError, embedded_broker
from tracekit_demo.servers.activemq import activemq
from tracekit_demo.servers.moto import moto
from tracekit_demo.servers.process import ServerError
from tracekit_demo.servers.pubsub import pubsub
from tracekit_demo.servers.rabbitmq import rabbitmq
from tracekit_demo.servers.redis import redis
from tracekit_demo.tour.order import destination
from tracekit_demo.tour.systems import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tracekit_demo.tour.systems import System

_SYSTEM: Final = "/usr/local/sbin:/usr/sbin:/sbin"
_REACH_S: Final = 3.0
_FAKE_AWS: Final = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "tour",
    "AWS_SECRET_ACCESS_KEY": "tour",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server: `variable` has its address where one is given, else `start` gives what stations are told."""

    variable: str
    cure: str
    """How to come by it."""
    is_here: Callable[[], bool]
    start: Callable[[Path], AbstractContextManager[Mapping[str, str]]]
    inherited: tuple[str, ...] = ()
    """How the variables begin that stations need as well where the server is the user's own."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The systems that there are, what their stations are told, and what was left out, and why."""

    names: tuple[str, ...]
    environment: Mapping[str, str]
    left_out: Mapping[str, str]


@contextmanager
def _kafka(_: Path) -> Iterator[Mapping[str, str]]:
    topics = [destination(system.name) for system in SYSTEMS.values() if system.server == "kafka"]
    with embedded_broker(topics, partitions=1) as broker:
        yield broker.environment


@contextmanager
def _rabbitmq(folder: Path) -> Iterator[Mapping[str, str]]:
    with rabbitmq(folder) as server:
        yield {"RABBITMQ_URL": server.url}


@contextmanager
def _activemq(folder: Path) -> Iterator[Mapping[str, str]]:
    with activemq(folder) as server:
        yield {"ACTIVEMQ_STOMP": f"127.0.0.1:{server.port}"}


@contextmanager
def _aws(folder: Path) -> Iterator[Mapping[str, str]]:
    with moto(folder) as server:
        yield {"AWS_ENDPOINT_URL": server.url, **_FAKE_AWS}


@contextmanager
def _pubsub(folder: Path) -> Iterator[Mapping[str, str]]:
    program = _pubsub_program()
    assert program is not None
    with pubsub(folder, program) as address:
        yield {"PUBSUB_EMULATOR_HOST": address}


@contextmanager
def _redis(folder: Path) -> Iterator[Mapping[str, str]]:
    with redis(folder) as server:
        yield {"REDIS_URL": server.url}


def _pubsub_program() -> Path | None:
    """The latest that was made of `demo/pubsub`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = (cache / "tracekit" / "programs").glob("pubsub-*/pubsub")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _has(command: str) -> bool:
    """Whether there is such a command, also where only root's PATH has it."""
    return shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}") is not None


SERVERS: Final[Mapping[str, Server]] = {
    "kafka": Server(
        "KAFKA_BOOTSTRAP_SERVERS",
        "pip install '.[demo]' in tracekit's clone",
        lambda: _is_installed("confluent_kafka"),
        _kafka,
        ("KAFKA_",),
    ),
    "rabbitmq": Server(
        "RABBITMQ_URL",
        "as root, apt-get install rabbitmq-server",
        lambda: _has("rabbitmq-server"),
        _rabbitmq,
    ),
    "activemq": Server(
        "ACTIVEMQ_STOMP",
        "as root, apt-get install activemq",
        lambda: _has("activemq") and _has("java"),
        _activemq,
    ),
    "aws": Server(
        "AWS_ENDPOINT_URL",
        "pip install 'moto[server]'",
        lambda: _is_installed("moto") and _is_installed("flask_cors"),
        _aws,
    ),
    "pubsub": Server(
        "PUBSUB_EMULATOR_HOST",
        "python -m tests.integration.servers pubsub in tracekit's clone (with Go)",
        lambda: _pubsub_program() is not None,
        _pubsub,
    ),
    "redis": Server(
        "REDIS_URL",
        "as root, apt-get install redis-server",
        lambda: _has("redis-server"),
        _redis,
    ),
}


@contextmanager
def reached(folder: Path) -> Iterator[Reached]:
    """Everything that can be reached, until the block ends; the servers come up side by side, and end so."""
    left_out = {name: why for name, system in SYSTEMS.items() if (why := _uninstalled(system))}
    wanted = {SYSTEMS[name].server for name in SYSTEMS if name not in left_out} - {""}
    environment: dict[str, str] = {}
    ends: list[Callable[[], object]] = []
    said: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(len(SERVERS)) as side_by_side, ExitStack() as started:

        def end() -> None:
            wait(said.values())  # what is on its way cannot be ended before it is there
            for ended in [side_by_side.submit(end) for end in ends]:
                ended.result()

        started.callback(end)

        def reach(name: str) -> str:
            """Why it cannot be; empty where it can."""
            try:
                environment.update(_given(name) or _started(name, folder / name, ends))
            except (BrokerError, ServerError, OSError) as error:
                return str(error)
            return ""

        for name in wanted:
            said[name] = side_by_side.submit(reach, name)
        missing = {name: why for name, answer in said.items() if (why := answer.result())}
        for name, system in SYSTEMS.items():
            if name not in left_out and system.server in missing:
                left_out[name] = missing[system.server]
        names = tuple(name for name in SYSTEMS if name not in left_out)
        yield Reached(names, environment, left_out)


def _started(name: str, folder: Path, ends: list[Callable[[], object]]) -> Mapping[str, str]:
    server = SERVERS[name]
    if not server.is_here():
        raise OSError(f"there is none here. The cure: {server.cure}; or set {server.variable}")
    folder.mkdir()
    running = ExitStack()
    told = running.enter_context(server.start(folder))
    ends.append(running.close)
    return told


def _given(name: str) -> Mapping[str, str]:
    """What stations are told of a server of the user's own; empty where none is given. Raises OSError."""
    server = SERVERS[name]
    address = os.environ.get(server.variable, "")
    if not address:
        return {}
    first = address.split(",")[0]
    parts = urlsplit(first if "://" in first else f"//{first}")
    default = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "https": 443}.get(parts.scheme, 80)
    try:
        socket.create_connection((parts.hostname or "", parts.port or default), timeout=_REACH_S).close()
    except (OSError, ValueError) as error:
        shown = f"{parts.hostname}:{parts.port or default}"  # a URL may have a password
        raise OSError(
            f"nobody answers at {server.variable}, {shown} ({error}). "
            f"The cure: start it there; or unset that, and {server.cure}"
        ) from error
    own = {key: value for key, value in os.environ.items() if key.startswith(server.inherited or "\0")}
    return {**own, server.variable: address}


def _uninstalled(system: System) -> str:
    """What is missing of its client, and the line that installs it; empty where nothing is."""
    if absent := [name for name in system.imports if not _is_installed(name)]:
        cure = f"pip install '.[{system.extra}]' in tracekit's clone"
        return f"{', '.join(absent)} cannot be imported. The cure: {cure}"
    return ""


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # the package above it is not there
        return False
