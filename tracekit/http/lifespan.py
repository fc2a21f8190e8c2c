"""The end of a server: what is unsent goes out while there is time.

A server that SIGTERM told to end, ends its application first and then itself by that signal (uvicorn
does); what is registered for the end of Python does not run then. Source: ASGI's lifespan protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracekit.guard import shielded

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Send

_ENDED: Final = ("lifespan.shutdown.complete", "lifespan.shutdown.failed")


def flushing(send: Send, flush: Callable[[], object]) -> Send:
    """The server's `send`; before it learns that the application has ended, `flush` is called in a thread."""

    async def send_on(message: Message) -> None:
        if message["type"] in _ENDED:
            with shielded("the end of a server"):
                from anyio import CapacityLimiter, to_thread  # Starlette's: for any event loop

                # A limiter of its own: the application's may hold all threads that others may have.
                await to_thread.run_sync(flush, limiter=CapacityLimiter(1), abandon_on_cancel=True)
        await send(message)

    return send_on
