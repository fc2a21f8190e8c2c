"""OTLP's JSON mapping where it differs from protobuf's: ids are hexadecimal, not base64.

Source: OTLP specification, "JSON Protobuf Encoding". An id stands only in a record and in its links;
attributes are lists of key and value, so no name here can be an attribute's.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Object: TypeAlias = dict[str, object]
Scopes: TypeAlias = "Iterator[tuple[Object, Iterator[Object]]]"
Resources: TypeAlias = "Iterator[tuple[Object, Scopes]]"

MAX_CONTAINERS: Final = 500_000
"""Objects and lists in a request: two bytes of text become a hundred or more in memory."""

_IDS: Final = ("traceId", "spanId", "parentSpanId")
_NO_ID: Final = base64.b64encode(b"?").decode()  # one byte, which is no id's length


def resources(body: bytes, resources: str, scopes: str, records: str) -> Resources:
    """Each resource, with its scopes, with their records; the ids in base64. The names are the signal's.

    Raises ValueError, TypeError or RecursionError where the body is not such a document.
    """
    if body.count(b"{") + body.count(b"[") > MAX_CONTAINERS:
        raise ValueError("too many objects")
    for part in _objects(_object(json.loads(body.decode())), resources):
        yield _object(part.get("resource")), _scopes(part, scopes, records)


def _scopes(part: Object, scopes: str, records: str) -> Scopes:
    for scoped in _objects(part, scopes):
        found = (_with_ids(record, _to_base64) for record in _objects(scoped, records))
        yield _object(scoped.get("scope")), found


def loaded(body: bytes, resources: str, scopes: str, records: str) -> Object:
    """The whole document, its ids in base64. Raises as `resources` does."""
    if body.count(b"{") + body.count(b"[") > MAX_CONTAINERS:
        raise ValueError("too many objects")
    document = _object(json.loads(body.decode()))
    for part in _objects(document, resources):
        for scoped in _objects(part, scopes):
            for record in _objects(scoped, records):
                _with_ids(record, _to_base64)
    return document


def dumped(document: Object, resources: str, scopes: str, records: str) -> bytes:
    """The text of a document whose ids are in base64, with the ids in hexadecimal."""
    for part in _objects(document, resources):
        for scoped in _objects(part, scopes):
            for record in _objects(scoped, records):
                _with_ids(record, _to_hex)
    return json.dumps(document, separators=(",", ":")).encode()


def _object(found: object) -> Object:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise TypeError("an object is expected")
    return cast("Object", found)


def _objects(parent: Object, name: str) -> Iterator[Object]:
    children = parent.get(name)
    if children is None:
        return
    if not isinstance(children, list):
        raise TypeError("a list is expected")
    for child in children:
        yield _object(child)


def _with_ids(record: Object, rewritten: Callable[[object], str]) -> Object:
    """The same record, its ids and those of its links written anew."""
    links = record.get("links")
    holders = (
        [record, *(link for link in links if isinstance(link, dict))] if isinstance(links, list) else [record]
    )
    for holder in holders:
        for name in _IDS:
            if found := holder.get(name):
                holder[name] = rewritten(found)
    return record


def _to_base64(found: object) -> str:
    if not isinstance(found, str) or not found.isalnum():  # fromhex would take blanks
        return _NO_ID
    try:
        return base64.b64encode(bytes.fromhex(found)).decode()
    except ValueError:
        return _NO_ID


def _to_hex(found: object) -> str:
    return base64.b64decode(str(found)).hex()
