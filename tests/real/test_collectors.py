"""The Collector's configurations: each is taken by the real one, and together they lose nothing they took."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

import grpc
import pytest
from kafka import KafkaProducer

from tests.integration.servers.collector import CONFIGURATIONS, collector, validated
from tests.integration.servers.kafka import kafka
from tests.integration.servers.packages import ensure
from tests.integration.servers.process import ServerError, fetched, free_ports
from tests.integration.servers.programs import run
from tests.real.stack import eventually
from tests.real.tiers import DECISION_WAIT_S, SERVICE, Load, Tiers
from tracekit.model import Kind, Span, Status
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.real

_SOME: Final = 300
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_ALL_TAKEN: Final = b"\n\0"
"""An answer of gRPC: nothing stands in its part on what was not."""
_ON_THE_WAY_S: Final = 2.0
"""From the acknowledgement by the agent until a gateway has it: queue, batch, Kafka."""


_GIVEN: Final = {
    "JAEGER_ENDPOINT": "jaeger:4317",
    "PROMETHEUS_ENDPOINT": "http://prometheus:9090",
    "LOGS_ENDPOINT": "http://tracekit:4318",
    "GATEWAY_ENDPOINT": "gateway:4317",
    "GATEWAYS": "[gateway-1:4319, gateway-2:4319]",
    "KAFKA_BROKERS": "kafka-1:9092,kafka-2:9092",
    "QUEUE_DIRECTORY": "/var/lib/otelcol",
}
"""The variables without a default, as docs/scaling.md names them."""


def alone(folder: Path) -> dict[str, str]:
    """The variables of a Collector that has nobody behind it, and is the only gateway."""
    ports = ("OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "BALANCED_PORT", "HEALTH_PORT")
    own = dict(zip(ports, map(str, free_ports(4)), strict=True))
    return {
        **own,
        **dict.fromkeys(("OTLP_HOST", "HEALTH_HOST"), "127.0.0.1"),
        **dict.fromkeys(("PROMETHEUS_ENDPOINT", "LOGS_ENDPOINT"), "http://127.0.0.1:1"),
        **dict.fromkeys(("JAEGER_ENDPOINT", "GATEWAY_ENDPOINT"), "127.0.0.1:1"),
        "GATEWAYS": f"[127.0.0.1:{own['BALANCED_PORT']}]",
        "QUEUE_DIRECTORY": str(folder / "queue"),
    }


@pytest.mark.parametrize("name", ["local", "agent", "gateway", "kafka-buffer"])
def test_the_collector_takes_a_configuration(name: str) -> None:
    validated(CONFIGURATIONS / f"{name}.yaml", _GIVEN)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DECISION_WAIT_S", "30s"),
        ("SAMPLING_PERCENTAGE", "10%"),
        ("SAMPLING_PERCENTAGE", "few"),
        ("SLOW_ANSWER_MS", "2s"),
        ("SLOW_ANSWER_MS", "long"),
        ("SLOW_COMPLETION_MS", "5s"),
        ("RECEIVER_TLS", "true"),  # and no certificate
    ],
)
def test_a_gateway_does_not_start_on_a_value_that_is_none(tmp_path: Path, variable: str, value: str) -> None:
    environment = {**alone(tmp_path), variable: value}
    health = int(environment["HEALTH_PORT"])

    with (
        pytest.raises(ServerError, match="ended with 1"),
        collector(tmp_path, CONFIGURATIONS / "gateway.yaml", environment, health_port=health),
    ):
        pass


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
        assert eventually(lambda: tiers.stored(load.began_ns))  # some are decided, those that came since wait
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


def ended(
    flow_id: str,
    *,
    trace_id: str = "",
    status: Status = Status.UNSET,
    took_ms: int = 1,
    text: str = "",
) -> Span:
    """A span that ended now, of a trace of its own where none is given."""
    now = time.time_ns()
    return Span(
        trace_id or secrets.token_hex(16),
        secrets.token_hex(8),
        "work",
        now - took_ms * 1_000_000,
        now,
        kind=Kind.SERVER,
        status=status,
        attributes={"tracekit.flow.id": flow_id, "exception.stacktrace": text},
        service=SERVICE,
    )


def exported(otlp: str, spans: Sequence[Span]) -> bool:
    status, _ = fetched(f"{otlp}/v1/traces", encode_spans(spans), {"content-type": "application/x-protobuf"})
    return status == 200


def export(tiers: Tiers, spans: Sequence[Span]) -> None:
    assert exported(tiers.otlp, spans)


def test_a_gateway_decides_by_flow_and_keeps_errors_that_come_late(tmp_path: Path, brokers: str) -> None:
    began = time.time_ns()
    in_share, out_of_it = ("a" * 24 + end for end in ("7fffff00", "80000100"))
    settings = {"SAMPLING_PERCENTAGE": "50", "SLOW_ANSWER_MS": "800"}
    with Tiers(tmp_path, brokers, settings=settings) as tiers:
        linked = [ended(in_share) for _ in range(20)]  # a trace each
        slow = [ended(out_of_it, took_ms=900) for _ in range(5)]
        dropped = [ended(out_of_it, took_ms=700) for _ in range(20)]
        export(tiers, [*linked, *slow, *dropped])
        assert tiers.await_stored({span.span_id for span in [*linked, *slow]}, began) == set()
        # What is decided a whole wait later is so after all of the above.
        after = [ended(in_share) for _ in range(20)]
        export(tiers, after)
        assert tiers.await_stored({span.span_id for span in after}, began) == set()
        late = [ended(out_of_it, trace_id=span.trace_id, status=Status.ERROR) for span in dropped]
        export(tiers, late)
        # A gateway has forgotten all but the last that it dropped.
        few = len(tiers.await_stored({span.span_id for span in late}, began))

        assert few <= len(tiers.gateways)
        assert tiers.stored(began) & {span.span_id for span in dropped} == set()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    ensure(["openssl"])
    made, key = folder / "tls.crt", folder / "tls.key"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=collector"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    run(["openssl", "req", "-x509", *options, *names, "-keyout", key, "-out", made])
    return made, key


def test_tiers_speak_tls_where_they_are_told_so(tmp_path: Path, brokers: str) -> None:
    made, key = certificate(tmp_path)
    settings = {
        "RECEIVER_TLS": "true",
        "RECEIVER_CERT_FILE": str(made),
        "RECEIVER_KEY_FILE": str(key),
        "GATEWAY_INSECURE": "false",
        "GATEWAY_CA_FILE": str(made),
    }
    began = time.time_ns()
    with Tiers(tmp_path, brokers, settings=settings) as tiers:
        spans = [ended("a" * 32) for _ in range(20)]
        export(tiers, spans)

        assert tiers.await_stored({span.span_id for span in spans}, began) == set()


def test_one_of_several_brokers_may_be_away(tmp_path: Path, brokers: str) -> None:
    (nobody,) = free_ports(1)
    began = time.time_ns()
    with Tiers(tmp_path, f"127.0.0.1:{nobody},{brokers}") as tiers:
        spans = [ended("a" * 32) for _ in range(20)]
        export(tiers, spans)

        assert tiers.await_stored({span.span_id for span in spans}, began) == set()


def test_large_spans_outlive_outages(tiers: Tiers) -> None:
    began = time.time_ns()
    tiers.servers["jaeger"].kill()
    tiers.servers["buffer 1"].kill()
    spans = [ended("a" * 32, text=secrets.token_hex(2_500)) for _ in range(1600)]  # 8 MB, and gRPC takes 4
    for first in range(0, len(spans), 200):
        export(tiers, spans[first : first + 200])
    tiers.start("buffer 1")
    time.sleep(_ON_THE_WAY_S + DECISION_WAIT_S)  # the Collectors' own clocks
    tiers.start("jaeger")

    assert tiers.await_stored({span.span_id for span in spans}, began) == set()


@pytest.mark.parametrize("name", ["local", "agent", "gateway"])
def test_a_service_may_send_over_grpc_as_much_as_over_http(tmp_path: Path, name: str) -> None:
    environment = alone(tmp_path)
    health = int(environment["HEALTH_PORT"])
    body = encode_spans([ended("a" * 32, text=secrets.token_hex(5_000)) for _ in range(800)])  # 8 MB

    with (
        collector(tmp_path, CONFIGURATIONS / f"{name}.yaml", environment, health_port=health),
        grpc.insecure_channel(f"127.0.0.1:{environment['OTLP_GRPC_PORT']}") as channel,
    ):
        # A gateway takes some once it has found itself.
        assert eventually(
            lambda: exported(f"http://127.0.0.1:{environment['OTLP_HTTP_PORT']}", [ended("a" * 32)])
        )
        answer = channel.unary_unary(_EXPORT)(body)

    assert answer == _ALL_TAKEN


def test_what_nobody_can_read_stops_nothing_behind_it(tiers: Tiers, brokers: str) -> None:
    began = time.time_ns()
    with closing(KafkaProducer(bootstrap_servers=brokers)) as producer:
        producer.send("otlp_spans", b"no spans")
    spans = [ended("a" * 32) for _ in range(20)]
    export(tiers, spans)

    assert tiers.await_stored({span.span_id for span in spans}, began) == set()
