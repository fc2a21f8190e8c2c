"""Google Pub/Sub's own fake server, as `programs` makes it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tracekit_demo.servers import pubsub as server

from tests.integration.servers.programs import made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def pubsub(folder: Path) -> Iterator[str]:
    """Its address, which clients take as PUBSUB_EMULATOR_HOST."""
    with server.pubsub(folder, made("pubsub")) as address:
        yield address
