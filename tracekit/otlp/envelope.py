"""The envelope that all signals share: resource, scope, records; in protobuf and in OTLP JSON.

Limits: a request holds at most `MAX_PARTS` resources, scopes and records (in JSON, `MAX_CONTAINERS`
objects and lists), and in these at most `MAX_ITEMS` attributes, links, events, points and list items; a
record at most `MAX_RECORD_BYTES`, and in a record messages nest at most 100 deep, which is protobuf's own
limit. A request past them is refused whole; a record that is too large or cannot be read is refused alone.

Source: opentelemetry-proto 1.x, and its "JSON Protobuf Encoding": ids are hexadecimal there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracekit.otlp import json_mapping
from tracekit.otlp.json_fields import UnusualError, fields_of
from tracekit.otlp.tally import OtlpError, Refused, Tally
from tracekit.otlp.values import from_resource, to_resource
from tracekit.otlp.wire import Splitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tracekit.model import Attributes, Service

Signal: TypeAlias = Literal["traces", "logs", "metrics"]
Encoding: TypeAlias = Literal["protobuf", "json"]

MAX_PARTS: Final = 100_000
MAX_RECORD_BYTES: Final = 4 * 1024 * 1024

M = TypeVar("M", bound=Message)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
_Piece: TypeAlias = bytes | json_mapping.Object
_Scopes: TypeAlias = "Iterator[tuple[_Piece, Iterable[_Piece]]]"
_Resources: TypeAlias = "Iterator[tuple[_Piece, _Scopes]]"

# What json and google.protobuf.json_format let through beside their own errors, depending on what they meet;
# a SystemError is theirs too: upb's answer to a lone surrogate as the name of a field.
_UNREADABLE: Final = (
    json_format.Error,
    DecodeError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    SystemError,
)


@dataclass(frozen=True, slots=True)
class Decoded(Generic[R_co]):
    """What a request held: its records, how many were refused, and the first reason (or warning)."""

    records: tuple[R_co, ...]
    rejected: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Shape(Generic[M]):
    """How a signal names its envelope, and the messages of its record and of its request."""

    record: type[M]
    request: type[Message]
    resources: str
    scopes: str
    records: str


Reader: TypeAlias = "Callable[[M, Service, str, Tally], R | None]"


def decode(body: bytes, encoding: Encoding, shape: Shape[M], read: Reader[M, R]) -> Decoded[R]:
    """The records of a request. `read` turns one message into one record, raises Refused, or gives None
    for a message that holds nothing.
    """
    tally = Tally()
    records: list[R] = []
    for resource, scopes in _readable(_resources(body, encoding, shape), encoding):
        service = from_resource(_parsed(resource, Resource()), tally)
        for scope, pieces in _readable(scopes, encoding):
            scope_name = _parsed(scope, InstrumentationScope()).name
            for piece in _readable(pieces, encoding):
                try:
                    record = read(_record(piece, shape.record()), service, scope_name, tally)
                except Refused as refused:
                    tally.reject(refused.reason, refused.number)
                    continue
                if record is not None:
                    records.append(record)
    return Decoded(tuple(records), tally.rejected, tally.reason)


def to_protobuf(body: bytes, shape: Shape[M]) -> bytes:
    """A request in JSON as one in protobuf, with all that protobuf knows. Raises OtlpError."""
    try:
        document, records = json_mapping.apart(body, shape.resources, shape.scopes, shape.records)
        request = json_format.ParseDict(document, shape.request(), ignore_unknown_fields=True)
        scopes = (
            scoped
            for part in getattr(request, _snake(shape.resources))
            for scoped in getattr(part, _snake(shape.scopes))
        )
        for scoped, pieces in zip(scopes, records, strict=True):
            kept = getattr(scoped, _snake(shape.records))
            for piece in pieces:
                kept.append(_from_json(piece, shape.record()))
        return request.SerializeToString()
    except _UNREADABLE as error:
        raise OtlpError("the body is no OTLP request in json, or has too many parts") from error


def _resources(body: bytes, encoding: Encoding, shape: Shape[M]) -> _Resources:
    if encoding == "protobuf":
        return _from_protobuf(body)
    return json_mapping.resources(body, shape.resources, shape.scopes, shape.records)


def _readable(found: Iterable[T], encoding: Encoding) -> Iterator[T]:
    try:
        yield from found
    except _UNREADABLE as error:
        raise OtlpError(f"the body is no OTLP request in {encoding}, or has too many parts") from error


def _from_protobuf(body: bytes) -> _Resources:
    """Field 1 of a request is a resource's part; in that, 1 is the resource, and 2 a scope's part; in that,
    1 is the scope, and 2 a record. Every signal numbers them so.
    """
    splitter = Splitter(MAX_PARTS)
    for part in splitter.split(body).get(1, ()):
        fields = splitter.split(part)
        yield (
            _merged(fields),
            ((_merged(scoped), scoped.get(2, ())) for scoped in map(splitter.split, fields.get(2, ()))),
        )


def _merged(fields: Mapping[int, Sequence[bytes]]) -> bytes:
    # Of a message that stands there twice protobuf makes one, as if the bytes stood end to end.
    return b"".join(fields.get(1, ()))


def _parsed(piece: _Piece, message: M) -> M:
    """The message with what the piece holds. Raises OtlpError where it cannot be read."""
    if isinstance(piece, bytes) and len(piece) > MAX_RECORD_BYTES:
        raise OtlpError(f"a resource or a scope is larger than {MAX_RECORD_BYTES} bytes")
    try:
        if isinstance(piece, bytes):
            message.ParseFromString(piece)
            return message
        return _from_json(piece, message)
    except _UNREADABLE as error:
        raise OtlpError("a resource or a scope cannot be read") from error


def _from_json(piece: json_mapping.Object, message: M) -> M:
    """The message with what the object holds. Raises one of _UNREADABLE."""
    try:
        return type(message)(**fields_of(message.DESCRIPTOR)(piece, 0))
    except (UnusualError, ValueError, TypeError):
        return json_format.ParseDict(json_mapping.with_ids(piece), message, ignore_unknown_fields=True)


def _record(piece: _Piece, message: M) -> M:
    if isinstance(piece, bytes) and len(piece) > MAX_RECORD_BYTES:
        raise Refused(f"a record is larger than {MAX_RECORD_BYTES} bytes")
    try:
        return _parsed(piece, message)
    except OtlpError as error:
        raise Refused("a record cannot be read") from error


def encode(
    records: Iterable[T],
    encoding: Encoding,
    shape: Shape[M],
    origin: Callable[[T], tuple[Service, str]],
    write: Callable[[T], M],
) -> bytes:
    """A request with these records, in their order. Raises ValueError for what OTLP cannot hold."""
    request = shape.request()
    for (service, _, scope), group in groupby(records, lambda record: _origin(*origin(record))):
        part = getattr(request, _snake(shape.resources)).add(resource=to_resource(service))
        scoped = getattr(part, _snake(shape.scopes)).add(scope=InstrumentationScope(name=scope))
        getattr(scoped, _snake(shape.records)).extend(write(record) for record in group)
    if encoding == "protobuf":
        return request.SerializeToString()
    document = json_format.MessageToDict(request, use_integers_for_enums=True)
    return json_mapping.dumped(document, shape.resources, shape.scopes, shape.records)


def _origin(service: Service, scope: str) -> tuple[Service, Attributes, str]:
    return service, service.attributes, scope  # services compare without their attributes


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
