"""One order through every system that tracekit serves, a process each: one flow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from tracekit_demo.tour.reachable import SERVERS
from tracekit_demo.tour.runner import toured
from tracekit_demo.tour.systems import SYSTEMS
from tracekit_demo.tour.whole import visited

from tests.brokers import is_required, on_this_machine

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 120
NOWHERE = "127.0.0.1:1"
ABSENT = tuple(name for name in SERVERS if name != "kafka")


@pytest.fixture
def _servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are on this machine, and none is somebody else's."""
    from tests.integration.servers.programs import PROGRAMS, made

    for server in SERVERS.values():
        monkeypatch.delenv(server.variable, raising=False)
    for command in ("activemq", "rabbitmq-server", "redis-server"):
        on_this_machine(command)
    if not PROGRAMS["pubsub"].path.exists():
        if not is_required():
            pytest.skip("the Pub/Sub server is not made: python -m tests.integration.servers pubsub")
        made("pubsub")


@pytest.mark.server
@pytest.mark.usefixtures("_servers")
def test_one_order_through_all_systems_is_one_flow_whose_every_wait_is_known(tmp_path: Path) -> None:
    with toured(tmp_path, print) as tour:
        flow = tour.flow

    assert flow is not None
    assert (tour.reached.left_out, tour.lacks, flow.breaks) == ({}, (), ())
    assert visited(flow) == tuple(SYSTEMS)
    waits = {
        edge.consuming.service.name: (edge.system, edge.wait.source if edge.wait else None)
        for edge in flow.edges
    }
    assert waits == {
        "kafka-python": ("kafka", "header"),
        "aiokafka": ("kafka", "header"),
        "confluent": ("kafka", "header"),
        "pika": ("rabbitmq", "header"),
        "aio-pika": ("rabbitmq", "header"),
        "stomp": ("activemq", "broker"),
        "sqs": ("aws_sqs", "broker"),
        "pubsub": ("gcp_pubsub", "broker"),
        "redis": ("redis", "broker"),
    }


def test_what_cannot_be_reached_is_left_out_and_named_with_its_cure(tmp_path: Path) -> None:
    with _alone(tmp_path) as tour:
        stdout, stderr = tour.communicate(timeout=PATIENCE_S)

    said = " ".join(stdout.split())
    assert (tour.returncode, stderr) == (0, ""), stdout
    for system in SYSTEMS.values():
        if system.server in ABSENT:
            server = SERVERS[system.server]
            assert f"left out: {system.name}: nobody answers at {server.variable}, {NOWHERE} (" in said
            assert f"The cure: start it there; or unset that, and {server.cure}" in said
    assert "secret" not in said
    assert said.endswith("one order through 7 of 13 systems is one flow, no break")
    assert [*tmp_path.iterdir()] == []


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    with _alone(tmp_path) as tour:
        assert tour.stdout is not None
        said = ""
        while "stations" not in said:
            said += tour.stdout.readline()
        children = psutil.Process(tour.pid).children(recursive=True)
        tour.send_signal(signal.SIGINT)
        rest, errors = tour.communicate(timeout=PATIENCE_S)

    assert (tour.returncode, rest.splitlines()[-1:], errors) == (130, ["ended"], ""), said + rest
    assert psutil.wait_procs(children, PATIENCE_S)[1] == []
    assert [*tmp_path.iterdir()] == []


def _alone(folder: Path) -> subprocess.Popen[str]:
    """`tracekit demo tour` with Kafka on board, and nothing where the other servers are said to be."""
    urls = {"RABBITMQ_URL": f"amqp://guest:secret@{NOWHERE}/", "REDIS_URL": f"redis://{NOWHERE}/0"}
    nowhere = {SERVERS[name].variable: NOWHERE for name in ABSENT} | urls
    own = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    return subprocess.Popen(
        [sys.executable, "-m", "tracekit", "demo", "tour"],
        env={**own, **nowhere, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
