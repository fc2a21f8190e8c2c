"""The engine: the only code that starts messaging spans and records their metrics.

A hooked call has three phases: ours (shielded), theirs (once, unshielded), ours again. Where a client
has another shape than that, the transport describes it and the engine learns it for all.
"""

from __future__ import annotations

import functools
import inspect
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from opentelemetry import context as otel
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

from tracekit.carried import carry
from tracekit.guard import shielded, swallow
from tracekit.messaging.contrib import ContribTurn, keep, stand_down
from tracekit.messaging.loop import ConsumerLoop
from tracekit.messaging.processing import Process
from tracekit.messaging.receiving import Receiver
from tracekit.messaging.retries import note_retries
from tracekit.messaging.sending import Sending, send, settle
from tracekit.patching import Names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.messaging.telemetry import Telemetry
    from tracekit.messaging.transport import Hook, Message, Transport
    from tracekit.patching import Function, Patches, Wrapper

ParentRule: TypeAlias = Literal["auto", "message", "link"]
"""Whose child a process span is: the ambient span's, else the message's (`auto`); always the
message's (`message`); nobody's, with a link (`link`)."""

Turn: TypeAlias = Process | ContribTurn

_inside: ContextVar[object] = ContextVar("tracekit-inside", default=None)


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
        self._by_contrib = by_contrib
        self._transports = {transport.package: transport for transport in transports}
        self._receives = {
            transport.package: hook.name
            for transport in transports
            for hook in transport.hooks
            if hook.operation == "receive"
        }
        self._turns: weakref.WeakKeyDictionary[object, weakref.ref[ConsumerLoop]] = (
            weakref.WeakKeyDictionary()
        )

    # -- what belongs to what ------------------------------------------------------------------------

    def transport_of(self, given: object) -> Transport | None:
        """The transport whose client gave this: a client, a record, or several records."""
        for _ in range(2):  # poll() gives lists in a dict
            if isinstance(given, dict):
                given = next((some for some in given.values() if some), None)
            elif isinstance(given, list):
                given = given[0] if given else None
        return self._transports.get(type(given).__module__.partition(".")[0])

    # -- hooks ---------------------------------------------------------------------------------------

    def wrapper(self, transport: Transport, hook: Hook) -> Wrapper:
        """What replaces the function of a hook."""
        if hook.scope == "carry":
            return functools.partial(_carrying, hook.callback)
        if hook.scope == "retry":
            return functools.partial(_retrying, transport)
        if hook.scope == "iterate":
            return functools.partial(self._iterating, transport)
        if hook.operation == "receive":
            return functools.partial(self._receiving, transport, hook)
        return functools.partial(self._calling, transport, hook)

    def install(self, transport: Transport, patches: Patches) -> None:
        """Hook a client that was imported, and have OpenTelemetry's own instrumentation of it agree."""
        kept = transport.package in self._by_contrib
        if transport.contrib:
            targets = [hook.target for hook in transport.hooks if hook.scope != "retry"]
            (keep if kept else stand_down)(transport.contrib, targets, patches)
        for hook in transport.hooks:
            if kept and hook.scope != "iterate":
                continue
            # A release of the client that lacks one of these functions loses what hangs on it, and no more.
            with shielded(f"a hook on {hook.target}"):
                patches.wrap(hook.target, self.wrapper(transport, hook))

    def turn(self, transport: Transport, message: Message, record: object, client: object) -> Turn:
        """The processing of one message in a loop."""
        if transport.package in self._by_contrib:
            return ContribTurn(message, record)
        return Process(self, transport, message, record, client)

    def _calling(self, transport: Transport, hook: Hook, function: Function) -> Function:
        """A send or a settle: span, context, the client once, and its broker's answer."""
        names = Names(function)
        begin = send if hook.operation == "send" else settle

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            client = args[0] if args else kwargs.get("self")
            if _inside.get() is client or is_suppressed():
                return function(*args, **kwargs)
            sending: Sending | None = None
            given = args, kwargs
            try:
                bound = names.bind(args, kwargs)
                if bound is not None:
                    sending = begin(self.telemetry, transport, hook, bound)
                if sending is not None and sending.is_stamped:
                    args, kwargs = names.unbind(sending.call, len(args))
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow(hook.name, error)
            if sending is None:
                return function(*args, **kwargs)
            token = _inside.set(client)
            try:
                result: Any = None
                is_ours = False
                try:
                    result = function(*args, **kwargs)
                except Exception as error:
                    is_ours = sending.is_to_blame(error)
                    if not is_ours:
                        raise
                if is_ours:  # not above: what this one raises must not show the other one beside it
                    result = function(*given[0], **given[1])
            except BaseException as error:
                sending(None, error)
                raise
            finally:
                _inside.reset(token)
            try:
                if not transport.listen(result, sending):
                    sending(result)
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow(hook.name, error)
            return result

        return call

    def _receiving(self, transport: Transport, hook: Hook, function: Function) -> Function:
        """A call that fetches messages: counted, and shown where that is asked for."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            client = args[0] if args else kwargs.get("self")
            if _inside.get() is client or is_suppressed():
                return function(*args, **kwargs)
            with shielded(hook.name):
                self._end_leaked(client)
            start_ns = time.time_ns()
            token = _inside.set(client)
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                with shielded(hook.name):
                    self.receiver.failed(transport, hook.name, client, start_ns, error)
                raise
            finally:
                _inside.reset(token)
            with shielded(hook.name):
                self.receiver.received(transport, hook.name, client, transport.incoming(result), start_ns)
            return result

        return call

    def _iterating(self, transport: Transport, function: Function) -> Function:
        """`iter(client)`: each turn of the loop is the processing of one message."""

        @functools.wraps(function)
        def iterate(client: Any) -> Any:
            source: Iterator[Any] = function(client)
            if is_suppressed():
                return source
            with shielded("iteration"):
                return self.loop(transport, client, source)
            return source

        return iterate

    def loop(self, transport: Transport, client: object, source: Iterator[Any]) -> ConsumerLoop:
        """A loop over a client, whose open turn is ended by whatever is received from it next."""
        self._end_leaked(client)
        loop = ConsumerLoop(self, transport, client, source)
        self._turns[client] = weakref.ref(loop)
        return loop

    def adopt(self, loop: ConsumerLoop, client: object, transport: Transport) -> Transport | None:
        """Take over a loop that another engine began; the transport as it is known here."""
        known = self._transports.get(transport.package)
        if known is not None:
            self._turns[client] = weakref.ref(loop)
        return known

    def fetched(
        self, transport: Transport, client: object, source: Iterator[Any]
    ) -> tuple[Any, Sequence[Message]]:
        """The next record of a loop, counted as received, and the message (or none) that it is."""
        if transport.package in self._by_contrib:
            record = next(source)
            return record, transport.incoming(record)
        start_ns = time.time_ns()
        token = _inside.set(client)
        try:
            record = next(source)
        except Exception as error:
            with shielded("receive"):
                self.receiver.failed(transport, self._receives[transport.package], client, start_ns, error)
            raise
        finally:
            _inside.reset(token)
        messages: Sequence[Message] = ()
        try:
            messages = transport.incoming(record)
            self.receiver.received(transport, self._receives[transport.package], client, messages, start_ns)
        except Exception as error:  # noqa: BLE001 - the shield of a hot path
            swallow("receive", error)
        return record, messages

    def _end_leaked(self, client: object) -> None:
        reference = self._turns.get(client)
        loop = reference() if reference is not None else None
        if loop is not None:
            loop.leak()


def is_suppressed() -> bool:
    """Whether the application asked for no instrumentation here."""
    return bool(otel.get_current().get(_SUPPRESS_INSTRUMENTATION_KEY))


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
