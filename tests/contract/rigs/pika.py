"""pika on RabbitMQ: the default exchange, and a handler."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, cast

from tracekit.transports.pika import Pika

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.servers.rabbitmq import RabbitMQ

_names = itertools.count(1)
_PATIENCE_S: Final = 10
_FRAME_AROUND: Final = 33
"""Of a frame that is full of one header with a name of one letter: 8 + 12 of the frame, 2 + 4 + 2 + 5."""


def full_header(frame_max: int, others: int = 0) -> dict[str, object]:
    """Headers that just fit in a frame, beside so many bytes of other properties."""
    return {"x": "x" * (frame_max - _FRAME_AROUND - others)}


class PikaRig:
    """pika as plainly as it is used: `basic_publish` with confirms, and `basic_consume`."""

    transport = Pika()

    def __init__(self, broker: RabbitMQ) -> None:
        import pika

        self._broker = broker
        self.destination = f"orders-{next(_names)}"
        self._connection: Any = pika.BlockingConnection(pika.URLParameters(broker.url))
        self._setup: Any = self._connection.channel()
        self._setup.queue_declare(self.destination)
        self._sender: Any = None
        self._reader: Any = None

    def close(self) -> None:
        """Leave the broker."""
        self._connection.close()

    def _channel(self) -> Any:
        channel = self._connection.channel()
        channel.confirm_delivery()
        channel.basic_qos(prefetch_count=1)
        return channel

    def send(self, body: bytes, headers: object = None) -> None:
        if self._sender is None:
            self._sender = self._channel()
        self._sender.basic_publish("", self.destination, body, headers)

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        import pika

        return pika.BasicProperties(headers={name: value.decode() for name, value in pairs})

    def consume(self, handle: Callable[[object], None]) -> None:
        if self._reader is None:
            self._reader = self._channel()
        done: list[bool] = []

        def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            done.append(True)
            try:
                handle((method, properties, body))
            finally:
                channel.basic_ack(method.delivery_tag)

        tag = self._reader.basic_consume(self.destination, handler)
        try:
            self._connection.process_data_events(time_limit=_PATIENCE_S)
        finally:
            self._reader.basic_cancel(tag)
        assert done

    def body(self, record: object) -> bytes:
        return cast("bytes", cast("Any", record)[2])

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        found: dict[str, str] = cast("Any", record)[1].headers or {}
        return [(name, value.encode()) for name, value in found.items()]

    def full(self) -> tuple[bytes, object]:
        import pika

        return b"one", pika.BasicProperties(headers=full_header(self._connection._impl.params.frame_max))

    def fail_to_send(self, error: Exception) -> None:
        import pika

        class Failing(pika.BasicProperties):  # type: ignore[misc]  # the client ships no types
            def encode(self) -> Any:
                raise error

        self.send(b"one", Failing())
