"""The receivers that the ingest benchmark measures: tracekit's collector, and Jaeger where it is there.

Each runs as a process of its own, on one core, in a folder of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import psutil

from tests.integration.servers.programs import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JAEGER_CURE: Final = "To have it (five minutes, once): .venv/bin/python -m tests.integration.servers jaeger"

Kept: TypeAlias = Literal["memory", "badger"]
_PATIENCE_S: Final = 60
_ADDRESSES: Final = re.compile(r"OTLP +(\S+) .*API +(\S+)/api/flows\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Server:
    """A receiver that runs: where it takes OTLP over HTTP, and where it is asked."""

    process: psutil.Process
    otlp: str
    api: str

    @property
    def cpu_s(self) -> float:
        """What it has taken so far, all threads."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def resident(self) -> int:
        """Bytes of memory now."""
        return int(self.process.memory_info().rss)

    @property
    def most_resident(self) -> int:
        """Bytes of memory at most; 0 where the system does not say."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0


def cores() -> tuple[int, int] | None:
    """A core for the server, and one for everything else; None where they cannot be told apart."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


def jaeger() -> str | None:
    """The program, from PATH, or as the tests have made it."""
    made = PROGRAMS["jaeger"].path
    return shutil.which("jaeger") or (str(made) if made.exists() else None)


@contextmanager
def tracekit_server(folder: Path, core: int | None, profile: Path | None = None) -> Iterator[Server]:
    """`tracekit serve` on the folder, ready. `profile`: a file for where its time went."""
    program = ["tracekit"] if profile is None else ["benchmarks.profiled", str(profile)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--port", "0"]
    command = [sys.executable, "-m", *program, "serve", "--data", str(folder), *ports]
    with _process(command, core, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        while (found := _ADDRESSES.search(said)) is None:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"tracekit serve did not start: {said}")
            said += line
        yield Server(psutil.Process(process.pid), *found.groups())


@contextmanager
def jaeger_server(program: str, kept: Kept, folder: Path, core: int | None, traces: int) -> Iterator[Server]:
    """A Jaeger 2 that keeps so many traces in memory, or all of them in badger, on the folder."""
    otlp, query, query_grpc = (f"127.0.0.1:{port}" for port in _free_ports(3))
    badger = {"directories": {"keys": f"{folder}/keys", "values": f"{folder}/values"}, "ephemeral": False}
    config = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "error"}},
        },
        "extensions": {
            "jaeger_storage": {
                "backends": {
                    "kept": {"memory": {"max_traces": traces}} if kept == "memory" else {"badger": badger}
                }
            },
            "jaeger_query": {
                "storage": {"traces": "kept"},
                "http": {"endpoint": query},
                "grpc": {"endpoint": query_grpc},
            },
        },
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": otlp}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "kept"}},
    }
    written = folder / "jaeger.yaml"
    written.write_text(json.dumps(config))  # JSON is YAML
    with (folder / "jaeger.log").open("wb") as log:
        environment = {**os.environ, "GOMAXPROCS": "1"}
        command = [program, "--config", str(written)]
        with _process(command, core, env=environment, stdout=log, stderr=log) as process:
            server = Server(psutil.Process(process.pid), f"http://{otlp}", f"http://{query}")
            until = time.monotonic() + _PATIENCE_S
            while not _listens(otlp) or not _listens(query):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{program} did not start:\n{(folder / 'jaeger.log').read_text()}")
                time.sleep(0.05)
            yield server


@contextmanager
def _process(command: Sequence[str], core: int | None, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """The program, on the core; told to end with the block."""

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    with subprocess.Popen(command, preexec_fn=pin, **more) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_ports(number: int) -> list[int]:
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in bound]
    for each in bound:
        each.close()
    return ports


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


class Asking:
    """One kept connection to an API."""

    def __init__(self, api: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(api).netloc, timeout=_PATIENCE_S)

    def get(self, path: str) -> tuple[float, bytes]:
        """Seconds until the whole answer was there, and the answer. RuntimeError unless it is a 200."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        said = answer.read()
        took = time.perf_counter() - began
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status} {said[:500]!r}")
        return took, said

    def close(self) -> None:
        self._connection.close()
