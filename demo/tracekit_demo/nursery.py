"""The process that imports once what all programs of the shop need, and forks each of them from there.

Six programs that import FastAPI, SQLAlchemy and OpenTelemetry one by one keep two cores busy for ten
seconds. `python -P -m tracekit_demo.nursery FD` takes requests from the Unix socket FD, one at a time:

    a program's name and what its environment has besides, as JSON, with its standard input, its output
    and perhaps the socket that it serves HTTP on as file descriptors: the answer is its process id
    a process id: the answer is the exit code of that program, once it has ended

It ends when the other side of the socket does. So do its programs with that of their standard input.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
from typing import Final, NamedTuple

_SHARED: Final = (
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.instrumentation.fastapi",
    "opentelemetry.instrumentation.httpx",
    "opentelemetry.sdk.metrics",
    "opentelemetry.sdk.trace",
    "httpcore",
    "httpx",
    "pydantic.v1",
    "requests",
    "sqlalchemy.dialects.sqlite",
    "sqlite3",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "tracekit_demo.shop.consuming",
    "tracekit_demo.shop.database",
    "tracekit_demo.shop.logs",
)
_END_S: Final = 10.0
_REQUEST_SIZE: Final = 1 << 20


class Program(NamedTuple):
    """What a fork is to become; `descriptor` is the socket that it serves HTTP on."""

    name: str
    descriptor: int | None


def main(control: socket.socket) -> None:
    """Serve until the other side is gone; in each fork, run its program until SIGTERM."""
    # What is imported is never garbage: to look for some among it takes an eighth of the time, and in each
    # fork it would be looked at again.
    gc.disable()
    for name in _SHARED:
        importlib.import_module(name)
    from tracekit import configure, process  # noqa: F401 - what is behind these comes with their first use

    gc.freeze()
    gc.enable()
    program = _asked_for(control)
    if program is None:
        return
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
    module = f"tracekit_demo.shop.{program.name}"
    if program.descriptor is None:
        runpy.run_module(module, run_name="__main__")
    else:
        import uvicorn

        uvicorn.run(f"{module}:app", fd=program.descriptor, log_level="warning", timeout_graceful_shutdown=3)


def _asked_for(control: socket.socket) -> Program | None:
    """The program to become, in a fork; None in the nursery, at its end."""
    while True:
        said, descriptors, _, _ = socket.recv_fds(control, _REQUEST_SIZE, 3)
        if not said:
            return None
        request = json.loads(said)
        if isinstance(request, int):
            _, status = os.waitpid(request, 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                control.close()
                return _program(*request, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        control.sendall(str(answer).encode())


def _program(
    name: str, environment: dict[str, str], lifeline: int, log: int, descriptor: int | None = None
) -> Program:
    os.environ.update(environment)
    for source, *targets in ((lifeline, 0), (log, 1, 2)):
        for target in targets:
            os.dup2(source, target)
        os.close(source)
    return Program(name, descriptor)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)  # nobody is left who would kill it
    os._exit(1)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
