"""A collector in a process of its own: prints its ports, then what is asked for on its standard input.

`reset` begins the peak of its memory anew; `peak` gives it in bytes, `status` what it refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tracekit.collector.memory import MemoryStore
from tracekit.collector.server import CollectorServer

MAX_BYTES = 8 * 1024 * 1024
"""Of the store, for each signal."""


def main() -> None:
    with CollectorServer(MemoryStore(max_bytes=MAX_BYTES), request_timeout_s=10) as collector:
        print(collector.http_port, collector.grpc_port, flush=True)
        for line in sys.stdin:
            answer: object = None
            if line == "reset\n":
                Path("/proc/self/clear_refs").write_text("5")
            elif line == "peak\n":
                said = Path("/proc/self/status").read_text().split()
                answer = int(said[said.index("VmHWM:") + 1]) * 1024
            else:
                answer = collector.status()["refused"]
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
