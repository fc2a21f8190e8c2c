"""The OpenTelemetry Collector, on any of the configurations in `collector-config`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.integration.servers.process import Server, answers, running
from tests.integration.servers.programs import ROOT, made, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CONFIGURATIONS: Final = ROOT / "collector-config"


def validated(configuration: Path, environment: Mapping[str, str]) -> None:
    """Raises ProgramError where the Collector does not take the configuration."""
    run([made("otelcol"), "validate", f"--config={configuration}"], environment=environment)


@contextmanager
def collector(
    folder: Path,
    configuration: Path,
    environment: Mapping[str, str],
    *,
    health_port: int,
    name: str = "otelcol",
    changes: Path | None = None,
) -> Iterator[Server]:
    """Ready: its health check, which the configuration must have at that port of loopback, says so.

    `changes` is a configuration whose values go before.
    """
    files = [configuration] if changes is None else [configuration, changes]
    command: list[str | Path] = [made("otelcol"), *(f"--config={path}" for path in files)]
    with running(
        name, command, folder, lambda: answers(f"http://127.0.0.1:{health_port}"), environment
    ) as server:
        yield server
