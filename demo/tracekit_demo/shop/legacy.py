"""How inventory published before there was tracing: by a client that nobody can instrument.

It takes the class from where it is written in C, past what tracing puts in its place, and `tracekit.wrap` is
unknown to it. Its messages carry no headers, so whoever consumes them does not know what they belong to.
"""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException
from confluent_kafka.cimpl import Producer

if TYPE_CHECKING:
    from tracekit_demo.shop.events import Event

_TIMEOUT_S: Final = 10


@functools.cache
def _producer() -> Producer:
    # Its own log goes to standard error; of a broker that ends before it, it would say a line a second.
    return Producer({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"], "log_level": 0})


def publish(topic: str, event: Event) -> None:
    """Send the event, and wait until it is on the broker. Raises KafkaException."""
    _producer().produce(topic, key=event["order_id"], value=json.dumps(event))
    if _producer().flush(_TIMEOUT_S):
        raise KafkaException(f"no answer within {_TIMEOUT_S} s")
