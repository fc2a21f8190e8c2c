"""The transport: what one client library of one broker looks like to tracekit.

A transport describes, the engine acts: a transport starts no span, reads no clock, holds no state
and does no I/O. A new broker is one class of this shape in `tracekit/transports/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

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


class Message(NamedTuple):
    """One message as its broker describes it; None: the broker (or this side) does not say.

    A tuple, since every message makes two: a frozen dataclass takes five times as long.

    `room` is the bytes left for our headers before the client or the broker refuses; `published_at_ns`
    is set only where the broker itself set it, `sent_at_ns` is a client's own timestamp (Unix ns).
    `is_entry`: there was no context where it was made, so none was lost.
    """

    destination: str
    headers: Headers = ()
    id: str | None = None
    body_size: int | None = None
    room: int | None = None
    published_at_ns: int | None = None
    sent_at_ns: int | None = None
    delivery_attempt: int | None = None
    attributes: Facts = MappingProxyType({})
    is_entry: bool = False


@dataclass(frozen=True, slots=True)
class Hook:
    """One function of the client that is wrapped.

    `call`: the call is the operation. `iterate`: it gives an iterator of messages, each turn of which
    is processed in its own scope. `callback`: the parameter named `callback` holds the handler.
    `carry`: the parameter named `callback` holds a function that must run in its caller's context.
    `retry`: the client sends messages once more by itself; `Transport.resent` says which.
    """

    target: str
    operation: Operation
    name: str
    scope: Literal["call", "iterate", "callback", "carry", "retry"] = "call"
    callback: str = ""


class Source(Protocol):
    """Where a message in process comes from."""

    system: ClassVar[str]
    """`messaging.system`."""

    def client(self, client: object) -> Facts:
        """What its configuration says of a client: its id, its group, the broker's address."""
        ...


class Transport(Source, Protocol):
    """How one client library sends, receives and settles."""

    package: ClassVar[str]
    """The client's import name: what its records, clients and hooks belong to."""
    contrib: ClassVar[str]
    """OpenTelemetry's own instrumentation of the client, `package.module:Instrumentor`; "" for none."""
    hooks: ClassVar[Sequence[Hook]]

    def outgoing(self, call: Call) -> Sequence[Message]:
        """The messages that a call sends or settles. Empty: nothing that we understand; left alone."""
        ...

    def stamp(self, call: Call, headers: Sequence[Headers]) -> Call:
        """The same call with these headers, one entry for each message, in the client's own form."""
        ...

    def is_oversized(self, error: BaseException) -> bool:
        """Whether the client refused a message for its size, before it sent anything."""
        ...

    def listen(self, result: object, answered: Answered) -> bool:
        """Have the broker's answer told. False: the result is the answer, there is nothing to wait for."""
        ...

    def resent(self, call: Call) -> Sequence[tuple[object, Sequence[object]]]:
        """The messages that the call of a `retry` hook sends once more: the `result` for `listen`, and
        all who listen there, a list in which who comes later will be too. Empty without such hooks."""
        ...

    def answer(self, call: Call, result: object) -> Facts:
        """What the broker's answer says: partition, offset, message id."""
        ...

    def incoming(self, result: object) -> Sequence[Message]:
        """The messages in what a client gave: a record, several of them, or nothing."""
        ...

    def records(self, result: object) -> Sequence[object]:
        """The client's own records in what it gave, in the order of `incoming`."""
        ...
