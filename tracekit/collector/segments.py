"""Segments: payloads in append-only, compressed files of one folder, the oldest file out first."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from tracekit.collector import chunks
from tracekit.collector.chunks import HEAD_BYTES, HEADER_BYTES, MAX_PAYLOAD_BYTES, OFFSET_BITS
from tracekit.collector.files import cut, opened, read_all, sync, write_all
from tracekit.collector.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

Place: TypeAlias = int
"""Of a chunk: segment number << 40 | offset in its file. Places sort by age, and none is given twice."""

MAX_SEGMENTS: Final = 4096
SEGMENT_BYTES: Final = 64 * 1024 * 1024
SHARES: Final = 8
"""A segment takes one of so many shares of what there may be at most: so much goes at a time."""
BLOCK_BYTES: Final = 128 * 1024
RECENT_BYTES: Final = 8 * 1024 * 1024

_BLOCK_CHUNKS: Final = 64
_MAX_NUMBER: Final = (1 << (63 - OFFSET_BITS)) - 1
_MAX_TROUBLES: Final = 100
_LEVEL: Final = 1
_NAME: Final = re.compile(r"(\d{8})\.seg")


class Gone(LookupError):  # noqa: N818 - it says what became of the payload, whoever is at fault
    """There is no payload (any more): its segment was dropped, or is damaged there."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What was found damaged so far: bytes of the files, and chunks in them (at least)."""

    bytes: int = 0
    chunks: int = 0


class Segments:
    """Keeps payloads, each with its kind (0 to 255), in the order of their arrival. Thread-safe.

    A payload is in the file once `append` returns, which outlives a kill -9; what outlives the machine is
    what was there at the last `sync`. Each opening begins a new segment with its first payload: a place
    that was lost with the machine's power is not given again.

    What is damaged costs its block (BLOCK_BYTES of payloads, at most 64 of them), is found when it is
    read, and told in `damage` and `troubles` (the last hundred). At opening only the last segment is read,
    and what its last write left unfinished is cut off.

    Bounds: nothing is dropped unasked. `is_over` tells when there are more bytes than `max_bytes`, or more
    files than MAX_SEGMENTS; then `drop_oldest` is to be called. A segment takes an eighth of `max_bytes`
    at most, and one payload more. Of what was written or read last, RECENT_BYTES of payloads are in memory.
    """

    def __init__(self, folder: Path, *, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Raises OSError where the folder cannot be read or made."""
        self.max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max(max_bytes // SHARES, 1))
        self._is_full = False
        self._folder = folder
        self._lock = threading.Lock()  # of what is written
        self._state = threading.Lock()  # of the rest; held only for a moment
        self._file = -1
        self._is_closed = False
        self._number, self._end = 0, 0  # of the newest segment, and where it ends
        self._next = 1
        self._writer = chunks.Writer(_LEVEL)
        self._block_at, self._block_bytes, self._block_chunks = -1, 0, 0
        self._ends: dict[int, int] = {}
        self._unsynced: set[int] = set()
        self._recent = Recent(RECENT_BYTES)
        self._lost: dict[int, list[tuple[int, int]]] = {}
        self._damage = Damage()
        self._troubles: deque[str] = deque(maxlen=_MAX_TROUBLES)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._open()
        except BaseException:
            os.close(self._directory)
            raise

    # -- what is there ------------------------------------------------------------------------------

    @property
    def total_bytes(self) -> int:
        """Of all segments, as they are on disk."""
        with self._state:
            return sum(self._ends.values())

    @property
    def is_over(self) -> bool:
        with self._state:
            return sum(self._ends.values()) > self.max_bytes or len(self._ends) > MAX_SEGMENTS

    @property
    def oldest(self) -> int | None:
        """The number of the oldest segment."""
        with self._state:
            return min(self._ends, default=None)

    @property
    def is_droppable(self) -> bool:
        """Whether `drop_oldest` would drop one."""
        with self._state:
            return len(self._ends) > 1

    @property
    def newest(self) -> int | None:
        with self._state:
            return max(self._ends, default=None)

    @property
    def end(self) -> Place:
        """After all that is there, and not after what comes next. After an opening: where that ended."""
        with self._state:
            return self._number << OFFSET_BITS | self._end

    @property
    def damage(self) -> Damage:
        with self._state:
            return self._damage

    @property
    def troubles(self) -> tuple[str, ...]:
        with self._state:
            return tuple(self._troubles)

    # -- writing ------------------------------------------------------------------------------------

    def append(self, kind: int, payload: bytes) -> Place:
        """Write a payload; it is in the file when this returns.

        Raises OSError where it cannot be written, and then nothing of it is kept: the next may be tried.
        ValueError for more than MAX_PAYLOAD_BYTES. A segment that somebody deletes under it is ended.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload has at most {MAX_PAYLOAD_BYTES} bytes, this one {len(payload)}")
        with self._lock:
            if self._is_closed:
                raise ValueError("these segments are closed")
            self.check()
            if is_deleted := self._file >= 0 and not os.fstat(self._file).st_nlink:
                self._say(f"{self._path(self._number)} was deleted; what was in it is lost")
            if self._file < 0 or is_deleted or self._is_full or self._end >= self._segment_bytes:
                self._begin_segment()
            if self._block_at < 0 or self._block_bytes >= BLOCK_BYTES or self._block_chunks >= _BLOCK_CHUNKS:
                self._writer.begin_block()
                self._block_at, self._block_bytes, self._block_chunks = self._end, 0, 0
            offset = self._end
            place = self._number << OFFSET_BITS | offset
            try:
                stored = self._writer.compress(payload)
                header = chunks.header(place, kind, stored, len(payload), offset - self._block_at)
                write_all(self._file, offset, header, stored)
            except BaseException:
                # The compressor has seen what the file has not.
                self._writer, self._block_at = chunks.Writer(_LEVEL), -1
                cut(self._file, offset)
                raise
            self._block_bytes += len(payload)
            self._block_chunks += 1
            with self._state:
                self._end = self._ends[self._number] = offset + len(header) + len(stored)
                self._unsynced.add(self._number)
                self._recent.put(place, payload)
        return place

    def end_segment(self) -> None:
        """The next payload begins another one, however little is in this."""
        with self._lock:
            self._is_full = True

    def check(self) -> None:
        """Raises OSError where the folder is not there any more: what is written would be nowhere."""
        try:
            if os.path.samestat(os.stat(self._folder), os.fstat(self._directory)):  # noqa: PTH116 - cheaper
                return
        except FileNotFoundError:
            pass
        raise OSError(
            errno.ESTALE, "the data directory was removed or replaced: start again", str(self._folder)
        )

    def sync(self) -> None:
        """What was appended before outlives the machine now. Holds up no other call. Raises OSError."""
        self.check()
        with self._state:
            numbers, self._unsynced = self._unsynced, set()
        try:
            for number in sorted(numbers):
                sync(self._path(number), os.O_RDWR)
            if numbers:
                sync(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except BaseException:
            with self._state:
                self._unsynced |= numbers
            raise

    def drop_oldest(self) -> int | None:
        """Drop a segment; gives its number. None, and nothing is done, where only the newest is there.

        Raises OSError where it cannot be deleted.
        """
        with self._lock, self._state:
            if len(self._ends) < 2:
                return None
            number = min(self._ends)
            self._path(number).unlink(missing_ok=True)
            del self._ends[number]
            self._lost.pop(number, None)
            self._unsynced.discard(number)
            self._recent.drop_until((number + 1) << OFFSET_BITS)
            return number

    def close(self) -> None:
        """Sync, and write no more. Raises OSError, and is closed all the same."""
        try:
            if not self._is_closed:
                self.sync()
        finally:
            with self._lock:
                self._is_closed = True
                for file in {self._file, self._directory} - {-1}:
                    os.close(file)
                self._file = self._directory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin_segment(self) -> None:
        number = self._next
        if number > _MAX_NUMBER:
            raise OSError(f"{self._folder} has had {_MAX_NUMBER} segments, and cannot have more")
        before = max(self._ends, default=0)
        head = chunks.head(before, self._ends.get(before, 0))
        path = self._path(number)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(file, 0, head)
            self._note_next(number + 1)
        except BaseException:
            os.close(file)
            path.unlink()
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._block_at, self._next, self._is_full = file, -1, number + 1, False
        with self._state:
            self._number, self._end = number, HEAD_BYTES
            self._ends[number] = HEAD_BYTES

    # -- reading ------------------------------------------------------------------------------------

    def read(self, place: Place) -> bytes:
        """The payload at a place that `append` gave. Raises Gone."""
        number, offset = place >> OFFSET_BITS, place & ((1 << OFFSET_BITS) - 1)
        with self._state:
            if (payload := self._recent.get(place)) is not None:
                return payload
            end = self._ends.get(number)
            is_lost = any(start <= offset < stop for start, stop in self._lost.get(number, ()))
        if end is None:
            raise Gone(f"segment {number} is not there any more")
        if is_lost:
            raise Gone(f"segment {number} is damaged at {offset}")
        try:
            payload = self._read(number, offset, end)
        except OSError as error:
            self._cannot_read(number, error)
            raise Gone(f"segment {number} cannot be read: {error}") from error
        if payload is None:
            raise Gone(f"segment {number} has no whole chunk at {offset}")
        return payload

    def replay(self, since: Place | None = None) -> Iterator[tuple[Place, int, bytes]]:
        """Place, kind and payload of all that is there now, at or after a place, by age.

        What is damaged is passed over, and what is dropped meanwhile left out.
        """
        since = since or 0
        with self._state:
            ends = sorted(self._ends.items())
        for number, end in ends:
            base = number << OFFSET_BITS
            if base + end <= since:
                continue
            try:
                for offset, kind, payload in self._walk(number, max(HEAD_BYTES, since - base), end):
                    if base + offset >= since:
                        yield base + offset, kind, payload
            except OSError as error:
                self._cannot_read(number, error)

    def _read(self, number: int, offset: int, end: int) -> bytes | None:
        base, wanted = number << OFFSET_BITS, None
        with opened(self._path(number)) as file:
            its = chunks.read_header(base + offset, read_all(file, offset, HEADER_BYTES))
            if its is not None and offset + its.whole_bytes <= end:
                start = offset - its.back
                data = read_all(file, start, its.back + its.whole_bytes)
                found = self._block(base + start, data)
                wanted = found.get(base + offset)
                with self._state:
                    for place, payload in found.items() if number in self._ends else ():
                        self._recent.put(place, payload)
        if wanted is None:
            # Whatever is wrong there is told for the whole segment, once.
            for _ in self._walk(number, HEAD_BYTES, end, is_checked_only=True):
                pass
        return wanted

    def _block(self, place: Place, data: bytes) -> dict[Place, bytes]:
        """The payloads of a block, by place, up to its end or where it is damaged."""
        block, found, at = chunks.Block(), {}, 0
        while (its := chunks.read_header(place + at, data, at)) is not None:
            stored = data[at + HEADER_BYTES : at + its.whole_bytes]
            if not its.is_whole(stored) or (payload := block.payload(its, stored)) is None:
                break
            found[place + at] = payload
            at += its.whole_bytes
        return found

    def _walk(
        self, number: int, start: int, end: int, *, is_checked_only: bool = False
    ) -> Iterator[chunks.Found]:
        base = number << OFFSET_BITS
        with opened(self._path(number)) as file:
            end = min(end, os.fstat(file).st_size)
            its = chunks.read_header(base + start, read_all(file, start, HEADER_BYTES))
            start -= its.back if its else 0
            for found in chunks.walk(file, base, start, end, is_checked_only=is_checked_only):
                if isinstance(found, chunks.Lost):
                    self._report(number, found)
                else:
                    yield found

    # -- opening, and what is found damaged ---------------------------------------------------------

    def _open(self) -> None:
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        numbers = sorted(number for match in found if match and 0 < (number := int(match[1])) <= _MAX_NUMBER)
        heads = {number: self._look_at(number) for number in numbers}
        last = numbers[-1] if numbers else 0
        self._next = max(last + 1, self._noted_next())
        if last and self._next != last + 1:
            self._say(f"segment {self._next - 1} is missing from {self._folder}")
        for its in heads.values():
            if its is None:
                continue
            before, before_end = its
            if before not in self._ends:
                if before > numbers[0]:
                    self._count(before, 0, before_end, 0, "missing")
                continue
            if (is_short := before_end - self._ends[before]) > 0:
                self._count(before, before_end - is_short, before_end, 0, "cut off")
        if last in self._ends:
            self._cut_torn(last)
            self._number, self._end = last, self._ends[last]

    def _look_at(self, number: int) -> tuple[int, int] | None:
        try:
            with opened(self._path(number)) as file:
                data = read_all(file, 0, HEAD_BYTES)
                self._ends[number] = os.fstat(file).st_size
        except OSError as error:
            self._cannot_read(number, error)
            return None
        # An empty one was being made when the process was killed: nothing is lost with it.
        if (its := chunks.read_head(data)) is None and data:
            size = self._ends[number]
            self._report(number, chunks.Lost(0, min(HEAD_BYTES, size), 0, is_torn=size < HEAD_BYTES))
        return its

    def _cut_torn(self, number: int) -> None:
        """Find where the last segment ends, and cut off what was not written whole."""
        try:
            with opened(self._path(number)) as file:
                base, end = number << OFFSET_BITS, self._ends[number]
                for found in chunks.walk(file, base, HEAD_BYTES, end, is_checked_only=True):
                    if not isinstance(found, chunks.Lost):
                        continue
                    self._report(number, found)
                    if found.end == end:
                        self._ends[number] = found.start
                        os.truncate(self._path(number), found.start)
        except OSError as error:
            self._cannot_read(number, error)

    def _report(self, number: int, lost: chunks.Lost) -> None:
        if lost.is_torn:
            size = lost.end - lost.start
            self._say(f"{self._path(number)}: its last {size} bytes are of a write that was cut off")
        else:
            self._count(number, lost.start, lost.end, lost.chunks, "damaged")

    def _count(self, number: int, start: int, end: int, lost_chunks: int, what: str) -> None:
        with self._state:
            stretches = self._lost.setdefault(number, [])
            if any(start < other_end and other_start < end for other_start, other_end in stretches):
                return
            stretches.append((start, end))
            self._damage = Damage(self._damage.bytes + end - start, self._damage.chunks + lost_chunks)
        self._say(
            f"{self._path(number)}: {end - start} bytes at {start} are {what}; what was in them is lost"
        )

    def _cannot_read(self, number: int, error: OSError) -> None:
        with self._state:
            if number not in self._ends:
                return  # dropped meanwhile
        self._say(f"{self._path(number)} cannot be read: {error.strerror or error}")

    def _say(self, trouble: str) -> None:
        with self._state:
            if trouble not in self._troubles:
                self._troubles.append(trouble)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.seg"

    def _note_next(self, number: int) -> None:
        """So that a number is not given again even where somebody deletes the newest segment."""
        with opened(self._folder / "next", os.O_RDWR | os.O_CREAT) as file:
            write_all(file, 0, b"%08d\n" % number)

    def _noted_next(self) -> int:
        try:
            noted = int((self._folder / "next").read_bytes())
        except (OSError, ValueError):
            return 0
        return noted if 0 < noted <= _MAX_NUMBER else 0
