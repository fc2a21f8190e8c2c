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
from contextlib import ExitStack
from pathlib import Path

from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import CollectorServer


def _server(folder: Path, ends: ExitStack) -> CollectorServer:
    try:
        disk = importlib.import_module("tracekit.collector.disk")
        api = importlib.import_module("tracekit.collector.api")
    except ImportError:
        return CollectorServer(MemoryStore())
    store = ends.enter_context(disk.DiskStore(folder))
    return CollectorServer(store, pages=api.create_api(store))


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
    with ExitStack() as ends:
        server = ends.enter_context(_server(arguments.folder, ends))
        api = server.pages_endpoint if server.pages_port else ""
        print(json.dumps({"otlp": server.http_endpoint, "api": api}), flush=True)
        sys.stdin.read()
    if profiles:
        pstats.Stats(*profiles).dump_stats(arguments.profile)


if __name__ == "__main__":
    main()
