"""A rig for SQS and SNS: a queue of the test's own, what is in it, and what its spans look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.utils import suppress_instrumentation

from tests.acceptance.kafka_rig import HASH, Like
from tests.aws import PATIENCE_S, Aws, name_of, text

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = ("traceparent", "tracestate", "tracekit-flow", "baggage")
ID = Like("[-0-9a-zA-Z]{30,60}")


class Queue:
    """One queue, by the client that was made before tracekit was configured."""

    def __init__(self, aws: Aws, name: str = "", **attributes: str) -> None:
        self.aws = aws
        self.sqs = aws.sqs
        self.url = aws.queue(name, **attributes)
        self.name = name_of(self.url)

    def send(self, body: str = "an order", **params: Any) -> Any:
        """Send a message as an application does; what SQS answered."""
        return self.sqs.send_message(QueueUrl=self.url, MessageBody=body, **params)

    def put(self, attributes: Mapping[str, Any] | None = None, body: str = "an order") -> None:
        """Have a message come from a service that is not traced, with exactly these attributes."""
        with suppress_instrumentation():
            self.send(body, MessageAttributes=dict(attributes or {}))

    def received(self, number: int = 1, **params: Any) -> list[Any]:
        """So many messages by one `receive_message`."""
        asked = {"WaitTimeSeconds": PATIENCE_S, "MaxNumberOfMessages": 10, **params}
        messages: list[Any] = self.sqs.receive_message(QueueUrl=self.url, **asked).get("Messages", [])
        assert len(messages) == number
        return messages

    def message(self, **params: Any) -> Any:
        """The one message that is in the queue."""
        (message,) = self.received(**params)
        return message

    def on_the_wire(self, number: int = 1) -> list[dict[str, Any]]:
        """The attributes of the messages in the queue, read by somebody who is not traced."""
        with suppress_instrumentation():
            messages = self.received(number, MessageAttributeNames=["All"])
        return [message.get("MessageAttributes", {}) for message in messages]

    def delete(self, message: Any) -> Any:
        """Settle a message."""
        return self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])

    # -- what their spans and metrics look like --------------------------------------------------------

    def labels(self, operation: str, verb: str, **more: object) -> dict[str, object]:
        """The attributes of a metric of the queue. In names, `_` stands for the dot."""
        return labels(self.aws, "aws_sqs", self.name, operation, verb, **more)

    def attributes(self, operation: str, verb: str, **more: object) -> dict[str, object]:
        """The attributes of a span of a call on the queue."""
        facts = {"aws.sqs.queue.url": self.url, "aws.request_id": ID}
        return {**self.labels(operation, verb), **facts, **_dotted(more)}

    def processed(self, message: Any, flow: str, **more: object) -> dict[str, object]:
        """The attributes of the span of processing this message."""
        return {
            **self.attributes("process", "process"),
            "messaging.message.id": message["MessageId"],
            "tracekit.flow.id": flow,
            "tracekit.messaging.delivery.attempt": 1,
            "tracekit.messaging.published_at": Like("[0-9]{13}000000"),
            "tracekit.messaging.published_at.source": "broker",
            "tracekit.pathway.hash": HASH,
            **_dotted(more),
        }


def labels(aws: Aws, system: str, name: str, operation: str, verb: str, **more: object) -> dict[str, object]:
    """The attributes of a metric."""
    host, _, port = aws.address.rpartition(":")
    return {
        "messaging.system": system,
        "messaging.operation.name": verb,
        "messaging.operation.type": operation,
        "messaging.destination.name": name,
        "server.address": host,
        "server.port": int(port),
        **_dotted(more),
    }


def context_on(attributes: Mapping[str, Any]) -> tuple[str, str]:
    """Trace and span id of the message's creation context."""
    _, trace_id, span_id, _ = attributes["traceparent"]["StringValue"].split("-")
    return trace_id, span_id


def texts(number: int) -> dict[str, Any]:
    """So many attributes of an application's own."""
    return {f"own-{each}": text("value") for each in range(number)}


def _dotted(names: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("__", "\0").replace("_", ".").replace("\0", "_"): names[name] for name in names}
