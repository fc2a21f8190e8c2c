"""How the shop's programs consume: in a thread beside HTTP, or in one loop that is the program."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer
from opentelemetry import trace

import tracekit
from tracekit_demo.shop.events import kafka_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tracekit_demo.shop.events import Event

# Where a loop ends while its consumer is about to have joined its group, kafka-python 3.0 joins once more,
# and the embedded broker lets it wait until its first session has expired: loops are long, sessions short.
_IDLE_MS: Final = 1000
_SESSION_MS: Final = 6000
_HEARTBEAT_MS: Final = 1000  # of kafka-python's 3 s, a busy machine has to miss but one
_CLOSE_MS: Final = 2000  # to commit and to leave the group; without a broker it would try for 30 s

log = structlog.get_logger()


def _subscribed(
    consumer: KafkaConsumer, topics: tuple[str, ...], listener: ConsumerRebalanceListener | None = None
) -> KafkaConsumer:
    consumer.subscribe(topics, listener=listener)
    for topic in topics:
        # kafka-python may join the group before it knows the topic's partitions, and is then
        # assigned none of them. Asking for them first waits until they are known.
        consumer.partitions_for_topic(topic)
    return consumer


def _consumer(group: str, **more: Any) -> KafkaConsumer:
    return KafkaConsumer(
        group_id=group,
        auto_offset_reset="earliest",
        session_timeout_ms=_SESSION_MS,
        heartbeat_interval_ms=_HEARTBEAT_MS,
        value_deserializer=json.loads,
        **kafka_settings(),
        **more,
    )


def _end_as_failed() -> None:
    """End this program in order, and as one that failed: who runs it starts it again."""
    # The server ends on the signal, and answers and exports what it has. As the first process of a container
    # it would then end with 0: no signal kills it there.
    atexit.register(os._exit, 1)
    os.kill(os.getpid(), signal.SIGTERM)


class Worker:
    """A thread that hands each event of some topics to its handler, one after another.

    Where it cannot go on, the program ends: a service that answers and consumes nothing helps nobody.

    `rest_s`: how many seconds to rest after each.
    """

    def __init__(
        self,
        group: str,
        handlers: Mapping[str, Callable[[Event], None]],
        *,
        rest_s: Callable[[], float] = lambda: 0,
    ) -> None:
        self._handlers = handlers
        self._rest_s = rest_s
        # The loop below ends when nothing came for this long, and looks whether it is to stop.
        self._consumer = _consumer(group, consumer_timeout_ms=_IDLE_MS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{group} worker")

    def start(self) -> None:
        """Begin to consume."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the event in hand, leave the group, and return."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_ready(self) -> bool:
        """Whether the group has given it partitions."""
        return self._thread.is_alive() and bool(self._consumer.assignment())

    def _run(self) -> None:
        try:
            self._consume()
        except Exception:
            log.exception("consuming failed, the service ends")
            if not self._stopping.is_set():
                _end_as_failed()

    def _consume(self) -> None:
        try:
            _subscribed(self._consumer, tuple(self._handlers))
            while not self._stopping.is_set():
                for message in self._consumer:
                    self._handle(message)
                    if self._stopping.wait(self._rest_s()):
                        break
        finally:
            self._consumer.close(timeout_ms=_CLOSE_MS)

    def _handle(self, message: Any) -> None:
        try:
            with tracekit.process(message):
                trace.get_current_span().set_attribute("order.id", message.value["order_id"])
                self._handlers[message.topic](message.value)
        except Exception:
            log.exception("event failed, going on with the next", topic=message.topic, offset=message.offset)


class _Ready(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Writes the file that says "ready" once there are partitions."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)

    def on_partitions_assigned(self, assigned: object) -> None:
        if assigned:
            self._file.touch()

    def on_partitions_revoked(self, _: object) -> None:
        self._file.unlink(missing_ok=True)


@contextmanager
def program(group: str, *topics: str) -> Iterator[KafkaConsumer]:
    """The consumer of a program that is one loop, until SIGTERM; `READY_FILE` is there once it can begin."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    consumer = _consumer(group)
    try:
        yield _subscribed(consumer, topics, _Ready(os.environ.get("READY_FILE", f"{group}.ready")))
    finally:
        consumer.close(timeout_ms=_CLOSE_MS)
