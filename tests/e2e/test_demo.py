"""`tracekit demo`, as a stranger types it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
from tracekit_demo.broker import embedded_broker
from tracekit_demo.shop.topics import TOPICS

DEMO = [sys.executable, "-m", "tracekit", "demo"]
PATIENCE_S = 90


def test_once_shows_one_whole_flow_of_each_mode() -> None:
    demo = subprocess.run([*DEMO, "--once"], capture_output=True, text=True, timeout=PATIENCE_S)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    lines = re.findall(r"^(\w+), accepted: POST /orders (\d+) in .* -> done in ", demo.stdout, re.MULTILINE)
    assert lines == [("sync", "201"), ("async", "202"), ("hybrid", "202")]
    assert "3 of 3 flows have every edge of their mode, and no break" in demo.stdout
    assert demo.stdout.count("0 breaks") == 3
    assert "kafka (embedded)" in demo.stdout
    assert demo.stderr == ""


def test_with_a_kafka_by_address_orders_go_on_until_ctrl_c_ends_everything() -> None:
    with embedded_broker(TOPICS) as kafka:
        demo = subprocess.Popen(
            [*DEMO, "--kafka", kafka.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KAFKA_API_VERSION": kafka.environment["KAFKA_API_VERSION"]},
        )
        with demo:
            assert demo.stdout is not None
            said = ""
            for line in demo.stdout:
                said += line
                if line.startswith("hybrid, "):
                    break
            children = psutil.Process(demo.pid).children(recursive=True)
            demo.send_signal(signal.SIGINT)
            rest, errors = demo.communicate(timeout=PATIENCE_S)

    assert f"kafka ({kafka.address})" in said
    assert (demo.returncode, rest.splitlines()[-1:], errors) == (0, ["ended"], ""), said + rest + errors
    assert len(children) == 6
    assert [child for child in children if child.is_running()] == []
