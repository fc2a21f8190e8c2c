"""A simulated estate: what gateways keep of the flows of a hundred services, and what an outage takes.

Four agents, two buffers with Kafka, three gateways, one Jaeger: the real programs, with the configurations
in collector-config. A generator stands for the services: flows over one to five queues with a long tail of
waits, errors, dead letters, slow ends, linked traces and lost context. Each span is sent when it has ended.
One gateway is killed in between, and comes back. In the end Jaeger is asked for every trace.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import kept
from benchmarks.flows import AGENTS, Flows, Sender
from tests.integration.servers.kafka import create_topic, kafka
from tests.integration.servers.prometheus import prometheus
from tests.real.stack import PROMETHEUS, PROMETHEUS_FLAGS
from tests.real.tiers import Tiers

if TYPE_CHECKING:
    from tests.integration.servers.prometheus import Prometheus

DECISION_WAIT_S: Final = 10
PERCENTAGE: Final = 10
SLOW_MS: Final = 5000
_GATEWAYS: Final = 3
_BUFFERS: Final = 2
_FLOWS_A_SECOND: Final = 80
_SECONDS: Final = 60
_KILLED_AT_S: Final = 25
_BACK_AT_S: Final = 35
_SETTLES_S: Final = 2 * DECISION_WAIT_S + 15
_RECEIVED: Final = 'rate(otelcol_receiver_accepted_spans_total{receiver="otlp/balanced"}[25s])'


def measure() -> int:
    """Run it and print what became of it; 1 where a span that was to be kept is missing without a reason."""
    with tempfile.TemporaryDirectory(prefix="tracekit-bench-") as name, ExitStack() as started:
        folder = Path(name)
        _say("starting the estate")
        broker = started.enter_context(kafka(_made(folder / "kafka")))
        create_topic(broker, "otlp_spans", 2 * _BUFFERS)
        metrics = started.enter_context(
            prometheus(_made(folder / "prometheus"), PROMETHEUS, PROMETHEUS_FLAGS)
        )
        settings = {
            "PROMETHEUS_ENDPOINT": metrics.url,
            "DECISION_WAIT_S": str(DECISION_WAIT_S),
            "SAMPLING_PERCENTAGE": str(PERCENTAGE),
            "SLOW_COMPLETION_MS": str(SLOW_MS),
        }
        tiers = started.enter_context(
            Tiers(
                folder,
                broker.address,
                agents=AGENTS,
                buffers=_BUFFERS,
                gateways=_GATEWAYS,
                settings=settings,
            )
        )
        flows = Flows(slow_ms=SLOW_MS)
        spread: list[float] = []
        with Sender([tiers.otlp_of(agent) for agent in tiers.agents]) as sender:
            began = time.monotonic()
            killed_ns = back_ns = 0
            while (at := time.monotonic() - began) < _SECONDS:
                sender.add(flows.flow(time.time_ns()))
                if not killed_ns and at > _KILLED_AT_S:
                    spread = _spread(metrics)
                    killed_ns = time.time_ns()
                    tiers.servers["gateway 2"].kill()
                if not back_ns and at > _BACK_AT_S:
                    back_ns = time.time_ns()
                    tiers.start("gateway 2")
                _say(f"{len(flows.made)} flows")
                sender.until(began + len(flows.made) / _FLOWS_A_SECOND)
            _say("what still waits")
            sender.finish()
        _say("decisions")
        time.sleep(_SETTLES_S)
        _say("asking Jaeger")
        with ThreadPoolExecutor(4) as asking:
            traces = [trace for flow in flows.made for trace in flow.traces]
            found = dict(zip(traces, asking.map(kept.asked(tiers.query), traces), strict=True))
        _say("")
        outage = kept.Outage(killed_ns, back_ns, DECISION_WAIT_S * 1_000_000_000)
        return kept.report(flows.made, found, sender, outage, spread, percentage=PERCENTAGE)


def _spread(metrics: Prometheus) -> list[float]:
    """The share of the spans that each gateway got."""
    got = [float(series["value"][1]) for series in metrics.query(_RECEIVED)]
    return sorted(each / sum(got) for each in got)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{'':<60}\r{text}", end="", file=sys.stderr, flush=True)
