"""Redis: one server of Debian's, with nothing on disk."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracekit_demo.servers.process import Server, free_ports, listens, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Redis:
    """A server that runs."""

    server: Server
    port: int

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def redis(folder: Path, port: int | None = None) -> Iterator[Redis]:
    """Ready for clients. What it holds is gone with it; `port` is that of an earlier one."""
    (port,) = free_ports(1) if port is None else (port,)
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
    command = [
        "redis-server",
        *(str(part) for name, value in options.items() for part in (f"--{name}", value)),
    ]
    with running("redis", command, folder, lambda: listens(port)) as server:
        yield Redis(server, port)
