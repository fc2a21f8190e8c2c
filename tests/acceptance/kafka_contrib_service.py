"""A service with OpenTelemetry's SDK and its own instrumentation of kafka-python, and no tracekit.

    python kafka_contrib_service.py produce TOPIC
    python kafka_contrib_service.py consume TOPIC
    python kafka_contrib_service.py relay TOPIC OTHER

It takes or sends one message, exports over OTLP as the standard variables say, and ends.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.kafka import KafkaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 20


def settings() -> dict[str, Any]:
    version = os.environ["KAFKA_API_VERSION"].split(".")
    return {
        "bootstrap_servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        "api_version": tuple(int(part) for part in version),
    }


def produce(topic: str) -> None:
    """Send one message, inside a span of the service."""
    with trace.get_tracer("shop").start_as_current_span("place order"):
        send(topic)


def send(topic: str) -> None:
    producer = KafkaProducer(**settings())
    producer.send(topic, b"an order").get(DEADLINE_S)
    producer.close()


def consume(topic: str) -> Any:
    """Take one message."""
    consumer = KafkaConsumer(
        topic,
        group_id=f"contrib-{topic}",
        auto_offset_reset="earliest",
        consumer_timeout_ms=DEADLINE_S * 1000,
        **settings(),
    )
    consumer.partitions_for_topic(topic)
    record = next(consumer)
    consumer.close()
    return record


def relay(topic: str, other: str) -> None:
    """Take one message and send one, with the context taken on by hand, as contrib leaves that open."""
    record = consume(topic)
    context = propagate.extract({name: value.decode() for name, value in record.headers})
    with trace.get_tracer("shop").start_as_current_span("handle order", context=context):
        send(other)


def main() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    KafkaInstrumentor().instrument()
    role, *topics = sys.argv[1:]
    roles: dict[str, Callable[..., object]] = {"produce": produce, "consume": consume, "relay": relay}
    roles[role](*topics)
    provider.shutdown()


if __name__ == "__main__":
    main()
