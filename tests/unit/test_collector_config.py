"""collector-config: each value that somebody chose says why, on its line or above its block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parents[2] / "collector-config"
CONFIGURATIONS: Final = sorted({*FOLDER.glob("*.yaml")} - {FOLDER / "builder.yaml"})
# What must be said of any component, and is no choice: where it is, what it is called, what it is tied to.
NO_CHOICE: Final = re.compile(
    r"""\s*(?:-\ )?(?:
        (?:endpoint|directory|name|type|tls):\ (?:"?\$\{env:\w+.*|[\w ]+|\*tls)
        |(?:grpc|http|health_check|static):\ \{(?:endpoint|hostnames):\ "[^"]*\$\{env:[^}]*\}[^"]*"\}
        |otlp:\ \{protocol:\ http/protobuf,\ endpoint:\ "[^"]*"\}
        |-?\ ?'.*'  # an item of a list that is explained
    )""",
    re.VERBOSE,
)


def unexplained(text: str) -> list[str]:
    """The lines with a value that have no comment, behind them or above, nor has what they are part of."""
    found: list[str] = []
    explained: list[tuple[int, bool]] = []  # of the lines that this one is within: their indents
    is_commented = False
    for line in text.splitlines():
        if not line.strip():
            is_commented = False
            continue
        if line.strip().startswith("#"):
            is_commented = True
            continue
        indent = len(line) - len(line.lstrip())
        while explained and explained[-1][0] >= indent:
            explained.pop()
        says = is_commented or "  # " in line or any(said for _, said in explained)
        has_value = not line.split("  # ")[0].rstrip().endswith(":")
        if has_value and not says and not NO_CHOICE.fullmatch(line):
            found.append(line.strip())
        explained.append((indent, says))
        is_commented = False
    return found


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_each_value_says_why(path: Path) -> None:
    values = path.read_text().partition("\nservice:\n")[0]  # pipelines are ties

    assert unexplained(values) == []


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_how_often_a_collector_tells_of_itself_says_why(path: Path) -> None:
    telemetry = path.read_text().partition("\n  telemetry:\n")[2]

    assert telemetry
    assert unexplained(telemetry) == []


def test_a_value_without_a_comment_is_found() -> None:
    assert unexplained("a:\n  # why\n  b: {c: 1}\n  d: 2\n  e: 3  # why\n") == ["d: 2"]
