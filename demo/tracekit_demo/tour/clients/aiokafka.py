"""Kafka, by aiokafka."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import ConsumerRebalanceListener

from tracekit_demo.tour.loop import Loop
from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def receive(name: str, hand_on: HandOn) -> None:
    async def consume() -> None:
        class Ready(ConsumerRebalanceListener):  # type: ignore[misc]  # the client ships no types
            def on_partitions_revoked(self, _: object) -> None:
                pass

            def on_partitions_assigned(self, _: object) -> None:
                ready()

        consumer = AIOKafkaConsumer(
            bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            group_id=name,
            auto_offset_reset="earliest",
        )
        consumer.subscribe([destination(name)], listener=Ready())
        async with consumer:
            async for message in consumer:
                await asyncio.to_thread(hand_on, json.loads(message.value))

    asyncio.run(consume())


def sender(name: str) -> HandOn:
    loop = Loop()

    async def started() -> Any:
        producer = AIOKafkaProducer(bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"])
        await producer.start()
        return producer

    producer = loop.run(started())

    def send(order: Order) -> None:
        loop.run(producer.send_and_wait(destination(name), json.dumps(order).encode()))

    return send
