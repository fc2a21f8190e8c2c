"""Builders of spans as tracekit and others emit them, for tests that need spans and nothing else.

Times are milliseconds after the beginning, and ids follow from what a span is, so that a test is the
same in every run. One file, though a long one: who writes a test looks through it as through a table.

    entry = request("POST /orders", 0, 84)
    send = sent("orders", 10, 18, parent=entry)
    late = processed(send, 1000, 1100, service="billing", published=15)

    assert build_flow([entry, send, late]).waits[0].duration_ns == 985 * MS
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from tracekit import semconv
from tracekit.model import NO_ATTRIBUTES, Attributes, Kind, Link, Service, Span, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGINNING: Final = 1_700_000_000_000_000_000
"""Unix ns of what the builders count from: 14 November 2023."""
MS: Final = 1_000_000


def at(ms: float) -> int:
    """The moment so many milliseconds after the beginning."""
    return BEGINNING + round(ms * MS)


def hexadecimal(size: int, *of: object) -> str:
    """An id that is always the same for the same things."""
    return hashlib.blake2b("/".join(map(str, of)).encode(), digest_size=size).hexdigest()


def span(
    name: str,
    start: float = 0,
    end: float | None = 10,
    *,
    service: str = "orders",
    parent: Span | None = None,
    kind: Kind = Kind.INTERNAL,
    links: Sequence[Link] = (),
    remote: bool | None = None,
    failed: bool = False,
    trace_id: str | None = None,
    parent_id: str | None = None,
    span_id: str | None = None,
    attributes: Attributes = NO_ATTRIBUTES,
) -> Span:
    """Any span; ids follow from service, name and start where they are not given."""
    if parent is not None:
        trace_id, parent_id = parent.trace_id, parent.span_id
        remote = service != parent.service.name if remote is None else remote
    return Span(
        trace_id=trace_id or hexadecimal(16, service, name, start),
        span_id=span_id or hexadecimal(8, service, name, start),
        name=name,
        start_ns=at(start),
        end_ns=None if end is None else at(end),
        parent_id=parent_id,
        parent_is_remote=remote,
        kind=kind,
        status=Status.ERROR if failed else Status.UNSET,
        attributes=attributes,
        links=tuple(links),
        service=Service(service),
    )


def link(to: Span, attributes: Attributes = NO_ATTRIBUTES) -> Link:
    """A link to this span."""
    return Link(to.trace_id, to.span_id, attributes)


def flow_of(of: Span) -> str:
    """The flow that a span says it belongs to, or that it begins."""
    return str(of.attributes.get(semconv.FLOW_ID, of.trace_id))


def request(
    name: str = "POST /orders",
    start: float = 0,
    end: float | None = 84,
    *,
    status: int = 202,
    service: str = "orders",
    parent: Span | None = None,
) -> Span:
    """A SERVER span of FastAPI."""
    method, _, route = name.partition(" ")
    attributes: Attributes = {
        semconv.HTTP_REQUEST_METHOD: method,
        semconv.HTTP_RESPONSE_STATUS_CODE: status,
        semconv.HTTP_ROUTE: route,
    }
    return span(name, start, end, service=service, parent=parent, kind=Kind.SERVER, attributes=attributes)


def called(
    url: str, start: float, end: float, *, parent: Span, method: str = "POST", resend: int | None = None
) -> Span:
    """A CLIENT span of an HTTP client, which its instrumentation names by its method only."""
    attributes: dict[str, str | int] = {semconv.HTTP_REQUEST_METHOD: method, semconv.URL_FULL: url}
    if resend is not None:
        attributes[semconv.HTTP_REQUEST_RESEND_COUNT] = resend
    service = parent.service.name
    return span(method, start, end, parent=parent, service=service, kind=Kind.CLIENT, attributes=attributes)


def messaging(operation: str, destination: str, system: str = "kafka") -> dict[str, str | int]:
    """What every messaging span of tracekit says."""
    return {
        semconv.MESSAGING_SYSTEM: system,
        semconv.MESSAGING_OPERATION_TYPE: operation,
        semconv.MESSAGING_OPERATION_NAME: operation,
        semconv.MESSAGING_DESTINATION_NAME: destination,
    }


def sent(
    destination: str = "orders",
    start: float = 10,
    end: float | None = 18,
    *,
    parent: Span | None = None,
    service: str = "orders",
    failed: bool = False,
    attributes: Attributes = NO_ATTRIBUTES,
) -> Span:
    """A send span of tracekit."""
    return span(
        f"send {destination}",
        start,
        end,
        parent=parent,
        service=parent.service.name if parent else service,
        kind=Kind.PRODUCER,
        failed=failed,
        attributes={**messaging("send", destination), **attributes},
    )


def processed(
    message: Span | None,
    start: float = 100,
    end: float | None = 120,
    *,
    destination: str | None = None,
    service: str = "notification",
    ambient: Span | None = None,
    by: str = "parent and link",
    published: float | None = None,
    source: str = "broker",
    failed: bool = False,
    attributes: Attributes = NO_ATTRIBUTES,
) -> Span:
    """A process span of tracekit, for the message that this span sent; None: it brought no context."""
    name = destination or str(message.attributes[semconv.MESSAGING_DESTINATION_NAME] if message else "orders")
    times: dict[str, str | int] = {}
    if published is not None:
        times[semconv.PUBLISHED_AT] = at(published)
        times[semconv.PUBLISHED_AT_SOURCE] = source
    return span(
        f"process {name}",
        start,
        end,
        service=service,
        parent=message if ambient is None and "parent" in by else ambient,
        kind=Kind.CONSUMER,
        links=[link(message)] if message and "link" in by else [],
        failed=failed,
        attributes={
            **messaging("process", name),
            semconv.MESSAGING_CONSUMER_GROUP_NAME: service,
            **times,
            **attributes,
        },
    )


def batch(
    messages: Sequence[Span],
    start: float = 100,
    end: float = 150,
    *,
    destination: str = "orders",
    service: str = "billing",
) -> Span:
    """A hub: one process span for several messages, each link with the flow of its message."""
    return span(
        f"process {destination}",
        start,
        end,
        service=service,
        kind=Kind.CONSUMER,
        links=[link(message, {semconv.FLOW_ID: flow_of(message)}) for message in messages],
        attributes={
            **messaging("process", destination),
            semconv.MESSAGING_BATCH_MESSAGE_COUNT: len(messages),
        },
    )


def pulled(
    messages: Sequence[Span],
    start: float,
    end: float,
    *,
    destination: str = "orders",
    service: str = "notification",
) -> Span:
    """A receive span of tracekit: opt-in, begun before the messages were there."""
    links = [link(message) for message in messages]
    attributes = messaging("receive", destination)
    return span(
        f"poll {destination}",
        start,
        end,
        service=service,
        kind=Kind.CLIENT,
        links=links,
        attributes=attributes,
    )


OLD_KAFKA: Final[Attributes] = {semconv.MESSAGING_SYSTEM: "kafka", semconv.OLD_MESSAGING_KAFKA_PARTITION: 2}


def contrib_sent(topic: str, start: float, end: float, *, parent: Span | None = None) -> Span:
    """As opentelemetry-instrumentation-kafka-python names it, with its old attributes."""
    attributes: Attributes = {**OLD_KAFKA, semconv.OLD_MESSAGING_DESTINATION: topic}
    return span(f"{topic} send", start, end, parent=parent, kind=Kind.PRODUCER, attributes=attributes)


def contrib_received(topic: str, start: float, end: float, *, parent: Span, service: str = "stock") -> Span:
    """The consumer's side of the same: over before the message is processed."""
    attributes: Attributes = {**OLD_KAFKA, semconv.OLD_MESSAGING_DESTINATION: topic}
    return span(
        f"{topic} receive",
        start,
        end,
        parent=parent,
        service=service,
        kind=Kind.CONSUMER,
        attributes=attributes,
    )


def shop() -> list[Span]:
    """The flow of the drawing in the design: a request that answers 202 while messages go on."""
    rabbit: Attributes = {semconv.MESSAGING_SYSTEM: "rabbitmq"}
    entry = request()
    pay = called("http://10.0.0.7:8001/charge", 9, 52, parent=entry)
    charge = request("POST /charge", 12, 50, service="payment", parent=pay, status=200)
    reserve = called("http://10.0.0.8:8002/reserve", 53, 71, parent=entry)
    stock = request("POST /reserve", 55, 69, service="inventory", parent=reserve, status=200)
    confirmed = sent("order.confirmed", 73, 81, parent=entry)
    analytics = processed(confirmed, 131, 142, service="analytics", published=79)
    notify = processed(confirmed, 1992, 2590, service="notification", published=79)
    failed = span("send mail", 1998, 2040, parent=notify, service="notification", failed=True)
    mailed = span("send mail", 2540, 2581, parent=notify, service="notification")
    told = sent("notification.sent", 2586, 2589, parent=notify, attributes=rabbit)
    audit = processed(told, 2612, 2630, service="audit", published=2590, attributes=rabbit)
    return [entry, pay, charge, reserve, stock, confirmed, analytics, notify, failed, mailed, told, audit]
