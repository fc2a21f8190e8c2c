"""A station of the tour: takes orders by its client, and hands each on by that of the next.

`python -m tracekit_demo.tour.station NAME`, until SIGTERM. The environment says the rest: `TOUR_NEXT` is the
next station, empty for the last one; `READY_FILE` is there once orders may come; the systems' addresses stand
where their own clients look for them, or in the variables that `systems` names.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit_demo.tour.systems import SYSTEMS

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order

log = logging.getLogger(__name__)


def main(name: str) -> None:
    """Take orders until told to stop."""
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tracekit.configure(name)
    following = os.environ["TOUR_NEXT"]
    give: HandOn = _client(following).sender(following) if following else lambda _: None

    def hand_on(order: Order) -> None:
        give(order)
        log.info("handed on to %s", following or "the customer: it is done")

    _client(name).receive(name, hand_on)


def _client(name: str) -> Any:
    """The client's own module, imported once it is used: not every station has all of them."""
    return importlib.import_module(f"tracekit_demo.tour.clients.{SYSTEMS[name].module}")


if __name__ == "__main__":
    main(sys.argv[1])
