"""NATS: one server of Debian's, with JetStream in a folder of its own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.integration.servers.packages import found
from tests.integration.servers.process import free_ports, listens, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def nats(folder: Path) -> Iterator[str]:
    """The address that clients are given, once it takes them. What it holds is gone with its folder."""
    (port,) = free_ports(1)
    command: list[str | Path] = [
        found("nats-server") or "nats-server",
        *("--addr", "127.0.0.1", "--port", str(port)),
        *("--jetstream", "--store_dir", folder / "streams"),
    ]
    with running("nats", command, folder, lambda: listens(port)):
        yield f"nats://127.0.0.1:{port}"
