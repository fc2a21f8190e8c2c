"""Scopes: where the processing of messages begins and ends, as the application says it.

    with tracekit.process(message): ...
    with tracekit.process_batch(consumer.poll(1000)) as batch: ...
    with tracekit.consuming(consumer) as messages: ...

None of them raises for a reason of ours: where the message is not one that an instrumented client
gave, or nothing was configured, the block simply runs.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from opentelemetry import context as otel

from tracekit.guard import shielded
from tracekit.messaging import creation
from tracekit.messaging.batch import Batch
from tracekit.messaging.calls import is_suppressed
from tracekit.messaging.loop import AsyncConsumerLoop, ConsumerLoop, in_use
from tracekit.messaging.nesting import Nested
from tracekit.messaging.polled import messages_of
from tracekit.messaging.processing import Process, current_process
from tracekit.patching import unjoined

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
    from types import TracebackType

    from tracekit.messaging.engine import Engine, Loop, ParentRule
    from tracekit.messaging.polled import AsyncPolling

Work = TypeVar("Work", bound=Nested)
Client = TypeVar("Client")


def install(engine: Engine | None) -> None:
    """Let the scopes work with this engine; None: let them only run what is in them."""
    in_use.engine = engine


def engine_in_use() -> Engine | None:
    """The engine that `configure()` installed."""
    return in_use.engine


class Scope(Generic[Work]):
    """A block of work, by `with` or `async with`. Its span begins on entering."""

    __slots__ = ("_adopted", "_start", "_work")

    def __init__(self, start: Callable[[], tuple[Work | None, bool]]) -> None:
        self._start: Callable[[], tuple[Work | None, bool]] = start
        self._work: Work | None = None
        self._adopted = False

    def __enter__(self) -> Scope[Work]:
        if self._work is not None:  # entered already: that block is this one's too
            return self
        with shielded("the start of a process scope"):
            self._work, self._adopted = self._start()
            if self._work is not None and not self._adopted:
                self._work.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        work, self._work = self._work, None
        if work is not None:
            with shielded("the end of a process scope"):
                if not self._adopted:
                    work.leave()  # first: also where the span cannot be ended
                work.end(error)

    async def __aenter__(self) -> Scope[Work]:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class BatchScope(Scope[Batch]):
    """The block of a batch; `message(record)` is the block of one message in it."""

    def message(self, record: object) -> Scope[Process]:
        """One message of the batch: its own span, flow and baggage; its error is its own."""
        batch = self._work
        return Scope(lambda: (None if batch is None else batch.message(record), False))

    def __enter__(self) -> BatchScope:
        super().__enter__()
        return self

    async def __aenter__(self) -> BatchScope:
        return self.__enter__()


def process(message: Any, *, consumer: object = None, parent: ParentRule | None = None) -> Scope[Process]:
    """The processing of one message: its span, context and baggage are current in the block.

    By `with` or `async with`. `message` is what the client gave: a record. `consumer` says who read it,
    where several consumers of the process read the same destination; `parent` (`auto`, `message`,
    `link`) overrides the rule given to `configure()`. Inside the loop of an instrumented consumer, the
    block is that turn, and says when and how it ended: also in a task or thread that it gave the
    message to, if that has the context of the turn and enters the block before the loop goes on. What the
    block raises is the span's error, and is raised on as the same object.

        for messages in consumer.poll(timeout_ms=1000).values():
            for message in messages:
                with tracekit.process(message):
                    handle(message)
    """

    def start() -> tuple[Process | None, bool]:
        engine = in_use.engine
        if engine is None or is_suppressed():
            return None, False
        turn = current_process()
        is_taken = turn is None or turn.ended or turn.is_taken
        if turn is not None and not is_taken and engine.is_in_process(message, turn):
            turn.is_taken, turn.may_leak = True, False
            return turn, True
        transport = engine.transport_of(message)
        if transport is None:
            return None, False
        messages, client = engine.described(transport, message)
        if len(messages) != 1:
            return None, False
        reader = client if consumer is None else consumer
        return Process(engine, transport, messages[0], message, reader, parent), False

    return Scope(start)


def process_batch(messages: Any) -> BatchScope:
    """The processing of several messages at once: one span, a link to each of their flows.

    By `with` or `async with`. `messages` is a list of records, or what `poll()` gave. No messages: no
    span. `batch.message(record)` is the block of one message, in its own flow; leave it out where a
    message is not handled alone.

        with tracekit.process_batch(messages) as batch:
            for message in messages:
                with batch.message(message):
                    insert(message)
    """

    def start() -> tuple[Batch | None, bool]:
        engine = in_use.engine
        transport = engine.transport_of(messages) if engine is not None else None
        if engine is None or transport is None or is_suppressed():
            return None, False
        records = transport.records(messages)
        described = [one for record in records for one in engine.described(transport, record)[0]]
        if not described or len(described) != len(records):
            return None, False
        return Batch(engine, transport, described, records), False

    return BatchScope(start)


class _Bare:
    """A loop that only iterates: there is nothing that knows the client."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        return cast("Iterator[Any]", self._source)

    def __next__(self) -> Any:
        return next(self._source)

    def __enter__(self) -> _Bare:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __aiter__(self) -> AsyncIterator[Any]:
        return cast("AsyncIterator[Any]", self._source)

    async def __anext__(self) -> Any:
        return await self._source.__anext__()

    async def __aenter__(self) -> _Bare:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


@overload
def consuming(client: AsyncIterable[Any] | AsyncPolling) -> AsyncConsumerLoop | _Bare: ...
@overload
def consuming(client: Any) -> ConsumerLoop | _Bare: ...
def consuming(client: Any) -> Loop | _Bare:
    """A loop over the consumer, each turn of which is the processing of one message.

    As the plain loop of an instrumented consumer, and exact: by `with`, an exception in the body is
    an error of its message, and the turn ends however the loop is left. `client` is a consumer, or
    anything else that can be iterated, which is then iterated as it is. A consumer that can only be asked
    by `poll()`, as confluent-kafka's, is asked without end; what it gives that is an error, and no message,
    is given too. An async client's loop is one by `async with` and `async for`.

        with tracekit.consuming(consumer) as messages:
            for message in messages:
                handle(message)
    """
    source = messages_of(client)
    if isinstance(source, (ConsumerLoop, AsyncConsumerLoop)):
        return source
    with shielded("iteration"):
        engine = in_use.engine
        transport = engine.transport_of(client) if engine is not None else None
        if engine is not None and transport is not None and not is_suppressed():
            return engine.loop(transport, unjoined(client), source)
    return _Bare(source)


def wrap(client: Client) -> Client:
    """The client, traced: for one of a class written in C that was imported before `configure()`.

    confluent-kafka's are such: `from confluent_kafka import Producer` before `configure()` gives a class
    that nobody can change. What this gives is that client with the calls that are traced, and all else its
    own. Any other client is given back as it is: those are traced whenever they were made.

        producer = tracekit.wrap(producer)
    """
    with shielded("joining a client"):
        if in_use.engine is not None:
            return cast("Client", in_use.engine.joined(client))
    return client


@contextmanager
def relay() -> Iterator[None]:
    """Send messages on with the creation context that they already have, untouched.

    For an outbox, a mirror, a dead letter put back: the message stays what it was made as, and the
    send is a call of its own that links to it. Otherwise the headers of the message in process, handed
    on, get the new send's context.

        with tracekit.relay():
            producer.send("orders.copy", message.value, headers=message.headers)
    """
    before = otel.get_current()
    token = otel.attach(creation.with_relay(before))
    try:
        yield
    finally:
        otel.detach(token)
