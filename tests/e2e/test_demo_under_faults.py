"""The demo under each of its faults: what the flows say, and that `--once` says no."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

import pytest

DEMO: Final = [sys.executable, "-m", "tracekit", "demo"]
PATIENCE_S: Final = 90
TIME: Final = r"[\d.]+ m?s"

SLOW: Final = rf"payment POST /charge took {TIME} of the {TIME} that the caller waited"
FAILED: Final = "failed: ConnectionError: the card network hung up"


@pytest.mark.parametrize(
    ("fault", "mark", "whole", "told"),
    [
        (
            "slow-payment",
            "▇",
            3,
            {
                "#1 sync": SLOW,
                "#2 async": rf"payment process order.created took {TIME} of the {TIME} "
                "until all was done",
                "#3 hybrid": SLOW,
            },
        ),
        (
            "failing-payment",
            "✕",
            0,
            {
                "#1 sync": f"payment POST /charge {FAILED}; the caller got 500",
                "#2 async": f"payment process order.created {FAILED}; what should follow from its message "
                "did not happen",
                "#3 hybrid": f"payment POST /charge {FAILED}; the caller got 500",
            },
        ),
        (
            "slow-consumer",
            "░",
            3,
            {
                "#3 hybrid": rf"order.confirmed waited {TIME} for notification, which then took {TIME}: "
                "notification was behind, or not there yet",
            },
        ),
        (
            "dropped-headers",
            "✕",
            2,
            {
                "#2 async": r"headers_lost  process stock.reserved \(notification\), "
                "after inventory process payment.authorized: The message brought no context. "
                "What follows is a flow of its own, [0-9a-f]{8}, found by its order.id. "
                "Instrument the producer, and keep the message headers wherever it is copied.",
            },
        ),
    ],
)
def test_once_under_a_fault_fails_and_says_what_the_flows_say(
    fault: str, mark: str, whole: int, told: dict[str, str]
) -> None:
    demo = subprocess.run(
        [*DEMO, "--once", "--fault", fault], capture_output=True, text=True, timeout=PATIENCE_S
    )

    assert (demo.returncode, demo.stderr) == (1, ""), demo.stdout
    end = f"\n{whole} of 3 flows have every edge of their mode, and no break\nWhat they say:\n"
    shown, _, summary = demo.stdout.partition(end)
    *lines, last = summary.splitlines()
    said = [line.strip().split(": ", 1) for line in lines]
    trees = f"{' '.join(shown.split())} "
    for order, wanted in told.items():
        # Where the machine is busy, other times grow too.
        found = [sentence for name, sentence in said if name == order and re.fullmatch(wanted, sentence)]
        assert len(found) == 1, demo.stdout
        if fault == "dropped-headers":  # what follows has a tree of its own, with the break under it
            assert trees.count("✕ headers_lost process stock.reserved (notification)") == 1, demo.stdout
            assert shown.count("The message brought no context.") == 1, demo.stdout
        else:
            assert f" {mark} {found[0]} " in trees, demo.stdout
    assert re.fullmatch(rf"{fault} was on, and [123] of 3 flows says? so: exit code 1", last)
