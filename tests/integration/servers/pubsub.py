"""Google Pub/Sub's own fake server, which its client library in Go is tested with."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.integration.servers.process import free_ports, listens, running
from tests.integration.servers.programs import made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def pubsub(folder: Path) -> Iterator[str]:
    """Its address, which clients take as PUBSUB_EMULATOR_HOST."""
    program = made("pubsub")
    (port,) = free_ports(1)
    with running("pubsub", [program, f"127.0.0.1:{port}"], folder, lambda: listens(port)):
        yield f"127.0.0.1:{port}"
