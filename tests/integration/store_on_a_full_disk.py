"""A store whose disk fills up and has room again, in one process; says what it sees as JSON.

Its directory is a small disk of its own, and is filled from outside the store.
"""

from __future__ import annotations

import json
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tracekit.collector.disk import DiskStore
from tracekit.flow.search import Query
from tracekit.model import Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

SOON_S = 60.0


def main() -> None:
    disk = Path(sys.argv[1])
    rnd = random.Random(5)
    kept: list[str] = []

    def add(store: DiskStore, padding: int) -> bool:
        trace = rnd.randbytes(16).hex()
        attributes = {"padding": rnd.randbytes(padding).hex()}
        name = f"POST /{len(kept)}"  # a new shape each
        span = Span(trace, trace[:16], name, 10**18 + len(kept), 10**18 + len(kept), attributes=attributes)
        try:
            store.add_spans([span])
        except OSError:
            return False
        kept.append(trace)
        return True

    with DiskStore(disk / "data") as store:
        assert add(store, 10)
        listed = [len(store.find(Query(())).flows)]
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            fill(ballast, leave=100_000)
            while add(store, 100):
                pass
            fill(ballast, leave=0)
            listed.append(len(store.find(Query(())).flows))
            wait_for(lambda: any("disk" in trouble for trouble in store.held().troubles))
        (disk / "ballast").unlink()
        for _ in range(20):
            assert add(store, 100)
        wait_for(lambda: len(everything(store)) == len(kept))
        found = everything(store)
        again = {flow for flow in kept if store.build(flow) is not None}
    print(json.dumps({"listed": listed, "kept": len(kept), "found": len(found), "built": len(again)}))


def everything(store: DiskStore) -> set[str]:
    found: set[str] = set()
    page = store.find(Query(()))
    while True:
        found |= {flow.id for flow in page.flows}
        if page.next is None:
            return found
        page = store.find(Query(()), after=page.next)


def fill(ballast: FileIO, leave: int) -> None:
    """Until no byte is left, then give so many back."""
    for piece in (bytes(65536), bytes(4096), bytes(1)):
        with suppress(OSError):
            while True:
                ballast.write(piece)
    ballast.truncate(ballast.tell() - leave)
    ballast.seek(0, 2)


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


if __name__ == "__main__":
    main()
