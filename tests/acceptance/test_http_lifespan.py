"""The end of a server: what is unsent goes out, and nothing waits for it that need not."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from anyio import to_thread
from fastapi import FastAPI
from opentelemetry import trace

from tracekit.testing.environment import only

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracekit.testing import FlowSink

LATE = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}


async def served(app: Any) -> list[str]:
    """The application's whole life in a server: what it said."""
    said: list[str] = []
    wishes = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(wishes)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return said


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_unsent_goes_out_before_the_server_learns_of_the_end(
    flow_sink: FlowSink, fails: bool
) -> None:
    import tracekit

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        trace.get_tracer("program").start_span("work").end()
        yield
        if fails:
            raise ValueError("no end")

    with only({**flow_sink.env, **LATE}), tracekit.configure("orders", quiet=True):
        if fails:
            with pytest.raises(ValueError, match="no end"):
                asyncio.run(served(FastAPI(lifespan=life)))
        else:
            said = asyncio.run(served(FastAPI(lifespan=life)))
            assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        names = [span.name for span in flow_sink.spans]

    assert names == ["work"]


def test_it_waits_for_no_thread_of_the_application_s(flow_sink: FlowSink) -> None:
    import tracekit

    release = threading.Event()

    async def main() -> float:
        to_thread.current_default_thread_limiter().total_tokens = 1
        busy = asyncio.create_task(to_thread.run_sync(release.wait, 30))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await served(FastAPI())
        took_s = time.monotonic() - began
        release.set()
        await busy
        return took_s

    with only({**flow_sink.env, **LATE}), tracekit.configure("orders", quiet=True):
        assert asyncio.run(main()) < 5
