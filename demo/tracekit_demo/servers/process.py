"""Process: a server that runs until the end of a block, with its log, and is ready when the block begins."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_PATIENCE_S: Final = 60
_END_S: Final = 60
_POLL_S: Final = 0.05
_TAIL: Final = 30
_PORTS: Final = (20_000, 32_000)


class ServerError(RuntimeError):
    """A server did not start, or not end; with the end of its log."""


class Server:
    """A program under way. What it says is in `log`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def await_ready(self, is_ready: Callable[[], bool]) -> None:
        """Return once it is. Raises ServerError where it ends before, or is not within a minute."""
        until = time.monotonic() + _PATIENCE_S
        while not is_ready():
            if self.process.poll() is not None:
                raise ServerError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > until:
                raise ServerError(f"{self.name} is not ready after {_PATIENCE_S} s:\n{self.tail()}")
            time.sleep(_POLL_S)

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL:])

    def kill(self) -> None:
        """At once, as the kernel does. What it wrote is there, on disk or not: the machine has its power."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ask it to end, and wait for that. Raises ServerError where it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{self.name} did not end within {_END_S} s:\n{self.tail()}") from None


@contextmanager
def running(
    name: str,
    command: Sequence[str | Path],
    folder: Path,
    is_ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The program, ready; ended with the block. Its log is in the folder, and goes on where it was."""
    log = folder / f"{name}.log"
    with log.open("ab") as said:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    server = Server(name, process, log)
    try:
        server.await_ready(is_ready)
        yield server
    finally:
        server.end()


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody has, below those that the system gives to whoever calls somebody."""
    with ExitStack() as bound:
        ports: list[int] = []
        while len(ports) < number:
            port = random.randrange(*_PORTS)
            with suppress(OSError):
                bound.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def fetched(
    url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of an answer. Raises OSError where there is none."""
    try:
        request = Request(url, body, dict(headers or {}))  # noqa: S310 - who calls us names it, nobody else
        opened = build_opener(ProxyHandler({})).open(request, timeout=10)
        with opened as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def answers(url: str) -> bool:
    """Whether it says 200."""
    try:
        return fetched(url)[0] == 200
    except OSError:
        return False
