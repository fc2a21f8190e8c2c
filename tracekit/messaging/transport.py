"""The transport: what one client library of one broker looks like to tracekit.

A transport describes, the engine acts: a transport starts no span, reads no clock, holds no state
and does no I/O. A new broker is one class of this shape in `tracekit/transports/`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from tracekit import semconv

if TYPE_CHECKING:
    from tracekit.semconv import Operation

Headers: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Headers as the client hands them over: raw, repeated ones included."""

Call: TypeAlias = Mapping[str, object]
"""One call of the client: its arguments by name, defaults left out; `self` is the client."""

Facts: TypeAlias = Mapping[str, str | int | bool]
"""Attributes by their names in the conventions."""


class Answered(Protocol):
    """What the engine wants to hear of the broker's answer: the answer, or why there is none."""

    def __call__(self, answer: object, error: BaseException | None = None, /) -> None: ...


class Telling(NamedTuple):
    """Whom a client tells of the broker's answers where a send names nobody: `callback`, None for nobody.

    `of` which messages it tells at all: `all`, only those that the broker refused (`failures`), or, where
    nobody knows how the client was made, those whose send names somebody (`named`).
    """

    callback: Callable[..., object] | None = None
    of: Literal["all", "named", "failures"] = "all"


class Message(NamedTuple):
    """One message as its broker describes it; None: the broker (or this side) does not say.

    A tuple, since every message makes two: a frozen dataclass takes five times as long.

    Before the client or the broker refuses, there are left for our headers: `room` bytes, `slots` headers;
    and of one header's value `most` bytes, in which a character of `escapes` takes so many more than its own.
    `published_at_ns` is set only where the broker itself set it,
    `sent_at_ns` is a client's own timestamp (Unix ns). `delivery_attempt` is 1 for the first. `group` is
    the consumer group or subscription where the call says it, and not the client's configuration.
    `is_entry`: there was no context where it was made, so none was lost.
    """

    destination: str
    headers: Headers = ()
    id: str | None = None
    body_size: int | None = None
    room: int | None = None
    slots: int | None = None
    most: int | None = None
    published_at_ns: int | None = None
    sent_at_ns: int | None = None
    delivery_attempt: int | None = None
    attributes: Facts = MappingProxyType({})
    group: str = ""
    is_entry: bool = False
    escapes: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Hook:
    """One function of the client that is wrapped.

    `call`: the call is the operation; where it sends, the parameter named `callback` (if any; where it has
    several names, `one|other`) is told of the broker's answer. `batch`: it sends several messages, each of
    which is created in a span of its own. `iterate`: it gives an iterator of messages, each turn of which is
    processed in its own scope. `callback`: the parameter named `callback` holds the handler. `deliver`: the
    call itself is what hands one message to its handlers. `carry`: the parameter named `callback` holds a
    function that must run in its caller's context. `retry`: the client sends messages once more by itself;
    `Transport.resent` says which. `make`: it makes a client that cannot be asked later what it was given.
    `inner`: the client's own work, whose calls of it are none of the application's. `look`: it shows messages
    and takes none, so that nothing is counted. `block`: called on a
    message, it gives a block (`async with`) in which that one is processed.
    `gather`: it gives an empty batch. `add`: called on a batch, it adds a message (its call has the batch's
    `client`), and gives None where it has not; a hook with the scope `batch` sends it.
    `flush`: it sends what earlier calls only queued in the client, and gives a list of their answers.
    Of a settle, `batch` says that it settles several.

    `only` is `parameter=value`, where one function serves many operations: this one is meant. `parameters`
    are the names of a function that does not tell them itself (one written in C), `self` first.
    """

    target: str
    operation: Operation
    name: str
    scope: Literal[
        "call",
        "batch",
        "iterate",
        "callback",
        "deliver",
        "carry",
        "retry",
        "make",
        "flush",
        "gather",
        "inner",
        "look",
        "add",
        "block",
    ] = "call"
    callback: str = ""
    only: str = ""
    parameters: tuple[str, ...] = ()


class Source(Protocol):
    """Where a message in process comes from."""

    system: ClassVar[str]
    """`messaging.system`."""
    processing: ClassVar[str]
    """What the conventions call the processing of its messages: `process` in most systems."""

    def client(self, client: object) -> Facts:
        """What its configuration says of a client: its id, its group, the broker's address."""
        ...


class Transport(Source, Protocol):
    """How one client library sends, receives and settles."""

    package: ClassVar[str]
    """The client's import name: what its records, clients and hooks belong to."""
    contrib: ClassVar[str]
    """OpenTelemetry's own instrumentation of the client, `package.module:Instrumentor`; "" for none."""
    contrib_asks: ClassVar[str]
    """Where that serves more than this transport does: the function that it asks about each call, with the
    client and the call's other arguments, and lets be what gets None; "" for none."""
    hooks: ClassVar[Sequence[Hook]]
    aliases: ClassVar[Sequence[str]]
    """Other top names that its types say they are from (a module in C may)."""
    is_over_http: ClassVar[bool]
    """Whether its calls are HTTP requests, which a client of HTTP that is traced would show once more."""
    is_plain: ClassVar[bool]
    """Whether its records are plain dicts or tuples, whose type does not tell whose they are."""

    def made(self, call: Call) -> Facts:
        """What `client` would say of the client that the call of a `make` hook makes."""
        ...

    def telling(self, call: Call | None) -> Telling:
        """Whom such a client tells of the broker's answers. None: nobody knows how it was made."""
        ...

    def owner(self, record: object) -> object:
        """The client by which a record settles itself, where it has one; None where it does not say."""
        ...

    def outgoing(self, call: Call) -> Sequence[Message]:
        """The messages that a call sends or settles. Empty: nothing that we understand; left alone."""
        ...

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        """The same call with these headers, one entry for each message, in the client's own form.

        None: that message stays as it is.
        """
        ...

    def receipt(self, message: Message) -> Hashable | None:
        """What a message is settled by, on its client: told alike of one that came and of one to be settled.

        What was never received is not the application's to settle. None: the call says what it settles.
        """
        ...

    def is_nothing(self, error: BaseException) -> bool:
        """Whether the client says so that there was nothing to receive: no failure."""
        ...

    def is_oversized(self, error: BaseException) -> bool:
        """Whether the client refused a message for its size, before it sent anything."""
        ...

    def listen(self, result: object, answered: Answered) -> bool:
        """Have the broker's answer told. False: the result is the answer, there is nothing to wait for."""
        ...

    def told(self, arguments: Sequence[object]) -> tuple[object, BaseException | None]:
        """The broker's answer, and why there is none, from what the client gave to a send's callback."""
        ...

    def resent(self, call: Call) -> Sequence[tuple[object, Sequence[object]]]:
        """The messages that the call of a `retry` hook sends once more: the `result` for `listen`, and
        all who listen there, a list in which who comes later will be too. Empty without such hooks."""
        ...

    def gathered(self, call: Call) -> object | None:
        """The batch that a call sends, to which its messages were added by hooks with the scope `add`."""
        ...

    def answer(self, call: Call, result: object) -> Facts:
        """What the broker's answer says: partition, offset, message id."""
        ...

    def answers(self, call: Call, result: object) -> Sequence[Facts | str]:
        """The same for each message of a batch; for one that was refused, the name of its error."""
        ...

    def asking(self, call: Call) -> Call:
        """The same call that fetches, asking for our headers too, where a client must ask for them."""
        ...

    def queued(self, client: object) -> Sequence[object]:
        """What waits in the client for the call of a `flush` hook, the latest last: for each call the object
        that stands for it there. Asked where a call gave its own client. Empty without such hooks."""
        ...

    def lost(self, call: Call, result: object) -> Sequence[Message]:
        """The messages of which the answer to a call that fetches says that they are gone, undone."""
        ...

    def unasked(self, call: Call, result: object) -> None:
        """Take out of what the client gave what only `asking` asked for, and the engine has read by now.

        `call` is the application's own. In place: the client made the result for this call, and nobody
        has seen it yet.
        """
        ...

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        """The messages in what a client gave: a record, several of them, or nothing.

        `call` is the hooked call that gave them; of a callback, the one that registered it, and the result
        is the handler's argument, a tuple where it takes several.
        """
        ...

    def records(self, result: object) -> Sequence[object]:
        """The client's own records in what it gave, in the order of `incoming`."""
        ...

    def key(self, record: object) -> Hashable | None:
        """What a record is known by that does not say all of itself: its destination, its group.

        The engine remembers by it what `incoming` said. None: the record says all.
        """
        ...


def broker_at(servers: str | Sequence[object]) -> Facts:
    """The address of the one broker that a client was given, as `host:port`.

    Of several, nobody knows here which one answers.
    """
    found = servers.split(",") if isinstance(servers, str) else servers
    if len(found) != 1 or not found[0]:
        return {}
    host, _, port = str(found[0]).strip().rpartition(":")
    if not (host and port.isdecimal()):
        return {semconv.SERVER_ADDRESS: str(found[0]).strip().strip("[]")}
    return {semconv.SERVER_ADDRESS: host.strip("[]"), semconv.SERVER_PORT: int(port)}


def shared(messages: Sequence[Message]) -> dict[str, str | int | bool]:
    """The attributes that all messages of several have in common. An offset is each one's own."""
    first, *others = messages
    return {
        name: value
        for name, value in first.attributes.items()
        if name != semconv.MESSAGING_KAFKA_OFFSET
        and all(other.attributes.get(name) == value for other in others)
    }


class Plain:
    """A client that has none of what only some have: a transport of more says so by methods of its own."""

    processing: ClassVar[str] = "process"
    contrib: ClassVar[str] = ""
    contrib_asks: ClassVar[str] = ""
    aliases: ClassVar[Sequence[str]] = ()
    is_over_http: ClassVar[bool] = False
    is_plain: ClassVar[bool] = False

    def client(self, client: object) -> Facts:
        return {}

    def made(self, call: Call) -> Facts:
        return {}

    def telling(self, call: Call | None) -> Telling:
        return Telling()

    def owner(self, record: object) -> object:
        return None

    def receipt(self, message: Message) -> Hashable | None:
        return None

    def is_nothing(self, error: BaseException) -> bool:
        return False

    def is_oversized(self, error: BaseException) -> bool:
        return False

    def listen(self, result: object, answered: Answered) -> bool:
        return False

    def told(self, arguments: Sequence[object]) -> tuple[object, BaseException | None]:
        return arguments, None

    def resent(self, call: Call) -> Sequence[tuple[object, Sequence[object]]]:
        return ()

    def gathered(self, call: Call) -> object | None:
        return None

    def answer(self, call: Call, result: object) -> Facts:
        return {}

    def answers(self, call: Call, result: object) -> Sequence[Facts | str]:
        return ()

    def asking(self, call: Call) -> Call:
        return call

    def unasked(self, call: Call, result: object) -> None:
        return None

    def queued(self, client: object) -> Sequence[object]:
        return ()

    def lost(self, call: Call, result: object) -> Sequence[Message]:
        return ()

    def key(self, record: object) -> Hashable | None:
        return None
