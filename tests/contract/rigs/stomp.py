"""stomp.py on ActiveMQ."""

from __future__ import annotations

import itertools
import logging
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import stomp

from tracekit.transports.stomp import Stomp

if TYPE_CHECKING:
    from collections.abc import Callable

Pairs: TypeAlias = "list[tuple[str, bytes]]"

PATIENCE_S: Final = 20
_MAX_HEADERS: Final = 1_000
_ITS_OWN: Final = frozenset(
    {
        *("ack", "content-length", "destination", "expires", "message-id", "persistent", "priority"),
        *("redelivered", "subscription", "timestamp"),
    }
)
_names = itertools.count(1)
_receipts = itertools.count(1)


class Listener(stomp.ConnectionListener):  # type: ignore[misc]  # the client ships no types
    """What an application listens with: it hands each message to a handler, and acknowledges it then."""

    def __init__(self, connection: Any, handle: Callable[[Any], None]) -> None:
        self._connection = connection
        self._handle = handle
        self.handled = threading.Event()
        self.ended = threading.Event()
        self.receipts: set[str] = set()
        self.changed = threading.Condition()

    def on_message(self, frame: Any) -> None:
        try:
            if not self.handled.is_set():  # the test asked for one message
                self._handle(frame)
                if "ack" in frame.headers:
                    self._connection.ack(frame.headers["ack"])
        finally:
            self.handled.set()

    def on_receipt(self, frame: Any) -> None:
        with self.changed:
            self.receipts.add(frame.headers["receipt-id"])
            self.changed.notify_all()

    def on_receiver_loop_completed(self, _: Any) -> None:
        self.ended.set()


class StompRig:
    """As plainly as it is used: `send`, and a listener that acknowledges what was handled."""

    transport = Stomp()

    def __init__(self, port: int) -> None:
        self.destination = f"/queue/orders-{next(_names)}"
        self._port = port
        self._closing = ExitStack()
        self._sender: Any = None
        self._listener: Any = None

    def _connection(self, handle: Callable[[Any], None]) -> tuple[Any, Listener]:
        connection = stomp.Connection12([("127.0.0.1", self._port)], auto_decode=False)
        listener = Listener(connection, handle)
        connection.set_listener("tests", listener)
        connection.connect(wait=True)
        return connection, listener

    def send(self, body: bytes, headers: object = None) -> None:
        if self._sender is None:
            self._sender, self._listener = self._connection(lambda _: None)
            self._closing.callback(self._sender.disconnect, "bye")
        receipt = f"sent-{next(_receipts)}"
        self._sender.send(self.destination, body, headers=headers, receipt=receipt, persistent="true")
        with self._listener.changed:
            assert self._listener.changed.wait_for(lambda: receipt in self._listener.receipts, PATIENCE_S)

    def headers_of(self, pairs: Pairs) -> object:
        return {name: value.decode() for name, value in pairs}

    def consume(self, handle: Callable[[object], None]) -> None:
        said = _Said()
        connection, listener = self._connection(handle)
        connection.subscribe(
            self.destination, id="1", ack="client-individual", headers={"activemq.prefetchSize": 1}
        )
        with said:
            assert listener.handled.wait(PATIENCE_S)
            if connection.is_connected() and not said.errors:
                connection.disconnect("bye")
            assert listener.ended.wait(PATIENCE_S)
        for error in said.errors:
            raise error

    def body(self, record: Any) -> bytes:
        body: bytes = record.body
        return body

    def headers(self, record: Any) -> Pairs:
        return [(name, value.encode()) for name, value in record.headers.items() if name not in _ITS_OWN]

    def full(self) -> tuple[bytes, object]:
        own = {"receipt", "persistent", "destination", "content-length", "content-type"}
        return b"one", {f"h{number}": "v" for number in range(_MAX_HEADERS - len(own))}

    def fail_to_send(self, error: Exception) -> None:
        class Failing:
            def __str__(self) -> str:
                raise error

        connection, _ = self._connection(lambda _: None)
        try:
            connection.send(self.destination, "one", headers={"failing": Failing()})
        finally:
            connection.disconnect("bye")

    def close(self) -> None:
        self._closing.close()


class _Said(logging.Handler):
    """What handlers raised: the client logs it, and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, BaseException):
            self.errors.append(record.msg)

    def __enter__(self) -> _Said:
        logging.getLogger("stomp.py").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("stomp.py").removeHandler(self)
