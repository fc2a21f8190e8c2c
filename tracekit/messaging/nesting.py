"""Scopes above one another: each saves the context around it, and they may be left in any order.

Blocks end from the top. Turns of loops that go in step (`zip(a, b)`) and blocks that generators hold
over a `yield` end from below, and a leaked one does not end at all: none of them may keep another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as otel
from opentelemetry import trace

from tracekit import context as ours

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span


class Nested:
    """What is in process: a message, a batch. Its context is current from `enter` to `leave`.

    `context` says so by its place. `saved` is the context around it, `span` its own, `ended` whether
    its work is over, `left` whether its context is current only where it was copied from then on (a
    task, a thread), and `may_leak` whether nobody is bound to end it: a turn of a loop that was not
    entered by `with`. `is_taken`: a block of `process()` is bound to end it, and no longer its loop.
    """

    __slots__ = ("context", "ended", "is_taken", "left", "may_leak", "saved", "span")

    context: Context
    ended: bool
    is_taken: bool
    left: bool
    may_leak: bool
    saved: Context
    span: Span

    def end(self, error: BaseException | None = None, *, leaked: bool = False) -> None:
        """Its work is over, or failed with `error`, or (`leaked`) nobody said when it was over."""
        raise NotImplementedError

    def enter(self) -> None:
        """Make its context current."""
        self.is_taken = self.left = False
        otel.attach(self.context)

    def pause(self) -> None:
        """Set the context back that was current before; it will be entered once more."""
        otel.attach(sound(self.saved))

    def leave(self) -> None:
        """Set the context back that was current before, where ours still is; in another task or
        thread there is nothing to set back."""
        if ours.place_of().scope is self:
            self.left = True
            otel.attach(sound(self.saved))
        else:
            self._leave_below()
        # The context holds its place, and that holds us: broken here, it is freed without the collector.
        self.context = self.saved

    def _leave_below(self) -> None:
        """Leave where other scopes were opened above ours, which must not lead back to us.

        Where all of them are turns of plain loops, those go in step with ours (`zip(a, b)`) or have
        leaked, and the next turn of our loop is no part of theirs: theirs are set back with ours.
        """
        context = otel.get_current()
        above = scope_of(context)
        goes_in_step = above is not None and trace.get_current_span(context) is above.span
        while above is not None:
            goes_in_step = goes_in_step and above.may_leak
            below = scope_of(above.saved)
            if below is self:
                self.left = True
                above.saved = self.saved
                if goes_in_step:
                    otel.attach(sound(self.saved))
                return
            above = below


def scope_of(context: Context) -> Nested | None:
    """The innermost scope of this context."""
    found = ours.place_of(context).scope
    return found if isinstance(found, Nested) else None


def sound(context: Context) -> Context:
    """The context without scopes that have ended but were never left (a leaked iterator).

    What a handler began and did not wait for (a task, a thread) goes on in its flow.
    """
    scope = scope_of(context)
    while (
        scope is not None and scope.ended and not scope.left and trace.get_current_span(context) is scope.span
    ):
        context = scope.saved
        scope = scope_of(context)
    return context


def outside(context: Context) -> Context:
    """The context outside of scopes that have ended: nothing is processed inside of them.

    Not even in a worker that was born there.
    """
    scope = scope_of(context)
    while scope is not None and scope.ended and trace.get_current_span(context) is scope.span:
        context = scope.saved
        scope = scope_of(context)
    return context


def unleaked(context: Context) -> Context:
    """The context for a request from outside: it is no part of a message's processing.

    Where the turn of a plain loop is current nevertheless, its iterator has outlived the loop: the
    turn is ended, with a mark. (What calls an application in its own process from the body of a loop,
    without a client that is traced, must enter that loop by `with consuming(...)`.)
    """
    scope = scope_of(context)
    while scope is not None and trace.get_current_span(context) is scope.span:
        if not scope.ended:
            if not scope.may_leak:
                return context
            scope.end(leaked=True)
        context = scope.saved
        scope = scope_of(context)
    return context
