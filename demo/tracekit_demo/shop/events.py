"""The shop's events, and how one is published.

An event is a JSON object, keyed by the order's id. Kafka is what the environment says:
`KAFKA_BOOTSTRAP_SERVERS`, and `KAFKA_API_VERSION` for a broker whose version clients cannot find out.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TypeAlias

from kafka import KafkaProducer

if TYPE_CHECKING:
    from collections.abc import Mapping

Event: TypeAlias = dict[str, Any]
"""What JSON gives; each consumer checks what it needs."""


def kafka_settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What every Kafka client of the shop is given."""
    settings: dict[str, Any] = {"bootstrap_servers": environment["KAFKA_BOOTSTRAP_SERVERS"].split(",")}
    if version := environment.get("KAFKA_API_VERSION"):
        settings["api_version"] = tuple(int(part) for part in version.split("."))
    return settings


class Publisher:
    """Publishes events; each is on the broker when `publish` returns."""

    def __init__(self) -> None:
        self._producer = KafkaProducer(
            key_serializer=str.encode,
            value_serializer=lambda event: json.dumps(event).encode(),
            **kafka_settings(),
        )

    def publish(self, topic: str, event: Event) -> None:
        """Send the event and wait for the broker's answer. Raises kafka-python's errors."""
        self._producer.send(topic, key=event["order_id"], value=event).get(timeout=10)

    def close(self) -> None:
        """Send what is left, and disconnect."""
        self._producer.close(timeout=2)
