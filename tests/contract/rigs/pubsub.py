"""google-cloud-pubsub on Pub/Sub's own fake server."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Final, cast

from tracekit.transports.pubsub import PubSub

if TYPE_CHECKING:
    from collections.abc import Callable

_PROJECT: Final = "tests"
_MAX_ATTRIBUTES: Final = 100
"""Source: Pub/Sub, "Quotas and limits", resource limits."""
_PATIENCE_S: Final = 20
_names = itertools.count(1)


class PubSubRig:
    """As plainly as it is used: `publish(…).result()`, and a callback that acknowledges."""

    transport = PubSub()

    def __init__(self) -> None:
        from google.cloud import pubsub_v1

        self.destination = f"orders-{next(_names)}"
        self.clients: list[Any] = []
        setting_up = self._opened(pubsub_v1.PublisherClient)
        self.topic = setting_up.topic_path(_PROJECT, self.destination)
        setting_up.create_topic(name=self.topic)
        subscribing = self._opened(pubsub_v1.SubscriberClient)
        self.subscription = subscribing.subscription_path(_PROJECT, self.destination)
        subscribing.create_subscription(
            request={"name": self.subscription, "topic": self.topic, "ack_deadline_seconds": 10}
        )
        self._publisher: Any = None
        self._subscriber: Any = None

    def _opened(self, kind: Callable[[], Any]) -> Any:
        client = kind()
        self.clients.append(client)
        return client

    @property
    def publisher(self) -> Any:
        """Made when it is first needed."""
        from google.cloud import pubsub_v1

        if self._publisher is None:
            self._publisher = self._opened(pubsub_v1.PublisherClient)
        return self._publisher

    @property
    def subscriber(self) -> Any:
        """Made when it is first needed."""
        from google.cloud import pubsub_v1

        if self._subscriber is None:
            self._subscriber = self._opened(pubsub_v1.SubscriberClient)
        return self._subscriber

    def send(self, body: bytes, headers: object = None) -> None:
        attributes = cast("dict[str, str]", headers or {})
        self.publisher.publish(self.topic, body, **attributes).result(_PATIENCE_S)

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        return {name: value.decode() for name, value in pairs}

    def consume(self, handle: Callable[[object], None]) -> None:
        done = threading.Event()

        def handled(message: Any) -> None:
            try:
                handle(message)
                message.ack()
            finally:
                done.set()

        pulling = self.subscriber.subscribe(self.subscription, handled, await_callbacks_on_shutdown=True)
        assert done.wait(_PATIENCE_S)
        pulling.cancel()
        pulling.result(_PATIENCE_S)

    def body(self, record: object) -> bytes:
        return cast("bytes", cast("Any", record).data)

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        return [(name, value.encode()) for name, value in cast("Any", record).attributes.items()]

    def full(self) -> tuple[bytes, object]:
        # The fake server takes no 10 MB.
        return b"one", {f"attribute-{number}": "x" for number in range(_MAX_ATTRIBUTES)}

    def fail_to_send(self, error: Exception) -> None:
        class Failing(str):
            def __ne__(self, other: object) -> bool:
                raise error

            __hash__ = str.__hash__

        self.publisher.publish(self.topic, b"one", ordering_key=Failing("orders"))

    def close(self) -> None:
        """Close the clients."""
        for client in self.clients:
            if hasattr(client, "stop"):
                client.stop()
            else:
                client.close()
