"""Kafka, by confluent-kafka."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Producer

import tracekit
from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def receive(name: str, hand_on: HandOn) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": name,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([destination(name)], on_assign=lambda *_: ready())
    try:
        while True:
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            with tracekit.process(message):
                hand_on(json.loads(message.value()))
    finally:
        consumer.close()


def sender(name: str) -> HandOn:
    producer = Producer({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]})

    def send(order: Order) -> None:
        producer.produce(destination(name), json.dumps(order).encode())
        producer.flush(20)

    return send
