"""A `tracekit serve` of its own process, on free ports, and the commands that ask it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tests.e2e.programs import environment
from tracekit import cli
from tracekit.otlp import encode_logs, encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tracekit.model import LogLine, Span

TRACEKIT: Final = (sys.executable, "-m", "tracekit")
US: Final = " ".join(TRACEKIT)
"""How they say it is called."""
FREE: Final = ("--http-port", "0", "--grpc-port", "0", "--port", "0")
PATIENCE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str


class Serving:
    """A server that runs: what it said as it began, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], complaints: IO[str]) -> None:
        self.process = process
        self._complaints = complaints
        self.greeting = ""
        assert process.stdout is not None
        for row in process.stdout:
            self.greeting += row
            if row.startswith(("  look", "Without")):
                break
        self.otlp, self.grpc, self.api, *_ = [*re.findall(r"http://[\d.]+:\d+", self.greeting), "", "", ""]

    def send(self, spans: Iterable[Span], lines: Iterable[LogLine] = ()) -> None:
        """Over OTLP, as an exporter does."""
        opener = build_opener(ProxyHandler({}))
        for signal_, body in (("traces", encode_spans(spans)), ("logs", encode_logs(lines))):
            headers = {"content-type": "application/x-protobuf"}
            with opener.open(Request(f"{self.otlp}/v1/{signal_}", body, headers)) as answer:
                assert answer.status == 200

    def end(self, *signals: int) -> Ended:
        """What it said after its greeting; Ctrl-C, where no signals are given."""
        if self.process.poll() is None:
            for number in signals or (signal.SIGINT,):
                self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        self._complaints.seek(0)
        return Ended(self.process.returncode, out, self._complaints.read())


@contextmanager
def serving(data: Path, *options: str) -> Iterator[Serving]:
    """`tracekit serve` with its data there, until the end of the block; `options` instead of free ports."""
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [*TRACEKIT, "serve", "--data", str(data), *(options or FREE)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            process_group=0,  # its own: Ctrl-C here is not for it
        )
        try:
            yield Serving(process, complaints)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def tracekit(*arguments: str, **variables: str) -> Ended:
    """A command, run to its end."""
    done = subprocess.run(
        [*TRACEKIT, *arguments],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def tracekit_here(*arguments: str, **variables: str) -> Ended:
    """The same within this process, which takes a tenth of the time; for what only asks."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        for name, value in {"COLUMNS": "100", **variables}.items():
            patched.setenv(name, value)
        code = cli.main([*arguments])
    return Ended(code, out.getvalue(), err.getvalue())
