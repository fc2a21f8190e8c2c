"""Values, attributes, ids and resources, from OTLP's messages and to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracekit import semconv
from tracekit.model import NO_ATTRIBUTES, UNKNOWN_SERVICE, Service

if TYPE_CHECKING:
    from tracekit.model import Attributes, Value
    from tracekit.otlp.tally import Tally


def from_any(any_value: AnyValue, tally: Tally) -> Value:
    """The value held; sequences come as tuples. None where none is set, or one that we do not know."""
    held = any_value.WhichOneof("value")
    if held == "array_value":
        return tuple(from_any(item, tally) for item in tally.counted(any_value.array_value.values))
    if held == "kvlist_value":
        return {
            pair.key: from_any(pair.value, tally) for pair in tally.counted(any_value.kvlist_value.values)
        }
    if held is None or held == "string_value_strindex":
        return None
    value: str | bool | int | float | bytes = getattr(any_value, held)
    return value


def to_any(value: Value) -> AnyValue:
    """Raises ValueError for what OTLP cannot hold: integers beyond 64 bits, text with lone surrogates."""
    any_value = AnyValue()
    if isinstance(value, bool):
        any_value.bool_value = value
    elif isinstance(value, str):
        any_value.string_value = value
    elif isinstance(value, int):
        any_value.int_value = value
    elif isinstance(value, float):
        any_value.double_value = value
    elif isinstance(value, bytes):
        any_value.bytes_value = value
    elif isinstance(value, Mapping):
        any_value.kvlist_value.SetInParent()
        any_value.kvlist_value.values.extend(to_pairs(value))
    elif value is not None:
        any_value.array_value.SetInParent()
        any_value.array_value.values.extend(to_any(item) for item in value)
    return any_value


def from_pairs(pairs: Collection[KeyValue], tally: Tally) -> Attributes:
    """Of repeated keys the last counts."""
    return {pair.key: from_any(pair.value, tally) for pair in tally.counted(pairs)} or NO_ATTRIBUTES


def to_pairs(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=to_any(value)) for key, value in attributes.items()]


def is_id(found: bytes, length: int) -> bool:
    """Whether these bytes are an id: of this length, and not all zero."""
    return len(found) == length and any(found)


def from_resource(resource: Resource, tally: Tally) -> Service:
    attributes = from_pairs(resource.attributes, tally)
    return Service(
        name=_text(attributes, semconv.SERVICE_NAME) or UNKNOWN_SERVICE.name,
        namespace=_text(attributes, semconv.SERVICE_NAMESPACE),
        instance=_text(attributes, semconv.SERVICE_INSTANCE_ID),
        attributes=attributes,
    )


def to_resource(service: Service) -> Resource:
    named = {
        semconv.SERVICE_NAME: service.name,
        semconv.SERVICE_NAMESPACE: service.namespace,
        semconv.SERVICE_INSTANCE_ID: service.instance,
    }
    said = {name: text for name, text in named.items() if text}
    return Resource(attributes=to_pairs({**service.attributes, **said}))


def _text(attributes: Attributes, name: str) -> str:
    found = attributes.get(name)
    return found if isinstance(found, str) else ""
