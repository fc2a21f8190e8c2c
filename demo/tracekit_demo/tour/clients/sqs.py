"""SNS that delivers to SQS, by boto3."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import boto3

import tracekit
from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def receive(name: str, hand_on: HandOn) -> None:
    sqs, sns = boto3.client("sqs"), boto3.client("sns")
    url = sqs.create_queue(QueueName=destination(name))["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(
        TopicArn=sns.create_topic(Name=destination(name))["TopicArn"],
        Protocol="sqs",
        Endpoint=attributes["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
    )
    ready()
    while True:
        received = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5, MessageAttributeNames=["All"])
        for message in received.get("Messages", ()):
            with tracekit.process(message):
                hand_on(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def sender(name: str) -> HandOn:
    sns = boto3.client("sns")

    def send(order: Order) -> None:
        topic = sns.create_topic(Name=destination(name))["TopicArn"]  # that which is there
        sns.publish(TopicArn=topic, Message=json.dumps(order))

    return send
