"""Segments: what was appended is found again, in its order, over openings and whatever was damaged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.collector import chunks
from tracekit.collector.segments import BLOCK_BYTES, RECENT_BYTES, Damage, Gone, Segments

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
MAGIC = chunks.head(1, 2)
SOON_S = 60.0

payloads = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 9), st.integers(0, 9000)
    ),
    st.builds(lambda text, times: text * times, st.binary(min_size=1, max_size=9), st.integers(1, 9000)),
)


def opened(folder: Path, *, segment_bytes: int = MIB) -> Segments:
    return Segments(folder, max_bytes=100 * MIB, segment_bytes=segment_bytes)


def cold(folder: Path) -> Segments:
    """Opened anew: nothing in memory."""
    return opened(folder)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


# -- kept, and found again --------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(st.lists(st.tuples(st.integers(0, 255), payloads), max_size=12), min_size=1, max_size=4),
    segment_bytes=st.integers(1, 20_000),
    data=st.data(),
)
def test_what_was_appended_is_found_again_in_order(
    runs: Sequence[Sequence[tuple[int, bytes]]], segment_bytes: int, data: st.DataObject
) -> None:
    kept: list[tuple[int, int, bytes]] = []
    with TemporaryDirectory() as folder:
        for run in runs:
            with opened(Path(folder), segment_bytes=segment_bytes) as segments:
                for kind, payload in run:
                    kept.append((segments.append(kind, payload), kind, payload))
                    place, _, expected = data.draw(st.sampled_from(kept))
                    assert segments.read(place) == expected
        with cold(Path(folder)) as segments:
            assert list(segments.replay()) == kept == sorted(kept, key=lambda chunk: chunk[0])
            for at, (place, _, payload) in enumerate(kept):
                assert segments.read(place) == payload
                assert list(segments.replay(place)) == kept[at:]
            assert list(segments.replay(segments.end)) == []
            assert (segments.damage, segments.troubles) == (Damage(), ())


def test_small_requests_compress_against_those_before(tmp_path: Path) -> None:
    words = random.Random(1).randbytes(300)
    with opened(tmp_path) as segments:
        for number in range(200):
            segments.append(1, words + b"%d" % number)

        assert segments.total_bytes < 200 * 60


def test_a_large_payload_is_kept(tmp_path: Path) -> None:
    large = random.Random(1).randbytes(20 * MIB)
    with opened(tmp_path) as segments:
        place = segments.append(1, large)
    with cold(tmp_path) as segments:
        assert segments.read(place) == large


def test_a_payload_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as segments, pytest.raises(ValueError, match="at most 33554432 bytes"):
        segments.append(1, bytes(chunks.MAX_PAYLOAD_BYTES + 1))


def test_what_was_read_last_is_in_memory_and_no_more_than_that(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=100 * MIB) as segments:
        places = [segments.append(1, bytes(100_000)) for _ in range(3 * RECENT_BYTES // 100_000)]
        for file in files(tmp_path):
            file.unlink()

        assert segments.read(places[-1]) == bytes(100_000)
        with pytest.raises(Gone):
            segments.read(places[0])


def test_closed_segments_take_nothing_more(tmp_path: Path) -> None:
    segments = opened(tmp_path)
    segments.close()

    with pytest.raises(ValueError, match="closed"):
        segments.append(1, b"late")


@pytest.mark.parametrize("place", [-1, 0, 1, 1 << 40, (1 << 40) + 5, 1 << 63, 7 << 40])
def test_a_place_that_was_never_given_is_gone(tmp_path: Path, place: int) -> None:
    with opened(tmp_path) as segments:
        segments.append(1, b"one")

        with pytest.raises(Gone):
            segments.read(place)
        assert segments.damage == Damage()


def test_the_end_is_after_all_that_is_there_and_not_after_what_comes(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        ends = [segments.end]
        places = [segments.append(1, b"one")]
        ends.append(segments.end)
    with cold(tmp_path) as segments:
        assert segments.end == ends[1]
        places.append(segments.append(1, b"two"))
        ends.append(segments.end)
    os.truncate(files(tmp_path)[1], chunks.HEAD_BYTES)  # as after a power failure
    with cold(tmp_path) as segments:
        assert ends[1] < segments.end < ends[2]

    assert ends[0] < places[0] < ends[1] < places[1] < ends[2]


# -- dropped ----------------------------------------------------------------------------------------


def test_the_oldest_segment_goes_first_and_its_places_are_gone(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1) as segments:
        places = [segments.append(1, b"%d" % number) for number in range(4)]

        assert (segments.oldest, segments.newest) == (1, 4)
        assert [segments.drop_oldest(), segments.drop_oldest()] == [1, 2]

        for place in places[:2]:
            with pytest.raises(Gone):
                segments.read(place)
        assert [place for place, _, _ in segments.replay()] == places[2:]
        assert segments.total_bytes == sum(file.stat().st_size for file in files(tmp_path))
        assert (segments.damage, segments.troubles) == (Damage(), ())


def test_the_newest_segment_is_never_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        place = segments.append(1, b"new")

        assert segments.drop_oldest() is None
        assert segments.read(place) == b"new"


def test_a_folder_over_its_cap_says_so_until_enough_is_dropped(tmp_path: Path) -> None:
    with Segments(tmp_path, max_bytes=100_000) as segments:
        for seed in range(100):
            segments.append(1, random.Random(seed).randbytes(3000))
            while segments.is_over:
                segments.drop_oldest()

            assert segments.total_bytes <= 100_000
        assert segments.total_bytes > 100_000 * 3 // 4


def test_a_number_is_never_given_again(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1) as segments:
        places = [segments.append(1, b"x") for _ in range(3)]
    files(tmp_path)[-1].unlink()
    with cold(tmp_path) as segments:
        assert segments.append(1, b"y") > max(places)
        assert segments.troubles == (f"segment 3 is missing from {tmp_path}",)


def test_what_is_replayed_may_be_dropped_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1) as segments:
        places = [segments.append(1, b"%d" % number) for number in range(5)]
        replay = segments.replay()

        first = next(replay)
        segments.drop_oldest()
        segments.drop_oldest()

        assert [first, *replay] == [(places[at], 1, b"%d" % at) for at in (0, 2, 3, 4)]
        assert segments.troubles == ()


# -- damaged ----------------------------------------------------------------------------------------

Kind = Literal["flip", "zero", "cut", "delete", "head"]


def blocks(kept: Sequence[tuple[int, bytes]]) -> list[list[int]]:
    """Places by block, as the bounds say: within a segment, until BLOCK_BYTES are reached."""
    found: list[list[int]] = []
    size = BLOCK_BYTES
    for place, payload in kept:
        if size >= BLOCK_BYTES or found[-1][-1] >> 40 != place >> 40:
            found.append([])
            size = 0
        found[-1].append(place)
        size += len(payload)
    return found


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["flip", "zero", "cut", "delete"]),
    seed=st.integers(0, 1000),
    segment_bytes=st.sampled_from([1, 90_000, 400_000]),
    reopened=st.booleans(),
)
def test_damage_costs_its_block_and_is_reported(
    kind: Kind, seed: int, segment_bytes: int, reopened: bool
) -> None:
    rnd = random.Random(seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        kept: list[tuple[int, bytes]] = []
        for _ in range(1 + reopened):
            with opened(folder, segment_bytes=segment_bytes) as segments:
                for number in range(8):
                    payload = rnd.choice((rnd.randbytes(rnd.randrange(90_000)), b"%d" % number * 30_000))
                    kept.append((segments.append(1, payload), payload))
        file = rnd.choice(files(folder))
        number = int(file.stem)
        size = file.stat().st_size
        start, end = damaged(file, kind, rnd)

        with cold(folder) as segments:
            found = {place: payload for place, _, payload in segments.replay()}
            for place, payload in kept:
                with suppress(Gone):
                    assert segments.read(place) == payload
                    assert found[place] == payload
            # Whatever lies in a block that was not touched is there.
            for block in blocks(kept):
                after = [place for place, _ in kept if place > block[-1] and place >> 40 == number]
                ends = after[0] & ((1 << 40) - 1) if after else size
                begins = block[0] & ((1 << 40) - 1)
                if block[0] >> 40 == number and begins < end and start < ends:
                    continue
                assert set(block) <= set(found)
            # Two cannot be told from what is in order: an oldest segment that was dropped, and a last one
            # that is cut off just where a chunk ends.
            is_dropped = kind == "delete" and number == kept[0][0] >> 40
            is_shorter = kind == "cut" and number == segments.newest and len(found) < len(kept)
            assert segments.troubles or is_dropped or is_shorter
            place = segments.append(1, b"and on it goes")
            assert place > max(place for place, _ in kept)
            assert segments.read(place) == b"and on it goes"


def damaged(file: Path, kind: Kind, rnd: random.Random) -> tuple[int, int]:
    """Damage a file; gives the stretch that was touched."""
    data = bytearray(file.read_bytes())
    size = len(data)
    if kind == "delete":
        file.unlink()
        return 0, size
    start = rnd.randrange(size)
    if kind == "cut":
        os.truncate(file, start)
        return start, size
    end = min(size, start + 1) if kind == "flip" else min(size, start + rnd.randrange(1, 200_000))
    for at in range(start, end):
        data[at] = data[at] ^ (1 << rnd.randrange(8)) if kind == "flip" else 0
    if bytes(data) == file.read_bytes():  # zeros where there were some
        data[start] ^= 1
    file.write_bytes(data)
    return start, end


def test_damage_is_counted_once_however_often_it_is_met(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        place = segments.append(1, b"first")
        segments.append(1, b"second")
        segments.append(1, b"third")
    data = bytearray(files(tmp_path)[0].read_bytes())
    data[chunks.HEAD_BYTES + chunks.HEADER_BYTES] ^= 1
    files(tmp_path)[0].write_bytes(data)

    with cold(tmp_path) as segments:
        assert list(segments.replay()) == list(segments.replay()) == []
        with pytest.raises(Gone):
            segments.read(place)

        lost = len(data) - chunks.HEAD_BYTES
        assert segments.damage == Damage(lost, 2)
        where = f"{lost} bytes at {chunks.HEAD_BYTES}"
        assert segments.troubles == (
            f"{tmp_path}/00000001.seg: {where} are damaged; what was in them is lost",
        )


def test_a_read_tells_of_all_that_is_damaged_in_its_segment(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        places = [segments.append(1, random.Random(seed).randbytes(BLOCK_BYTES)) for seed in range(4)]
    with cold(tmp_path) as segments:
        segments.append(1, b"so that the other is not the last")
    data = bytearray(files(tmp_path)[0].read_bytes())
    for place in places[1:3]:
        data[(place & 0xFFFFFFFF) + 100] ^= 1
    files(tmp_path)[0].write_bytes(data)

    with cold(tmp_path) as segments:
        assert segments.troubles == ()
        with pytest.raises(Gone, match="no whole chunk"):
            segments.read(places[1])

        assert segments.damage == Damage(places[3] - places[1], 0)
        assert segments.read(places[3]) == random.Random(3).randbytes(BLOCK_BYTES)


def test_a_copy_of_a_segment_in_a_payload_is_no_chunk(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        segments.append(1, random.Random(1).randbytes(100))
    copy = files(tmp_path)[0].read_bytes()
    with cold(tmp_path) as segments:
        segments.append(2, copy + random.Random(2).randbytes(100_000))
    data = bytearray(files(tmp_path)[1].read_bytes())
    assert copy in data
    data[-1] ^= 1
    files(tmp_path)[1].write_bytes(data)

    with cold(tmp_path) as segments:
        assert [kind for _, kind, _ in segments.replay()] == [1]


def test_a_header_that_lies_is_damage_not_memory(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        place = segments.append(1, b"a" * MIB)
    data = files(tmp_path)[0].read_bytes()
    its = chunks.read_header(place, data, chunks.HEAD_BYTES)
    assert its is not None
    stored = data[-its.stored_bytes :]
    lie = chunks.header(place, 1, stored, 10, 0)
    files(tmp_path)[0].write_bytes(data[: chunks.HEAD_BYTES] + lie + stored)

    with cold(tmp_path) as segments:
        assert list(segments.replay()) == []
        with pytest.raises(Gone):
            segments.read(place)
        assert segments.damage.bytes == len(lie + stored)


@settings(max_examples=20, deadline=None)
@given(junk=st.one_of(st.just(b""), st.binary(max_size=60), st.binary(max_size=60).map(MAGIC.__add__)))
def test_a_file_that_is_no_segment_costs_nothing_but_itself(junk: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with opened(folder) as segments:
            place = segments.append(1, b"kept")
        (folder / "00000002.seg").write_bytes(junk)
        (folder / "00000003.seg").mkdir()
        (folder / "next").write_bytes(junk)

        with cold(folder) as segments:
            assert list(segments.replay()) == [(place, 1, b"kept")]
            assert segments.append(1, b"more") > 2 << 40
            assert (segments.drop_oldest(), segments.drop_oldest()) == (1, 2)


def test_a_kill_while_a_segment_is_made_is_no_damage(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        place = segments.append(1, b"kept")
    (tmp_path / "00000002.seg").touch()

    for _ in range(2):
        with cold(tmp_path) as segments:
            assert segments.append(1, b"more") > place
            assert segments.read(place) == b"kept"
            assert (segments.damage, segments.troubles) == (Damage(), ())


# -- killed, full, shared ---------------------------------------------------------------------------

APPEND = """
import pathlib, random, sys
from tracekit.collector.segments import Segments
segments = Segments(pathlib.Path(sys.argv[1]), max_bytes=1 << 30, segment_bytes=1 << 20)
rnd = random.Random(int(sys.argv[2]))
print("ready", flush=True)
while True:
    payload = b"%d " % rnd.randrange(10**9) * rnd.choice((1, 100, 100_000))
    print(segments.append(1, payload), payload.split(b" ", 1)[0].decode(), flush=True)
"""


def test_what_was_appended_outlives_a_kill(tmp_path: Path) -> None:
    promised: dict[int, str] = {}
    for run in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", APPEND, str(tmp_path), str(run)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            stop = threading.Timer(0.05 + 0.02 * run, child.send_signal, [signal.SIGKILL])
            stop.start()
            for line in child.stdout:
                if line.endswith("\n"):
                    place, word = line.split()
                    promised[int(place)] = word
            stop.join()

    with cold(tmp_path) as segments:
        found = {place: payload.split(b" ", 1)[0].decode() for place, _, payload in segments.replay()}
        assert len(promised) > 6
        assert promised.items() <= found.items()
        assert segments.damage == Damage()


FILL = """
import pathlib, random, resource, signal, sys
from tracekit.collector.segments import Segments
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
segments = Segments(pathlib.Path(sys.argv[1]), max_bytes=1 << 30)
rnd = random.Random(1)
kept = [segments.append(1, rnd.randbytes(3000)) for _ in range(20)]
size = segments.total_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
for payload in (rnd.randbytes(3000), rnd.randbytes(100_000)):
    try:
        segments.append(2, payload)
    except OSError as error:
        print(error.errno, segments.total_bytes - size, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
kept.append(segments.append(1, b"room again"))
assert [place for place, kind, payload in segments.replay() if segments.read(place) == payload] == kept
"""


def test_a_full_disk_keeps_nothing_half_written_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert done.stdout == "27 0\n27 0\n"  # EFBIG, and nothing more than before
    with cold(tmp_path) as segments:
        assert [payload for _, _, payload in segments.replay()][-1] == b"room again"
        assert (len(list(segments.replay())), segments.troubles) == (21, ())


NO_NEW_SEGMENT = """
import pathlib, resource, signal, sys
from tracekit.collector.segments import Segments
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
segments = Segments(pathlib.Path(sys.argv[1]), max_bytes=1 << 30, segment_bytes=1)
kept = [segments.append(1, b"before")]
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
try:
    segments.append(1, b"no room")
except OSError as error:
    print(error.errno, len(list(pathlib.Path(sys.argv[1]).glob("*.seg"))), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
kept.append(segments.append(1, b"room again"))
assert [place for place, _, _ in segments.replay()] == kept
"""


def test_a_full_disk_begins_no_segment(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_NEW_SEGMENT, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert done.stdout == "27 1\n"
    with cold(tmp_path) as segments:
        assert [payload for _, _, payload in segments.replay()] == [b"before", b"room again"]
        assert (segments.newest, segments.troubles) == (2, ())


def test_readers_and_a_writer_do_not_disturb_each_other(tmp_path: Path) -> None:
    kept: dict[int, bytes] = {}
    done = threading.Event()
    failures: list[BaseException] = []

    def read(seed: int) -> None:
        rnd = random.Random(seed)
        try:
            while not done.is_set():
                if kept:
                    place = rnd.choice(list(kept))
                    with suppress(Gone):
                        assert segments.read(place) == kept[place]
                    if rnd.random() < 0.05:
                        assert all(
                            kept.get(found, payload) == payload for found, _, payload in segments.replay()
                        )
                segments.sync()
        except BaseException as error:
            failures.append(error)

    with closing(opened(tmp_path, segment_bytes=200_000)) as segments:
        threads = [threading.Thread(target=read, args=(seed,), name="tracekit-reader") for seed in range(3)]
        for thread in threads:
            thread.start()
        rnd = random.Random(1)
        for number in range(300):
            payload = b"%d " % number * rnd.choice((1, 1000)) + rnd.randbytes(rnd.choice((0, 20_000)))
            kept[segments.append(1, payload)] = payload
            if number % 50 == 49:
                segments.drop_oldest()
        done.set()
        for thread in threads:
            thread.join(SOON_S)

        assert failures == []
        assert (segments.damage, segments.troubles) == (Damage(), ())


# -- taken away -------------------------------------------------------------------------------------


def test_nothing_is_taken_where_the_folder_is_gone(tmp_path: Path) -> None:
    with opened(tmp_path / "segments") as segments:
        segments.append(1, b"before")
        (tmp_path / "segments").rename(tmp_path / "away")
        with pytest.raises(OSError, match="the data directory was removed or replaced"):
            segments.append(1, b"after")
        with pytest.raises(OSError, match="the data directory was removed or replaced"):
            segments.sync()

        (tmp_path / "away").rename(tmp_path / "segments")
        place = segments.append(1, b"back again")

    with cold(tmp_path / "segments") as found:
        assert [payload for _, _, payload in found.replay()] == [b"before", b"back again"]
        assert found.read(place) == b"back again"


def test_a_newest_segment_that_is_deleted_costs_what_was_in_it(tmp_path: Path) -> None:
    with opened(tmp_path) as segments:
        segments.append(1, b"lost")
        (newest,) = files(tmp_path)
        newest.unlink()
        segments.append(1, b"kept")

        assert segments.troubles == (f"{newest} was deleted; what was in it is lost",)
    with cold(tmp_path) as found:
        assert [payload for _, _, payload in found.replay()] == [b"kept"]
