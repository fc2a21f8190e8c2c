"""OTLP's JSON mapping where it differs from protobuf's: ids are hexadecimal, not base64.

Source: OTLP specification, "JSON Protobuf Encoding". An id stands only in a record and in its links;
attributes are lists of key and value, so no name here can be an attribute's.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Final, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Object: TypeAlias = dict[str, object]
Scopes: TypeAlias = "Iterator[tuple[Object, Iterator[Object]]]"
Resources: TypeAlias = "Iterator[tuple[Object, Scopes]]"

MAX_CONTAINERS: Final = 500_000
"""Objects and lists in a request: two bytes of text become a hundred or more in memory."""

_TO_BRACKET: Final = re.compile(rb'(?:[^"\[{]++|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))*+[\[{]', re.DOTALL)
"""Up to the next bracket that is in no text."""
_IDS: Final = ("traceId", "spanId", "parentSpanId")
_NO_ID: Final = base64.b64encode(b"?").decode()  # one byte, which is no id's length


def resources(body: bytes, resources: str, scopes: str, records: str) -> Resources:
    """Each resource, with its scopes, with their records; the names are the signal's.

    Raises ValueError, TypeError or RecursionError where the body is not such a document.
    """
    for part in _objects(_document(body), resources):
        yield _object(part.get("resource")), _scopes(part, scopes, records)


def _scopes(part: Object, scopes: str, records: str) -> Scopes:
    for scoped in _objects(part, scopes):
        yield _object(scoped.get("scope")), _objects(scoped, records)


def apart(body: bytes, resources: str, scopes: str, records: str) -> tuple[Object, list[list[Object]]]:
    """The document without its records, and those of each scope. Raises as `resources` does."""
    document = _document(body)
    found = []
    for part in _objects(document, resources):
        for scoped in _objects(part, scopes):
            found.append(list(_objects(scoped, records)))
            scoped.pop(records, None)
    return document, found


def _document(body: bytes) -> Object:
    if body.count(b"{") + body.count(b"[") > MAX_CONTAINERS and _has_too_many(body):
        raise ValueError("too many objects")
    return _object(json.loads(body.decode()))


def _has_too_many(body: bytes) -> bool:
    """Whether there are too many objects and lists, brackets in texts left out."""
    at = 0
    for _ in range(MAX_CONTAINERS + 1):
        found = _TO_BRACKET.match(body, at)  # from here, and never back: a text may have no end
        if found is None:
            return False
        at = found.end()
    return True


def dumped(document: Object, resources: str, scopes: str, records: str) -> bytes:
    """The text of a document whose ids are in base64, with the ids in hexadecimal."""
    for part in _objects(document, resources):
        for scoped in _objects(part, scopes):
            for record in _objects(scoped, records):
                _rewrite_ids(record, _to_hex)
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


def with_ids(record: Object) -> Object:
    """The same record, its ids and those of its links in base64."""
    _rewrite_ids(record, _to_base64)
    return record


def _rewrite_ids(record: Object, rewritten: Callable[[object], str]) -> None:
    links = record.get("links")
    holders = (
        [record, *(link for link in links if isinstance(link, dict))] if isinstance(links, list) else [record]
    )
    for holder in holders:
        for name in _IDS:
            if found := holder.get(name):
                holder[name] = rewritten(found)


def _to_base64(found: object) -> str:
    if not isinstance(found, str) or not found.isalnum():  # fromhex would take blanks
        return _NO_ID
    try:
        return base64.b64encode(bytes.fromhex(found)).decode()
    except ValueError:
        return _NO_ID


def _to_hex(found: object) -> str:
    return base64.b64decode(str(found)).hex()
