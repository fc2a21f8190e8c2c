"""Google Pub/Sub through google-cloud-pubsub: attributes are text, the answer is a future."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from tracekit.messaging.transport import Answered

_MAX_ATTRIBUTES: Final = 100
_MAX_VALUE: Final = 1_024
"""Bytes of an attribute's value. Source: Pub/Sub, "Quotas and limits", resource limits."""
_MAX_BYTES: Final = 10_000_000 - 1_000  # and what is around the message in its request
_NATIVE: Final = "googclient_"
"""How the client's own tracing names the context that it sends."""
_PUBLISHER: Final = "google.cloud.pubsub_v1.publisher"
_SUBSCRIBER: Final = "google.cloud.pubsub_v1.subscriber"
_MANAGER: Final = f"{_SUBSCRIBER}._protocol.streaming_pull_manager:StreamingPullManager"
_GAPIC: Final = "google.pubsub_v1.services.subscriber.client:SubscriberClient"


class PubSub(Plain):
    """google-cloud-pubsub 2: `publish`, `subscribe`, `pull`, and the ways to settle.

    Where the client traces itself (`enable_open_telemetry_tracing`), what it sends is left alone, and what
    it sent is read: there is one context on a message. A subscriber learns nothing of the topic: its
    destination is the subscription.
    """

    system: ClassVar = "gcp_pubsub"
    processing: ClassVar = "subscribe"
    package: ClassVar = "google.cloud.pubsub_v1"
    aliases: ClassVar[Sequence[str]] = ("google",)
    hooks: ClassVar[Sequence[Hook]] = (
        Hook(f"{_PUBLISHER}.client:Client.publish", "send", "send"),
        Hook(f"{_PUBLISHER}.futures:Future.add_done_callback", "send", "send", "carry", "callback"),
        Hook(f"{_SUBSCRIBER}.client:Client.subscribe", "process", "subscribe", "callback", "callback"),
        Hook(f"{_GAPIC}.pull", "receive", "receive"),
        Hook(f"{_GAPIC}.acknowledge", "settle", "ack"),
        Hook(f"{_GAPIC}.modify_ack_deadline", "settle", "modack"),
        *(
            Hook(f"{_SUBSCRIBER}.message:Message.{verb}{variant}", "settle", name)
            for verb, name in (("ack", "ack"), ("nack", "nack"), ("modify_ack_deadline", "modack"))
            for variant in ("", "_with_response")
        ),
        # Its own threads tell the server of what was settled, many at a time.
        *(
            Hook(f"{_MANAGER}.{name}", "settle", name, "inner")
            for name in ("send_unary_ack", "send_unary_modack")
        ),
    )

    def outgoing(self, call: Call) -> Sequence[Message]:
        client: Any = call["self"]
        if "topic" not in call:
            deadline: Any = call.get("ack_deadline_seconds", call.get("seconds"))
            facts = {} if deadline is None else {semconv.MESSAGING_GCP_PUBSUB_MESSAGE_ACK_DEADLINE: deadline}
            return [Message(_name(_subscription(call)), attributes=facts)]
        attributes: Any = call.get("attrs") or {}
        if client.open_telemetry_enabled or not isinstance(call["topic"], str):
            return ()
        facts = {}
        if ordering := call.get("ordering_key"):
            facts[semconv.MESSAGING_GCP_PUBSUB_MESSAGE_ORDERING_KEY] = str(ordering)
        data, headers = call.get("data"), [*attributes.items()]
        return [
            Message(
                _name(str(call["topic"])),
                headers,
                room=_MAX_BYTES - len(data) - _size(headers) if isinstance(data, bytes) else None,
                slots=_MAX_ATTRIBUTES - len(headers),
                most=_MAX_VALUE,
                attributes=facts,
            )
        ]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        return {**call, "attrs": dict(headers[0] or ())}

    def is_oversized(self, error: BaseException) -> bool:
        return type(error).__name__ == "MessageTooLargeError"

    def listen(self, result: Any, answered: Answered) -> bool:
        if not isinstance(result, Future):
            return False

        def done(future: Any) -> None:
            error = future.exception()
            answered(None if error else future.result(), error)

        Future.add_done_callback(result, done)  # the base class's: this one needs nobody's context
        return True

    def answer(self, call: Call, result: object) -> Facts:
        return {semconv.MESSAGING_MESSAGE_ID: result} if "topic" in call and isinstance(result, str) else {}

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        subscription = _name(_subscription(call or {}))
        return [_message(record, subscription) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[object]:
        kind = type(result).__name__
        if kind == "PullResponse":
            return list(result.received_messages)
        found = result if isinstance(result, list) else [result]
        return [each for each in found if type(each).__name__ in ("Message", "ReceivedMessage")]

    def key(self, record: Any) -> Hashable | None:
        return str(record.ack_id)


def _message(record: Any, subscription: str) -> Message:
    message: Any = record if type(record).__name__ == "Message" else record.message
    facts: dict[str, str | int | bool] = {}
    if subscription:
        facts[semconv.MESSAGING_DESTINATION_SUBSCRIPTION_NAME] = subscription
    if message.ordering_key:
        facts[semconv.MESSAGING_GCP_PUBSUB_MESSAGE_ORDERING_KEY] = message.ordering_key
    attempt = record.delivery_attempt or None
    if attempt is not None:
        facts[semconv.MESSAGING_GCP_PUBSUB_MESSAGE_DELIVERY_ATTEMPT] = attempt
    return Message(
        subscription,
        _headers(message.attributes),
        id=message.message_id or None,
        published_at_ns=_ns(message.publish_time),
        delivery_attempt=attempt,
        attributes=facts,
    )


def _headers(attributes: Mapping[str, str]) -> Headers:
    """The attributes; what the client's own tracing sent, under the names that it stands for."""
    own = dict(attributes)
    native = {name.removeprefix(_NATIVE): value for name, value in own.items() if name.startswith(_NATIVE)}
    return [*{**native, **own}.items()]


def _size(headers: Sequence[tuple[Any, Any]]) -> int:
    """Bytes of attributes; of values that are no text the client will say what is wrong."""
    return sum(len(str(name)) + len(str(value)) + 10 for name, value in headers)


def _ns(moment: Any) -> int | None:
    """Unix ns: of a protobuf's moment with its ns, where it has them."""
    if moment is None:
        return None
    nanosecond: int = getattr(moment, "nanosecond", None) or moment.microsecond * 1_000
    return int(moment.timestamp()) * 1_000_000_000 + nanosecond


def _subscription(call: Call) -> str:
    request: Any = call.get("request")
    if isinstance(request, dict):
        return str(request.get("subscription", ""))
    return str(call.get("subscription") or getattr(request, "subscription", "") or "")


def _name(path: str) -> str:
    """The last part of `projects/P/topics/T` or `projects/P/subscriptions/S`."""
    return path.rpartition("/")[2]
