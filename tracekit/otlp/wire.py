"""The fields of an encoded protobuf message, read one after the other without decoding them.

The generated classes decode a request whole, and an empty message of two bytes becomes two hundred:
10 million of them, 20 kB of gzip on the wire, took 1.9 GB. So we cut a request into its records first,
count as we go, and hand the generated classes one record at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_VARINT: Final = 0
_BYTES: Final = 2
_GROUP: Final = 3
_GROUP_END: Final = 4
_DEEPEST: Final = 100  # protobuf's own limit
_FIXED: Final = {1: 8, 5: 4}


class Splitter:
    """Splits messages into fields, and stops after `most` of them in all."""

    def __init__(self, most: int) -> None:
        self._left = most

    def split(self, body: bytes) -> dict[int, list[bytes]]:
        """The contents of the length-delimited fields, by number; fields of other types are passed over.

        Raises ValueError after too many fields, and where the bytes are no protobuf message. Groups, long
        deprecated, are passed over. Source: protobuf encoding, https://protobuf.dev/programming-guides/encoding/.
        """
        fields: dict[int, list[bytes]] = {}
        at = 0
        while at < len(body):
            self._left -= 1
            if self._left < 0:
                raise ValueError("too many fields")
            key, at = _varint(body, at)
            wire_type = key & 7
            if not key >> 3:
                raise ValueError("no field has the number 0")
            if wire_type == _BYTES:
                length, at = _varint(body, at)
                fields.setdefault(key >> 3, []).append(body[at : at + length])
                at += length
            elif wire_type == _VARINT:
                _, at = _varint(body, at)
            elif wire_type in _FIXED:
                at += _FIXED[wire_type]
            elif wire_type == _GROUP:
                at = self._after_group(body, at, key >> 3)
            else:
                raise ValueError(f"no wire type {wire_type}")
            if at > len(body):
                raise ValueError("a field ends after the message")
        return fields

    def _after_group(self, body: bytes, at: int, number: int) -> int:
        """Where the group ends whose beginning was read; others may stand in it."""
        groups = [number]
        while groups:
            self._left -= 1
            if self._left < 0 or len(groups) > _DEEPEST:
                raise ValueError("too many fields")
            key, at = _varint(body, at)
            wire_type = key & 7
            if wire_type == _GROUP:
                groups.append(key >> 3)
            elif wire_type == _GROUP_END:
                if groups.pop() != key >> 3:
                    raise ValueError("a group ends that had not begun")
            elif wire_type == _BYTES:
                size, at = _varint(body, at)
                at += size
            elif wire_type == _VARINT:
                _, at = _varint(body, at)
            elif wire_type in _FIXED:
                at += _FIXED[wire_type]
            else:
                raise ValueError(f"no wire type {wire_type}")
        return at


_AT_ONCE: Final = 256 * 1024


def regions(body: bytes) -> Iterator[bytes]:
    """A request, cut into requests that hold the same, each of about 256 KiB or of one record.

    Decoded one after the other they take no more memory than that allows. Raises ValueError for what is no
    request, or has too large a record; a part without records is left out.
    """
    if len(body) <= _AT_ONCE:
        yield body
        return
    splitter = Splitter(_MOST_FIELDS)
    for part in splitter.split(body).get(1, ()):
        fields = splitter.split(part)
        resource = b"".join(_field(1, found) for found in fields.get(1, ()))
        for scoped in fields.get(2, ()):
            scope_fields = splitter.split(scoped)
            scope = b"".join(_field(1, found) for found in scope_fields.get(1, ()))
            for records in _gathered(scope_fields.get(2, ())):
                yield _field(1, resource + _field(2, scope + b"".join(records)))


_MOST_FIELDS: Final = 100_000


def _gathered(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    found: list[bytes] = []
    size = 0
    for record in records:
        if len(record) > _AT_ONCE:
            raise ValueError("too large a record")
        if size + len(record) > _AT_ONCE:
            yield found
            found, size = [], 0
        found.append(_field(2, record))
        size += len(record)
    if found:
        yield found


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | _BYTES,)) + length + content


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = shift = 0
    while at < len(body) and shift < 64:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number does not end")
