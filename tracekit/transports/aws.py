"""SQS and SNS through boto3 and aioboto3: messages have attributes, ten at most, and records are dicts.

Every operation of every service goes through one function of botocore; what is no message pays one look-up.

Where OpenTelemetry's own instrumentations are on too: boto3sqs stands down. botocore's and aiobotocore's
keep every call that is not traced here (other services, `CreateQueue`, a text message to a phone), and let
those be that are.

A receive asks for the context's attributes beside the caller's, and they are there to be seen, as headers
are. It also asks for `SentTimestamp` and `ApproximateReceiveCount`, without which nobody knows the wait and
the attempt; where the caller did not, they are taken out again before he sees them.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeGuard
from urllib.parse import urlsplit

from tracekit import semconv
from tracekit.messaging import creation
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

_SYNC: Final = "botocore.client:BaseClient._make_api_call"
_ASYNC: Final = "aiobotocore.client:AioBaseClient._make_api_call"
_PARAMETERS: Final = ("self", "operation_name", "api_params")
_ATTRIBUTES: Final = 10
"""That a message may have. SNS takes more, and its delivery to SQS discards them then, message and all."""
_KIB: Final = 1_024
_CERTAIN: Final = 64 * _KIB
"""Texts so short are not measured: at four bytes a character there is room beside them all the same."""
_AROUND: Final = 24  # bytes of an attribute beside its name and value: its type, which users may lengthen
_MS: Final = 1_000_000
_SYSTEM: Final = ("SentTimestamp", "ApproximateReceiveCount")
_ENVELOPE: Final = re.compile(r'"MessageAttributes"\s*:\s*(?=\{)')
"""Where SNS put a message's attributes. Within a text of the body, the quotes would have backslashes."""


_SQS: Final[Sequence[tuple[str, semconv.Operation, str]]] = (
    ("SendMessage", "send", "send"),
    ("SendMessageBatch", "send", "send"),
    ("ReceiveMessage", "receive", "receive"),
    ("DeleteMessage", "settle", "delete"),
    ("DeleteMessageBatch", "settle", "delete"),
    ("ChangeMessageVisibility", "settle", "change_visibility"),
    ("ChangeMessageVisibilityBatch", "settle", "change_visibility"),
)
"""Operations: AWS's name, the type, and what the spans call it."""
_SNS: Final[Sequence[tuple[str, semconv.Operation, str]]] = (
    ("Publish", "send", "publish"),
    ("PublishBatch", "send", "publish"),
)


def _hooks(target: str, operations: Sequence[tuple[str, semconv.Operation, str]]) -> Sequence[Hook]:
    return tuple(
        Hook(
            target,
            operation,
            verb,
            "batch" if name.endswith("Batch") else "call",
            only=f"operation_name={name}",
            parameters=_PARAMETERS,
        )
        for name, operation, verb in operations
    )


class _Aws(Plain):
    """What the two have in common: parameters are a dict, of a batch with a list of such."""

    contrib_asks: ClassVar = "opentelemetry.instrumentation.botocore:_determine_call_context"
    is_over_http: ClassVar = True
    places: ClassVar[Sequence[str]]
    """The parameters that say where a message goes; after the last `separator`, its name."""
    separator: ClassVar[str]
    fact: ClassVar[str]
    entries: ClassVar[str]
    body: ClassVar[str]
    largest: ClassVar[int]
    """Bytes of a message with its attributes, and of a batch in all."""

    def client(self, client: Any) -> Facts:
        url = urlsplit(client.meta.endpoint_url)
        facts: dict[str, str | int | bool] = {semconv.SERVER_ADDRESS: url.hostname or ""}
        return {**facts, semconv.SERVER_PORT: url.port} if url.port else facts

    def place(self, params: Mapping[str, Any]) -> str:
        """Where the call sends to, or receives from; "" for what is no queue and no topic."""
        return next((where for name in self.places if isinstance(where := params.get(name), str)), "")

    def outgoing(self, call: Call) -> Sequence[Message]:
        params: Any = call.get("api_params")
        where = self.place(params) if isinstance(params, dict) else ""
        given = params.get(self.entries, [params]) if where else None
        if not isinstance(given, list) or not all(map(_is_sound, given)):
            return ()  # another service's; or the client will say what is wrong with it
        attributes = [each.get("MessageAttributes", {}) for each in given]
        used = sum(_size(each.get(self.body)) + _size(each.get("Subject")) for each in given)
        used += sum(len(name) + len(text) + _AROUND for own in attributes for name, text in _pairs(own))
        room = (self.largest - used) // max(len(given), 1)
        name = where.rpartition(self.separator)[2]
        return [
            Message(name, _pairs(own), room=room, slots=_ATTRIBUTES - len(own), attributes={self.fact: where})
            for own in attributes
        ]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        params: Any = call["api_params"]
        if self.entries not in params:
            return {**call, "api_params": _stamped(params, headers[0])}
        entries = [_stamped(*each) for each in zip(params[self.entries], headers, strict=True)]
        return {**call, "api_params": {**params, self.entries: entries}}

    def is_oversized(self, error: BaseException) -> bool:
        said = _mapping(_mapping(getattr(error, "response", None)).get("Error"))
        code, text = str(said.get("Code")), str(said.get("Message")).lower()
        is_about_size = "shorter than" in text or "too long" in text
        return code.endswith("BatchRequestTooLong") or (code.startswith("InvalidParam") and is_about_size)

    def answer(self, call: Call, result: object) -> Facts:
        return _answered(_mapping(result))

    def answers(self, call: Call, result: object) -> Sequence[Facts | str]:
        params, said = _mapping(call["api_params"]), _mapping(result)
        taken: dict[object, Facts | str] = {
            each["Id"]: _answered(each) for each in said.get("Successful", ())
        }
        taken |= {each["Id"]: str(each.get("Code") or "Failed") for each in said.get("Failed", ())}
        return [taken.get(each.get("Id"), {}) for each in params[self.entries]]

    def records(self, result: Any) -> Sequence[object]:
        return ()

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        return ()


class Sqs(_Aws):
    """SQS: `send_message`, `receive_message`, `delete_message`, `change_message_visibility`, their batches.

    Of boto3's resources too. Nothing says where the work on a message ends: `process(message)` does.
    """

    system: ClassVar = "aws_sqs"
    package: ClassVar = "botocore"
    aliases: ClassVar[Sequence[str]] = ("boto3",)
    contrib: ClassVar = "opentelemetry.instrumentation.boto3sqs:Boto3SQSInstrumentor"
    is_plain: ClassVar = True
    hooks: ClassVar[Sequence[Hook]] = _hooks(_SYNC, _SQS)
    places: ClassVar[Sequence[str]] = ("QueueUrl",)
    separator: ClassVar = "/"
    fact: ClassVar = semconv.AWS_SQS_QUEUE_URL
    entries: ClassVar = "Entries"
    body: ClassVar = "MessageBody"
    largest: ClassVar = 1_024 * _KIB

    def asking(self, call: Call) -> Call:
        params = dict(_mapping(call["api_params"]))
        own, system = params.get("MessageAttributeNames", []), _asked(params)
        if not isinstance(own, list) or system is None:
            return call  # the client will say what is wrong with it
        if {"All", ".*"}.isdisjoint(own):
            params["MessageAttributeNames"] = [*own, *(name for name in creation.names() if name not in own)]
        if "All" not in system:
            is_old = "AttributeNames" in params and "MessageSystemAttributeNames" not in params
            parameter = "AttributeNames" if is_old else "MessageSystemAttributeNames"
            more = (name for name in _SYSTEM if name not in system)
            params[parameter] = [*params.get(parameter, ()), *more]
        return {**call, "api_params": params}

    def unasked(self, call: Call, result: object) -> None:
        system = _asked(_mapping(call["api_params"]))
        if system is None or "All" in system:
            return
        for record in self.records(result):
            attributes = _data(record).get("Attributes")
            if isinstance(attributes, dict):
                for name in _SYSTEM:
                    if name not in system:
                        attributes.pop(name, None)
                if not attributes:
                    del _data(record)["Attributes"]

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        where = self.place(_mapping(call["api_params"])) if call else ""
        facts = {self.fact: where, **_answered(_mapping(result))} if where else {}
        name = where.rpartition(self.separator)[2]
        return [_message(_data(record), name, facts) for record in self.records(result)]

    def records(self, result: Any) -> Sequence[object]:
        given = result.get("Messages", [result]) if isinstance(result, dict) else result
        given = given if isinstance(given, list) else [given]
        return given if given and all(map(_is_record, given)) else ()

    def key(self, record: object) -> Hashable | None:
        handle = _data(record).get("ReceiptHandle")
        return handle if isinstance(handle, str) else None


class Sns(_Aws):
    """SNS: `publish` and `publish_batch` to a topic, not to a phone or a device.

    What SQS gets of it has the context, by raw delivery and in SNS's envelope.
    """

    system: ClassVar = "aws.sns"
    package: ClassVar = "botocore"
    hooks: ClassVar[Sequence[Hook]] = _hooks(_SYNC, _SNS)
    is_plain: ClassVar = False
    places: ClassVar[Sequence[str]] = ("TopicArn", "TargetArn")
    separator: ClassVar = ":"
    fact: ClassVar = semconv.AWS_SNS_TOPIC_ARN
    entries: ClassVar = "PublishBatchRequestEntries"
    body: ClassVar = "Message"
    largest: ClassVar = 256 * _KIB

    def place(self, params: Mapping[str, Any]) -> str:
        where = super().place(params)
        return "" if ":endpoint/" in where else where


class AioSqs(Sqs):
    """The same of aioboto3 and aiobotocore."""

    package: ClassVar = "aiobotocore"
    aliases: ClassVar[Sequence[str]] = ("aioboto3",)
    contrib: ClassVar = ""
    hooks: ClassVar[Sequence[Hook]] = _hooks(_ASYNC, _SQS)


class AioSns(Sns):
    """The same of aioboto3 and aiobotocore."""

    package: ClassVar = "aiobotocore"
    hooks: ClassVar[Sequence[Hook]] = _hooks(_ASYNC, _SNS)


def _mapping(given: object) -> Mapping[str, Any]:
    return given if isinstance(given, dict) else {}


def _is_sound(entry: object) -> TypeGuard[dict[str, Any]]:
    attributes = entry.get("MessageAttributes", {}) if isinstance(entry, dict) else None
    return isinstance(attributes, dict) and all(isinstance(each, dict) for each in attributes.values())


def _is_record(given: object) -> bool:
    return "ReceiptHandle" in (data := _data(given)) and "MessageId" in data


def _data(record: Any) -> dict[str, Any]:
    """A message as SQS gave it: itself, or what a resource of boto3 keeps of it."""
    data = record.meta.data if type(record).__name__ == "sqs.Message" else record
    return data if isinstance(data, dict) else {}


def _asked(params: Mapping[str, Any]) -> set[str] | None:
    """The system attributes that a receive asks for; None where the client would not understand it."""
    lists = [params.get(name, []) for name in ("AttributeNames", "MessageSystemAttributeNames")]
    return {*lists[0], *lists[1]} if all(isinstance(each, list) for each in lists) else None


def _size(text: object) -> int:
    if not isinstance(text, str):
        return 0
    if text.isascii():
        return len(text)
    return 4 * len(text) if len(text) < _CERTAIN // 4 else len(text.encode(errors="replace"))


def _pairs(attributes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str | bytes]]:
    """Attributes as headers; what is neither text nor bytes has nothing for us."""
    found = [(name, each.get("StringValue", each.get("BinaryValue"))) for name, each in attributes.items()]
    return [(name, value if isinstance(value, (str, bytes)) else b"") for name, value in found]


def _stamped(entry: dict[str, Any], headers: Headers | None) -> dict[str, Any]:
    """The entry with these attributes; those that it has stay in the caller's own form."""
    if headers is None:
        return entry
    own = entry.get("MessageAttributes", {})
    texts = dict(_pairs(own))
    attributes = {
        name: own[name] if texts.get(name) == value else {"DataType": "String", "StringValue": value}
        for name, value in headers
        if value or name in own  # SQS refuses empty ones
    }
    return {**entry, "MessageAttributes": attributes}


def _answered(said: Mapping[str, Any]) -> Facts:
    """What SQS and SNS say of a message that they took, or of a whole call."""
    facts = {
        semconv.MESSAGING_MESSAGE_ID: said.get("MessageId"),
        semconv.AWS_REQUEST_ID: _mapping(said.get("ResponseMetadata")).get("RequestId"),
    }
    return {name: value for name, value in facts.items() if isinstance(value, str)}


def _message(record: Mapping[str, Any], name: str, facts: Facts) -> Message:
    own, system = _mapping(record.get("MessageAttributes")), _mapping(record.get("Attributes"))
    headers = _pairs({key: each for key, each in own.items() if isinstance(each, dict)})
    if creation.TRACEPARENT not in own:
        headers += _enveloped(record.get("Body"))
    sent, attempt = (str(system.get(key)) for key in _SYSTEM)
    return Message(
        name,
        headers,
        id=record.get("MessageId"),
        published_at_ns=int(sent) * _MS if sent.isdecimal() else None,
        delivery_attempt=int(attempt) if attempt.isdecimal() else None,
        attributes=facts,
    )


def _enveloped(body: object) -> list[tuple[str, str | bytes]]:
    """The attributes in SNS's envelope. Only they are read, not the message beside them."""
    if not isinstance(body, str) or body[:1] != "{" or '"Notification"' not in body:
        return []
    found = _ENVELOPE.search(body)
    if found is None:
        return []
    try:
        attributes, _ = json.JSONDecoder().raw_decode(body, found.end())
        pairs = [(name, each.get("Value"), each.get("Type")) for name, each in attributes.items()]
        return [
            (name, base64.b64decode(value) if kind == "Binary" else value)
            for name, value, kind in pairs
            if isinstance(value, str)
        ]
    except (ValueError, AttributeError, RecursionError):  # somebody else's JSON
        return []
