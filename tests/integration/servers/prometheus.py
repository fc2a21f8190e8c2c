"""Prometheus: takes OTLP, as compose.yaml starts it, and answers queries."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.integration.servers.process import Server, answers, fetched, free_ports, running
from tests.integration.servers.programs import made, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that runs."""

    server: Server
    url: str

    def query(self, expression: str) -> list[Any]:
        """The series of an instant query. Raises AssertionError, with what it says, where it refuses."""
        found: list[Any] = self._asked("query", {"query": expression})["result"]
        return found

    def series(self) -> list[dict[str, str]]:
        """The labels of all series there are."""
        found: list[dict[str, str]] = self._asked("series", {"match[]": '{__name__=~".+"}'})
        return found

    def _asked(self, what: str, parameters: dict[str, str]) -> Any:
        status, said = fetched(f"{self.url}/api/v1/{what}?{urlencode(parameters)}")
        found = json.loads(said)
        assert status == 200, f"{parameters}: {found.get('error')}"
        return found["data"]


@contextmanager
def prometheus(folder: Path, configuration: Path, flags: Sequence[str]) -> Iterator[Prometheus]:
    """Ready; its series are in the folder."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [
        made("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'prometheus-data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *flags,
    ]
    with running("prometheus", command, folder, lambda: answers(f"{url}/-/ready")) as server:
        yield Prometheus(server, url)


def promtool(*arguments: str | Path, cwd: Path | None = None) -> str:
    """What promtool prints. Raises ProgramError where it finds something wrong."""
    return run([made("prometheus").with_name("promtool"), *arguments], cwd=cwd)
