"""Calls of a client, wrapped: sends and settles, and what fetches.

Each has three phases: ours (shielded), theirs (once, unshielded), ours again. Whether a call is done when it
returns, or gives a coroutine that is, shows from what it returned.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from opentelemetry import context as otel
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

from tracekit.carried import carry
from tracekit.guard import shielded, swallow
from tracekit.messaging.creating import create
from tracekit.messaging.sending import send, settle
from tracekit.patching import Names

if TYPE_CHECKING:
    from collections.abc import Callable

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
        return self.client is client or self.is_all


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
    begin = create if hook.scope == "batch" else send if hook.operation == "send" else settle

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        client = args[0] if args else kwargs.get("self")
        if _inside.get().is_of(client) or is_suppressed():
            return function(*args, **kwargs)
        begun: _Begun | None = None
        given = args, kwargs
        try:
            bound: Call | None = names.bind(args, kwargs)
            told = None
            if hook.callback and bound is not None:
                told = _Told(transport, hook.callback, bound)
                bound = told.call
            if bound is not None:
                begun = begin(engine, transport, hook, bound)
            if begun is not None:
                if told is not None:
                    told.begun = begun
                    args, kwargs = given = names.unbind(told.call, len(args))
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
        if not hook.callback and not transport.listen(result, begun):
            begun(result)
    except Exception as error:  # noqa: BLE001 - the shield of a hot path
        swallow(hook.name, error)


class _Told:
    """A callback that tells a send the broker's answer, and then the application's own.

    That one runs in the context of its caller. `call` is the call with it; of several names for the
    parameter (`callback|on_delivery`) it takes the one that was given.
    """

    def __init__(self, transport: Transport, parameter: str, call: Call) -> None:
        names = parameter.split("|")
        name = next((each for each in names if call.get(each) is not None), names[-1])
        theirs: Any = call.get(name)
        self._transport = transport
        self._theirs = None if theirs is None else carry(theirs)
        self.begun: _Begun | None = None
        self.call: Call = {**call, name: self}

    def __call__(self, *arguments: Any) -> Any:
        with shielded("the broker's answer"):
            if self.begun is not None:
                self.begun(*self._transport.told(arguments))
        return None if self._theirs is None else self._theirs(*arguments)


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
