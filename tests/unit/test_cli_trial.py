"""What `tracekit doctor` makes of its flow as it came back, and of sizes and directories."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tracekit.cli import serve, trial
from tracekit.cli.terminal import size
from tracekit.cli.trial import Trial, came_back
from tracekit.flow import Flow, build_flow
from tracekit.model import LogLine
from tracekit.sources import ApiSource, NotFoundError
from tracekit.testing.spans import MS, processed, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracekit.model import Span

ENTRY: Final = span("tracekit doctor", 0, 20)
HOP: Final = processed(ENTRY, 21, 30, published=1, destination="tracekit-doctor")
INNER: Final = span("look after it", 22, 29, parent=HOP)
TRIAL: Final = Trial("9f3c1a7e", 0.0, (19 * MS, 21 * MS), sends_logs=True, troubles=())


class Kept(ApiSource):
    """A server that has these spans, and this line."""

    def __init__(self, spans: Sequence[Span], line: str) -> None:
        super().__init__()
        self.spans = spans
        self.line = line

    def flow(self, flow_id: str) -> Flow:
        if not self.spans:
            raise NotFoundError("no such flow")
        return build_flow(self.spans)

    def logs(self, flow_id: str) -> Sequence[LogLine]:
        return [LogLine(0, self.line)]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_COME_BACK_S", 0.0)


def wrong(*spans: Span, line: str = "the doctor's message was processed") -> str:
    return came_back(TRIAL, Kept(spans, line))[0]


def test_a_flow_that_is_as_it_was_sent_has_nothing_wrong() -> None:
    assert wrong(ENTRY, HOP, INNER) == ""


def test_whatever_does_not_come_back_as_it_was_sent_is_named() -> None:
    elsewhere = replace(INNER, parent_id=ENTRY.span_id)
    later = processed(ENTRY, 41, 50, published=1, destination="tracekit-doctor")
    orphan = replace(ENTRY, parent_id="00000000000000ff", parent_is_remote=False)

    assert wrong() == "nothing of it arrived"
    assert wrong(ENTRY) == "missing: process tracekit-doctor, look after it"
    assert wrong(ENTRY, HOP, elsewhere).startswith("tied otherwise than it was: ")
    assert wrong(ENTRY, later, span("look after it", 42, 49, parent=later)) == (
        "its wait of 20 ms came back as 40 ms"
    )
    assert wrong(orphan, HOP, INNER) == "broken: parent_absent"
    assert wrong(ENTRY, HOP, INNER, line="another") == "missing: its log line"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (54_321, "54 kB"), (2_000_000_000, "2 GB"), (1_550_000, "1.6 MB")],
)
def test_a_size_is_said_in_its_unit(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [("500MB", 500_000_000), ("1.5 G", 1_500_000_000), ("2GiB", 2 * 1024**3), ("20000000", 20_000_000)],
)
def test_a_size_is_read_with_its_unit(text: str, number: int) -> None:
    assert options("--max-size", text).max_size == number


def test_data_is_where_a_user_s_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert options().data == Path("/home/ada/.local/share/tracekit")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert options().data == Path("/data/tracekit")
    monkeypatch.setenv("XDG_DATA_HOME", "relative, which does not count")
    assert options().data == Path("/home/ada/.local/share/tracekit")


def test_a_directory_is_absolute_wherever_it_is_named_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    assert options("--data", "flows").data == tmp_path / "flows"


def test_a_full_disk_is_one_complaint_whoever_meets_it(capsys: pytest.CaptureFixture[str]) -> None:
    complaints = serve._Complaints(Path("/data"))

    for met in ("[Errno 28] No space left on device", "database or disk is full", "Disk quota exceeded"):
        complaints.say(f"the disk does not take what is to be written: {met}")

    assert capsys.readouterr().err == (
        "tracekit serve: no room left on /data: senders get 503 and try again; free some, or start with a "
        "smaller --max-size\n"
    )


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.configure_parser(parser)
    return parser.parse_args(given)
