"""Runs one program of the shop as a child of the demo: `python -m tracekit_demo.child NAME [FD]`.

The child serves HTTP on a socket that the demo has bound (so that no port can be taken in between)
and ends with the demo: its standard input is a pipe that the demo holds open.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

_END_S: Final = 10.0


def main(name: str, descriptor: int | None) -> None:
    """Run the program until SIGTERM, or until who started it is gone."""
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
    module = f"tracekit_demo.shop.{name}"
    if descriptor is None:
        runpy.run_module(module, run_name="__main__")
    else:
        import uvicorn  # only those that serve need it

        uvicorn.run(f"{module}:app", fd=descriptor, log_level="warning", timeout_graceful_shutdown=3)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)  # nobody is left who would kill it
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
