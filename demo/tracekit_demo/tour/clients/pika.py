"""RabbitMQ, by pika."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pika

from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def _channel() -> Any:
    parameters = pika.URLParameters(os.environ["RABBITMQ_URL"])
    parameters.heartbeat = 0  # who only sends has nobody who would answer them
    return pika.BlockingConnection(parameters).channel()


def receive(name: str, hand_on: HandOn) -> None:
    channel = _channel()
    channel.queue_declare(destination(name))

    def handle(channel: Any, method: Any, _: Any, body: bytes) -> None:
        hand_on(json.loads(body))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(destination(name), handle)
    ready()
    channel.start_consuming()


def sender(name: str) -> HandOn:
    channel = _channel()

    def send(order: Order) -> None:
        channel.basic_publish("", destination(name), json.dumps(order).encode())

    return send
