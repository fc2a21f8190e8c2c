"""W3C trace context, level 2: `traceparent` and `tracestate`, read and written as the text has it.

Ours, because the API's propagator takes the first of two `traceparent` headers where the text asks
for a new trace, and its `TraceState` still has the key grammar of level 1 and drops everything on a
duplicate key. Source: W3C Trace Context Level 2, sections 2.2 and 2.3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import TraceState

from tracekit.guard import count_drop, shielded
from tracekit.tracing.carrier import values_of
from tracekit.tracing.trust import gives_little

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterable, Iterator, KeysView, Sequence, ValuesView

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_PARENT: Final = re.compile(r"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")
_MEMBER: Final = re.compile(
    r"([a-z0-9][a-z0-9_\-*/@]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_MEMBERS: Final = 32
_LENGTH: Final = _MEMBERS * (256 + 1 + 256) + _MEMBERS - 1
"""The longest legal `tracestate`; what is longer is not looked at."""
_FLAGS: Final = 0x03
"""The flags that level 2 knows, sampled and random: others are written as zero."""


class State(TraceState):
    """A `tracestate` of level 2: `@` may stand anywhere in a key but first.

    Of a key that came twice the first member stays, which is the one written last.
    """

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__()
        members: dict[str, str] = {}
        for key, value in entries:
            members.setdefault(key, value)
        self._members = members

    @classmethod
    def from_header(cls, header_list: Sequence[str]) -> State:
        """The state that these headers have together; empty where they break the grammar."""
        return parse_state(header_list) or cls()

    @classmethod
    def get_default(cls) -> State:
        return cls()

    def to_header(self) -> str:
        return ",".join([f"{key}={value}" for key, value in self._members.items()])

    def add(self, key: str, value: str) -> State:
        """With one more member, in front; unchanged where it is there, illegal or one too many."""
        return self if key in self._members else self.update(key, value)

    def update(self, key: str, value: str) -> State:
        """With this member in front; unchanged where it is illegal or one too many."""
        rest = {name: kept for name, kept in self._members.items() if name != key}
        if len(rest) >= _MEMBERS or _MEMBER.fullmatch(f"{key}={value}") is None:
            return self
        return State([(key, value), *rest.items()])

    def delete(self, key: str) -> State:
        return State([(name, value) for name, value in self._members.items() if name != key])

    def __getitem__(self, key: str) -> str:
        return self._members[key]

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"State({self.to_header()!r})"

    def keys(self) -> KeysView[str]:
        return self._members.keys()

    def items(self) -> ItemsView[str, str]:
        return self._members.items()

    def values(self) -> ValuesView[str]:
        return self._members.values()


def parse_state(headers: Sequence[str | None]) -> State | None:
    """The state that these headers have together; None where they break the grammar.

    Empty members are legal. Source: W3C Trace Context Level 2, section 2.3.1.
    """
    length = len(headers) - 1
    for header in headers:
        if header is None:
            return None
        length += len(header)
    if length > _LENGTH:
        return None
    found: list[tuple[str, str]] = []
    for member in ",".join([header for header in headers if header]).split(","):
        stripped = member.strip(" \t")
        if not stripped:
            continue
        match = _MEMBER.fullmatch(stripped)
        if match is None or len(found) == _MEMBERS:
            return None
        found.append((match[1], match[2]))
    return State(found)


class TraceContextPropagator(TextMapPropagator):
    """`traceparent` and `tracestate`, strict: what is not legal begins a new trace."""

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """The context with the caller's span as the current one; as it was where none came."""
        if context is None:
            context = Context()
        values = values_of(carrier, TRACEPARENT, getter)
        if not values:
            return context
        remote = parent_of(values[0] if len(values) == 1 else None, values_of(carrier, TRACESTATE, getter))
        if remote is None:
            return context
        return trace.set_span_in_context(trace.NonRecordingSpan(remote), context)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Write the current span's context."""
        with shielded("the trace context of what is sent"):
            span = trace.get_current_span(context).get_span_context()
            if not span.is_valid:
                return
            setter.set(carrier, TRACEPARENT, parent_text(span))
            if span.trace_state and not gives_little(context):
                setter.set(carrier, TRACESTATE, span.trace_state.to_header())

    @property
    def fields(self) -> set[str]:
        return {TRACEPARENT, TRACESTATE}


def parent_of(header: str | None, states: Sequence[str | None]) -> trace.SpanContext | None:
    """The caller's span that a `traceparent` tells, with its `tracestate`; None, counted, for none.

    A state that breaks the grammar is left out, counted; the parent is kept.
    """
    match = _PARENT.fullmatch(header) if header is not None else None
    if match is not None:
        version, trace_id, span_id, flags, more = match.groups()
        if version != "ff" and not (more and version == "00"):
            state = parse_state(states) if states else None
            if states and state is None:
                count_drop("invalid_context", "a tracestate header")
            remote = trace.SpanContext(
                int(trace_id, 16),
                int(span_id, 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(int(flags, 16) & _FLAGS),
                trace_state=state,
            )
            if remote.is_valid:
                return remote
    count_drop("invalid_context", "a traceparent header")
    return None


def parent_text(span: trace.SpanContext) -> str:
    """The `traceparent` of a span."""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & _FLAGS:02x}"
