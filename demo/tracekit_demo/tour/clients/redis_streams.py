"""Redis Streams, by redis-py."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis

import tracekit
from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def receive(name: str, hand_on: HandOn) -> None:
    client: Any = redis.Redis.from_url(os.environ["REDIS_URL"])
    stream = destination(name)
    with suppress(redis.ResponseError):  # the group is there
        client.xgroup_create(stream, name, "0", mkstream=True)
    ready()
    while True:
        for _, messages in client.xreadgroup(name, "one", {stream: ">"}, count=1, block=1000):
            for message in messages:
                id_, fields = message
                with tracekit.process(message):
                    hand_on(json.loads(fields[b"order"]))
                client.xack(stream, name, id_)


def sender(name: str) -> HandOn:
    client: Any = redis.Redis.from_url(os.environ["REDIS_URL"])

    def send(order: Order) -> None:
        client.xadd(destination(name), {"order": json.dumps(order)})

    return send
