"""What the programs of the tiers take: processor time, memory, bytes on the wire and on disk."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from tests.integration.servers.process import Server

_CONNECTION: Final = re.compile(r"ESTAB\s+\d+\s+\d+\s+\S+:(\d+)\s+\S+:(\d+).*?bytes_acked:(\d+)")


class Parts:
    """Programs by what they are called in the table; several may be one part."""

    def __init__(self, servers: Callable[[], Mapping[str, Iterable[Server]]]) -> None:
        self._servers = servers

    def _processes(self) -> Iterable[tuple[str, psutil.Process]]:
        for part, servers in self._servers().items():
            for server in servers:
                yield part, psutil.Process(server.process.pid)

    def cpu_s(self) -> dict[str, float]:
        """Seconds of processor time that each has taken so far, all threads."""
        taken: dict[str, float] = defaultdict(float)
        for part, process in self._processes():
            times = process.cpu_times()
            taken[part] += times.user + times.system
        return taken

    def resident(self) -> Counter[str]:
        """Bytes of memory that each has now."""
        held: Counter[str] = Counter()
        for part, process in self._processes():
            held[part] += process.memory_info().rss
        return held


def received(ports: Mapping[int, str]) -> dict[tuple[str, int, int], int]:
    """Bytes that came over each open connection to these ports of loopback, by part; nothing without `ss`."""
    program = shutil.which("ss")
    if program is None:
        return {}
    said = subprocess.run([program, "-tinHO"], capture_output=True, text=True, check=True).stdout
    return {
        (ports[int(there)], int(here), int(there)): int(number)
        for here, there, number in _CONNECTION.findall(said)
        if int(there) in ports
    }


def grown(
    before: Mapping[tuple[str, int, int], int], after: Mapping[tuple[str, int, int], int]
) -> Counter[str]:
    """By how much, of each part. What a connection carried that was closed in between is not seen."""
    more: Counter[str] = Counter()
    for connection, number in after.items():
        more[connection[0]] += number - before.get(connection, 0)
    return more


def size(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files in it."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())
