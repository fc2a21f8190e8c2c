"""The stack of compose.yaml without containers: Kafka, Collector, Jaeger, Prometheus, and the shop."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tracekit_demo.client import place
from tracekit_demo.services import CONSUMING, SERVING, Services
from tracekit_demo.shop.topics import TOPICS

from tests.integration.servers.collector import CONFIGURATIONS, collector
from tests.integration.servers.jaeger import Jaeger, Kept, jaeger
from tests.integration.servers.kafka import create_topic, kafka
from tests.integration.servers.process import free_ports
from tests.integration.servers.programs import ROOT
from tests.integration.servers.prometheus import Prometheus, prometheus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tracekit_demo.scenarios import Scenario

PROMETHEUS: Final = ROOT / "prometheus" / "prometheus.yaml"
PROMETHEUS_FLAGS: Final = ("--web.enable-otlp-receiver", "--enable-feature=exemplar-storage")
_PATIENCE_S: Final = 60


@dataclass(slots=True)
class Stack:
    """All of it, running. `orders` are the flows' ids of what was placed, with their scenarios."""

    kafka: str
    otlp: str
    jaeger: Jaeger
    prometheus: Prometheus
    services: Services
    orders: list[tuple[str, Scenario]] = field(default_factory=list)

    def place(self, scenario: Scenario) -> str:
        """Place an order; the id of its flow."""
        flow_id, status = place(self.services.port("orders"), scenario)
        assert status == scenario.answer
        self.orders.append((flow_id, scenario))
        return flow_id


@contextmanager
def stack(folder: Path, kept: Kept = "memory", settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Ready for orders. `settings` are further variables of the shop's services."""
    with ExitStack() as started:
        broker = started.enter_context(kafka(_made(folder / "kafka")))
        for topic in TOPICS:
            create_topic(broker, topic, 1)
        storage = started.enter_context(jaeger(_made(folder / "jaeger"), kept))
        metrics = started.enter_context(
            prometheus(_made(folder / "prometheus"), PROMETHEUS, PROMETHEUS_FLAGS)
        )
        grpc, http, health = free_ports(3)
        environment = {
            "OTLP_HOST": "127.0.0.1",
            "OTLP_GRPC_PORT": str(grpc),
            "OTLP_HTTP_PORT": str(http),
            "HEALTH_HOST": "127.0.0.1",
            "HEALTH_PORT": str(health),
            "JAEGER_ENDPOINT": storage.grpc,
            "PROMETHEUS_ENDPOINT": metrics.url,
            "LOGS_ENDPOINT": "http://127.0.0.1:1",  # nobody
        }
        configuration = CONFIGURATIONS / "local.yaml"
        started.enter_context(
            collector(_made(folder / "otelcol"), configuration, environment, health_port=health)
        )
        services = started.enter_context(Services(_made(folder / "shop"), database=None))
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{http}",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "FAULTS_FOLDER": str(_made(folder / "faults")),
            **(settings or {}),
        }
        started.callback(services.end)
        services.start([*SERVING, *CONSUMING], own)
        services.wait_ready([*SERVING, *CONSUMING])
        yield Stack(broker.address, f"http://127.0.0.1:{http}", storage, metrics, services)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def eventually(what: Callable[[], Any], timeout_s: float = _PATIENCE_S) -> Any:
    """What it gives once that is true; what it gave last, if it never is."""
    until = time.monotonic() + timeout_s
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.2)
    return found
