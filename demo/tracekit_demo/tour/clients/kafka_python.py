"""Kafka, by kafka-python: as the shop does it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kafka import KafkaProducer

from tracekit_demo.shop.consuming import program
from tracekit_demo.shop.events import kafka_settings
from tracekit_demo.tour.order import destination

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def receive(name: str, hand_on: HandOn) -> None:
    with program(name, destination(name)) as consumer:  # it says itself when it is ready
        for message in consumer:
            hand_on(message.value)


def sender(name: str) -> HandOn:
    producer = KafkaProducer(value_serializer=lambda order: json.dumps(order).encode(), **kafka_settings())

    def send(order: Order) -> None:
        producer.send(destination(name), value=order).get(timeout=20)

    return send
