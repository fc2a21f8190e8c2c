"""Every transport passes the one contract. A new broker is a rig, and a row here."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.contract.rigs.aio_pika import AioPikaRig
from tests.contract.rigs.aiokafka import AioKafkaRig
from tests.contract.rigs.aws import AioSnsRig, AioSqsRig, SnsRig, SqsRig
from tests.contract.rigs.confluent import ConfluentRig
from tests.contract.rigs.kafka_python import KafkaPythonRig
from tests.contract.rigs.nats import JetStreamRig, NatsRig
from tests.contract.rigs.pika import PikaRig
from tests.contract.rigs.pubsub import PubSubRig
from tests.contract.rigs.redis_streams import RedisAsyncRig, RedisRig
from tests.contract.rigs.stomp import StompRig
from tracekit.testing import Rig, TransportContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.aws import Aws
    from tests.brokers import Kafka
    from tests.integration.servers.activemq import ActiveMQ
    from tests.integration.servers.rabbitmq import RabbitMQ
    from tests.integration.servers.redis import Redis


class TestKafkaPython(TransportContract):
    @pytest.fixture
    def rig(self, kafka: Kafka) -> Rig:
        return KafkaPythonRig(kafka)


@pytest.mark.server
class TestPubSub(TransportContract):
    @pytest.fixture
    def rig(self, pubsub_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server)
        with closing(PubSubRig()) as rig:
            yield rig


@pytest.mark.server
class TestRedisStreams(TransportContract):
    @pytest.fixture
    def rig(self, redis_server: Redis) -> Iterator[Rig]:
        with closing(RedisRig(redis_server.url)) as rig:
            yield rig


@pytest.mark.server
class TestRedisStreamsByAsyncio(TransportContract):
    @pytest.fixture
    def rig(self, redis_server: Redis) -> Iterator[Rig]:
        with closing(RedisAsyncRig(redis_server.url)) as rig:
            yield rig


@pytest.mark.server
class TestPika(TransportContract):
    @pytest.fixture
    def rig(self, rabbitmq_broker: RabbitMQ) -> Iterator[Rig]:
        with closing(PikaRig(rabbitmq_broker)) as rig:
            yield rig


@pytest.mark.server
class TestAioPika(TransportContract):
    @pytest.fixture
    def rig(self, rabbitmq_broker: RabbitMQ) -> Iterator[Rig]:
        with closing(AioPikaRig(rabbitmq_broker)) as rig:
            yield rig


class TestAioKafka(TransportContract):
    @pytest.fixture
    def rig(self, kafka: Kafka) -> Iterator[Rig]:
        with closing(AioKafkaRig(kafka)) as rig:
            yield rig


class TestConfluent(TransportContract):
    @pytest.fixture
    def rig(self, kafka: Kafka) -> Iterator[Rig]:
        with closing(ConfluentRig(kafka)) as rig:
            yield rig


class TestSqs(TransportContract):
    @pytest.fixture
    def rig(self, aws: Aws) -> Rig:
        return SqsRig(aws)


class TestSns(TransportContract):
    arrives_by = "aws_sqs"

    @pytest.fixture
    def rig(self, aws: Aws) -> Rig:
        return SnsRig(aws)


class TestAioSqs(TransportContract):
    @pytest.fixture
    def rig(self, aws: Aws) -> Iterator[Rig]:
        with closing(AioSqsRig(aws)) as rig:
            yield rig


class TestAioSns(TransportContract):
    arrives_by = "aws_sqs"

    @pytest.fixture
    def rig(self, aws: Aws) -> Iterator[Rig]:
        with closing(AioSnsRig(aws)) as rig:
            yield rig


@pytest.mark.server
class TestStomp(TransportContract):
    @pytest.fixture
    def rig(self, activemq_server: ActiveMQ) -> Iterator[Rig]:
        with closing(StompRig(activemq_server.port)) as rig:
            yield rig


@pytest.mark.server
class TestNats(TransportContract):
    @pytest.fixture
    def rig(self, nats_server: str) -> Iterator[Rig]:
        with closing(NatsRig(nats_server)) as rig:
            yield rig


@pytest.mark.server
class TestJetStream(TransportContract):
    @pytest.fixture
    def rig(self, nats_server: str) -> Iterator[Rig]:
        with closing(JetStreamRig(nats_server)) as rig:
            yield rig
