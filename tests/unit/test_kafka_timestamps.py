"""What a Kafka record's timestamp is worth: producers, and mock brokers, put any number there."""

from __future__ import annotations

import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tracekit.messaging.creation import Arrived
from tracekit.transports.kafka_python import KafkaPython

SENT_MS = 1_700_000_000_000


def published(stamp: int | None, kind: int) -> tuple[int | None, str]:
    """When a record with this timestamp was published, and who says so."""
    fields = dict.fromkeys(ConsumerRecord._fields)
    record = ConsumerRecord(**{**fields, "topic": "orders", "timestamp": stamp, "timestamp_type": kind})
    (message,) = KafkaPython().incoming(record)
    arrived = Arrived(message)
    return arrived.published_ns, arrived.source


def test_a_timestamp_is_the_broker_s_or_the_producer_s() -> None:
    assert published(SENT_MS, 1) == (SENT_MS * 1_000_000, "broker")
    assert published(SENT_MS, 0) == (SENT_MS * 1_000_000, "client")


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    "stamp", [None, -1, 0, 1234, SENT_MS // 1000, SENT_MS * 1000, SENT_MS * 1_000_000, 4_102_444_800_001]
)
def test_an_implausible_timestamp_is_none(stamp: int | None, kind: int) -> None:
    assert published(stamp, kind) == (None, "")
