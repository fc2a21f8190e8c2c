"""A rig for RabbitMQ: an exchange, a queue behind it, pika's blocking channel on both, and their spans."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import pika
from opentelemetry.instrumentation.utils import suppress_instrumentation

from tests.acceptance.kafka_rig import HASH, Like

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.integration.servers.rabbitmq import RabbitMQ
    from tracekit.model import Span

EXCHANGE: Final = "shop"
DEADLINE_S: Final = 10
UNTOLD: Final = ("tracekit.flow.completion_ms", "tracekit.messaging.published_at")
_names = itertools.count(1)


class Rabbit:
    """One queue of a broker, bound to the exchange by a key of its own; a channel made before anything."""

    def __init__(self, broker: RabbitMQ) -> None:
        self.broker = broker
        number = next(_names)
        self.key = f"orders.{number}"
        self.queue = f"billing-{number}"
        self.sent_to = f"{EXCHANGE}:{self.key}"
        self.read_from = f"{EXCHANGE}:{self.key}:{self.queue}"
        self.connection: Any = pika.BlockingConnection(pika.URLParameters(broker.url))
        self.channel: Any = self.connection.channel()
        self.channel.exchange_declare(EXCHANGE, "topic")
        self.declare()

    def close(self) -> None:
        """Leave the broker."""
        self.connection.close()

    def declare(self, queue: str = "", key: str = "", **arguments: Any) -> str:
        """A queue, bound to the exchange."""
        queue, key = queue or self.queue, key or self.key
        settings = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.channel.queue_declare(queue, durable=True, arguments=settings)
        self.channel.queue_bind(queue, EXCHANGE, key)
        return queue

    def publish(self, body: bytes = b"an order", headers: Any = None, **properties: Any) -> None:
        """Publish a message as an application does."""
        given = None
        if headers is not None or properties:
            given = pika.BasicProperties(headers=headers, **properties)
        self.channel.basic_publish(EXCHANGE, self.key, body, given)

    def put(self, body: bytes = b"an order", headers: Any = None, **properties: Any) -> None:
        """Have a message come from a service that is not traced, with exactly these headers."""
        with suppress_instrumentation():
            self.publish(body, headers, **properties)

    def handle(self, handler: Callable[..., Any], number: int = 1, queue: str = "") -> None:
        """Have a handler called with so many messages; what it raises comes out."""
        called: list[bool] = []

        def counting(*arguments: Any) -> Any:
            called.append(True)
            return handler(*arguments)

        self.channel.basic_qos(prefetch_count=1)
        tag = self.channel.basic_consume(queue or self.queue, counting)
        try:
            for _ in range(number):
                self.connection.process_data_events(time_limit=DEADLINE_S)
        finally:
            self.channel.basic_cancel(tag)
        assert len(called) == number

    def get(self, queue: str = "") -> Any:
        """The next message, `(method, properties, body)`."""
        message = self.channel.basic_get(queue or self.queue, auto_ack=True)
        assert message[0] is not None, "no message came"
        return message

    def on_the_wire(self, number: int = 1, queue: str = "") -> Sequence[Any]:
        """The messages that are in the queue, read by somebody who is not traced."""
        with suppress_instrumentation():
            return [self.get(queue) for _ in range(number)]

    # -- what their spans look like ------------------------------------------------------------------

    def labels(self, operation: str, verb: str, destination: str, **more: object) -> dict[str, object]:
        """The attributes of a span. In names, `_` stands for the dot, `__` for itself."""
        dotted = {name.replace("__", "\0").replace("_", ".").replace("\0", "_"): more[name] for name in more}
        return {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": verb,
            "messaging.operation.type": operation,
            "messaging.destination.name": destination,
            "server.address": "127.0.0.1",
            "server.port": self.broker.port,
            **dotted,
        }

    def sent(self, flow: str, **more: object) -> dict[str, object]:
        """The attributes of the span of a publish."""
        routed = {"messaging.rabbitmq.destination.routing_key": self.key, "tracekit.flow.id": flow}
        return {**self.labels("send", "publish", self.sent_to, **more), **routed}

    def processed(self, flow: str, tag: int = 1, **more: object) -> dict[str, object]:
        """The attributes of the span of processing a message; without those of `UNTOLD`."""
        return {
            **self.labels("process", "process", self.read_from, **more),
            "messaging.rabbitmq.destination.routing_key": self.key,
            "messaging.rabbitmq.message.delivery_tag": tag,
            "tracekit.flow.id": flow,
            "tracekit.pathway.hash": HASH,
        }


def untimed(span: Span) -> dict[str, object]:
    """The attributes of a span, without those that tell a time."""
    return {name: value for name, value in span.attributes.items() if name not in UNTOLD}


ID: Final = Like("[0-9a-f]{32}")
