"""The Collector's configurations: each is taken by the real one, and together they lose nothing they took."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.integration.servers.collector import CONFIGURATIONS, validated
from tests.integration.servers.kafka import kafka
from tests.integration.servers.process import fetched
from tests.real.tiers import DECISION_WAIT_S, SERVICE, Load, Tiers
from tracekit.model import Span, Status
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.real

_SOME: Final = 300
_ON_THE_WAY_S: Final = 2.0
"""From the acknowledgement by the agent until a gateway has it: queue, batch, Kafka."""


@pytest.mark.parametrize("name", ["local", "agent", "gateway", "kafka-buffer"])
def test_the_collector_takes_a_configuration(name: str) -> None:
    validated(
        CONFIGURATIONS / f"{name}.yaml",
        {
            "JAEGER_ENDPOINT": "jaeger:4317",
            "PROMETHEUS_ENDPOINT": "http://prometheus:9090",
            "LOGS_ENDPOINT": "http://tracekit:4318",
            "GATEWAY_ENDPOINT": "gateway:4317",
            "GATEWAYS": "[gateway-1:4319, gateway-2:4319]",
            "KAFKA_BROKERS": "kafka:9092",
            "QUEUE_DIRECTORY": "/var/lib/otelcol",
        },
    )


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.address


@pytest.fixture
def tiers(tmp_path: Path, brokers: str) -> Iterator[Tiers]:
    with Tiers(tmp_path, brokers) as running:
        yield running


@pytest.mark.parametrize("victim", ["agent 1", "jaeger"])
def test_what_was_acknowledged_outlives_a_kill(tiers: Tiers, victim: str) -> None:
    with Load(tiers.otlp) as load:
        load.await_acknowledged(_SOME)
        tiers.servers[victim].kill()
        if victim == "jaeger":
            load.await_acknowledged(_SOME)  # it takes what it cannot hand on
        tiers.start(victim)
        load.await_acknowledged(_SOME)

    assert tiers.await_stored({*load.acknowledged}, load.began_ns) == set()


def test_a_gateway_that_is_killed_loses_no_more_than_its_decision_wait(
    tiers: Tiers, capsys: pytest.CaptureFixture[str]
) -> None:
    with Load(tiers.otlp) as load:
        load.await_acknowledged(_SOME)
        time.sleep(2 * DECISION_WAIT_S)  # some are decided, some wait
        killed_at = time.monotonic()
        tiers.servers["gateway 2"].kill()
        load.await_acknowledged(_SOME)
        tiers.start("gateway 2")
        load.await_acknowledged(_SOME)
    lost = tiers.await_stored({*load.acknowledged}, load.began_ns)

    ages = sorted(killed_at - load.acknowledged[span] for span in lost)
    with capsys.disabled():
        oldest = f", the oldest acknowledged {ages[-1]:.1f} s before the kill" if ages else ""
        print(f"\na killed gateway lost {len(lost)} of {len(load.acknowledged)} spans{oldest}")
    assert all(age <= DECISION_WAIT_S + _ON_THE_WAY_S for age in ages)
    assert all(age >= 0 for age in ages)  # what came after the kill is all there


def ended(flow_id: str, *, trace_id: str = "", status: Status = Status.UNSET) -> Span:
    """A span that ended now, of a trace of its own where none is given."""
    now = time.time_ns()
    return Span(
        trace_id or secrets.token_hex(16),
        secrets.token_hex(8),
        "work",
        now - 1_000_000,
        now,
        status=status,
        attributes={"tracekit.flow.id": flow_id},
        service=SERVICE,
    )


def export(tiers: Tiers, spans: Sequence[Span]) -> None:
    status, _ = fetched(
        f"{tiers.otlp}/v1/traces", encode_spans(spans), {"content-type": "application/x-protobuf"}
    )
    assert status == 200


def test_a_gateway_decides_by_flow_and_keeps_errors_that_come_late(tmp_path: Path, brokers: str) -> None:
    began = time.time_ns()
    in_share, out_of_it = ("a" * 24 + end for end in ("7fffff00", "80000100"))
    with Tiers(tmp_path, brokers, settings={"SAMPLING_PERCENTAGE": "50"}) as tiers:
        linked = [ended(in_share) for _ in range(20)]  # a trace each
        dropped = [ended(out_of_it) for _ in range(20)]
        export(tiers, [*linked, *dropped])
        assert tiers.await_stored({span.span_id for span in linked}, began) == set()
        time.sleep(2 * DECISION_WAIT_S)  # all are decided
        late = [ended(out_of_it, trace_id=span.trace_id, status=Status.ERROR) for span in dropped]
        export(tiers, late)
        # A gateway has forgotten all but the last that it dropped.
        few = len(tiers.await_stored({span.span_id for span in late}, began))

        assert few <= len(tiers.gateways)
        assert tiers.stored(began) & {span.span_id for span in dropped} == set()
