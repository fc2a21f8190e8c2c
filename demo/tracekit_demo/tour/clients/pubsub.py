"""Google Pub/Sub, by its own client."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from google.api_core.exceptions import AlreadyExists
from google.cloud import pubsub_v1

from tracekit_demo.tour.order import destination, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def receive(name: str, hand_on: HandOn) -> None:
    publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
    project = os.environ["GOOGLE_CLOUD_PROJECT"]
    topic = publisher.topic_path(project, destination(name))
    subscription = subscriber.subscription_path(project, destination(name))
    with suppress(AlreadyExists):
        publisher.create_topic(name=topic)
    with suppress(AlreadyExists):
        subscriber.create_subscription(name=subscription, topic=topic)

    def handle(message: Any) -> None:
        hand_on(json.loads(message.data))
        message.ack()

    pulling = subscriber.subscribe(subscription, handle)
    ready()
    pulling.result()


def sender(name: str) -> HandOn:
    publisher = pubsub_v1.PublisherClient()
    topic = publisher.topic_path(os.environ["GOOGLE_CLOUD_PROJECT"], destination(name))

    def send(order: Order) -> None:
        publisher.publish(topic, json.dumps(order).encode()).result(20)

    return send
