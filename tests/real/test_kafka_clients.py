"""One flow through all three clients of Kafka, on Apache Kafka itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaConsumer, KafkaProducer

import tracekit
from tests.integration.servers.kafka import kafka

if TYPE_CHECKING:
    from pathlib import Path

    from tracekit.testing import Captured

pytestmark = pytest.mark.real

DEADLINE_S = 30


def test_one_flow_goes_through_all_three_clients(tmp_path: Path, flows: Captured) -> None:
    with kafka(tmp_path) as broker:
        address = broker.address

        producer = KafkaProducer(bootstrap_servers=address)
        producer.send("first", b"an order").get(DEADLINE_S)
        producer.close()
        asyncio.run(_hand_on(address))
        _hand_on_by_confluent(address)
        consumer = KafkaConsumer(
            "third", bootstrap_servers=address, group_id="last", auto_offset_reset="earliest"
        )
        for record in consumer:
            assert record.value == b"an order"
            consumer.commit()
            break
        consumer.close()
        flow = flows.wait_for_flow("send first", "process first", "send second", "process third")

    flow.assert_complete()
    flow.assert_no_orphans()
    hops = ["send first", "process first", "send second", "process second", "send third", "process third"]
    spans = [flow.span(name) for name in hops]
    assert {span.trace_id for span in flows.spans} == {flow.id}
    assert [span.parent_id for span in spans] == [None, *(span.span_id for span in spans[:-1])]
    assert {span.attributes["messaging.system"] for span in spans} == {"kafka"}
    assert [span.attributes["messaging.kafka.offset"] for span in spans] == [0] * 6
    assert flow.span("commit third").parent_id == flow.span("process third").span_id


async def _hand_on(address: str) -> None:
    """From the first topic to the second."""
    settings: dict[str, Any] = {"group_id": "first", "auto_offset_reset": "earliest"}
    async with (
        AIOKafkaConsumer("first", bootstrap_servers=address, **settings) as consumer,
        AIOKafkaProducer(bootstrap_servers=address) as producer,
    ):
        async for record in consumer:
            await producer.send_and_wait("second", record.value, headers=[*record.headers])
            await consumer.commit()
            break


def _hand_on_by_confluent(address: str) -> None:
    """From the second topic to the third."""
    settings = {"bootstrap.servers": address}
    consumer = confluent_kafka.Consumer({**settings, "group.id": "second", "auto.offset.reset": "earliest"})
    producer = confluent_kafka.Producer(settings)
    consumer.subscribe(["second"])
    with tracekit.consuming(consumer) as messages:
        for message in messages:
            producer.produce("third", message.value(), headers=message.headers())
            assert producer.flush(DEADLINE_S) == 0
            consumer.commit(message, asynchronous=False)
            break
    consumer.close()
    producer.close()
