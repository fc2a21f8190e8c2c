"""RabbitMQ: how its conventions name a destination, and what its messages say, whichever client reads them.

Sources: conventions 1.44, docs/messaging/rabbitmq.md; RabbitMQ, "Dead Letter Exchanges" and "Quorum Queues".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tracekit import semconv
from tracekit.messaging.transport import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMELESS: Final = "amq.default"
# Queues that the broker (or aio-pika) names, one for each consumer, and addresses of direct replies.
_GENERATED: Final = re.compile(r"amq\.gen-.+|amq_[0-9a-f]{32}|amq\.rabbitmq\.reply-to\..+")
_MS: Final = 1_000_000
PORT: Final = 5672
"""Where brokers listen by default."""
_FRAME_MAX: Final = 131_072
_AROUND: Final = 32
"""Bytes of a frame's own and of its content header, and of the length of a table of headers."""
_PUBLISHED: Final = "timestamp_in_ms"
"""The header of the broker's own clock, where it is told to set it ("Message Interceptors")."""


def destination(exchange: str, routing_key: str, queue: str = "") -> str:
    """`exchange:key`, for consumers `exchange:key:queue`; without what is empty, generated or said."""
    queue = "" if queue == routing_key else queue
    return ":".join(part for part in (exchange, routing_key, queue) if _is_a_name(part)) or _NAMELESS


def _is_a_name(part: str) -> bool:
    return bool(part) and _GENERATED.fullmatch(part) is None


def facts(routing_key: str, correlation_id: str | None = None) -> dict[str, str | int | bool]:
    """What the conventions want to know of a message."""
    found: dict[str, str | int | bool] = {}
    if routing_key:
        found[semconv.MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY] = routing_key
    if correlation_id:
        found[semconv.MESSAGING_MESSAGE_CONVERSATION_ID] = str(correlation_id)
    return found


def settling(delivery_tag: object, requeue: object) -> dict[str, str | int | bool]:
    """What is known of the settling of a message; `requeue` where the call says it."""
    found: dict[str, str | int | bool] = {}
    if isinstance(delivery_tag, int):
        found[semconv.MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG] = delivery_tag
    if isinstance(requeue, bool):
        found[semconv.REQUEUE] = requeue
    return found


def room(frame_max: int, used: int) -> int:
    """Bytes left for headers where properties take `used`: all of them go in one frame.

    A broker that is sent a longer one closes the connection (501, FRAME_ERROR).
    """
    return (frame_max or _FRAME_MAX) - used - _AROUND


def delivered(frame: Any, queue: str, properties: Any, sent_at_ns: int | None) -> Message:
    """A message as it was delivered: `frame` has its exchange, routing key, tag and whether it came before.

    `sent_at_ns` is its timestamp, which is a client's.
    """
    headers: Mapping[str, Any] = properties.headers or {}
    found = facts(frame.routing_key or "", properties.correlation_id)
    found[semconv.MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG] = frame.delivery_tag
    if frame.redelivered:
        found[semconv.REDELIVERED] = True
    deaths = _deaths(headers)
    if deaths:
        found[semconv.DEAD_LETTER_REASON] = str(deaths[0].get("reason"))
    published_ms = _number(headers.get(_PUBLISHED))
    return Message(
        destination(frame.exchange or "", frame.routing_key or "", queue),
        tuple(headers.items()),
        id=properties.message_id or None,
        published_at_ns=None if published_ms is None else published_ms * _MS,
        sent_at_ns=sent_at_ns,
        delivery_attempt=_attempt(headers, deaths, queue, is_again=bool(frame.redelivered)),
        attributes=found,
    )


def _deaths(headers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Why and how often it left which queue as a dead letter, the last first."""
    found = headers.get("x-death")
    return [death for death in found if isinstance(death, dict)] if isinstance(found, list) else []


def _attempt(
    headers: Mapping[str, Any], deaths: list[Mapping[str, Any]], queue: str, *, is_again: bool
) -> int | None:
    """Which try of this queue it is: after each it died and came back, or was put back. None: not said.

    Quorum queues count what is put back. Classic queues say only that it was.
    """
    again = _number(headers.get("x-delivery-count"))
    if again is None:
        if is_again or not queue:
            return None
        again = 0
    returned = sum(_number(death.get("count")) or 0 for death in deaths if death.get("queue") == queue)
    return 1 + again + returned


def _number(value: object) -> int | None:
    """The number that it is, if it is one; pika has a class of its own for long ones."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None
