"""Sends to a collector whose files may grow no further, then may; prints what became of it as JSON."""

from __future__ import annotations

import http.client
import json
import random
import resource
import sys
from pathlib import Path

from tracekit.collector.disk import DiskStore
from tracekit.collector.server import CollectorServer
from tracekit.model import Span
from tracekit.otlp import encode_spans

SPANS_EACH = 100
ROOM = 300_000


def main() -> None:
    folder = Path(sys.argv[1])
    with DiskStore(folder) as store, CollectorServer(store) as collector:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
        full = [send(collector, number) for number in range(60)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        freed = [send(collector, number) for number in range(60, 80)]
        said = collector.status()["refused"]
    with DiskStore(folder) as store:
        found = sorted({(int(span.trace_id, 16) - 1) // SPANS_EACH for span in store.spans()})
        number = len(store.spans())
    print(json.dumps({"full": full, "freed": freed, "refused": said, "found": found, "spans": number}))


def send(collector: CollectorServer, number: int) -> tuple[int, str | None]:
    """Spans whose texts no compression makes small; the status, and when to come again."""
    first = number * SPANS_EACH
    ids = range(first, first + SPANS_EACH)
    spans = [Span(f"{one + 1:032x}", f"{one + 1:016x}", random.randbytes(100).hex(), 1, 2) for one in ids]
    connection = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=60)
    connection.request("POST", "/v1/traces", encode_spans(spans), {"content-type": "application/x-protobuf"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("retry-after")


if __name__ == "__main__":
    main()
