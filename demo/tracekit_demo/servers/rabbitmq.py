"""RabbitMQ: one node of Debian's, with its data in a folder, and an epmd of its own.

A node that finds no epmd starts one, which outlives it: here it is there before, and ended after it.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tracekit_demo.servers.process import Server, free_ports, listens, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COMMAND: Final = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Not the one on the PATH: that one is for root, and becomes another user."""


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """A broker that runs. `guest` may come in from this machine."""

    server: Server
    ports: tuple[int, int, int]
    """Of AMQP, the node, and its epmd."""
    _pid: Path = field(repr=False)

    @property
    def port(self) -> int:
        """Where it takes AMQP."""
        return self.ports[0]

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def kill(self) -> None:
        """At once, as a machine that fails does: the node, whose launcher ends with it."""
        os.kill(int(self._pid.read_text()), signal.SIGKILL)
        self.server.process.wait()


@contextmanager
def rabbitmq(folder: Path, ports: tuple[int, int, int] | None = None) -> Iterator[RabbitMQ]:
    """Ready for clients. `ports` are those of an earlier one, whose data is in the folder."""
    port, node, epmd = ports or free_ports(3)
    (folder / "plugins").write_text("[].")
    names = {
        "HOME": folder,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": epmd,
        "RABBITMQ_NODENAME": f"tracekit{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": port,
        "RABBITMQ_DIST_PORT": node,
        "RABBITMQ_MNESIA_BASE": folder / "db",
        "RABBITMQ_LOG_BASE": folder / "log",
        "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
        "RABBITMQ_PID_FILE": folder / "pid",
    }
    environment = {name: str(value) for name, value in names.items()}
    names_of_nodes = ["epmd", "-port", str(epmd), "-address", "127.0.0.1"]
    with (
        running("epmd", names_of_nodes, folder, lambda: listens(epmd)),
        running("rabbitmq", [_COMMAND], folder, lambda: listens(port), environment) as server,
    ):
        yield RabbitMQ(server, (port, node, epmd), folder / "pid")
