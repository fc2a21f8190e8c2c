"""AWS: queues, topics and clients of one test, on a moto that all tests share."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Final

import boto3
from opentelemetry.instrumentation.utils import suppress_instrumentation

if TYPE_CHECKING:
    from tests.integration.servers.moto import Moto

_names: Final = itertools.count(1)
PATIENCE_S: Final = 10


class Aws:
    """Clients of boto3, made before tracekit is configured, and what a test makes with them.

    sqs.send_message(QueueUrl=aws.queue(), MessageBody="an order")
    """

    def __init__(self, server: Moto) -> None:
        self.settings = server.settings
        self.address = server.url.removeprefix("http://")
        self.sqs: Any = boto3.client("sqs", **self.settings)
        self.sns: Any = boto3.client("sns", **self.settings)

    def close(self) -> None:
        """Close the clients."""
        self.sqs.close()
        self.sns.close()

    def name(self, kind: str = "orders") -> str:
        """A name that no other test has."""
        return f"{kind}-{next(_names)}"

    def queue(self, name: str = "", **attributes: str) -> str:
        """The URL of a new queue."""
        with suppress_instrumentation():
            name = name or self.name()
            if name.endswith(".fifo"):
                attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true", **attributes}
            url: str = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
            return url

    def arn(self, url: str) -> str:
        """The ARN of a queue."""
        with suppress_instrumentation():
            asked = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
            arn: str = asked["Attributes"]["QueueArn"]
            return arn

    def topic(self, url: str, name: str = "", *, raw: bool) -> str:
        """The ARN of a new topic that delivers to the queue."""
        with suppress_instrumentation():
            arn: str = self.sns.create_topic(Name=name or self.name("placed"))["TopicArn"]
            self.sns.subscribe(
                TopicArn=arn,
                Protocol="sqs",
                Endpoint=self.arn(url),
                Attributes={"RawMessageDelivery": json.dumps(raw)},
            )
            return arn


def name_of(place: str) -> str:
    """The name in a queue's URL or a topic's ARN."""
    return place.replace("/", ":").rpartition(":")[2]


def text(value: str) -> dict[str, str]:
    """A message attribute."""
    return {"DataType": "String", "StringValue": value}
