"""RabbitMQ, by aio-pika."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import aio_pika

from tracekit_demo.tour.loop import Loop
from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel

    from tracekit_demo.tour.order import HandOn, Order


def receive(name: str, hand_on: HandOn) -> None:
    async def consume() -> None:
        connection = await aio_pika.connect(os.environ["RABBITMQ_URL"])
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(destination(name))
            async with queue.iterator() as messages:
                ready()
                async for message in messages:
                    async with message.process():
                        await asyncio.to_thread(hand_on, json.loads(message.body))

    asyncio.run(consume())


def sender(name: str) -> HandOn:
    loop = Loop()

    async def opened() -> AbstractChannel:
        return await (await aio_pika.connect(os.environ["RABBITMQ_URL"])).channel()

    channel: AbstractChannel = loop.run(opened())

    def send(order: Order) -> None:
        message = aio_pika.Message(json.dumps(order).encode())
        loop.run(channel.default_exchange.publish(message, destination(name)))

    return send
