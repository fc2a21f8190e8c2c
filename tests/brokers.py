"""Brokers: clients and topics of one test, on a broker that all tests share."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.integration.servers.packages import PACKAGES, ensure, found

if TYPE_CHECKING:
    from types import TracebackType

    from tracekit_demo.broker import Broker

_topics: Final = itertools.count(1)
_PATIENCE_MS: Final = 10_000


def is_required() -> bool:
    """Whether servers that are missing are to be installed: `make test-real` says so."""
    return os.environ.get("TEST_SERVERS") == "required"


def on_this_machine(command: str) -> None:
    """Return where a server is installed; `make test-real` installs it, `make test` skips what needs it."""
    if found(command) is not None:
        return
    if is_required():
        ensure([command])
        return
    pytest.skip(f"{command} is not installed: as root, apt-get install {PACKAGES[command]}")


class Kafka:
    """Makes kafka-python clients, and closes them at the end of its `with` block.

    topic = kafka.topic("orders")
    kafka.producer().send(topic, b"one").get(10)
    record = next(kafka.consumer(topic))
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._clients = contextlib.ExitStack()

    def topic(self, name: str = "orders") -> str:
        """A topic that no other test has: the broker makes it at its first use."""
        return f"{name}-{next(_topics)}"

    def producer(self, **settings: Any) -> Any:
        """A KafkaProducer."""
        from kafka import KafkaProducer

        producer = KafkaProducer(**{**self.broker.settings, **settings})
        self._clients.callback(producer.close)
        return producer

    def consumer(self, *topics: str, group: str | None = "tests", **settings: Any) -> Any:
        """A KafkaConsumer from the beginning of the topics; its loop ends when nothing comes for long."""
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(
            *topics,
            **{
                **self.broker.settings,
                "group_id": group and f"{group}-{'-'.join(topics)}",
                "auto_offset_reset": "earliest",
                "consumer_timeout_ms": _PATIENCE_MS,
                **settings,
            },
        )
        for topic in topics:
            # Without its metadata a new member may be assigned nothing, and the mock never rebalances.
            consumer.partitions_for_topic(topic)
        self._clients.callback(consumer.close)
        return consumer

    def __enter__(self) -> Kafka:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clients.close()
