"""The engine: the only code that starts messaging spans and records their metrics.

A client's functions are wrapped by what their hooks say: its calls (`calls`), its loops (`loop`), the
handlers that it is given (`pushes`). Where a client has another shape than these, the transport describes it
and the engine learns it for all.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from tracekit.carried import carry
from tracekit.guard import shielded, swallow
from tracekit.messaging.blocks import blocking
from tracekit.messaging.calls import (
    awaited_within,
    calling,
    inner,
    is_suppressed,
    over_http,
    receiving,
    within,
)
from tracekit.messaging.contrib import ContribTurn, keep, stand_down, step_aside
from tracekit.messaging.gathering import Gathered, adding, gathering
from tracekit.messaging.looking import looking
from tracekit.messaging.loop import AsyncConsumerLoop, ConsumerLoop, Turns
from tracekit.messaging.processing import Process
from tracekit.messaging.pushes import delivering, registering
from tracekit.messaging.queues import Queues, flushing
from tracekit.messaging.receiving import Receiver
from tracekit.messaging.retries import note_retries
from tracekit.messaging.serving import Serving
from tracekit.messaging.telemetry import referable
from tracekit.messaging.transport import Plain
from tracekit.patching import IS_MUTABLE, Joined, Names, unjoined, when_imported

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from tracekit.messaging.telemetry import Telemetry
    from tracekit.messaging.transport import Call, Hook, Message, Telling, Transport
    from tracekit.patching import Function, Patches, Wrapper

ParentRule: TypeAlias = Literal["auto", "message", "link"]
"""Whose child a process span is: the ambient span's, else the message's (`auto`); always the
message's (`message`); nobody's, with a link (`link`)."""

Turn: TypeAlias = Process | ContribTurn
Loop: TypeAlias = ConsumerLoop | AsyncConsumerLoop

_verbs: dict[type, str] = {}  # a message must not cost a look through all hooks
_MAX_KNOWN: Final = 5_000
"""Messages whose records do not say all of themselves are remembered until so many others came."""


class Engine:
    """Sends, receives, settles and processes for all transports, by one set of rules.

    `parent` is the rule for process spans. `has_receive_spans`: also show the calls that fetch.
    `by_contrib`: the client packages whose spans OpenTelemetry's own instrumentation makes.
    """

    def __init__(
        self,
        transports: Sequence[Transport],
        telemetry: Telemetry,
        *,
        parent: ParentRule = "auto",
        has_receive_spans: bool = False,
        by_contrib: frozenset[str] = frozenset(),
    ) -> None:
        self.telemetry = telemetry
        self.parent = parent
        self.receiver = Receiver(telemetry, has_spans=has_receive_spans)
        self.queues = Queues()
        self.is_installed = True
        self._by_contrib = by_contrib
        self._transports: dict[str, Transport] = {}
        for transport in transports:
            for package in (transport.package, *transport.aliases):
                if package not in self._transports or _receives(transport):
                    self._transports[package] = transport
        self._keyed = {one.package for one in transports if getattr(type(one), "key", None) is not Plain.key}
        self._plain = [transport for transport in transports if transport.is_plain]
        self._turns: weakref.WeakKeyDictionary[object, weakref.ref[Turns]] = weakref.WeakKeyDictionary()
        self.gathered: weakref.WeakKeyDictionary[object, Gathered] = weakref.WeakKeyDictionary()
        self._telling: weakref.WeakKeyDictionary[object, Telling] = weakref.WeakKeyDictionary()
        self._serving: dict[str, Serving] = {}
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, tuple[Message, weakref.ref[object]]] = OrderedDict()

    # -- what belongs to what ------------------------------------------------------------------------

    def transport_of(self, given: object) -> Transport | None:
        """The transport whose client gave this: a client, a record, or several records."""
        part = given
        for _ in range(3):  # poll() gives lists in a dict
            if (found := self._transports.get(_package(part))) is not None:
                return found
            if isinstance(part, dict):
                part = next((some for some in part.values() if some), None)
            elif isinstance(part, (list, tuple)):
                part = next((some for some in part if _package(some) in self._transports), (*part, None)[0])
            else:
                break
        return next((transport for transport in self._plain if transport.records(given)), None)

    def joined(self, client: object) -> object:
        """A client whose class was written in C and was imported before us, as one that is hooked.

        Any other as it is: its class is hooked, whenever it was made.
        """
        kinds = [kind for kind in type(client).__mro__ if not kind.__flags__ & IS_MUTABLE]
        wrappers: dict[str, Function] = {}
        for kind in kinds:
            transport = self._transports.get(kind.__module__.partition(".")[0])
            for hook in transport.hooks if transport is not None else ():
                owner, _, name = hook.target.partition(":")[2].rpartition(".")
                function = vars(kind).get(name) if owner == kind.__name__ else None
                # A class of the application's may have a function of its own there.
                if transport is not None and function is not None and getattr(type(client), name) is function:
                    wrappers[name] = self.wrapper(transport, hook)(function)
        return Joined(client, wrappers) if wrappers else client

    def described(self, transport: Transport, record: object) -> tuple[Sequence[Message], object]:
        """The message (or none) that a record is, and the client that gave it, where that is known."""
        key = transport.key(record)
        known = None if key is None else self._known.get((transport.system, key))
        if known is not None:
            message, client = known[0], known[1]()
            return (message,), None if client is self else client
        return transport.incoming(record), None

    def settled(self, transport: Transport, client: object, receipt: Hashable) -> Message | None:
        """The message that a client was given with this receipt; None where it was given none."""
        with self._lock:
            known = self._known.pop((transport.system, id(client), receipt), None)
        return known[0] if known is not None and known[1]() is client else None

    def _remember(
        self, transport: Transport, client: object, result: object, messages: Sequence[Message]
    ) -> None:
        """What records do not say of themselves when they are processed."""
        client = referable(client) or self
        for record, message in zip(transport.records(result), messages, strict=True):
            if (key := transport.key(record)) is None:
                return
            with self._lock:
                known = self._known[transport.system, key] = message, weakref.ref(client)
                if (receipt := transport.receipt(message)) is not None:
                    self._known[transport.system, id(client), receipt] = known
                while len(self._known) > max(_MAX_KNOWN, len(messages)):
                    self._known.popitem(last=False)

    # -- hooks ---------------------------------------------------------------------------------------

    def wrapper(self, transport: Transport, hook: Hook) -> Wrapper:
        """What replaces the function of a hook."""
        match hook.scope:
            case "carry":
                return functools.partial(_carrying, hook.callback)
            case "retry":
                return functools.partial(_retrying, transport)
            case "iterate":
                return functools.partial(self._iterating, transport, hook)
            case "callback":
                return functools.partial(registering, self, transport, hook)
            case "flush":
                return functools.partial(flushing, self, transport)
            case "inner":
                return inner
            case "look":
                return functools.partial(looking, self, transport, hook)
            case "block":
                return functools.partial(blocking, self, transport)
            case "make":
                return functools.partial(self._making, transport, hook)
            case "gather":
                return functools.partial(gathering, self, transport, hook)
            case "add":
                return functools.partial(adding, self, transport, hook)
            case "deliver":
                return functools.partial(delivering, self, transport, hook)
            case _:
                wrap = receiving if hook.operation == "receive" else calling
                wrapping = functools.partial(wrap, self, transport, hook)
                return (
                    (lambda function: wrapping(over_http(function))) if transport.is_over_http else wrapping
                )

    def install(self, transport: Transport, patches: Patches) -> None:
        """Hook a client that was imported, and have OpenTelemetry's own instrumentation of it agree."""
        kept = transport.package in self._by_contrib
        if transport.contrib_asks:
            step_aside(transport.contrib_asks, functools.partial(_is_traced, transport), patches)
        if transport.contrib:
            targets = [hook.target for hook in transport.hooks if hook.scope != "retry"]
            (keep if kept else stand_down)(transport.contrib, targets, patches)
        hooks: dict[str, list[Hook]] = {}
        for hook in transport.hooks:
            if not kept or hook.scope == "iterate":
                hooks.setdefault(hook.target, []).append(hook)
        patches.on_undo(self._uninstalled)
        for target, hooked in hooks.items():
            wrapper = self.wrapper(transport, hooked[0])
            if hooked[0].only:
                is_wrapped = target in self._serving
                parameter = hooked[0].only.partition("=")[0]
                serving = self._serving.setdefault(target, Serving(parameter, hooked[0].parameters))
                for hook in hooked:
                    serving.add(hook.only, self.wrapper(transport, hook))
                if is_wrapped:
                    continue
                wrapper = serving
            # A part of the client that is not imported may stay so.
            module = target.partition(":")[0]
            patches.on_undo(when_imported(module, functools.partial(_wrap, patches, target, wrapper)))

    def _uninstalled(self) -> None:
        self.is_installed = False

    def turn(self, transport: Transport, message: Message, record: object, client: object) -> Turn:
        """The processing of one message in a loop."""
        if transport.package in self._by_contrib:
            return ContribTurn(message, record)
        return Process(self, transport, message, record, client)

    def _making(self, transport: Transport, hook: Hook, function: Function) -> Function:
        """What makes a client."""
        names = Names(function, hook.parameters)

        @functools.wraps(function)
        def make(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            with shielded(hook.name):
                if (call := names.bind(args, kwargs)) is not None:
                    self.telemetry.made(call["self"], transport.made(call))
                    self._telling[call["self"]] = transport.telling(call)
            return result

        return make

    def telling(self, transport: Transport, client: object) -> Telling:
        """Whom a client tells of the broker's answers."""
        known = None if referable(client) is None else self._telling.get(client)
        return transport.telling(None) if known is None else known

    def receive(
        self,
        transport: Transport,
        name: str,
        client: object,
        result: object,
        call: Call | None,
        start_ns: int,
    ) -> Sequence[Message]:
        """What a client gave to a call that began at `start_ns`: counted, and remembered where it must be."""
        try:
            messages = transport.incoming(result, call)
            if messages and transport.package in self._keyed:
                self._remember(transport, client, result, messages)
        finally:
            if call is not None:
                transport.unasked(call, result)
        if messages:
            self.receiver.received(transport, name, client, messages, start_ns)
        if call is not None and (lost := transport.lost(call, result)):
            self.receiver.lost(transport, name, client, lost)
        return messages

    def look(self, transport: Transport, client: object, result: object, call: Call) -> None:
        """What a client showed, and nobody took: remembered where it must be."""
        try:
            messages = transport.incoming(result, call)
            if messages and transport.package in self._keyed:
                self._remember(transport, client, result, messages)
        finally:
            transport.unasked(call, result)

    def pushed(self, transport: Transport, name: str, given: object, call: Call) -> Process | None:
        """The processing of a message that a client hands to a handler; None where it is none."""
        messages = transport.incoming(given, call)
        if len(messages) != 1:
            return None
        (message,) = messages
        client = call.get("self")
        if transport.package in self._keyed:
            self._remember(transport, client, given, messages)
        self.receiver.delivered(transport, name, client, message)
        return Process(self, transport, message, (*transport.records(given), given)[0], client)

    def processing(self, transport: Transport, record: object) -> Process | None:
        """The processing of a message by itself; None where it is none."""
        messages, client = self.described(transport, record)
        return Process(self, transport, messages[0], record, client) if len(messages) == 1 else None

    def is_in_process(self, record: object, turn: Process) -> bool:
        """Whether it is this message that is in process, also where it was unpacked and packed again."""
        if turn.record is record:
            return True
        transport = self.transport_of(record)
        if transport is None or transport.package not in self._keyed:
            return False
        (found, *_), (mine, *_) = (*transport.records(record), None), (*transport.records(turn.record), None)
        if found is None or mine is None:
            return False
        return transport.key(found) == transport.key(mine)

    def _iterating(self, transport: Transport, hook: Hook, function: Function) -> Function:
        """What gives an iterator of messages: each turn of the loop is the processing of one."""
        names = Names(function, hook.parameters)

        @functools.wraps(function)
        def iterate(*args: Any, **kwargs: Any) -> Any:
            source: Any = function(*args, **kwargs)
            if is_suppressed():
                return source
            with shielded("iteration"):
                call = names.bind(args, kwargs)
                client = args[0] if args else kwargs.get("self")
                return self.loop(transport, client, source, call)
            return source

        return iterate

    def loop(self, transport: Transport, client: object, source: Any, call: Call | None = None) -> Loop:
        """A loop over a client, whose open turn is ended by the next one, or by what is received from it.

        `call` is the one that gave the client's own iterator.
        """
        kind = AsyncConsumerLoop if hasattr(type(source), "__anext__") else ConsumerLoop
        loop = kind(self, transport, client, source, call)
        if referable(loop.place) is not None:
            if (earlier := self._loop_at(loop.place)) is not None:
                earlier.leak()
            self._turns[loop.place] = weakref.ref(loop)
        return loop

    def _loop_at(self, place: object) -> Turns | None:
        reference = self._turns.get(place)
        return None if reference is None else reference()

    def adopt(self, loop: Turns, transport: Transport) -> Transport | None:
        """Take over a loop that another engine began; the transport as it is known here."""
        known = self._transports.get(transport.package)
        if known is not None and referable(loop.place) is not None:
            self._turns[loop.place] = weakref.ref(loop)
        return known

    def fetched(
        self, transport: Transport, client: object, source: Any, call: Call | None
    ) -> tuple[Any, Sequence[Message]]:
        """The next record of a loop, counted as received, and the message (or none) that it is."""
        if transport.package in self._by_contrib:
            record = next(source)
            return record, transport.incoming(record)
        start_ns = time.time_ns()
        try:
            record = within(client, next, source)
        except Exception as error:
            with shielded("receive"):
                self.receiver.failed(transport, _receives(transport), client, start_ns, error)
            raise
        return record, self._fetched(transport, client, record, call, start_ns)

    async def fetched_async(
        self, transport: Transport, client: object, source: Any, call: Call | None
    ) -> tuple[Any, Sequence[Message]]:
        """The same of a loop by `async for`."""
        start_ns = time.time_ns()
        try:
            record = await awaited_within(client, source.__anext__())
        except Exception as error:
            with shielded("receive"):
                self.receiver.failed(transport, _receives(transport), client, start_ns, error)
            raise
        return record, self._fetched(transport, client, record, call, start_ns)

    def _fetched(
        self, transport: Transport, client: object, record: object, call: Call | None, start_ns: int
    ) -> Sequence[Message]:
        try:
            return self.receive(transport, _receives(transport), client, record, call, start_ns)
        except Exception as error:  # noqa: BLE001 - the shield of a hot path
            swallow("receive", error)
        return ()

    def end_leaked(self, client: object) -> None:
        """End the turn that a loop over the client left open, where something else is received from it.

        What comes from a queue beside a loop over another one is no part of the loop.
        """
        loop = self._loop_at(client) if referable(client) is not None else None
        if loop is not None and loop.is_over(client):
            loop.leak()


def _receives(transport: Transport) -> str:
    """What the client's verb for fetching is; "" where it fetches nothing."""
    kind = type(transport)
    if (known := _verbs.get(kind)) is None:
        known = _verbs[kind] = next(
            (hook.name for hook in transport.hooks if hook.operation == "receive"), ""
        )
    return known


def _package(given: object) -> str:
    return type(unjoined(given)).__module__.partition(".")[0]


def _wrap(patches: Patches, target: str, wrapper: Wrapper) -> None:
    # A release of the client that lacks one of these functions loses what hangs on it, and no more.
    with shielded(f"a hook on {target}"):
        if patches.active:
            patches.wrap(target, wrapper)


def _is_traced(transport: Transport, client: object, arguments: Sequence[object]) -> bool:
    """Whether a call of a function that serves many operations is one that the transport describes."""
    for hook in transport.hooks:
        parameter, _, value = hook.only.partition("=")
        call = dict(zip(hook.parameters, (client, *arguments), strict=False))
        if call.get(parameter) == value:
            return bool(transport.outgoing(call))
    return False


def _retrying(transport: Transport, function: Function) -> Function:
    """What the client calls, in a thread of its own, to send messages once more."""
    names = Names(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        with shielded("retries"):
            bound = names.bind(args, kwargs)
            if bound is not None:
                note_retries(transport, bound)
        return result

    return call


def _carrying(parameter: str, function: Function) -> Function:
    """A registration of a callback, whose callback runs in the context of whoever registered it."""
    named = [*inspect.signature(function).parameters]

    @functools.wraps(function)
    def register(*args: Any, **kwargs: Any) -> Any:
        with shielded("a callback's context"):
            position = named.index(parameter)
            if len(args) > position:
                args = (*args[:position], carry(args[position]), *args[position + 1 :])
            elif parameter in kwargs:
                kwargs[parameter] = carry(kwargs[parameter])
        return function(*args, **kwargs)

    return register
