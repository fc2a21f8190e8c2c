"""NATS through nats-py: headers are a dict of text, subjects are destinations, JetStream keeps messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_JETSTREAM: Final = "nats.js.client:JetStreamContext"
_SUBSCRIPTION: Final = "nats.aio.subscription"
_ITS_OWN: Final = "$"
"""What subjects of the server's own begin with: its API, acknowledgements, the key-value store."""
_AROUND_ALL: Final = len(b"NATS/1.0\r\n\r\n")
_AROUND_EACH: Final = len(b": \r\n")
_TOO_LARGE: Final = 10054
"""The stream takes no message of this size. Source: nats-server, `JSStreamMessageExceedsMaximumErr`."""


class Nats(Plain):
    """nats-py 2: `publish`, handlers, `next_msg()` and the loop over `messages`; JetStream's publish
    and pull.

    A send of JetStream ends with the server's answer; any other once the client took it. What is on a subject
    of the server's own, and an answer to a request, is no message. A stream's own `max_msg_size` is heard of
    in the answer to JetStream's `publish` alone.
    """

    system: ClassVar = "nats"
    package: ClassVar = "nats"
    hooks: ClassVar[Sequence[Hook]] = (
        Hook("nats.aio.client:Client.publish", "send", "publish"),
        Hook(f"{_JETSTREAM}.publish", "send", "publish"),
        Hook(f"{_JETSTREAM}.publish_async", "send", "publish"),
        Hook("nats.aio.client:Client.subscribe", "process", "process", "callback", "cb"),
        Hook(f"{_SUBSCRIPTION}:_SubscriptionMessageIterator.__aiter__", "process", "process", "iterate"),
        Hook(f"{_SUBSCRIPTION}:Subscription.next_msg", "receive", "next"),
        Hook(f"{_JETSTREAM}.PushSubscription.next_msg", "receive", "next"),
        Hook(f"{_JETSTREAM}.PullSubscription.fetch", "receive", "fetch"),
        Hook("nats.aio.msg:Msg.ack", "settle", "ack"),
        Hook("nats.aio.msg:Msg.ack_sync", "settle", "ack"),
        Hook("nats.aio.msg:Msg.nak", "settle", "nak"),
        Hook("nats.aio.msg:Msg.term", "settle", "term"),
    )

    def client(self, client: Any) -> Facts:
        connection = _connection(client)
        facts: dict[str, str | int | bool] = {}
        if name := connection.options.get("name"):
            facts[semconv.MESSAGING_CLIENT_ID] = str(name)
        if (url := connection.connected_url) is not None:
            facts[semconv.SERVER_ADDRESS] = str(url.hostname)
            facts[semconv.SERVER_PORT] = int(url.port)
        return facts

    def owner(self, record: Any) -> object:
        return record._client  # noqa: SLF001 - no public way

    def outgoing(self, call: Call) -> Sequence[Message]:
        client: Any = call["self"]
        if "subject" not in call:  # a message that settles itself
            return [Message("", group=_kept(client).get("consumer", ""))]
        subject, payload, headers = call["subject"], call.get("payload", b""), call.get("headers")
        if not (isinstance(subject, str) and isinstance(payload, bytes) and isinstance(headers, dict | None)):
            return ()  # the client will say what is wrong with it
        connection = _connection(client)
        inbox = connection._inbox_prefix.decode()  # noqa: SLF001 - as above
        if subject.startswith((_ITS_OWN, f"{inbox}.")):
            return ()
        texts = [(name, value) for name, value in (headers or {}).items() if isinstance(value, str)]
        used = sum(len(name) + len(value.encode("utf-8", "replace")) + _AROUND_EACH for name, value in texts)
        room = connection.max_payload - len(payload) - used - _AROUND_ALL
        return [Message(subject, texts, room=room)]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        given: Any = call.get("headers") or {}
        return {**call, "headers": {**given, **dict(headers[0] or ())}}

    def is_oversized(self, error: BaseException) -> bool:
        return getattr(error, "err_code", None) == _TOO_LARGE

    def is_nothing(self, error: BaseException) -> bool:
        return isinstance(error, TimeoutError)

    def answer(self, call: Call, result: Any) -> Facts:
        if type(result).__name__ != "PubAck":
            return {}
        return {semconv.MESSAGING_MESSAGE_ID: _id(result.stream, result.seq)}

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        return [_message(record, call or {}) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[Any]:
        found = result if isinstance(result, list) else [result]
        return [one for one in found if type(one).__name__ == "Msg" and _is_message(one)]

    def key(self, record: Any) -> Hashable | None:
        return None if _kept(record) else (id(record), record.subject)  # it does not say which queue


def _connection(client: Any) -> Any:
    """The connection of a client: itself, or that of a subscription, its iterator, a context of JetStream."""
    client = getattr(client, "_sub", client)
    return getattr(client, "_nc", None) or getattr(client, "_conn", client)


def _is_message(record: Any) -> bool:
    return not record.subject.startswith(_ITS_OWN) and "Status" not in (record.headers or {})


def _kept(record: Any) -> dict[str, str]:
    """What JetStream says of a message that it keeps, by the subject to acknowledge it on; else nothing."""
    tokens = record.reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) < 9:
        return {}
    names = ("stream", "consumer", "delivered", "sequence", "of_consumer", "time", "pending")
    return dict(zip(names, tokens[2:] if len(tokens) == 9 else tokens[4:], strict=False))


def _message(record: Any, call: Call) -> Message:
    kept = _kept(record)
    if not kept:
        source: Any = getattr(call.get("self"), "_sub", call.get("self"))
        queue = call.get("queue") or getattr(source, "_queue", "")
        return Message(record.subject, [*(record.headers or {}).items()], group=str(queue or ""))
    attempt = int(kept["delivered"])
    return Message(
        record.subject,
        [*(record.headers or {}).items()],
        id=_id(kept["stream"], kept["sequence"]),
        published_at_ns=int(kept["time"]),
        delivery_attempt=attempt,
        attributes={semconv.REDELIVERED: True} if attempt > 1 else {},
        group=kept["consumer"],
    )


def _id(stream: str, sequence: object) -> str:
    return f"{stream}:{sequence}"
