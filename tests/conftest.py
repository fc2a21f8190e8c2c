"""What holds for every test of ours, and the broker that they share.

Bugs show: the shield raises again, but in tests marked `shield`. And nothing outlives its test: no
current context, no thread of ours or of an exporter.
"""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Final

import pytest

from tests.brokers import Kafka, is_required, on_this_machine
from tracekit import guard

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tracekit_demo.broker import Broker

    from tests.aws import Aws
    from tests.integration.servers.activemq import ActiveMQ
    from tests.integration.servers.rabbitmq import RabbitMQ
    from tests.integration.servers.redis import Redis

pytest_plugins = ["pytester"]

_OUR_THREADS: Final = ("tracekit-", "Otel")
_GRACE_S: Final = 2.0  # a thread that was told to end may need so long


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shield: the shield swallows, as it does for users")
    config.addinivalue_line("markers", "real: with the real servers; `make test-real` runs them")
    config.addinivalue_line(
        "markers", "server: with a server of Debian; only `make test-real` never skips it"
    )
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that runs us in the background ignores it, and so would every program that we start.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that `make test-real` is there for is never skipped."""
    report = yield
    is_to_run = item.get_closest_marker("real") or (is_required() and item.get_closest_marker("server"))
    if report.skipped and is_to_run and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"it is to run, and was skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _shield(request: pytest.FixtureRequest) -> Iterator[None]:
    """The shield raises again, and counts from nothing."""
    guard.forget()
    guard.reraise(request.node.get_closest_marker("shield") is None)
    yield
    guard.reraise(False)
    guard.forget()


@pytest.fixture(autouse=True)
def _nothing_outlives() -> Iterator[None]:
    """A context or thread that outlives its test fails it."""
    from opentelemetry import context as otel

    before, threads = otel.get_current(), _threads()
    yield
    leaked = otel.get_current()
    if leaked != before:
        otel.attach(before)  # for the tests that follow
        pytest.fail(f"the test leaves a context current: {leaked}")
    left = _threads() - threads
    for thread in left:
        thread.join(_GRACE_S)
    alive = sorted(thread.name for thread in left if thread.is_alive())
    if alive:
        pytest.fail(f"the test leaves threads behind: {', '.join(alive)}")


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(_OUR_THREADS)}


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[Broker]:
    """The embedded Kafka, one for each process of pytest."""
    from tracekit_demo.broker import embedded_broker

    with embedded_broker() as running:
        yield running


@pytest.fixture(scope="session")
def pubsub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Pub/Sub's fake server, one for each process of pytest."""
    from tests.integration.servers.programs import PROGRAMS
    from tests.integration.servers.pubsub import pubsub

    if not PROGRAMS["pubsub"].path.exists() and not is_required():
        pytest.skip("the Pub/Sub server is not made: python -m tests.integration.servers pubsub")
    with pubsub(tmp_path_factory.mktemp("pubsub")) as address:
        yield address


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Debian's Redis, one for each process of pytest."""
    from tests.integration.servers.redis import redis

    on_this_machine("redis-server")
    with redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Debian's NATS, one for each process of pytest."""
    from tests.integration.servers.nats import nats

    on_this_machine("nats-server")
    with nats(tmp_path_factory.mktemp("nats")) as address:
        yield address


@pytest.fixture(scope="session")
def activemq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """Debian's ActiveMQ, one for each process of pytest."""
    from tests.integration.servers.activemq import activemq

    on_this_machine("activemq")
    with activemq(tmp_path_factory.mktemp("activemq")) as running:
        yield running


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """SQS and SNS, one server for each process of pytest."""
    from tests.aws import Aws
    from tests.integration.servers.moto import moto

    with moto(tmp_path_factory.mktemp("moto")) as server, closing(Aws(server)) as clients:
        yield clients


@pytest.fixture(scope="session")
def rabbitmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """Debian's RabbitMQ, one for each process of pytest."""
    from tests.integration.servers.rabbitmq import rabbitmq

    on_this_machine("rabbitmq-server")
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture
def kafka(kafka_broker: Broker) -> Iterator[Kafka]:
    """Clients and topics of this test."""
    with Kafka(kafka_broker) as clients:
        yield clients
