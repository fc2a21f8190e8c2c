"""The collector in a process of its own, on a directory; for the ingest benchmark.

    python -m benchmarks.collector_server FOLDER [--profile FILE]

Prints its addresses as one line of JSON; ends when its standard input closes. With --profile, FILE says
then where the time of all its threads went: `python -m pstats FILE`.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import json
import pstats
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import CollectorServer


def _store(folder: Path) -> Any:
    try:
        disk = importlib.import_module("tracekit.collector.disk")
    except ImportError:
        return nullcontext(MemoryStore())
    return disk.DiskStore(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--profile", type=Path, help="a file for what cProfile saw")
    arguments = parser.parse_args()
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profiles.append(cProfile.Profile())
        profiles[-1].enable()

    if arguments.profile:
        threading.setprofile(begin)
    with _store(arguments.folder) as store, CollectorServer(store) as server:
        print(json.dumps({"otlp": server.http_endpoint, "api": ""}), flush=True)
        sys.stdin.read()
    if profiles:
        pstats.Stats(*profiles).dump_stats(arguments.profile)


if __name__ == "__main__":
    main()
