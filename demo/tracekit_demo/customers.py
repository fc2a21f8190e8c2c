"""The shop's customers: an order every other second, all modes and endings in turn, until SIGTERM.

`python -m tracekit_demo.customers`, in a container of its own (see compose.yaml). `ORDERS_URL` is where
orders are taken, `ORDER_EVERY_S` how many seconds apart; `LOOK` is said after the first answer: where to
look at it.
"""

from __future__ import annotations

import http.client
import os
import signal
import sys
import time
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tracekit_demo.client import place
from tracekit_demo.scenarios import stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracekit_demo.scenarios import Scenario


def main(environment: Mapping[str, str] = os.environ) -> None:
    """Place orders until told to stop. A shop that does not answer is asked again."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    orders = urlsplit(environment["ORDERS_URL"])
    look = environment.get("LOOK", "")
    for number, scenario in enumerate(stream(Random(1)), 1):
        said = placed(scenario, orders.hostname or "127.0.0.1", orders.port or 80)
        print(f"order {number}: {said}", flush=True)
        if look and not said.startswith("no answer"):
            print(look.rstrip(), flush=True)
            look = ""
        time.sleep(float(environment.get("ORDER_EVERY_S", "2")))


def placed(scenario: Scenario, host: str, port: int) -> str:
    """What became of the order, as a line."""
    try:
        flow_id, status = place(port, scenario, host=host)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from http://{host}:{port} ({error})"
    return f"{scenario.mode}, {scenario.ending}: {status}   flow {flow_id}"


if __name__ == "__main__":
    main()
