"""SQS and SNS by moto: one server, in memory, with every region and account."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tracekit_demo.servers.process import Server, answers, free_ports, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SETTINGS: Final = {
    "region_name": "us-east-1",
    "aws_access_key_id": "tests",
    "aws_secret_access_key": "tests",
}


@dataclass(frozen=True, slots=True)
class Moto:
    """A moto that runs."""

    server: Server
    url: str

    @property
    def settings(self) -> dict[str, Any]:
        """What boto3's and aioboto3's clients are made with."""
        return {**_SETTINGS, "endpoint_url": self.url}


@contextmanager
def moto(folder: Path) -> Iterator[Moto]:
    """Ready for clients."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running("moto", command, folder, lambda: answers(f"{url}/moto-api/data.json")) as server:
        yield Moto(server, url)
