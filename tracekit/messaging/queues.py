"""Calls that only wait in their client until another one sends them all: pipelines and the like.

Each is what it would be by itself, a send, a settle or a receive, and lasts until its own answer came.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tracekit.guard import shielded
from tracekit.messaging.calls import is_coroutine

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tracekit.messaging.engine import Engine
    from tracekit.messaging.transport import Call, Hook, Transport
    from tracekit.patching import Function


class Queued(Protocol):
    """A call that was queued, and does not hold its client. Called with its answer, or why there is none."""

    call: Call

    def __call__(self, answer: object, error: BaseException | None = None) -> None: ...


Waiting: TypeAlias = Sequence[tuple[int, Queued]]
"""Calls that are sent now, each with the place of its answer."""


class Queues:
    """What waits in which client: as long as the client lives, and no longer."""

    def __init__(self) -> None:
        self._waiting: weakref.WeakKeyDictionary[object, list[tuple[object, Queued]]] = (
            weakref.WeakKeyDictionary()
        )

    def put(self, transport: Transport, client: object, begun: Queued) -> bool:
        """Whether what a call asked for waits in its client. If so, `begun` is told once it was sent."""
        with shielded("a call that was queued"):
            if waiting := transport.queued(client):
                # It must not keep the client, which may be given up without ever being flushed.
                begun.call = {name: value for name, value in begun.call.items() if name != "self"}
                self._waiting.setdefault(client, []).append((waiting[-1], begun))
                return True
        return False

    def put_fetch(
        self,
        engine: Engine,
        transport: Transport,
        hook: Hook,
        client: object,
        call: Call | None,
        start_ns: int,
    ) -> bool:
        """The same of a call that fetches."""
        with shielded("a call that was queued"):
            return self.put(
                transport, client, _Fetching(engine, transport, hook, client, call or {}, start_ns)
            )
        return False

    def taken(self, transport: Transport, client: object) -> Waiting:
        """Who waits for what is sent now. What was taken back meanwhile was never sent: it is forgotten."""
        with shielded("calls that were queued"):
            if put := self._waiting.pop(client, None):
                places = {id(each): place for place, each in enumerate(transport.queued(client))}
                return [(places[id(each)], begun) for each, begun in put if id(each) in places]
        return ()


class _Fetching:
    """A call that fetches, queued."""

    def __init__(
        self, engine: Engine, transport: Transport, hook: Hook, client: object, call: Call, start_ns: int
    ) -> None:
        self.call = call
        self._engine = engine
        self._transport = transport
        self._name = hook.name
        self._client = weakref.ref(client)
        self._start_ns = start_ns

    def __call__(self, answer: object, error: BaseException | None = None) -> None:
        engine, transport, client = self._engine, self._transport, self._client()
        if error is None:
            engine.receive(transport, self._name, client, answer, self.call, self._start_ns)
        elif isinstance(error, Exception):
            engine.receiver.failed(transport, self._name, client, self._start_ns, error)


def flushing(engine: Engine, transport: Transport, function: Function) -> Function:
    """A call that sends what others queued in their client: each of them is told its own answer."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        waiting = engine.queues.taken(transport, args[0] if args else kwargs.get("self"))
        if not waiting:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            _tell(waiting, None, error)
            raise
        if is_coroutine(result):
            return _flushed(waiting, result)
        _tell(waiting, result)
        return result

    return call


async def _flushed(waiting: Waiting, awaited: Coroutine[Any, Any, Any]) -> Any:
    """The rest of such a call that is done once it was awaited."""
    try:
        result = await awaited
    except BaseException as error:
        _tell(waiting, None, error)
        raise
    _tell(waiting, result)
    return result


def _tell(waiting: Waiting, answers: Any, error: BaseException | None = None) -> None:
    """Each of who waits its answer; of an error that ended all, who of them failed is not known."""
    for place, begun in waiting:
        with shielded("the broker's answer"):
            answer = None if error is not None else answers[place]
            failure = answer if isinstance(answer, BaseException) else error
            begun(None if failure is not None else answer, failure)
