"""Calls of a client, wrapped: sends and settles, and what fetches.

Each has three phases: ours (shielded), theirs (once, unshielded), ours again. Whether a call is done when it
returns, or gives a coroutine that is, shows from what it returned.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from opentelemetry import context as otel
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY

from tracekit.carried import carry
from tracekit.guard import shielded, swallow
from tracekit.messaging.creating import create
from tracekit.messaging.sending import send, settle
from tracekit.patching import Names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tracekit.messaging.creating import Creating
    from tracekit.messaging.engine import Engine
    from tracekit.messaging.sending import Sending
    from tracekit.messaging.transport import Call, Hook, Transport
    from tracekit.patching import Function

_Begun: TypeAlias = "Sending | Creating"


class _Inside:
    """A call of a client that is under way: what it calls of the same client is a part of it.

    Tasks and threads that are begun meanwhile have a copy of the context, and may outlive the call.
    """

    __slots__ = ("client", "is_all")

    def __init__(self, client: object, *, is_all: bool = False) -> None:
        self.client: object = client
        self.is_all = is_all

    def is_of(self, client: object) -> bool:
        """Whether what is called of this client now is a part of what is under way."""
        around = self.client
        return around is client or self.is_all or (around is not None and _belongs(client, around))


def _belongs(client: object, around: object) -> bool:
    """Whether a client is part of another: an asyncio client has one that blocks, for its threads."""
    return any(part is client for part in getattr(around, "__dict__", {}).values())


_MAX_KINDS: Final = 200
_kinds: dict[type, bool] = {}  # whether it is one of coroutines: asking the abstract class takes longer
_NOWHERE = _Inside(None)
_inside: ContextVar[_Inside] = ContextVar("tracekit-inside", default=_NOWHERE)


def is_suppressed() -> bool:
    """Whether the application asked for no instrumentation here."""
    return bool(otel.get_current().get(_SUPPRESS_INSTRUMENTATION_KEY))


def within(client: object, function: Function, *args: Any, **kwargs: Any) -> Any:
    """What the function gives; what it calls of the client is a part of this call."""
    inside = _Inside(client)
    token = _inside.set(inside)
    try:
        return function(*args, **kwargs)
    finally:
        _inside.reset(token)
        inside.client = None


async def awaited_within(client: object, awaited: Coroutine[Any, Any, Any]) -> Any:
    """The same for what a call gave to be awaited."""
    inside = _Inside(client)
    token = _inside.set(inside)
    try:
        return await awaited
    finally:
        _inside.reset(token)
        inside.client = None


def over_http(function: Function) -> Function:
    """The client's own function, whose HTTP requests are how it does its work: they have no spans."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        token = otel.attach(otel.set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True))
        try:
            result = function(*args, **kwargs)
        finally:
            otel.detach(token)
        return _awaited_over_http(result) if is_coroutine(result) else result

    return call


async def _awaited_over_http(awaited: Coroutine[Any, Any, Any]) -> Any:
    token = otel.attach(otel.set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True))
    try:
        return await awaited
    finally:
        otel.detach(token)


def inner(function: Function) -> Function:
    """The client's own work: what it calls of any client of its kind is none of the application's calls."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        token = _inside.set(_Inside(None, is_all=True))
        try:
            return function(*args, **kwargs)
        finally:
            _inside.reset(token)

    return call


async def awaited_inner(awaited: Awaitable[Any]) -> Any:
    """The same for what a client does on being left: it gives back messages that nobody has seen."""
    token = _inside.set(_Inside(None, is_all=True))
    try:
        return await awaited
    finally:
        _inside.reset(token)


def outside_of_calls(function: Function, *args: Any, **kwargs: Any) -> Any:
    """What the application's function gives: some clients call handlers while they wait in a call."""
    token = _inside.set(_NOWHERE)
    try:
        return function(*args, **kwargs)
    finally:
        _inside.reset(token)


def is_coroutine(result: object) -> bool:
    """Whether a call is done only once what it gave was awaited."""
    kind = type(result)
    known = _kinds.get(kind)
    if known is None:
        if len(_kinds) > _MAX_KINDS:
            _kinds.clear()
        known = _kinds[kind] = issubclass(kind, Coroutine)
    return known


def calling(engine: Engine, transport: Transport, hook: Hook, function: Function) -> Function:
    """A send or a settle: span, context, the client once, and its broker's answer."""
    names = Names(function, hook.parameters)
    begin: Callable[..., _Begun | None]
    begin = settle if hook.operation != "send" else create if hook.scope == "batch" else send

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        client = args[0] if args else kwargs.get("self")
        if _inside.get().is_of(client) or is_suppressed():
            return function(*args, **kwargs)
        begun: _Begun | None = None
        told: _Told | None = None
        given = args, kwargs
        try:
            bound: Call | None = names.bind(args, kwargs)
            if hook.callback and bound is not None:
                told, bound = _telling(engine, transport, hook, bound)
            if bound is not None:
                begun = begin(engine, transport, hook, bound)
            if begun is not None and bound is not None:
                if told is not None:
                    told.begin(begun)
                    args, kwargs = given = names.unbind(bound, len(args))
                if begun.is_changed:
                    args, kwargs = names.unbind(begun.call, len(args))
        except Exception as error:  # noqa: BLE001 - the shield of a hot path
            swallow(hook.name, error)
        if begun is None:
            return function(*args, **kwargs)
        inside = _Inside(client)
        token = _inside.set(inside)
        try:
            result: Any = None
            is_ours = False
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                is_ours = begun.is_to_blame(error)
                if not is_ours:
                    raise
            if is_ours:  # not above: what this one raises must not show the other one beside it
                result = function(*given[0], **given[1])
        except BaseException as error:
            begun(None, error)
            raise
        finally:
            _inside.reset(token)
            inside.client = None
        if result is client and engine.queues.put(transport, client, begun):
            return result
        if is_coroutine(result):
            again = functools.partial(function, *given[0], **given[1])
            return _answered(transport, hook, client, begun, result, again)
        if told is None or not told.is_waiting:
            _listen(transport, hook, begun, result)
        return result

    return call


async def _answered(
    transport: Transport,
    hook: Hook,
    client: object,
    begun: _Begun,
    awaited: Coroutine[Any, Any, Any],
    again: Callable[[], Coroutine[Any, Any, Any]],
) -> Any:
    """The rest of a call that is done once it was awaited."""
    try:
        result: Any = None
        is_ours = False
        try:
            result = await awaited_within(client, awaited)
        except Exception as error:
            is_ours = begun.is_to_blame(error)
            if not is_ours:
                raise
        if is_ours:
            result = await awaited_within(client, again())
    except BaseException as error:
        begun(None, error)
        raise
    _listen(transport, hook, begun, result)
    return result


def _listen(transport: Transport, hook: Hook, begun: _Begun, result: object) -> None:
    try:
        if isinstance(result, asyncio.Future):
            result.add_done_callback(functools.partial(_heard, begun))
        elif not transport.listen(result, begun):
            begun(result)
    except Exception as error:  # noqa: BLE001 - the shield of a hot path
        swallow(hook.name, error)


def _heard(begun: _Begun, future: asyncio.Future[Any]) -> None:
    """The broker's answer, in a future of asyncio's."""
    if future.cancelled():
        begun(None, asyncio.CancelledError())
        return
    # Not by `exception()`: asyncio says so where the application asks for no error, and must go on to.
    error: BaseException | None = future._exception  # noqa: SLF001
    begun(None if error is not None else future.result(), error)


class _Told:
    """A callback that tells a send the broker's answer, and then the application's own.

    That one runs in the context of its caller. Called once.
    """

    __slots__ = ("_begun", "_is_told", "_theirs", "_transport")

    def __init__(self, transport: Transport, theirs: Function | None, *, is_told: bool) -> None:
        self._transport = transport
        self._theirs = None if theirs is None else carry(theirs)
        self._is_told = is_told
        self._begun: _Begun | None = None

    def begin(self, begun: _Begun) -> None:
        """What is told."""
        self._begun = begun if self._is_told else None

    @property
    def is_waiting(self) -> bool:
        """Whether the answer is yet to come, or has come, by this callback."""
        return self._is_told

    def __call__(self, *arguments: Any) -> Any:
        begun, self._begun = self._begun, None  # which has the call, which has this
        with shielded("the broker's answer"):
            if begun is not None:
                begun(*self._transport.told(arguments))
        return None if self._theirs is None else self._theirs(*arguments)


def _telling(engine: Engine, transport: Transport, hook: Hook, call: Call) -> tuple[_Told | None, Call]:
    """What tells of the answer, and the call with it in the place of the application's own callback.

    Of several names for the parameter (`callback|on_delivery`) it takes the one that was given.
    """
    names = hook.callback.split("|")
    name = next((each for each in names if each in call), names[-1])
    telling = engine.telling(transport, call.get("self"))
    named: Any = call.get(name)
    is_told = telling.of == "all" or (telling.of == "named" and named is not None)
    if named is None and not is_told:
        return None, call
    told = _Told(transport, telling.callback if named is None else named, is_told=is_told)
    return told, {**call, name: told}


def receiving(engine: Engine, transport: Transport, hook: Hook, function: Function) -> Function:
    """A call that fetches messages: counted, and shown where that is asked for."""
    names = Names(function, hook.parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        client = args[0] if args else kwargs.get("self")
        if _inside.get().is_of(client) or is_suppressed():
            return function(*args, **kwargs)
        bound: Call | None = None
        with shielded(hook.name):
            engine.end_leaked(client)
            bound = names.bind(args, kwargs)
            if bound is not None and (asking := transport.asking(bound)) is not bound:
                args, kwargs = names.unbind(asking, len(args))
        start_ns = time.time_ns()
        try:
            result = within(client, function, *args, **kwargs)
        except Exception as error:
            with shielded(hook.name):
                engine.receiver.failed(transport, hook.name, client, start_ns, error)
            raise
        if result is client and engine.queues.put_fetch(engine, transport, hook, client, bound, start_ns):
            return result
        if is_coroutine(result):
            return _fetched(engine, transport, hook, client, bound, result, start_ns)
        with shielded(hook.name):
            engine.receive(transport, hook.name, client, result, bound, start_ns)
        return result

    return call


async def _fetched(
    engine: Engine,
    transport: Transport,
    hook: Hook,
    client: object,
    bound: Call | None,
    awaited: Coroutine[Any, Any, Any],
    start_ns: int,
) -> Any:
    """The rest of a call that fetches once it was awaited."""
    try:
        result = await awaited_within(client, awaited)
    except Exception as error:
        with shielded(hook.name):
            engine.receiver.failed(transport, hook.name, client, start_ns, error)
        raise
    with shielded(hook.name):
        engine.receive(transport, hook.name, client, result, bound, start_ns)
    return result
