"""The demo's collector: what `tracekit serve` is made of, in this process and in the demo's directory."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from tracekit.collector.api import create_api
from tracekit.collector.disk import DiskStore
from tracekit.collector.folder import FolderError
from tracekit.collector.server import CollectorError, CollectorServer
from tracekit.sources import API_PORT
from tracekit_demo.given import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracekit.collector.archive import Archive

HTTP_PORT: Final = 4318
GRPC_PORT: Final = 4317


class Collector(NamedTuple):
    """A collector that runs: its flows, where OTLP goes, and where its query API is."""

    archive: Archive
    endpoint: str
    api: str


@contextmanager
def collecting(folder: Path, *, is_public: bool) -> Iterator[Collector]:
    """Collect into this directory until the block ends. Raises DemoError.

    `is_public`: on the standard ports where they are free, for `tracekit flows` and other people's services.
    """
    http, grpc, api = map(_free, (HTTP_PORT, GRPC_PORT, API_PORT)) if is_public else (0, 0, 0)
    with ExitStack() as started:
        try:
            archive = started.enter_context(DiskStore(folder, progress=print))
            server = CollectorServer(
                archive, http_port=http, grpc_port=grpc, pages=create_api(archive), pages_port=api
            )
            started.enter_context(server)
        except (FolderError, CollectorError) as error:
            raise DemoError(str(error)) from error
        except OSError as error:
            raise DemoError(f"{folder} cannot be read: {error}. Name another: --data FOLDER") from error
        yield Collector(archive, server.http_endpoint, server.pages_endpoint)


def _free(port: int) -> int:
    """This port, or any where it is taken."""
    with socket.socket() as probe:
        # As the collector binds it: a port that has only just been closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
