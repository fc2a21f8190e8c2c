"""A rig for Kafka: kafka-python's own clients on a topic of their own, and what their spans look like."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.utils import suppress_instrumentation

from tracekit.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.brokers import Kafka
    from tests.conventions.checker import Metric
    from tracekit.model import Link, Span
    from tracekit.testing.flows import Flows
    from tracekit.testing.measured import Measured

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
"""A creation context, as a service that is no part of the test wrote it."""

Pairs = list[tuple[str, bytes]]
DEADLINE_S = 10


class Like:
    """Equal to every value whose text looks so."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __eq__(self, other: object) -> bool:
        return re.fullmatch(self._pattern, str(other)) is not None

    __hash__ = None  # type: ignore[assignment]  # equal to many

    def __repr__(self) -> str:
        return f"<like {self._pattern}>"


HASH = Like("[0-9a-f]{16}")
TIME = Like("[0-9]{19}")


def context_headers(traceparent: str = TRACEPARENT, **others: str) -> Pairs:
    """The headers of a message that was made elsewhere."""
    return [("traceparent", traceparent.encode()), *((name, text.encode()) for name, text in others.items())]


class Topic:
    """One topic of the embedded broker, and the clients that a test has on it."""

    def __init__(self, kafka: Kafka, producer: Any) -> None:
        self.kafka = kafka
        self.producer = producer
        """A producer made before tracekit was configured, as the first line of many a program does."""
        self.name = kafka.topic()
        self.group = f"tests-{self.name}"
        producer.partitions_for(self.name)  # it exists from now on

    def consumer(self, **settings: Any) -> Any:
        """A consumer in the topic's group, which reads from the beginning."""
        return self.kafka.consumer(self.name, **settings)

    # -- messages ------------------------------------------------------------------------------------

    def send(self, value: Any = b"an order", **options: Any) -> Any:
        """Send a message as an application does; what the broker answered."""
        return answered(self.producer.send(self.name, value, **{"partition": 0, **options}))

    def put(
        self, *values: bytes, headers: Pairs | None = None, partition: int = 0, key: bytes | None = None
    ) -> None:
        """Have messages come from a service that is not traced, with exactly these headers."""
        with suppress_instrumentation():
            for value in values or (b"an order",):
                self.send(value, headers=list(headers or ()), partition=partition, key=key)

    def polled(self, number: int = 1, consumer: Any = None) -> Sequence[Any]:
        """So many messages from `poll()`."""
        consumer = self.consumer() if consumer is None else consumer
        records: list[Any] = []
        while len(records) < number:
            found = consumer.poll(timeout_ms=DEADLINE_S * 1000)
            assert found, f"{len(records)} of {number} messages came"
            records += [record for of_partition in found.values() for record in of_partition]
        assert len(records) == number
        return records

    def record(self) -> Any:
        """The one message that is in the topic, from `poll()`."""
        (record,) = self.polled()
        return record

    def on_the_wire(self, number: int = 1) -> Sequence[Any]:
        """The messages that are in the topic, read by somebody who is not traced."""
        with suppress_instrumentation():
            return self.polled(number, self.consumer(group=None))

    # -- what their spans and metrics look like --------------------------------------------------------

    def labels(self, operation: str, verb: str, **more: object) -> dict[str, object]:
        """The attributes of a metric of the topic. In names, `_` stands for the dot."""
        host, _, port = self.kafka.broker.address.rpartition(":")
        return {
            "messaging.system": "kafka",
            "messaging.operation.name": verb,
            "messaging.operation.type": operation,
            "messaging.destination.name": self.name,
            "server.address": host,
            "server.port": int(port),
            **_dotted(more),
        }

    def sent(self, answer: Any, flow: str, **more: object) -> dict[str, object]:
        """The attributes of the span of a send that the broker answered so."""
        return {
            **self.labels("send", "send"),
            "messaging.client.id": self.producer.config["client_id"],
            "messaging.destination.partition.id": str(answer.partition),
            "messaging.kafka.offset": answer.offset,
            "tracekit.flow.id": flow,
            **_dotted(more),
        }

    def processed(self, record: Any, flow: str, source: str = "client", **more: object) -> dict[str, object]:
        """The attributes of the span of processing this record."""
        return {
            **self.labels("process", "process"),
            "messaging.client.id": "kafka-python-3.0.12",
            "messaging.consumer.group.name": self.group,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "tracekit.flow.id": flow,
            "tracekit.messaging.published_at": published_ns(record)
            if source == "header"
            else record.timestamp * 1_000_000,
            "tracekit.messaging.published_at.source": source,
            "tracekit.pathway.hash": HASH,
            **_dotted(more),
        }


def untimed(span: Span) -> dict[str, object]:
    """The attributes of a span, without how long its flow took."""
    return {name: value for name, value in span.attributes.items() if name != "tracekit.flow.completion_ms"}


def answered(future: Any) -> Any:
    """What the broker answered, once all who listen have heard it: `get()` may return before they have."""
    answer = future.get(DEADLINE_S)
    assert future._produce_future.wait(DEADLINE_S)
    return answer


def _dotted(names: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("__", "\0").replace("_", ".").replace("\0", "_"): names[name] for name in names}


def headers_of(record: Any) -> dict[str, str]:
    """A record's headers as text. Raises where a name is there twice."""
    names = [name for name, _ in record.headers]
    assert len(names) == len(set(names)), f"a header is there twice: {names}"
    return {name: value.decode() for name, value in record.headers}


def published_ns(record: Any) -> int:
    """When our header says that the message was sent."""
    return int(headers_of(record)["tracekit-flow"].split(";")[4]) * 1_000_000


def context_on(record: Any) -> tuple[str, str]:
    """Trace and span id of the message's creation context."""
    _, trace_id, span_id, _ = headers_of(record)["traceparent"].split("-")
    return trace_id, span_id


def where(span: Span | Link) -> tuple[str, str]:
    """Trace and span id."""
    return span.trace_id, span.span_id


def parent_of(span: Span) -> tuple[str, str] | None:
    """Trace and span id of the parent."""
    return None if span.parent_id is None else (span.trace_id, span.parent_id)


def links_of(span: Span) -> list[tuple[str, str]]:
    """Trace and span ids of the links, none of which has attributes."""
    assert not any(link.attributes for link in span.links)
    return [where(link) for link in span.links]


def named(seen: Flows, name: str) -> list[Span]:
    """The spans with this name, by start."""
    return [span for span in seen.spans if span.name == name]


def the(seen: Flows, name: str) -> Span:
    """The one span with this name."""
    found = named(seen, name)
    assert len(found) == 1, f"{len(found)} spans are `{name}`: {[span.name for span in seen.spans]}"
    return found[0]


def points(seen: Flows, metric: str) -> list[tuple[dict[str, object], int | float | None, int]]:
    """A metric's points: attributes, value, and a histogram's count."""
    return [(dict(each.attributes), each.value, each.count) for each in measures(seen, metric)]


def measures(seen: Flows, metric: str) -> Iterable[Measured]:
    return seen.metrics.get(metric, ())


def checkable(seen: Flows) -> Iterable[Metric]:
    """The metrics as the checker of conventions takes them."""
    from tests.conventions.checker import Metric

    _ = seen.metrics  # has them collected
    for metric in seen.store.metrics():
        if metric.kind == "sum":
            instrument = "counter" if metric.is_monotonic else "updowncounter"
        else:
            instrument = metric.kind
        bounds = {point.bounds for point in metric.points}
        yield Metric(
            metric.name,
            instrument,
            metric.unit,
            [point.attributes for point in metric.points],
            bounds.pop() if instrument == "histogram" and len(bounds) == 1 else None,
            metric.scope,
        )


CONSUMER, PRODUCER, CLIENT, SERVER = Kind.CONSUMER, Kind.PRODUCER, Kind.CLIENT, Kind.SERVER
