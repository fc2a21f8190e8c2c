"""Programs of the real tests: where they cannot be kept, one is told the cure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.servers import __main__ as command
from tests.integration.servers import programs

if TYPE_CHECKING:
    from collections.abc import Callable


def within_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "programs"


def where_nobody_may_write(_: Path) -> Path:
    return Path("/proc/self/programs")  # root neither


each_folder = pytest.mark.parametrize("made", [within_a_file, where_nobody_may_write])


@pytest.fixture(autouse=True)
def one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is made at once."""
    program = programs.Program("name", "1", {}, lambda folder, _: (folder / "file").touch(), "file")
    monkeypatch.setitem(programs.PROGRAMS, "name", program)
    monkeypatch.setattr("sys.argv", ["servers", "name"])


def test_a_program_is_made_once_where_it_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "FOLDER", tmp_path)

    assert [command.main(), command.main()] == [0, 0]

    assert capsys.readouterr().out.count("being made") == 1
    assert (tmp_path / "name-1" / "file").exists()


@each_folder
def test_a_folder_that_cannot_be_written_is_told_with_the_cure(
    made: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = made(tmp_path)
    monkeypatch.setattr(programs, "FOLDER", folder)

    assert command.main() == 1

    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"name: nothing can be kept in {folder}: ")
    assert said.endswith("The cure: set XDG_CACHE_HOME to a folder that can be written, or make room there")
