"""The systems of the tour, in its order: a station each, and what it takes to have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class System:
    """A system: `server` is the one that its messages go through, empty where the station is called."""

    name: str
    module: str
    """In `clients`."""
    imports: tuple[str, ...]
    extra: str
    """Of tracekit: brings what is imported."""
    server: str = ""


SYSTEMS: Final[Mapping[str, System]] = {
    system.name: system
    for system in (
        System("shop", "http", ("fastapi", "uvicorn", "httpx"), "demo"),
        System("http", "http", ("fastapi", "uvicorn", "httpx"), "demo"),
        System("grpc", "grpc", ("grpc",), "rpc"),
        System("graphql", "graphql", ("strawberry", "gql", "fastapi"), "graphql,demo"),
        System("kafka-python", "kafka_python", ("kafka", "structlog"), "demo", "kafka"),
        System("aiokafka", "aiokafka", ("aiokafka",), "aiokafka", "kafka"),
        System("confluent", "confluent", ("confluent_kafka",), "confluent", "kafka"),
        System("pika", "pika", ("pika",), "rabbitmq", "rabbitmq"),
        System("aio-pika", "aio_pika", ("aio_pika",), "rabbitmq", "rabbitmq"),
        System("stomp", "stomp", ("stomp",), "activemq", "activemq"),
        System("sqs", "sqs", ("boto3",), "aws", "aws"),
        System("pubsub", "pubsub", ("google.cloud.pubsub_v1",), "pubsub", "pubsub"),
        System("redis", "redis_streams", ("redis",), "redis", "redis"),
    )
}
"""Stations are named for them. The first takes the customer's order, the last one has it done."""
