"""The shop's processes: started on ports of loopback, awaited until ready, ended together."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

SERVING: Final = ("orders", "payment", "inventory", "notification")
CONSUMING: Final = ("analytics", "audit")

READY_S: Final = 60.0
_POLL_S: Final = 0.05
_HEALTH_S: Final = 5.0
_END_S: Final = 5.0
_TAIL_LINES: Final = 20

_CURES: Final = (
    (
        "No module named 'psycopg",
        "PostgreSQL needs its driver: pip install '.[postgres]' in tracekit's clone",
    ),
    ("No module named", "Something is not installed: pip install '.[demo]' in tracekit's clone"),
    ("NoBrokersAvailable", "No Kafka answers. Look at --kafka, or leave it away: a Kafka is on board."),
    ("KafkaTimeoutError", "Kafka does not answer. Look at --kafka, or leave it away: a Kafka is on board."),
    ("sqlalchemy.exc.", "The database does not let it in. Look at --database, or leave it away."),
)


class ServiceError(RuntimeError):
    """A service did not come up; the text has the end of its log and what to do."""


@dataclass(frozen=True, slots=True)
class _Running:
    """`lifeline` is the other end of its standard input: each side sees there that the other is gone."""

    pid: int
    log: Path
    ready_file: Path
    lifeline: socket.socket


class Services:
    """The shop's processes within a with-block, forked by the nursery (see there)."""

    def __init__(self, folder: Path, *, database: str | None = None) -> None:
        self._folder = folder
        self._nursery_log = folder / "nursery.log"
        self._database = database
        self._running: dict[str, _Running] = {}
        # Bound here and handed down, so that no port can be taken in between, and all know all.
        self._sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in SERVING}
        self._ports: dict[str, int] = {name: bound.getsockname()[1] for name, bound in self._sockets.items()}

    def port(self, name: str) -> int:
        """Where it serves HTTP, on 127.0.0.1."""
        return self._ports[name]

    def __enter__(self) -> Self:
        self._control, other = socket.socketpair()
        with other, self._nursery_log.open("wb") as log:
            self._nursery = subprocess.Popen(
                [sys.executable, "-P", "-m", "tracekit_demo.nursery", str(other.fileno())],
                env=surroundings(),
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for the demo, which ends them in order
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        for bound in self._sockets.values():
            bound.close()
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nursery.pid, signal.SIGKILL)  # it may be busy with its imports
        self._nursery.wait()

    def end(self) -> None:
        """End what was started: tell all of them, then wait a little for each."""
        for running in self._running.values():
            with contextlib.suppress(OSError):  # it is gone already
                running.lifeline.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _END_S
        for running in self._running.values():
            if not select.select([running.lifeline], [], [], max(until - time.monotonic(), 0))[0]:
                os.kill(running.pid, signal.SIGKILL)
            running.lifeline.close()
            with contextlib.suppress(ServiceError):  # without a nursery, it is init that waits for them
                self._ask(str(running.pid))
        self._running.clear()

    def start(self, names: Iterable[str], settings: Mapping[str, str]) -> None:
        """Start these; they come up side by side. `settings` are variables that all of them get."""
        urls = {f"{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in self._ports.items()}
        for name in names:
            self._running[name] = self._started(name, {**settings, **urls})

    def _started(self, name: str, settings: Mapping[str, str]) -> _Running:
        path, ready = self._folder / f"{name}.log", self._folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        own = {
            "DATABASE_URL": self._database or f"sqlite:///{self._folder / name}.db",
            "READY_FILE": str(ready),
        }
        request = json.dumps([name, {**settings, **own}])
        lifeline, theirs = socket.socketpair()
        with (
            contextlib.ExitStack() as given,
            contextlib.ExitStack() as unless_started,
            path.open("wb") as log,
        ):
            unless_started.callback(lifeline.close)
            handed = [given.enter_context(theirs).fileno(), log.fileno()]
            if bound := self._sockets.pop(name, None):
                # The child's alone: when it dies, callers are refused.
                handed.append(given.enter_context(bound).fileno())
            pid = self._ask(request, handed)
            unless_started.pop_all()
        return _Running(pid, path, ready, lifeline)

    def _ask(self, request: str, descriptors: Sequence[int] = ()) -> int:
        answer = b""
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self._control, [request.encode()], descriptors)
            answer = self._control.recv(64)
        if not answer:
            raise ServiceError(f"no service can be started.{_tail(self._nursery_log)}")
        return int(answer)

    def wait_answering(self, names: Iterable[str], timeout_s: float = READY_S) -> None:
        """Return once all of these answer over HTTP, ready or not. Raises ServiceError like `wait_ready`."""
        self._wait(names, lambda name: self._health(name) is not None, timeout_s)

    def wait_ready(self, names: Iterable[str], timeout_s: float = READY_S) -> None:
        """Return once all of these are ready. Raises ServiceError if one dies, or not all are in time."""
        self._wait(names, self._is_ready, timeout_s)

    def _wait(self, names: Iterable[str], is_met: Callable[[str], bool], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        for name in names:
            running = self._running[name]
            while not is_met(name):
                if select.select([running.lifeline], [], [], _POLL_S)[0]:
                    running.lifeline.close()
                    code = self._ask(str(self._running.pop(name).pid))
                    raise ServiceError(f"{name} ended at start (exit {code}).{_tail(running.log)}")
                if time.monotonic() > until:
                    raise ServiceError(f"{name} is not ready after {timeout_s:.0f} s.{_tail(running.log)}")

    def _is_ready(self, name: str) -> bool:
        if name in self._ports:
            return self._health(name) == http.client.OK
        return self._running[name].ready_file.exists()

    def _health(self, name: str) -> int | None:
        """The status of its answer; None where there is none. One that listens not yet is waited for."""
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[name], timeout=_HEALTH_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def _tail(log: Path) -> str:
    """The end of a log, and the cure of what it says."""
    lines = log.read_text(errors="replace").splitlines()
    cure = next((cure for word, cure in _CURES if any(word in line for line in lines)), "")
    shown = "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (it said nothing)"
    return f" Its log ({log}) ends:\n{shown}" + (f"\n{cure}" if cure else "")


def surroundings() -> dict[str, str]:
    """What every service gets: the demo's own variables, and how telemetry is to go.

    Settings of OpenTelemetry, of tracekit and of Kafka that were meant for other programs are left out.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "TRACEKIT_", "KAFKA_"))
    }
    return {
        **inherited,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        # Somebody is watching: 0.2 s instead of the 5 s and 1 s of the specification.
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_BLRP_SCHEDULE_DELAY": "200",
        "OTEL_PYTHON_EXCLUDED_URLS": "health",
        "TRACEKIT_WAIT_SPANS": "true",  # for those who look with Jaeger
        "PYTHONUNBUFFERED": "1",
    }
