"""OpenTelemetry's own instrumentation of a client: told to stand down, or kept in our place.

Where both are active, one owns the spans. By default we do; with `configure(kafka="contrib")` the
other one does, and we only give the loop over its consumer a scope. RATIONALE.md says why.
"""

from __future__ import annotations

import functools
import importlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan

from tracekit import context as ours
from tracekit.guard import shielded
from tracekit.messaging import creation
from tracekit.patching import when_imported

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracekit.messaging.transport import Message
    from tracekit.patching import Function, Patches

# What contrib made of the record that this context received last: (record, its span's context).
_received: ContextVar[tuple[object, trace.SpanContext] | None] = ContextVar("tracekit-contrib", default=None)


def stand_down(instrumentor: str, patches: Patches) -> None:
    """Have `package.module:Instrumentor` do nothing from now on, active already or activated later.

    Undone, it is as active as the application asked for.
    """
    module, _, name = instrumentor.partition(":")

    def now() -> None:
        if not patches.active:
            return
        theirs = getattr(importlib.import_module(module), name)()
        if theirs.is_instrumented_by_opentelemetry:
            theirs.uninstrument()
            patches.after_undo(theirs.instrument)

        def refusing(original: Function) -> Function:
            def instrument(self: Any, **options: Any) -> None:
                patches.after_undo(functools.partial(original, self, **options))

            return instrument

        patches.wrap(f"{instrumentor}._instrument", refusing)

    when_imported(module, now)


def keep(instrumentor: str, patches: Patches) -> None:
    """Have `package.module:Instrumentor` own the client's spans, and hear what it received."""
    module, _, name = instrumentor.partition(":")
    theirs = getattr(importlib.import_module(module), name)()

    def hearing(original: Function) -> Function:
        def instrument(self: Any, **options: Any) -> None:
            hook = options.get("consume_hook")
            original(self, **{**options, "consume_hook": functools.partial(_heard, hook)})

        return instrument

    if theirs.is_instrumented_by_opentelemetry:
        theirs.uninstrument()
        patches.after_undo(theirs.instrument)
    patches.wrap(f"{instrumentor}._instrument", hearing)
    theirs.instrument()
    patches.on_undo(theirs.uninstrument)


def _heard(hook: Callable[..., None] | None, span: Any, record: Any, *rest: Any) -> None:
    with shielded("what contrib received"):
        _received.set((record, span.get_span_context()))
    if hook is not None:
        hook(span, record, *rest)


class ContribTurn:
    """One turn of a loop whose messages contrib receives: its span, which has ended, is the parent."""

    __slots__ = ("context", "ended", "may_leak", "record", "saved")

    def __init__(self, message: Message, record: object) -> None:
        self.record = record
        self.ended = False
        self.may_leak = False
        self.saved = otel.get_current()
        arrived = creation.Arrived(message)
        received = _received.get()
        place = ours.Place(arrived.pathway, ours.Checkpoint(), arrived.traceparent, self)
        self.context = ours.with_place(place, creation.with_baggage(arrived, self.saved))
        if received is not None and received[0] is record:
            self.context = trace.set_span_in_context(NonRecordingSpan(received[1]), self.context)

    def end(self, error: BaseException | None = None, *, leaked: bool = False) -> None:
        """The turn is over; contrib's span was already."""
        self.ended = True

    def enter(self) -> None:
        """Make its context current."""
        otel.attach(self.context)

    def leave(self) -> None:
        """Set the context back that was current before, where ours still is."""
        if ours.place_of().scope is self:
            otel.attach(self.saved)
