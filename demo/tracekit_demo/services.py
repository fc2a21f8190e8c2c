"""The shop's processes: started on ports of loopback, awaited until ready, ended together."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

SERVING: Final = ("orders", "payment", "inventory", "notification")
CONSUMING: Final = ("analytics", "audit")

READY_S: Final = 60.0
_POLL_S: Final = 0.05
_END_S: Final = 5.0
_TAIL_LINES: Final = 20

_CURES: Final = (
    ("No module named 'psycopg", "PostgreSQL needs its driver: pip install 'tracekit[postgres]'"),
    ("No module named", "Something is not installed: pip install 'tracekit[demo]'"),
    ("NoBrokersAvailable", "No Kafka answers. Look at --kafka, or leave it away: a Kafka is on board."),
    ("KafkaTimeoutError", "Kafka does not answer. Look at --kafka, or leave it away: a Kafka is on board."),
    ("sqlalchemy.exc.", "The database does not let it in. Look at --database, or leave it away."),
)


class ServiceError(RuntimeError):
    """A service did not come up; the text has the end of its log and what to do."""


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    log: Path
    ready_file: Path


class Services:
    """The shop's processes within a with-block. `environment` is what all of them get besides their own."""

    def __init__(self, environment: Mapping[str, str], folder: Path, *, database: str | None = None) -> None:
        self._folder = folder
        self._database = database
        self._running: dict[str, _Running] = {}
        # Bound here and handed down, so that no port can be taken in between, and all know all.
        self._sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in SERVING}
        self._ports: dict[str, int] = {name: bound.getsockname()[1] for name, bound in self._sockets.items()}
        urls = {f"{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in self._ports.items()}
        self._environment = {**environment, **urls}

    def port(self, name: str) -> int:
        """Where it serves HTTP, on 127.0.0.1."""
        return self._ports[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bound in self._sockets.values():
            bound.close()
        for running in self._running.values():
            running.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _END_S
        for running in self._running.values():
            try:
                running.process.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            assert running.process.stdin is not None  # it was asked for
            running.process.stdin.close()

    def start(self, names: Iterable[str]) -> None:
        """Start these; they come up side by side."""
        for name in names:
            self._running[name] = self._started(name)

    def _started(self, name: str) -> _Running:
        log, ready = self._folder / f"{name}.log", self._folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        environment = {
            **self._environment,
            "DATABASE_URL": self._database or f"sqlite:///{self._folder / name}.db",
            "READY_FILE": str(ready),
        }
        bound = self._sockets.pop(name, None)
        descriptors = [bound.fileno()] if bound else []
        with log.open("wb") as output, contextlib.ExitStack() as after:
            if bound:
                after.enter_context(bound)  # the child's alone: when it dies, callers are refused
            process = subprocess.Popen(
                [sys.executable, "-m", "tracekit_demo.child", name, *map(str, descriptors)],
                env=environment,
                pass_fds=descriptors,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for the demo, which ends them in order
            )
        return _Running(process, log, ready)

    def wait_ready(self, names: Iterable[str], timeout_s: float = READY_S) -> None:
        """Return once all of these are ready. Raises ServiceError if one dies, or not all are in time."""
        until = time.monotonic() + timeout_s
        for name in names:
            running = self._running[name]
            while not (self._is_healthy(name) if name in self._ports else running.ready_file.exists()):
                if running.process.poll() is not None:
                    raise ServiceError(
                        f"{name} ended at start (exit {running.process.returncode}).{self._tail(name)}"
                    )
                if time.monotonic() > until:
                    raise ServiceError(f"{name} is not ready after {timeout_s:.0f} s.{self._tail(name)}")
                time.sleep(_POLL_S)

    def _is_healthy(self, name: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[name], timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _tail(self, name: str) -> str:
        log = self._running[name].log
        lines = log.read_text(errors="replace").splitlines()
        cure = next((cure for word, cure in _CURES if any(word in line for line in lines)), "")
        shown = "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (it said nothing)"
        return f" Its log ({log}) ends:\n{shown}" + (f"\n{cure}" if cure else "")


def environment(endpoint: str, kafka: Mapping[str, str]) -> dict[str, str]:
    """What every service gets: the settings of telemetry and of Kafka, and else what we have ourselves.

    Settings of OpenTelemetry and of tracekit that were meant for other programs are left out.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "TRACEKIT_", "KAFKA_"))
    }
    return {
        **inherited,
        **kafka,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        # Somebody is watching: 0.2 s instead of the 5 s and 1 s of the specification.
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_BLRP_SCHEDULE_DELAY": "200",
        "OTEL_PYTHON_EXCLUDED_URLS": "health",
        "PYTHONUNBUFFERED": "1",
    }
