"""kafka-python on the embedded Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tracekit.transports.kafka_python import KafkaPython

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.brokers import Kafka

_MAX_REQUEST: int = 4_096


class KafkaPythonRig:
    """kafka-python as plainly as it is used: `send(…).get()` and a loop that is left after one message."""

    transport = KafkaPython()

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.destination = kafka.topic()
        self._sender: Any = None
        self._reader: Any = None

    @property
    def _producer(self) -> Any:
        if self._sender is None:
            self._sender = self._kafka.producer(max_request_size=_MAX_REQUEST)
        return self._sender

    @property
    def _consumer(self) -> Any:
        if self._reader is None:
            self._reader = self._kafka.consumer(self.destination)
        return self._reader

    def send(self, body: bytes, headers: object = None) -> None:
        self._producer.send(self.destination, value=body, headers=headers).get(10)

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        return list(pairs)

    def consume(self, handle: Callable[[object], None]) -> None:
        for record in self._consumer:
            handle(record)
            break

    def body(self, record: object) -> bytes:
        return cast("bytes", cast("Any", record).value)

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        return [*cast("Any", record).headers]

    def full(self) -> tuple[bytes, object]:
        # The client's own estimate of what goes around a value: see KafkaProducer._estimate_size_in_bytes.
        from kafka.record.default_records import DefaultRecordBatchBuilder

        size = int(DefaultRecordBatchBuilder.estimate_size_in_bytes(None, b"x" * _MAX_REQUEST, []))
        return b"x" * (2 * _MAX_REQUEST - size), None

    def fail_to_send(self, error: Exception) -> None:
        from kafka.serializer import Serializer

        class Failing(Serializer):  # type: ignore[misc]  # the client ships no types
            def serialize(self, topic: str, headers: object, data: object) -> bytes:
                raise error

        self._kafka.producer(value_serializer=Failing()).send(self.destination, value=b"one")
