"""Facts about one span, read from its kind and its attributes: old names of the conventions too."""

from __future__ import annotations

import re
from typing import Final

from tracekit import semconv
from tracekit.model import Attributes, Kind, Link, Span

_IS_ID: Final = re.compile("[0-9a-f]{32}").fullmatch
_OLD_OPERATIONS: Final = {"publish": "send", "deliver": "process"}
"""Operation types that conventions before 1.27 had."""
_MOST_RESENDS: Final = 1_000_000
"""No client tries so often; a span that says so must not make the sum of a flow a number of any size."""


def text(attributes: Attributes, *names: str) -> str | None:
    """The first of these attributes that is there and not empty, as text."""
    for name in names:
        value = attributes.get(name)
        if value is not None and value != "":
            return value if isinstance(value, str) else str(value)
    return None


def number(attributes: Attributes, *names: str) -> int | None:
    """The first of these attributes that is a whole number."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def flow_id(of: Span | Link) -> str | None:
    """The flow that a span or a link says it belongs to; None for a hub, for what others emit, and for
    what is no id (32 hex digits, in lower case).
    """
    value = of.attributes.get(semconv.FLOW_ID)
    return value if isinstance(value, str) and _IS_ID(value) else None


def operation(span: Span) -> str:
    """The messaging operation type; empty where the span names none."""
    named = text(span.attributes, semconv.MESSAGING_OPERATION_TYPE, semconv.OLD_MESSAGING_OPERATION) or ""
    return _OLD_OPERATIONS.get(named, named)


def is_producing(span: Span) -> bool:
    """It creates or sends a message."""
    named = operation(span)
    return named in {"send", "create"} if named else span.kind is Kind.PRODUCER


def is_consuming(span: Span) -> bool:
    """It takes a message over: processes it, or at least receives it."""
    named = operation(span)
    return named in {"process", "receive"} if named else span.kind is Kind.CONSUMER


def is_messaging(span: Span) -> bool:
    """It says that it belongs to a message."""
    return bool(operation(span)) or semconv.MESSAGING_SYSTEM in span.attributes


def is_wait(span: Span) -> bool:
    """It is no work, but shows to viewers of spans how long a message waited."""
    return span.attributes.get(semconv.WAIT) is True


def is_batch(span: Span) -> bool:
    """It says that it serves several messages; a batch of one is a batch too."""
    return semconv.MESSAGING_BATCH_MESSAGE_COUNT in span.attributes


def is_call(span: Span) -> bool:
    """Somebody waits for its answer."""
    return span.kind is Kind.SERVER or (span.kind is Kind.CLIENT and not is_messaging(span))


def destination(attributes: Attributes) -> str | None:
    """The topic, queue or exchange: its template where it has one, as in span names."""
    return text(
        attributes,
        semconv.MESSAGING_DESTINATION_TEMPLATE,
        semconv.MESSAGING_DESTINATION_NAME,
        semconv.OLD_MESSAGING_DESTINATION,
    )


def group(span: Span) -> str | None:
    """The consumer group."""
    return text(
        span.attributes,
        semconv.MESSAGING_CONSUMER_GROUP_NAME,
        semconv.OLD_MESSAGING_KAFKA_CONSUMER_GROUP,
    )


def consumer(span: Span) -> str:
    """Who consumes: the consumer group, or the service where no group is known."""
    return group(span) or span.service.name


def resends(span: Span) -> int:
    """How often a client sent again: a call that is a further try is one, a send tells its number."""
    if (number(span.attributes, semconv.HTTP_REQUEST_RESEND_COUNT) or 0) > 0:
        return 1
    return min(max(number(span.attributes, semconv.RETRIES) or 0, 0), _MOST_RESENDS)


def http_status(span: Span) -> int | None:
    """The status of an HTTP call."""
    return number(span.attributes, semconv.HTTP_RESPONSE_STATUS_CODE, semconv.OLD_HTTP_STATUS_CODE)
