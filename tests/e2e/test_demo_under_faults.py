"""The demo under each of its faults: what the flows say, and that `--once` says no."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DEMO: Final = [sys.executable, "-m", "tracekit", "demo"]
PATIENCE_S: Final = 90
TIME: Final = r"[\d.]+ m?s"

SLOW: Final = rf"payment POST /charge took {TIME} of the {TIME} that the caller waited"
FAILED: Final = "failed: ConnectionError: the card network hung up"


@pytest.mark.parametrize(
    ("fault", "whole", "told"),
    [
        (
            "slow-payment",
            3,
            {
                "#1 sync": SLOW,
                "#2 async": rf"payment process order.created took {TIME} of the {TIME} "
                "until the order was done",
                "#3 hybrid": SLOW,
            },
        ),
        (
            "failing-payment",
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
            3,
            {
                "#3 hybrid": rf"order.confirmed waited {TIME} for notification, "
                rf"before that {TIME} \(#2, stock.reserved\); its handler took {TIME}, before that {TIME}: "
                "messages come faster than notification takes them",
            },
        ),
        (
            "dropped-headers",
            2,
            {
                "#2 async": "headers_lost at notification process stock.reserved, "
                "after inventory process payment.authorized: The message brought no context. "
                "What follows is a flow of its own, [0-9a-f]{8}, found by its order.id. "
                "Instrument the producer, and keep the message headers wherever it is copied.",
            },
        ),
    ],
)
def test_once_under_a_fault_fails_and_says_what_the_flows_say(
    fault: str, whole: int, told: dict[str, str]
) -> None:
    demo = subprocess.run(
        [*DEMO, "--once", "--fault", fault], capture_output=True, text=True, timeout=PATIENCE_S
    )

    assert (demo.returncode, demo.stderr) == (1, ""), demo.stdout
    end = f"\n{whole} of 3 flows have every edge of their mode, and no break\nWhat they say:\n"
    shown, _, summary = demo.stdout.partition(end)
    said = dict(line.strip().split(": ", 1) for line in summary.splitlines())
    assert list(said) == list(told), demo.stdout
    for order, sentence in said.items():
        assert re.fullmatch(told[order], sentence), sentence
        assert f"\n  ✕ {sentence}\n" in shown, "under the flow itself too"


def test_a_fault_begins_and_ends_while_the_demo_runs(tmp_path: Path) -> None:
    def fault(*arguments: str) -> str:
        command = [*DEMO, "fault", *arguments, "--data", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with subprocess.Popen(
        [*DEMO, "--data", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        said = _read_until(demo.stdout, "an order a second")
        before = fault()
        switched = fault("failing-payment")
        said += _read_until(demo.stdout, f"payment POST /charge {FAILED}")
        during = fault()
        fault("failing-payment", "off")
        said += _read_until(demo.stdout, "faults that are on now: none")
        said += _read_until(demo.stdout, "accepted: POST /orders 201")
        demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=PATIENCE_S)

    assert "faults that are on now: failing-payment\n" in said
    assert re.findall(r"^(\S+) +on ", before, re.MULTILINE) == []
    assert re.findall(r"^(\S+) +on ", during, re.MULTILINE) == ["failing-payment"]
    assert switched.startswith("failing-payment is on: payment's card network hangs up on every charge.")
    assert (demo.returncode, rest.splitlines()[-1:], errors) == (0, ["ended"], "")


def _read_until(said: Iterable[str], wanted: str) -> str:
    """What was said, up to the line with this in it."""
    lines = []
    for line in said:
        lines.append(line)
        if wanted in line:
            return "".join(lines)
    raise AssertionError("".join(lines))
