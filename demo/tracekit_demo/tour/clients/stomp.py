"""ActiveMQ, by stomp.py."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import stomp

from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def _connection() -> Any:
    host, _, port = os.environ["ACTIVEMQ_STOMP"].rpartition(":")
    return stomp.Connection12([(host, int(port))])


class _Listener(stomp.ConnectionListener):  # type: ignore[misc]  # the client ships no types
    def __init__(self, connection: Any, hand_on: HandOn) -> None:
        self._connection = connection
        self._hand_on = hand_on

    def on_message(self, frame: Any) -> None:
        self._hand_on(json.loads(frame.body))
        self._connection.ack(frame.headers["ack"])


def receive(name: str, hand_on: HandOn) -> None:
    connection = _connection()
    connection.set_listener("station", _Listener(connection, hand_on))
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{destination(name)}", id="1", ack="client-individual")
    ready()
    threading.Event().wait()


def sender(name: str) -> HandOn:
    connection = _connection()
    connection.connect(wait=True)

    def send(order: Order) -> None:
        connection.send(f"/queue/{destination(name)}", json.dumps(order), persistent="true")

    return send
