"""What a span and a point of a metric cost each program on the way from services to those who look.

The real agent, Kafka with its buffer, two gateways, Jaeger on badger, and Prometheus, with the configurations
in collector-config and the gateways' decision wait of 30 s, keeping everything. They are fed with the shop's
own telemetry, copied under new ids, at a pace that two cores bear. Processor time is counted, what they take
at rest taken off: machines are noisy, and everything runs on the same one.
"""

from __future__ import annotations

import http.client
import itertools
import os
import platform
import random
import re
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tracekit_demo.shop.topics import TOPICS

from benchmarks import parts, recorded
from tests.integration.servers.kafka import create_topic, kafka
from tests.integration.servers.process import fetched
from tests.integration.servers.programs import PROGRAMS
from tests.integration.servers.prometheus import prometheus
from tests.real.stack import PROMETHEUS, PROMETHEUS_FLAGS
from tests.real.tiers import Tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PARTS: Final = ("agent", "buffer", "Kafka", "gateways", "Jaeger", "Prometheus")
SPANS_A_MESSAGE: Final = 3
_HEADS: Final = (
    ("", ""),
    ("CPU s for", "1,000 spans"),
    ("cores for", "10,000 msg/s"),
    ("at rest,", "% of a core"),
    ("resident, MB", "quiet"),
    ("", "loaded"),
    ("bytes a span", "received"),
    ("", "on disk"),
    ("CPU s for", "1,000 points"),
)
_PACE: Final = 3000  # spans a second
_WARM_UP: Final = 15_000
_DECISION_WAIT_S: Final = 30
_ON_THE_WAY_S: Final = 10
_REST_S: Final = 15
_LOOKED_FOR: Final = 200
_INSTANCES: Final = 20
_METRICS_S: Final = 30
_QUEUED: Final = 6000
_MB: Final = 1_000_000
_APPENDED: Final = re.compile(r"^prometheus_tsdb_head_samples_appended_total\S* (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class _Figures:
    """Of one load, by part."""

    units: int
    seconds: float
    cpu_s: dict[str, float]
    wire: dict[str, float]
    disk: dict[str, float]

    def per_thousand(self, part: str, rest: dict[str, float]) -> float:
        """Seconds of processor time, without what it takes at rest."""
        return max(0.0, self.cpu_s[part] - rest[part] * self.seconds) * 1000 / self.units


def measure(spans: int) -> int:
    """Measure and print it; 1 where Jaeger has not all of it in the end."""
    with tempfile.TemporaryDirectory(prefix="tracekit-bench-") as name, ExitStack() as started:
        return _Bench(Path(name), started).run(spans)


class _Bench:
    def __init__(self, folder: Path, started: ExitStack) -> None:
        self._folder = folder
        self._sent = 0
        _say("starting Kafka, Prometheus")
        self._kafka = started.enter_context(kafka(_made(folder / "kafka")))
        for topic in TOPICS:
            create_topic(self._kafka, topic, 1)
        _say("recording the shop")
        self._shop = recorded.record(self._kafka.address)
        self._prometheus = started.enter_context(
            prometheus(_made(folder / "prometheus"), PROMETHEUS, PROMETHEUS_FLAGS)
        )
        settings = {
            "PROMETHEUS_ENDPOINT": self._prometheus.url,
            "DECISION_WAIT_S": str(_DECISION_WAIT_S),
        }
        self._tiers = started.enter_context(Tiers(folder, self._kafka.address, settings=settings))
        self._parts = parts.Parts(
            lambda: {
                "agent": [self._tiers.servers["agent 1"]],
                "buffer": [self._tiers.servers["buffer 1"]],
                "Kafka": [self._kafka.server],
                "gateways": [self._tiers.servers[name] for name in self._tiers.gateways],
                "Jaeger": [self._tiers.servers["jaeger"]],
                "Prometheus": [self._prometheus.server],
            }
        )
        port = self._tiers.ports
        self._ports = {
            port["agent 1 http"]: "agent",
            port["buffer 1 grpc"]: "buffer",
            int(self._kafka.address.rpartition(":")[2]): "Kafka",
            **{port[f"{name} balanced"]: "gateways" for name in self._tiers.gateways},
            **{port[f"{name} grpc"]: "gateways" for name in self._tiers.gateways},
            port["jaeger grpc"]: "Jaeger",
            urlsplit(self._prometheus.url).port or 0: "Prometheus",
        }

    def run(self, spans: int) -> int:
        _say("warming up")
        self._send(self._shop.requests(_WARM_UP), _PACE)
        time.sleep(_DECISION_WAIT_S + _ON_THE_WAY_S)
        quiet = self._parts.resident()

        kept: list[str] = []
        busy: dict[str, int] = {}

        def of_spans() -> int:
            sent = self._send(self._shop.requests(spans), _PACE, kept)
            busy.update(self._parts.resident())  # nothing is decided yet, but for the first
            time.sleep(_DECISION_WAIT_S + _ON_THE_WAY_S)
            return sent

        _say(f"{spans:,} spans")
        told = self._measured(of_spans, {"Kafka": self._folder / "kafka" / "kafka-data"})
        missing = self._missing(kept)
        _say("points of metrics")
        samples = self._samples()
        points = self._measured(self._of_metrics, {"Prometheus": self._folder / "prometheus"})
        per_point = (self._samples() - samples) / points.units
        _say("at rest")
        before = self._parts.cpu_s()
        time.sleep(_REST_S)
        rest = {part: taken / _REST_S for part, taken in _more(self._parts.cpu_s(), before).items()}
        queued = self._queued()
        self._tiers.servers["jaeger"].end()
        told.disk["Jaeger"] = parts.size(self._folder / "jaeger" / "badger") / (
            told.units + _WARM_UP + _QUEUED
        )
        told.disk["agent"] = queued
        _say("")
        self._print(told, points, rest, quiet, busy, per_point, missing)
        return 1 if missing else 0

    def _send(
        self, requests: Iterable[tuple[bytes, int, str]], pace: float, kept: list[str] | None = None
    ) -> int:
        """Send them to the agent; how many spans they were."""
        sent, began = 0, time.monotonic()
        connection = http.client.HTTPConnection(urlsplit(self._tiers.otlp).netloc, timeout=60)
        for body, number, trace_id in requests:
            _post(connection, "traces", body)
            self._sent += len(body)
            sent += number
            if kept is not None:
                kept.append(trace_id)
            time.sleep(max(0, began + sent / pace - time.monotonic()))
        connection.close()
        return sent

    def _of_metrics(self) -> int:
        """So many of each of the shop's services say something once a second."""
        connection = http.client.HTTPConnection(urlsplit(self._tiers.otlp).netloc, timeout=60)
        began = time.monotonic()
        for number in range(1, _METRICS_S + 1):
            for instance in range(_INSTANCES):
                for body in self._shop.metrics_of(f"instance-{instance}", number):
                    _post(connection, "metrics", body)
                    self._sent += len(body)
            time.sleep(max(0, began + number - time.monotonic()))
        connection.close()
        time.sleep(_ON_THE_WAY_S)
        return self._shop.points * _INSTANCES * _METRICS_S

    def _measured(self, load: Callable[[], int], disk: dict[str, Path]) -> _Figures:
        taken, over, self._sent = self._parts.cpu_s(), parts.received(self._ports), 0
        stored = {part: parts.size(folder) for part, folder in disk.items()}
        began = time.monotonic()
        units = load()
        wire = {**parts.grown(over, parts.received(self._ports)), "agent": self._sent}
        return _Figures(
            units,
            time.monotonic() - began,
            _more(self._parts.cpu_s(), taken),
            {part: number / units for part, number in wire.items()},
            {part: (parts.size(folder) - stored[part]) / units for part, folder in disk.items()},
        )

    def _missing(self, traces: list[str]) -> int:
        """Of some traces: how many Jaeger has not."""
        drawn = random.Random(8).choices(traces, k=_LOOKED_FOR)
        return sum(fetched(f"{self._tiers.query}/api/v3/traces/{trace}")[0] != 200 for trace in drawn)

    def _samples(self) -> float:
        _, said = fetched(f"{self._prometheus.url}/metrics")
        return sum(float(number) for number in _APPENDED.findall(said.decode()))

    def _queued(self) -> float:
        """Bytes on the agent's disk of a span that it cannot hand on."""
        self._tiers.servers["buffer 1"].kill()
        folder = self._folder / "agent 1" / "queue"
        before = parts.size(folder)
        sent = self._send(self._shop.requests(_QUEUED), _PACE)
        return (parts.size(folder) - before) / sent

    def _print(
        self,
        told: _Figures,
        points: _Figures,
        rest: dict[str, float],
        quiet: dict[str, int],
        busy: dict[str, int],
        per_point: float,
        missing: int,
    ) -> None:
        print(_machine())
        print(
            f"{told.units:,} spans of {told.wire['agent']:.0f} bytes at {_PACE:,} a second, as the shop's "
            "exporters send them. A message makes three: send, wait, process; two without wait spans."
        )
        rows = {
            part: (
                f"{told.per_thousand(part, rest):.4f}",
                f"{10 * SPANS_A_MESSAGE * told.per_thousand(part, rest):.2f}",
                f"{100 * rest[part]:.1f}",
                f"{quiet[part] / _MB:.0f}",
                f"{busy[part] / _MB:.0f}",
                _bytes(told.wire.get(part)),
                _bytes(told.disk.get(part)),
                f"{points.per_thousand(part, rest):.4f}",
            )
            for part in PARTS
        }
        for line in (*zip(*_HEADS, strict=True), *((part, *cells) for part, cells in rows.items())):
            print(f"{line[0]:<12}" + "".join(f"{cell:>14}" for cell in line[1:]))
        held = (busy["gateways"] - quiet["gateways"]) / told.units
        print(f"the gateways held {told.units:,} spans, each in {held:.0f} bytes of memory")
        print(
            f"a point is {per_point:.1f} samples of Prometheus, {points.disk['Prometheus']:.0f} bytes on its "
            f"disk before anything is compacted, {points.wire['agent']:.0f} bytes to the agent"
        )
        print(f"Jaeger has {_LOOKED_FOR - missing} of {_LOOKED_FOR} traces that were looked for")


def _bytes(value: float | None) -> str:
    return f"{value:.0f}" if value else ""


def _more(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {part: after[part] - before[part] for part in PARTS}


def _post(connection: http.client.HTTPConnection, signal: str, body: bytes) -> None:
    """Send it, again where there is no room for it."""
    for _ in itertools.count():
        connection.request("POST", f"/v1/{signal}", body, {"content-type": "application/x-protobuf"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status == 200:
            return
        if answer.status not in (429, 503):
            raise RuntimeError(f"{answer.status} {said!r}")
        time.sleep(0.2)


def _machine() -> str:
    """What it ran on, and the versions."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = {name: PROGRAMS[name].version for name in ("kafka", "otelcol", "jaeger", "prometheus")}
    return f"{os.cpu_count()} cores of {cpu}; " + ", ".join(f"{k} {v}" for k, v in versions.items())


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{'':<60}\r{text}", end="", file=sys.stderr, flush=True)
