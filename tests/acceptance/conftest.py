"""Fixtures of the acceptance tests: a topic, and the check of everything emitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaProducer

from tests.acceptance.kafka_rig import Topic, checkable
from tests.conventions.checker import violations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit_demo.broker import Broker

    from tests.brokers import Kafka

FOREIGN = frozenset({"opentelemetry.instrumentation.kafka", "google.cloud.pubsub_v1", "application"})
"""Scopes that keep to older conventions (contrib's instrumentation of kafka-python, Pub/Sub's client), and
what a test measures as an application does."""


@pytest.fixture(scope="session")
def kafka_producer(kafka_broker: Broker) -> Iterator[Any]:
    """One producer for all: made before tracekit is configured, and warm."""
    producer = KafkaProducer(**kafka_broker.settings)
    yield producer
    producer.close()


@pytest.fixture
def topic(kafka: Kafka, kafka_producer: Any) -> Topic:
    """A topic of the test's own."""
    return Topic(kafka, kafka_producer)


@pytest.fixture(autouse=True)
def conventions(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything that a test emits keeps to the conventions."""
    seen = [request.getfixturevalue(name) for name in ("flows", "flow_sink") if name in request.fixturenames]
    yield
    for each in seen:
        assert violations(each.spans, checkable(each), foreign=FOREIGN) == []
