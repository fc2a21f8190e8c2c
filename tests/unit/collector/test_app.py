"""OTLP over HTTP: the room that bodies share."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, cast

import pytest

from tracekit.collector.app import MAX_HELD_BYTES, PATIENCE_S, create_app
from tracekit.collector.intake import Intake
from tracekit.collector.memory import MemoryStore
from tracekit.model import Span
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

    from starlette.types import ASGIApp, Scope

GOOD = encode_spans([Span("1" * 32, "2" * 16, "send orders", 1, 2)])
SIZE = MAX_HELD_BYTES // 4
SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/v1/traces",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/x-protobuf")],
}


class Sender:
    """One request, and its answer's status."""

    def __init__(self, app: ASGIApp) -> None:
        self._pieces: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(app))

    async def _run(self, app: ASGIApp) -> None:
        await app(cast("Scope", SCOPE), self._pieces.get, self._hear)

    async def _hear(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._answer.set_result(message["status"])

    async def send(self, piece: bytes) -> None:
        """And see it read."""
        await self._pieces.put({"type": "http.request", "body": piece, "more_body": True})
        while not self._pieces.empty():
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def end(self, piece: bytes) -> int:
        await self._pieces.put({"type": "http.request", "body": piece, "more_body": False})
        await self._task
        return await self._answer


@pytest.mark.parametrize("trickle", [b"", b"\0"])
def test_bodies_that_do_not_come_make_room_for_others(trickle: bytes) -> None:
    now = [0.0]

    async def answers() -> list[int]:
        app = create_app(intake, now_s=lambda: now[0])
        stalled = [Sender(app) for _ in range(4)]
        for sender in stalled:
            await sender.send(bytes(SIZE - 4))
        early = await Sender(app).end(GOOD)
        now[0] += PATIENCE_S + 0.1
        await stalled[0].send(trickle)
        late = await Sender(app).end(GOOD)
        return [early, late, *[await sender.end(b"\0") for sender in stalled]]

    with closing(Intake(MemoryStore())) as intake:
        # The room of one was enough; what the others hold is no OTLP.
        assert asyncio.run(answers()) == [503, 200, 503, 400, 400, 400]


def test_a_body_that_comes_makes_no_room_for_others() -> None:
    now = [0.0]

    async def answers() -> list[int]:
        app = create_app(intake, now_s=lambda: now[0])
        coming = [Sender(app) for _ in range(4)]
        for sender in coming:
            await sender.send(bytes(SIZE // 2))
        now[0] += PATIENCE_S + 0.1
        for sender in coming:
            await sender.send(bytes(SIZE // 2 - 4))
        return [await Sender(app).end(GOOD), *[await sender.end(b"\0") for sender in coming]]

    with closing(Intake(MemoryStore())) as intake:
        assert asyncio.run(answers()) == [503, 400, 400, 400, 400]
