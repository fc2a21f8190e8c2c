"""A command of tracekit under a profiler that sees all threads.

    python -m benchmarks.profiled FILE serve --data ./flows

At its end FILE says where the CPU time of the threads that it started went: `python -m pstats FILE`.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import threading
import time

from tracekit.cli import main

if __name__ == "__main__":
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    threading.setprofile(begin)
    code = main(sys.argv[2:])
    pstats.Stats(*profiles).dump_stats(sys.argv[1])
    sys.exit(code)
