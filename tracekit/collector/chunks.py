"""Chunks: what a segment file is made of, and how one that was damaged is read.

A file begins with a head: a mark, the format, which segment came before it and where that one ended.
Then come chunks: a header, and compressed bytes. Chunks are compressed in blocks, each a zstd frame
that is flushed after each chunk and never ended: a chunk is read with those before it in its block.
Headers are checked against their place, so that what only looks like a chunk (a copy in somebody's
payload) is none.
"""

from __future__ import annotations

import sys
import zlib
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tracekit.collector.files import read_all

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PAYLOAD_BYTES: Final = 32 * 1024 * 1024
OFFSET_BITS: Final = 40

_MAX_STORED_BYTES: Final = MAX_PAYLOAD_BYTES + MAX_PAYLOAD_BYTES // 64  # bytes that zstd cannot compress grow
_HEAD: Final = Struct("<8sIQI")  # mark and format, the segment before, its end; a checksum
_CHUNK: Final = Struct("<4sBIIII")  # mark, and the fields of Header; then a checksum
_CHECKSUM: Final = Struct("<I")
_MAGIC: Final = b"tkseg\r\n\x01"
_MARK: Final = b"\xf5tk\xfa"  # never in UTF-8
_WINDOW_BYTES: Final = 256 * 1024
_WINDOW_LOG: Final = 19  # zstd's own at level 1; what a frame asks for beyond is damage, not memory

HEAD_BYTES: Final = _HEAD.size
HEADER_BYTES: Final = _CHUNK.size + _CHECKSUM.size


class Header(NamedTuple):
    """Of one chunk: sizes in bytes; `back` is how far back the header is that its block begins with."""

    kind: int
    stored_bytes: int
    payload_bytes: int
    back: int
    crc: int

    @property
    def whole_bytes(self) -> int:
        return HEADER_BYTES + self.stored_bytes

    def is_whole(self, stored: bytes) -> bool:
        return len(stored) == self.stored_bytes and zlib.crc32(stored) == self.crc


class Lost(NamedTuple):
    """A stretch of a segment that gives no payload; `chunks` in it were whole, but their block was not.

    `is_torn`: it is the beginning of a chunk at the end of the file, as a write leaves it that was cut off.
    """

    start: int
    end: int
    chunks: int
    is_torn: bool


class Found(NamedTuple):
    """A chunk that was read whole."""

    offset: int
    kind: int
    payload: bytes


def head(before: int, before_end: int) -> bytes:
    """The first bytes of a segment; `before` is 0 where it is the first of its folder."""
    fields = _HEAD.pack(_MAGIC, before, before_end, 0)[: -_CHECKSUM.size]
    return fields + _CHECKSUM.pack(zlib.crc32(fields))


def read_head(data: bytes) -> tuple[int, int] | None:
    """The segment before and its end; None for what is no head."""
    if len(data) < HEAD_BYTES:
        return None
    magic, before, before_end, crc = _HEAD.unpack_from(data)
    if magic != _MAGIC or crc != zlib.crc32(data[: HEAD_BYTES - _CHECKSUM.size]):
        return None
    return before, before_end


def header(place: int, kind: int, stored: bytes, payload_bytes: int, back: int) -> bytes:
    fields = _CHUNK.pack(_MARK, kind, len(stored), payload_bytes, back, zlib.crc32(stored))
    return fields + _CHECKSUM.pack(_checksum(place, fields))


def read_header(place: int, data: bytes, at: int = 0) -> Header | None:
    """The header there; None for what is none, or no header of that place."""
    if len(data) - at < HEADER_BYTES or not data.startswith(_MARK, at):
        return None
    fields = data[at : at + _CHUNK.size]
    if _CHECKSUM.unpack_from(data, at + _CHUNK.size)[0] != _checksum(place, fields):
        return None
    _, *values = _CHUNK.unpack(fields)
    found = Header(*values)
    return (
        found
        if found.payload_bytes <= MAX_PAYLOAD_BYTES and found.stored_bytes <= _MAX_STORED_BYTES
        else None
    )


def _checksum(place: int, fields: bytes) -> int:
    return zlib.crc32(fields, zlib.crc32(place.to_bytes(8, "little")))


class Writer:
    """Compresses payloads, block by block."""

    def __init__(self, level: int) -> None:
        options = zstd.CompressionParameter
        self._compressor = zstd.ZstdCompressor(
            options={options.compression_level: level, options.window_log: _WINDOW_LOG}
        )

    def compress(self, payload: bytes) -> bytes:
        return self._compressor.compress(payload, zstd.ZstdCompressor.FLUSH_BLOCK)

    def begin_block(self) -> None:
        """Forget what came before: ends the frame, and nobody needs its end."""
        self._compressor.compress(b"", zstd.ZstdCompressor.FLUSH_FRAME)


class Block:
    """Decompresses the chunks of one block, in their order."""

    def __init__(self) -> None:
        self._decompressor = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        )

    def payload(self, its: Header, stored: bytes) -> bytes | None:
        """Of a chunk that is whole. None where it does not decompress: then the rest of the block is lost."""
        try:
            # One more than it says, so that more than it says is seen.
            payload = self._decompressor.decompress(stored, its.payload_bytes + 1)
        except (zstd.ZstdError, EOFError):
            return None
        return payload if len(payload) == its.payload_bytes else None


class _Window:
    """Reads a file forward, in large pieces."""

    def __init__(self, file: int, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._start = 0
        self._data = b""

    def read(self, offset: int, number: int) -> bytes:
        """Fewer bytes where the limit, or the file, ends before."""
        number = min(number, self._limit - offset)
        at = offset - self._start
        if at < 0 or at + number > len(self._data):
            wanted = min(max(number, _WINDOW_BYTES), self._limit - offset)
            self._start, self._data, at = offset, read_all(self._file, offset, wanted), 0
        return self._data[at : at + number]

    def find_mark(self, offset: int) -> int:
        """Where the next mark is; the limit where there is none."""
        while offset < self._limit:
            piece = self.read(offset, _WINDOW_BYTES)
            if (found := piece.find(_MARK)) >= 0:
                return offset + found
            if len(piece) < _WINDOW_BYTES:
                break
            offset += len(piece) - len(_MARK) + 1
        return self._limit


def walk(
    file: int, base: int, start: int, limit: int, *, is_checked_only: bool = False
) -> Iterator[Found | Lost]:
    """All from `start` to `limit`; `base` is the place of the file's first byte. Raises OSError.

    After what is damaged it goes on with the next chunk that begins a block. Where it is checked only,
    payloads are empty: checksums are looked at, and nothing is decompressed.
    """
    window = _Window(file, limit)
    block, began = Block(), -1
    lost_at, lost_chunks, is_torn = -1, 0, False
    offset = start
    while offset < limit:
        its = read_header(base + offset, window.read(offset, HEADER_BYTES))
        stored = window.read(offset + HEADER_BYTES, its.stored_bytes) if its else b""
        is_whole = its is not None and its.is_whole(stored)
        payload = None
        if its and is_whole:
            if its.back == 0:
                block, began = Block(), offset
            if offset - its.back == began:
                payload = b"" if is_checked_only else block.payload(its, stored)
        if its and payload is not None:
            if lost_at >= 0:
                yield Lost(lost_at, offset, lost_chunks, is_torn=False)
                lost_at, lost_chunks = -1, 0
            yield Found(offset, its.kind, payload)
            offset += its.whole_bytes
            continue
        began = -1
        if lost_at < 0:
            lost_at = offset
            is_torn = limit - offset < (its.whole_bytes if its else HEADER_BYTES)
        if its and is_whole:
            lost_chunks += 1
            offset += its.whole_bytes
        else:
            offset = window.find_mark(offset + 1)
    if lost_at >= 0:
        yield Lost(lost_at, limit, lost_chunks, is_torn)
