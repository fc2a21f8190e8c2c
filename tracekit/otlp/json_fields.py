"""The fields of OTLP's messages in JSON, as protobuf's generated classes take them.

`json_format` takes some twenty times as long for what SDKs send. So that is read here, by a table for each
message, made from its descriptor; what is written in another way that JSON allows (an integer as `1e3`, a
name with underscores), and what is wrong, is left to `json_format`.
"""

from __future__ import annotations

from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor

_Read: TypeAlias = "Callable[[object, int], object]"
_Arguments: TypeAlias = "Callable[[object, int], dict[str, object]]"
_Row: TypeAlias = tuple[str, "type | None", _Read]
"""A field's name, the type of a value that is taken as it is, and what reads any other."""

_PAIR: Final = KeyValue.DESCRIPTOR
_VALUE: Final = AnyValue.DESCRIPTOR
IDS: Final = frozenset({"trace_id", "span_id", "parent_span_id"})
"""Bytes that stand in hexadecimal."""
_DEEPEST: Final = 20


class UnusualError(ValueError):
    """Perhaps wrong, perhaps only written otherwise."""


@cache
def fields_of(descriptor: Descriptor) -> _Arguments:
    """What makes of an object the arguments of a message's class; `UnusualError` where it does not.

    Its second argument is how deep the object is nested. The class may raise ValueError or TypeError for
    what is given it.
    """
    rows: dict[str, _Row] = {}
    alternatives = {
        field.name for oneof in descriptor.oneofs if len(oneof.fields) > 1 for field in oneof.fields
    }
    unusual = {field.name for field in descriptor.fields} - {field.json_name for field in descriptor.fields}

    def read(found: object, depth: int) -> dict[str, object]:
        if not isinstance(found, dict) or depth > _DEEPEST:
            raise UnusualError
        given: dict[str, object] = {}
        for key, value in found.items():
            row = rows.get(key)
            if row is None:
                if key in unusual or key[:1] == "[" or not key.isascii():
                    raise UnusualError
                continue
            name, plain, its = row
            if type(value) is plain:
                given[name] = value
            elif value is not None:
                given[name] = its(value, depth)
        if alternatives and len(given) > 1 and len(alternatives & given.keys()) > 1:
            raise UnusualError
        return given

    for field in descriptor.fields:
        rows[field.json_name] = _row(field)
    return read


def _pairs(found: object, depth: int) -> list[object]:
    """Attributes; most of what is sent are such with texts."""
    if not isinstance(found, list):
        raise UnusualError
    given: list[object] = []
    for pair in found:
        if type(pair) is dict and len(pair) == 2 and type(key := pair.get("key")) is str:
            value = pair.get("value")
            if type(value) is dict and len(value) == 1:
                if type(text := value.get("stringValue")) is str:
                    given.append({"key": key, "value": {"string_value": text}})
                else:
                    given.append({"key": key, "value": fields_of(_VALUE)(value, depth + 1)})
                continue
        given.append(fields_of(_PAIR)(pair, depth + 1))
    return given


def _row(field: FieldDescriptor) -> _Row:
    plain, its = _PLAIN.get(field.cpp_type, (None, _unusual))
    if field.message_type is not None:
        its = _inner(field.message_type)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        plain, its = None, _id if field.name in IDS else _unusual
    if field.is_repeated:
        if field.message_type is _PAIR:
            return field.name, None, _pairs
        return field.name, None, _list_of(plain, its)
    return field.name, plain, its


def _inner(descriptor: Descriptor) -> _Read:
    # Values hold lists of values: the table is looked for when one is there.
    return lambda found, depth: fields_of(descriptor)(found, depth + 1)


def _list_of(plain: type | None, its: _Read) -> _Read:
    def read(found: object, depth: int) -> list[object]:
        if not isinstance(found, list):
            raise UnusualError
        return [each if type(each) is plain else its(each, depth) for each in found]

    return read


def _unusual(found: object, depth: int) -> object:
    raise UnusualError


def _whole(found: object, depth: int) -> int:
    if isinstance(found, str) and found.isascii() and found.removeprefix("-").isdecimal():
        return int(found)
    raise UnusualError


def _float(found: object, depth: int) -> float:
    if type(found) in (int, float) and isfinite(found):  # type: ignore[arg-type]  # one of these two
        return found  # type: ignore[return-value]  # as above
    raise UnusualError


def _id(found: object, depth: int) -> bytes:
    if isinstance(found, str) and (found.isalnum() or not found):  # fromhex would take blanks
        return bytes.fromhex(found)
    raise UnusualError


_PLAIN: Final[dict[int, tuple[type | None, _Read]]] = {
    FieldDescriptor.CPPTYPE_STRING: (str, _unusual),
    FieldDescriptor.CPPTYPE_BOOL: (bool, _unusual),
    FieldDescriptor.CPPTYPE_DOUBLE: (None, _float),
    **dict.fromkeys(
        (
            FieldDescriptor.CPPTYPE_INT32,
            FieldDescriptor.CPPTYPE_INT64,
            FieldDescriptor.CPPTYPE_UINT32,
            FieldDescriptor.CPPTYPE_UINT64,
            FieldDescriptor.CPPTYPE_ENUM,
        ),
        (int, _whole),
    ),
}
