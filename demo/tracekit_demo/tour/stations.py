"""The tour's processes: started together, awaited until each can take an order, ended by their ids."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from tracekit_demo.given import DemoError
from tracekit_demo.servers.process import free_ports
from tracekit_demo.services import surroundings
from tracekit_demo.tour.systems import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_READY_S: Final = 120.0
_END_S: Final = 5.0
_POLL_S: Final = 0.05
_TAIL: Final = 20


@contextmanager
def stations(names: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[int]:
    """The port of the first station, once all of these are ready, until the block ends. Raises DemoError."""
    called = [name for name in names if not SYSTEMS[name].server]
    ports = dict(zip(called, free_ports(len(called)), strict=True))
    shared = {
        **surroundings(),
        "GOOGLE_CLOUD_PROJECT": "tour",
        **environment,
        **{f"TOUR_{name.upper()}_PORT": str(port) for name, port in ports.items()},
    }
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, following in zip(names, [*names[1:], ""], strict=True):
            own = {"TOUR_NEXT": following, "READY_FILE": str(folder / f"{name}.ready")}
            with (folder / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tracekit_demo.tour.station", name],
                    env={**shared, **own},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # Ctrl-C is for the demo, which ends them
                )
        _await_ready(running, folder)
        yield ports[names[0]]
    finally:
        _end(running)


def _await_ready(running: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    until = time.monotonic() + _READY_S
    for name, process in running.items():
        while not (folder / f"{name}.ready").exists():
            if process.poll() is not None:
                raise DemoError(f"station {name} ended with {process.returncode}.{_tail(folder, name)}")
            if time.monotonic() > until:
                raise DemoError(f"station {name} is not ready after {_READY_S:.0f} s.{_tail(folder, name)}")
            time.sleep(_POLL_S)


def _end(running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for process in running.values():
        with suppress(ProcessLookupError):
            process.terminate()
    until = time.monotonic() + _END_S
    for process in running.values():
        try:
            process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(folder: Path, name: str) -> str:
    log = folder / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
    return f" Its log ({log}) ends:\n" + "\n".join(f"  {line}" for line in lines)
