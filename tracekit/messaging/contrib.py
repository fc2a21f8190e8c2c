"""OpenTelemetry's own instrumentation of a client: told to stand down, or kept in our place.

Where both are active, one owns the spans. By default we do; with `configure(kafka="contrib")` the
other one does, and we only give the loop over its consumer a scope. RATIONALE.md says why.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan

from tracekit import context as ours
from tracekit.guard import shielded
from tracekit.messaging import creation
from tracekit.messaging.nesting import Nested, outside
from tracekit.patching import when_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tracekit.messaging.transport import Message
    from tracekit.patching import Function, Patches

# What contrib made of the record that this context received last: (record, its span's context).
_received: ContextVar[tuple[object, trace.SpanContext] | None] = ContextVar("tracekit-contrib", default=None)


class _Theirs:
    """An instrumentor, and how it was switched on. Its own mark says whether the application wants it.

    Hence by its private methods: the public ones change the mark.
    """

    def __init__(self, instrumentor: Any, targets: Iterable[str]) -> None:
        self._instrumentor = instrumentor
        self.options: dict[str, Any] = {}
        if instrumentor.is_instrumented_by_opentelemetry:
            self.options = _given(targets)
            self.off()

    def on(self) -> None:
        """Have it wrap the client's functions."""
        self._instrumentor._instrument(**self.options)  # noqa: SLF001

    def off(self) -> None:
        """Have it unwrap them."""
        self._instrumentor._uninstrument()  # noqa: SLF001

    def give_back(self) -> None:
        """Switch it on again as the application did, if it wants that."""
        if self._instrumentor.is_instrumented_by_opentelemetry:
            self.on()


def stand_down(instrumentor: str, targets: Iterable[str], patches: Patches) -> None:
    """Have `package.module:Instrumentor` do nothing from now on, active already or activated later.

    `targets` are the functions that it may have wrapped. Undone, it is as active as the application
    asked for, with the options that it was given.
    """
    module, _, name = instrumentor.partition(":")

    def now() -> None:
        if not patches.active:
            return
        theirs = _Theirs(getattr(importlib.import_module(module), name)(), targets)

        def refusing(original: Function) -> Function:
            def instrument(self: Any, **options: Any) -> None:
                theirs.options = options

            return instrument

        patches.wrap(f"{instrumentor}._instrument", refusing)
        patches.after_undo(theirs.give_back)

    when_imported(module, now)


def step_aside(asks: str, is_ours: Callable[[Any, Any], bool], patches: Patches) -> None:
    """Have an instrumentation that serves more than us let be what is ours, and keep all else.

    `asks` (`package.module:function`) is what it asks about each call, with the client and the call's other
    arguments; where that gives None, it does nothing. So it needs not be switched off and on.
    """

    def now() -> None:
        with shielded("what contrib asks"):
            if patches.active:
                patches.wrap(asks, asking)

    def asking(original: Function) -> Function:
        @functools.wraps(original)
        def ask(client: Any, arguments: Any) -> Any:
            with shielded("what contrib asks"):
                if is_ours(client, arguments):
                    return None
            return original(client, arguments)

        return ask

    patches.on_undo(when_imported(asks.partition(":")[0], now))


def keep(instrumentor: str, targets: Iterable[str], patches: Patches) -> None:
    """Have `package.module:Instrumentor` own the client's spans, and hear what it received.

    Its hooks are the application's, given before or given later.
    """
    module, _, name = instrumentor.partition(":")
    theirs = _Theirs(getattr(importlib.import_module(module), name)(), targets)

    def hearing(original: Function) -> Function:
        def instrument(self: Any, **options: Any) -> None:
            theirs.off()  # as it was switched on without these options
            theirs.options = options
            heard = functools.partial(_heard, options.get("consume_hook"))
            original(self, **{**options, "consume_hook": heard})

        return instrument

    patches.wrap(f"{instrumentor}._instrument", hearing)
    theirs.on()
    patches.on_undo(theirs.off)
    patches.after_undo(theirs.give_back)


class _Only(trace.TracerProvider):
    """A provider that gives one tracer: contrib takes a provider, and keeps only its tracer."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self._tracer


def _given(targets: Iterable[str]) -> dict[str, Any]:
    """The options that contrib was switched on with. It keeps them nowhere but in its wrappers."""
    options: dict[str, Any] = {}
    with shielded("the options of contrib"):
        for target in targets:
            module, _, path = target.partition(":")
            *parents, name = path.split(".")
            owner = functools.reduce(getattr, parents, importlib.import_module(module))
            wrapper = getattr(vars(owner).get(name), "_self_wrapper", None)
            if inspect.isfunction(wrapper):
                options.update(inspect.getclosurevars(wrapper).nonlocals)
        if "tracer" in options:
            options["tracer_provider"] = _Only(options.pop("tracer"))
    return options


def _heard(hook: Callable[..., None] | None, span: Any, record: Any, *rest: Any) -> None:
    with shielded("what contrib received"):
        _received.set((record, span.get_span_context()))
    if hook is not None:
        hook(span, record, *rest)


class ContribTurn(Nested):
    """One turn of a loop whose messages contrib receives: its span, which has ended, is the parent."""

    __slots__ = ("record",)

    def __init__(self, message: Message, record: object) -> None:
        self.record = record
        self.ended = False
        self.may_leak = False
        self.saved = otel.get_current()
        arrived = creation.Arrived(message)
        received = _received.get()
        place = ours.Place(arrived.pathway, ours.Checkpoint(), arrived.traceparent, self)
        self.context = ours.with_place(place, creation.with_baggage(arrived, outside(self.saved)))
        if received is not None and received[0] is record:
            self.context = trace.set_span_in_context(NonRecordingSpan(received[1]), self.context)
        self.span = trace.get_current_span(self.context)

    def end(self, error: BaseException | None = None, *, leaked: bool = False) -> None:
        """The turn is over; contrib's span was already."""
        self.ended = True
