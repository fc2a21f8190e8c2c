"""The collector in a process of its own, on a directory; for the ingest benchmark.

    python -m benchmarks.collector_server FOLDER [--profile FILE]

Prints its addresses as one line of JSON; ends when its standard input closes. With --profile, FILE says
then where the CPU time of all its threads went: `python -m pstats FILE`.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import threading
import time
from pathlib import Path

from tracekit.collector.api import create_api
from tracekit.collector.disk import DiskStore
from tracekit.collector.server import CollectorServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--profile", type=Path, help="a file for what cProfile saw")
    arguments = parser.parse_args()
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    if arguments.profile:
        threading.setprofile(begin)
    with (
        DiskStore(arguments.folder) as store,
        CollectorServer(store, pages=create_api(store)) as server,
    ):
        print(json.dumps({"otlp": server.http_endpoint, "api": server.pages_endpoint}), flush=True)
        sys.stdin.read()
    if profiles:
        pstats.Stats(*profiles).dump_stats(arguments.profile)


if __name__ == "__main__":
    main()
