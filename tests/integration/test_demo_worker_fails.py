"""A service of the shop whose worker cannot go on ends, as one that failed: who runs it starts it again."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import pytest

SERVICE: Final = """
import signal, sys
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from tracekit_demo.shop import consuming


class Broken:
    def subscribe(self, topics, listener): pass
    def partitions_for_topic(self, topic): raise RuntimeError("no such cluster")
    def close(self, timeout_ms): pass


consuming._consumer = lambda group, **more: Broken()


@asynccontextmanager
async def lifespan(app):
    worker = consuming.Worker("billing", {"orders": print})
    worker.start()
    yield
    worker.stop()
    print("ended in order", flush=True)


if sys.argv[1] == "first process":  # of a container: signals that nobody handles do nothing to it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
uvicorn.run(FastAPI(lifespan=lifespan), port=0, log_level="warning")
"""


@pytest.mark.parametrize(("where", "code"), [("anywhere", -signal.SIGTERM), ("first process", 1)])
def test_a_service_whose_worker_fails_ends_as_failed(where: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, where], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == code, done.stderr
    assert "no such cluster" in done.stdout + done.stderr
    assert done.stdout.endswith("ended in order\n")
