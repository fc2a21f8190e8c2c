"""boto3 and aioboto3 on moto: SQS, and SNS that delivers to SQS."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import aioboto3

import tracekit
from tests.aws import PATIENCE_S, text
from tracekit.transports.aws import AioSns, AioSqs, Sns, Sqs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws import Aws
    from tracekit.messaging.transport import Transport


class SqsRig:
    """`send_message`, `receive_message` in a `process()` block, `delete_message`."""

    transport: Transport = Sqs()

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self.destination = aws.name()
        self._url = aws.queue(self.destination)

    @property
    def _sqs(self) -> Any:
        return self._aws.sqs

    def _call(self, client: Any, name: str, **params: Any) -> Any:
        return getattr(client, name)(**params)

    def send(self, body: bytes, headers: object = None) -> None:
        more = {} if headers is None else {"MessageAttributes": headers}
        self._call(self._sqs, "send_message", QueueUrl=self._url, MessageBody=body.decode(), **more)

    def headers_of(self, pairs: list[tuple[str, bytes]]) -> object:
        return {name: text(value.decode()) for name, value in pairs}

    def consume(self, handle: Callable[[object], None]) -> None:
        (message,) = self._call(
            self._sqs,
            "receive_message",
            QueueUrl=self._url,
            WaitTimeSeconds=PATIENCE_S,
            MessageAttributeNames=["All"],
        )["Messages"]
        with tracekit.process(message):
            handle(message)
        self._call(self._sqs, "delete_message", QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])

    def body(self, record: object) -> bytes:
        return cast("str", cast("Any", record)["Body"]).encode()

    def headers(self, record: object) -> list[tuple[str, bytes]]:
        attributes = cast("Any", record).get("MessageAttributes", {})
        return [(name, each["StringValue"].encode()) for name, each in attributes.items()]

    def full(self) -> tuple[bytes, object]:
        return b"one", {f"own-{number}": text("value") for number in range(10)}

    def fail_to_send(self, error: Exception) -> None:
        self._failing(self._sqs, "sqs.SendMessage", error)

    def _failing(self, client: Any, operation: str, error: Exception) -> None:
        def fail(**_: Any) -> None:
            raise error

        client.meta.events.register_first(f"before-call.{operation}", fail, unique_id="failing")
        try:
            self.send(b"one")
        finally:
            client.meta.events.unregister(f"before-call.{operation}", unique_id="failing")


class SnsRig(SqsRig):
    """`publish` to a topic that delivers to a queue of the same name."""

    transport: Transport = Sns()

    def __init__(self, aws: Aws) -> None:
        super().__init__(aws)
        self._topic = aws.topic(self._url, self.destination, raw=True)

    @property
    def _sns(self) -> Any:
        return self._aws.sns

    def send(self, body: bytes, headers: object = None) -> None:
        more = {} if headers is None else {"MessageAttributes": headers}
        self._call(self._sns, "publish", TopicArn=self._topic, Message=body.decode(), **more)

    def fail_to_send(self, error: Exception) -> None:
        self._failing(self._sns, "sns.Publish", error)


class _Aio:
    """Clients of aioboto3, on a loop of their own."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._open = AsyncExitStack()
        self.sqs, self.sns = self.run(self._clients(settings))

    async def _clients(self, settings: dict[str, Any]) -> list[Any]:
        session = aioboto3.Session()
        return [
            await self._open.enter_async_context(session.client(name, **settings)) for name in ("sqs", "sns")
        ]

    def run(self, awaited: Any) -> Any:
        return self._loop.run_until_complete(awaited)

    def close(self) -> None:
        self.run(self._open.aclose())
        self._loop.close()


class AioSqsRig(SqsRig):
    """The same, awaited."""

    transport: Transport = AioSqs()

    def __init__(self, aws: Aws) -> None:
        super().__init__(aws)
        self._aio = _Aio(aws.settings)

    @property
    def _sqs(self) -> Any:
        return self._aio.sqs

    def _call(self, client: Any, name: str, **params: Any) -> Any:
        return self._aio.run(getattr(client, name)(**params))

    def close(self) -> None:
        """Close the clients and their loop."""
        self._aio.close()


class AioSnsRig(AioSqsRig, SnsRig):
    """The same, awaited."""

    transport: Transport = AioSns()

    @property
    def _sns(self) -> Any:
        return self._aio.sns
