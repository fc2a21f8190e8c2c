"""Spans as OTLP bytes: what the SDK's encoder gives, without building protobuf objects.

Those objects cost more than making the span did, and the exporter's thread holds the GIL meanwhile. Here
what comes again (attributes, resources, scopes) is encoded once, and the rest is written field by field.
What is rare is left to the SDK's encoder, a span at a time, so that nothing is decided twice.

Source: opentelemetry-proto, `trace.proto`. A tag stands before its value: field number << 3 | wire type.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanKind, StatusCode

from tracekit.guard import count_drop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, Status

_KEPT_ATTRIBUTES: Final = 4096
_KEPT_SIZE: Final = 256  # bytes; a longer attribute hardly comes twice
_KEPT_ENVELOPES: Final = 256
_DEEPEST: Final = 8  # levels of values in values; what lies deeper, protobuf may refuse

_VARINTS: Final = tuple(bytes((n,)) if n < 0x80 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(1024))
_double: Final = struct.Struct("<d").pack
_fixed64: Final = struct.Struct("<Q").pack
# Flags: that it is known whether the context is remote (0x100), and that it is (0x200).
_LOCAL: Final = b"\x00\x01\x00\x00"
_REMOTE: Final = b"\x00\x03\x00\x00"


class _Unusual(Exception):  # noqa: N818 - no error: the SDK's encoder is asked then
    """Something that is left to the SDK's encoder."""


class SpanEncoder:
    """Encodes batches of spans, byte for byte as the SDK's OTLP exporter does.

    It keeps 4096 encoded attributes each for spans, events and links, and 256 pairs of a resource and
    a scope. A table that is full starts anew.
    """

    def __init__(self) -> None:
        self._of_span = _Attributes(b"\x4a")
        self._of_event = _Attributes(b"\x1a")
        self._of_link = _Attributes(b"\x22")
        self._envelopes: dict[tuple[int, int], _Envelope] = {}

    def ready(self, span: ReadableSpan) -> Ready | None:
        """The span as `encode` will need it; None where OTLP cannot hold it, which is counted.

        (Half a surrogate pair in its name, say: for that, the SDK would lose a whole batch.)
        """
        try:
            return Ready(span.resource, span.instrumentation_scope or None, self._span(span))
        except Exception as error:  # noqa: BLE001 - counted
            count_drop("export", "a span that OTLP cannot hold", 1, error)
            return None

    def encode(self, spans: Sequence[ReadableSpan | Ready]) -> bytes:
        """The spans as an `ExportTraceServiceRequest`, in the groups and the order of the SDK."""
        groups: dict[Resource, dict[InstrumentationScope | None, list[bytes]]] = {}
        # A resource makes its hash from JSON, each time anew; so equal ones are looked up by identity
        # first. Both are held here, or their ids could be given to others.
        found: dict[tuple[int, int], tuple[list[bytes], object, object]] = {}
        for span in spans:
            ready = span if isinstance(span, Ready) else self.ready(span)
            if ready is None:
                continue
            resource, scope, encoded = ready
            place = id(resource), id(scope)
            if place not in found:
                group = groups.setdefault(resource, {}).setdefault(scope, [])
                found[place] = group, resource, scope
            found[place][0].append(encoded)
        return b"".join([self._resource_spans(resource, scopes) for resource, scopes in groups.items()])

    def _resource_spans(
        self, resource: Resource, scopes: Mapping[InstrumentationScope | None, list[bytes]]
    ) -> bytes:
        envelopes = [self._envelope(resource, scope) for scope in scopes]
        scope_spans = [
            _field(b"\x12", b"".join((envelope.scope, *encoded, envelope.scope_schema)))
            for envelope, encoded in zip(envelopes, scopes.values(), strict=True)
        ]
        return _field(b"\x0a", b"".join((envelopes[0].resource, *scope_spans, envelopes[0].resource_schema)))

    def _envelope(self, resource: Resource, scope: InstrumentationScope | None) -> _Envelope:
        place = id(resource), id(scope)
        envelope = self._envelopes.get(place)
        if envelope is None:
            envelope = _Envelope(resource, scope)
            if len(self._envelopes) >= _KEPT_ENVELOPES:
                self._envelopes.clear()
            self._envelopes[place] = envelope
        return envelope

    def _span(self, span: ReadableSpan) -> bytes:
        """The span as an entry of `ScopeSpans.spans`. Raises what the SDK's encoder raises."""
        try:
            encoded = self._fields(span)
        except Exception:  # noqa: BLE001 - whatever it is, the SDK's encoder decides
            message = encode_spans([span]).resource_spans[0].scope_spans[0].spans[0]
            encoded = message.SerializePartialToString()
        return _field(b"\x12", encoded)

    def _fields(self, span: ReadableSpan) -> bytes:
        context, parent, kind = span.get_span_context(), span.parent, span.kind
        if context is None or type(kind) is not SpanKind:
            raise _Unusual
        parts = [*_ids(context)]
        if context.trace_state:
            state = ",".join([f"{key}={value}" for key, value in context.trace_state.items()])
            parts.append(_text(b"\x1a", state))
        if parent:
            parts += b"\x22\x08", parent.span_id.to_bytes(8, "big")
        parts += (
            _text(b"\x2a", span.name),
            b"\x30",
            _VARINTS[kind.value + 1],
            _time(b"\x39", span.start_time),
            _time(b"\x41", span.end_time),
            self._of_span.encoded(span.attributes),
            _count(b"\x50", span.dropped_attributes),
        )
        parts += [self._event(event) for event in span.events]
        parts.append(_count(b"\x60", span.dropped_events))
        parts += [self._link(link) for link in span.links]
        parts.append(_count(b"\x70", span.dropped_links))
        parts += _status(span.status), b"\x85\x01", _REMOTE if parent and parent.is_remote else _LOCAL
        return b"".join(parts)

    def _event(self, event: Event) -> bytes:
        parts = (
            _time(b"\x09", event.timestamp),
            _text(b"\x12", event.name),
            self._of_event.encoded(event.attributes),
            _count(b"\x20", event.dropped_attributes),
        )
        return _field(b"\x5a", b"".join(parts))

    def _link(self, link: Link) -> bytes:
        parts = (
            *_ids(link.context),
            self._of_link.encoded(link.attributes),
            _count(b"\x28", link.dropped_attributes),
            b"\x35",
            _REMOTE if link.context.is_remote else _LOCAL,
        )
        return _field(b"\x6a", b"".join(parts))


class Ready(NamedTuple):
    """A span that has ended, in its encoded form: one object to keep until it is sent, not twenty."""

    resource: Resource
    scope: InstrumentationScope | None
    encoded: bytes


class _Envelope:
    """What stands around the spans of one scope of one resource, as the SDK encodes it.

    It holds both objects, or their ids, under which it is kept, could be given to others.
    """

    __slots__ = ("of", "resource", "resource_schema", "scope", "scope_schema")

    def __init__(self, resource: Resource, scope: InstrumentationScope | None) -> None:
        self.of = resource, scope
        bare = ReadableSpan("", INVALID_SPAN_CONTEXT, resource=resource, instrumentation_scope=scope)
        outer = encode_spans([bare]).resource_spans[0]
        inner = outer.scope_spans[0]
        self.resource = _field(b"\x0a", outer.resource.SerializePartialToString())
        self.resource_schema = _text(b"\x1a", outer.schema_url)
        self.scope = _field(b"\x0a", inner.scope.SerializePartialToString())
        self.scope_schema = _text(b"\x1a", inner.schema_url)


class _Attributes(dict[object, bytes]):
    """Attributes as they are encoded in one field, `tag`, of a message.

    Every attribute is looked for under (key, value). Equal values are not always encoded alike: 1, True
    and 1.0, 0.0 and -0.0. So only texts stand there; ints and bools stand under (key, value, type),
    and floats nowhere. What comes before a value stands under its key.
    """

    __slots__ = ("_tag",)

    def __init__(self, tag: bytes) -> None:
        super().__init__()
        self._tag = tag

    def encoded(self, attributes: Mapping[str, object] | None) -> bytes:
        if not attributes:
            return b""
        # A plain dict: to walk the SDK's own mapping takes longer than all that follows.
        plain: dict[str, object] = attributes.copy()  # type: ignore[attr-defined]  # else: unusual
        try:
            return b"".join(map(self.__getitem__, plain.items()))
        except TypeError:  # a mapping among the values cannot be looked for
            return b"".join(map(self.__missing__, plain.items()))

    def __missing__(self, item: tuple[str, object]) -> bytes:
        key, value = item
        kind = type(value)
        place: object = item if kind is str else (key, value, kind)
        if kind is int or kind is bool:
            known = self.get(place)
            if known is not None:
                return known
        head = self.get(key) or self._keep(key, _text(b"\x0a", key) + b"\x12")
        encoded = _value(value)
        entry = _field(self._tag, head + _varint(len(encoded)) + encoded)
        if len(entry) <= _KEPT_SIZE and (kind is str or kind is int or kind is bool):
            self._keep(place, entry)
        return entry

    def _keep(self, place: object, encoded: bytes) -> bytes:
        if len(self) >= _KEPT_ATTRIBUTES:
            self.clear()
        self[place] = encoded
        return encoded


def _ids(context: SpanContext) -> tuple[bytes, ...]:
    return b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")


def _status(status: Status) -> bytes:
    code, description = status.status_code, status.description
    if code is StatusCode.UNSET and description is None:
        return b"\x7a\x00"
    return _field(b"\x7a", _text(b"\x12", description) + _count(b"\x18", code.value))


def _value(value: object, room: int = _DEEPEST) -> bytes:
    """The value as an `AnyValue`: there a 0 and an empty text are written too."""
    if isinstance(value, str):
        return _field(b"\x0a", str.encode(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return b"\x18" + _varint(int.__index__(value) & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, bytes):
        return _field(b"\x3a", value)
    if value is None:
        return b""
    if isinstance(value, tuple) and room:
        items = [_field(b"\x0a", _value(item, room - 1)) for item in value]
        return _field(b"\x2a", b"".join(items))
    if isinstance(value, dict) and room:
        pairs = [
            _field(b"\x0a", _text(b"\x0a", str(key)) + _field(b"\x12", _value(item, room - 1)))
            for key, item in value.items()
        ]
        return _field(b"\x32", b"".join(pairs))
    raise _Unusual


def _text(tag: bytes, text: str | None) -> bytes:
    return _field(tag, str.encode(text)) if text else b""


def _time(tag: bytes, time_ns: int | None) -> bytes:
    return tag + _fixed64(time_ns) if time_ns else b""


def _count(tag: bytes, count: int) -> bytes:
    return tag + _varint(count) if count else b""


def _field(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    return tag + (_VARINTS[size] if size < 1024 else _varint(size)) + content


def _varint(number: int) -> bytes:
    if 0 <= number < 1024:
        return _VARINTS[number]
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)  # raises for a negative one
    return bytes(encoded)
