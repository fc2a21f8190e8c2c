"""A data directory: held by one process, in one layout."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tracekit.collector.folder import MIGRATIONS, VERSION, Folder, FolderError, bring_forward
from tracekit.collector.segments import Segments

HOLD = """
import pathlib, sys
from tracekit.collector.folder import Folder
with Folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def refusal(path: Path) -> str:
    with pytest.raises(FolderError) as refused:
        Folder(path)
    return str(refused.value)


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with Folder(tmp_path / "deep" / "data") as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_second_process_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        said = refusal(tmp_path)

        holder.communicate(b"")
    assert said == (
        f"{tmp_path} is in use by process {holder.pid}. Stop it, or give another directory with --data"
    )
    Folder(tmp_path).close()


def test_a_killed_holder_leaves_the_directory_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.wait()

    Folder(tmp_path).close()


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with Folder(tmp_path):
        assert f"is in use by process {os.getpid()}" in refusal(tmp_path)


def test_a_newer_layout_is_refused_with_both_versions(tmp_path: Path) -> None:
    Folder(tmp_path).close()
    (tmp_path / "tracekit.version").write_text(f"{VERSION + 1}\n")

    assert refusal(tmp_path) == (
        f"{tmp_path} was written by a newer tracekit: its layout is version {VERSION + 1}, this tracekit "
        f"knows versions up to {VERSION}. Update tracekit, or give another directory with --data"
    )


def test_a_refused_directory_is_free_for_the_next_try(tmp_path: Path) -> None:
    (tmp_path / "tracekit.version").write_text(f"{VERSION + 1}\n")
    refusal(tmp_path)
    (tmp_path / "tracekit.version").write_text(f"{VERSION}\n")

    Folder(tmp_path).close()


@pytest.mark.parametrize("said", ["", "one", "-1", "1" * 400, "²"])
def test_a_version_that_is_none_is_refused(tmp_path: Path, said: str) -> None:
    (tmp_path / "tracekit.version").write_text(said, encoding="utf-8")

    assert "is damaged" in refusal(tmp_path)


def test_an_older_layout_is_brought_forward_with_all_it_holds(tmp_path: Path) -> None:
    with Segments(tmp_path, max_bytes=1 << 20) as before:  # version 0: segments beside everything else
        place = before.append(1, b"kept")

    with Folder(tmp_path) as folder, Segments(folder.segments, max_bytes=1 << 20) as segments:
        assert segments.read(place) == b"kept"
        assert segments.troubles == ()
    assert (tmp_path / "tracekit.version").read_text() == f"{VERSION}\n"


def test_bringing_forward_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    done: list[int] = []

    def fails(_: Path) -> None:
        done.append(1)
        raise OSError("the power failed")

    with pytest.raises(OSError, match="power"):
        bring_forward(tmp_path, 3, {0: lambda _: done.append(0), 1: fails})
    bring_forward(tmp_path, 3, {1: lambda _: done.append(1), 2: lambda _: done.append(2)})
    bring_forward(tmp_path, 3, {})

    assert done == [0, 1, 1, 2]


def test_there_is_a_step_from_each_version() -> None:
    assert sorted(MIGRATIONS) == list(range(VERSION))


@pytest.mark.parametrize("under", [False, True])
def test_what_is_no_directory_is_refused(tmp_path: Path, under: bool) -> None:
    file = tmp_path / "file"
    file.write_text("mine")

    assert "is no directory. Move it away, or give another" in refusal(file / "data" if under else file)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("path", ["/proc/self", "/proc/tracekit"])  # not even root can write there
def test_what_cannot_be_written_is_refused(path: str) -> None:
    said = refusal(Path(path))

    assert said.startswith(f"{path} cannot be used: ")
    assert "give another directory with --data" in said


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "version").write_text("99")

    Folder(tmp_path).close()

    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"
    assert (tmp_path / "version").read_text() == "99"


@pytest.mark.parametrize("gone", ["", "segments", "tracekit.lock"])
def test_a_directory_that_is_taken_away_is_missed(tmp_path: Path, gone: str) -> None:
    with Folder(tmp_path / "data") as folder:
        Segments(folder.segments, max_bytes=1).close()
        folder.check()
        (folder.path / gone).rename(tmp_path / "away")

        with pytest.raises(FolderError, match="data was removed or replaced while it was in use"):
            folder.check()


def test_a_directory_in_the_place_of_another_is_told_from_it(tmp_path: Path) -> None:
    with Folder(tmp_path / "data") as folder:
        folder.path.rename(tmp_path / "away")
        with Folder(folder.path), pytest.raises(FolderError, match="removed or replaced"):
            folder.check()
