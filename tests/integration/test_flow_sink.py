"""FlowSink: processes of their own export over real ports, and a test waits for what they did."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tracekit.testing import NotSeenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracekit.testing import FlowSink

SHOP = """
import logging, sys
import tracekit
from opentelemetry import trace
from tracekit import guard

handle = tracekit.configure("shop", quiet=True)
tracer = trace.get_tracer("shop")
with tracer.start_as_current_span("place order"):
    jobs = tracekit.TracedQueue(name="jobs")
    jobs.put("mail")
    logging.getLogger("shop").warning("placed")
with jobs.item():
    pass
guard.count_drop("size", "a header")
print("placed", flush=True)
sys.stdin.read()
"""


def start(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """The shop, which has placed an order and stays, so that nothing is sent because it ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", SHOP],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "placed\n"
    return child


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_flow_of_another_process_is_seen_while_it_runs(flow_sink: FlowSink, protocol: str) -> None:
    with start(flow_sink.env if protocol == "http" else flow_sink.grpc_env) as child:
        flow = flow_sink.wait_for_flow("place order", "process jobs")
        flow_sink.wait_for(lambda: bool(flow_sink.logs), says="the log line")
        flow_sink.wait_for(lambda: bool(flow_sink.dropped), says="the metrics")
        child.communicate("")

    flow.assert_complete()
    assert flow.edges == [("shop", "place order", "message", "shop", "process jobs")]
    assert flow.snapshot() == "place order (shop)\n  ~ jobs\n    process jobs (shop)"
    assert [line.body for line in flow_sink.flow().logs] == ["placed"]
    assert flow_sink.dropped == {"size": 1}
    (waited,) = flow_sink.metrics["tracekit.messaging.queue.duration"]
    assert (waited.service, waited.count) == ("shop", 1)


def test_what_never_comes_is_named(flow_sink: FlowSink) -> None:
    with start(flow_sink.env) as child:
        flow_sink.wait_for_flow("place order", "process jobs")
        with pytest.raises(NotSeenError, match="stopped after `process jobs`: no `send mail` followed"):
            flow_sink.wait_for_flow("place order", "process jobs", "send mail", timeout_s=0)
        child.communicate("")


def test_a_proxy_of_the_machine_is_not_in_the_way(
    flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "NO_PROXY" not in flow_sink.env
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")

    assert flow_sink.env["no_proxy"] == "127.0.0.1,example.org"
    with start(flow_sink.env) as child:
        flow_sink.wait_for_flow("place order", "process jobs")
        child.communicate("")


def test_where_nothing_came_it_says_what_to_look_at(flow_sink: FlowSink) -> None:
    with pytest.raises(NotSeenError) as caught:
        flow_sink.wait_for_flow("place order", timeout_s=0)

    assert "no span arrived\nnothing else did either" in str(caught.value)
    assert flow_sink.http_endpoint in str(caught.value)


def test_where_all_but_spans_came_it_says_what_to_look_at(flow_sink: FlowSink) -> None:
    with start({**flow_sink.env, "OTEL_TRACES_SAMPLER": "always_off"}) as child:
        flow_sink.wait_for(lambda: bool(flow_sink.logs), says="the log line")
        with pytest.raises(NotSeenError, match="no span arrived\nbut log lines or metrics did"):
            flow_sink.wait_for_flow("place order", timeout_s=0)
        child.communicate("")
