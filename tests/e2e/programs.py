"""Programs of others, started as their users start them, and ended with the block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PLAIN: Final = Path(__file__).parent / "plain"
BIN: Final = Path(sys.executable).parent
TRACEKIT_RUN: Final = (str(BIN / "tracekit"), "run")
OPENTELEMETRY_INSTRUMENT: Final = (str(BIN / "opentelemetry-instrument"),)
PATIENCE_S: Final = 20
_OURS: Final = ("OTEL_", "TRACEKIT_", "COV_")


class Program:
    """A program that runs: what it said so far, and how it is ended."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes], complained: IO[bytes]) -> None:
        self.process = process
        self._said = said
        self._complained = complained

    @property
    def stdout(self) -> str:
        return _all(self._said)

    @property
    def stderr(self) -> str:
        return _all(self._complained)

    def end(self) -> int:
        """Ctrl-C, as in a terminal: its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)


def _all(file: IO[bytes]) -> str:
    return Path(file.name).read_text(encoding="utf-8", errors="replace")


def environment(**variables: str) -> dict[str, str]:
    """This process's variables without those that configure telemetry, and these; programs by name."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    own["PATH"] = os.pathsep.join([str(BIN), own.get("PATH", "")])
    return own | variables


@contextmanager
def running(
    command: Sequence[str],
    variables: Mapping[str, str],
    *,
    listening: socket.socket | None = None,
    folder: Path = PLAIN,
) -> Iterator[Program]:
    """The program, by default in the folder of the plain ones, until the end of the block."""
    with tempfile.NamedTemporaryFile() as said, tempfile.NamedTemporaryFile() as complained:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=complained,
            pass_fds=[] if listening is None else [listening.fileno()],
            process_group=0,  # its own: Ctrl-C here is not for it
        )
        program = Program(process, said, complained)
        try:
            yield program
        except BaseException as error:
            error.add_note(f"{' '.join(command)} said:\n{program.stdout}{program.stderr}")
            raise
        finally:
            try:
                program.end()
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """A socket for a server that starts later, and its URL: who asks meanwhile waits in its queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as bound:
        yield bound, f"http://127.0.0.1:{bound.getsockname()[1]}"


def uvicorn(app: str, bound: socket.socket, *arguments: str) -> list[str]:
    """`uvicorn app:app`, on a socket that listens already."""
    return ["uvicorn", app, "--fd", str(bound.fileno()), *arguments]
