"""An event loop in a thread, for a station that is no coroutine and whose next client is one."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine

_PATIENCE_S: Final = 20


class Loop:
    """Runs what it is given in its thread; that ends with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="sending", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What it gives."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)
