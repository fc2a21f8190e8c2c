"""Google Pub/Sub's own fake server, which its client library in Go is tested with."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tracekit_demo.servers.process import free_ports, listens, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def pubsub(folder: Path, program: Path) -> Iterator[str]:
    """Its address, which clients take as PUBSUB_EMULATOR_HOST. `program` is what `demo/pubsub` builds."""
    (port,) = free_ports(1)
    with running("pubsub", [program, f"127.0.0.1:{port}"], folder, lambda: listens(port)):
        yield f"127.0.0.1:{port}"
