"""The documents beside the README name what is there: files, variables, settings, metrics, commands, titles.

What a document puts between backticks is a name of one of these kinds, told apart by its form.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest

from benchmarks.__main__ import ASKED_FOR, WORKS
from grafana.source import names
from grafana.source.alerts import ALERTS
from tracekit import semconv

ROOT: Final = Path(__file__).parents[2]
SCALING: Final = (ROOT / "docs" / "scaling.md").read_text()
CONFIGURATIONS: Final = {
    path.name: path.read_text()
    for folder in ("collector-config", "prometheus", "jaeger")
    for path in (ROOT / folder).glob("*.yaml")
}
SOURCES: Final = "\n".join(path.read_text() for path in (ROOT / "tracekit").rglob("*.py"))
BOARDS: Final = [json.loads(path.read_text()) for path in (ROOT / "grafana" / "dashboards").glob("*.json")]

FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
QUOTED: Final = sorted({*re.findall(r"`([^`\n]+)`", FENCE.sub("", SCALING))})


def matching(form: str) -> list[str]:
    return [name for name in QUOTED if re.fullmatch(form, name)]


FILES: Final = matching(r"(?!--)[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:yaml|md|py)")
VARIABLES: Final = matching(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|GATEWAYS")
METRICS: Final = matching(r"(?:otelcol|tracekit|messaging|http|traces)_\w+|(?:tracekit|messaging)\.[\w.]+")
COMMANDS: Final = matching(r"make .+")
SETTINGS: Final = matching(r"[a-z]+(?:_[a-z]+)+(?:: \S+)?")


def known_metrics() -> set[str]:
    prometheus = {value for name, value in vars(names).items() if name.isupper()}
    conventions = {value for value in vars(semconv).values() if isinstance(value, str)}
    return prometheus | conventions


@pytest.mark.parametrize("kind", [FILES, VARIABLES, METRICS, COMMANDS, SETTINGS])
def test_the_document_names_some_of_each_kind(kind: list[str]) -> None:
    assert len(kind) > 2


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_there(name: str) -> None:
    assert (ROOT / name).exists() or (ROOT / "collector-config" / name).exists()


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_is_read(name: str) -> None:
    assert any(f"${{env:{name}" in text for text in CONFIGURATIONS.values()) or name in SOURCES


@pytest.mark.parametrize("tier", ["agent", "kafka-buffer", "gateway"])
def test_each_variable_of_a_tier_is_told(tier: str) -> None:
    read = {*re.findall(r"\$\{env:(\w+)", CONFIGURATIONS[f"{tier}.yaml"])}

    assert read - {*VARIABLES} == set()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_one_that_dashboards_or_services_have(name: str) -> None:
    assert name in known_metrics() or re.sub("_bucket$|_count$|_sum$", "", name) in known_metrics()


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in METRICS])
def test_a_setting_stands_in_a_configuration(name: str) -> None:
    assert any(name in text for text in CONFIGURATIONS.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_of_the_makefile(command: str) -> None:
    made = re.fullmatch(r'make ([\w-]+)(?: ARGS="?([^"]+)"?)?', command)

    assert made is not None
    assert re.search(rf"^{made[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if made[1] == "bench" and made[2]:
        assert {*made[2].split()} <= {*WORKS, *ASKED_FOR}


def test_alerts_and_panels_have_the_names_that_they_are_given() -> None:
    told = {name for name in QUOTED if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", name)}
    panels = {panel["title"] for board in BOARDS for panel in board["panels"]}
    titles = {board["title"].removeprefix("tracekit: ") for board in BOARDS}

    assert told
    assert told <= {alert.name for alert in ALERTS}
    assert {*re.findall(r"panel \*([^*]+)\*", SCALING)} <= panels
    assert {*re.findall(r"dashboard \*([^*]+)\*", SCALING)} <= titles


def test_a_figure_stands_beside_the_command_that_prints_it() -> None:
    """Each table of figures comes after its command, in its own section."""
    sections = re.split(r"^## ", SCALING, flags=re.MULTILINE)

    measured = [section for section in sections if re.search(r"\d\.\d\d", section)]

    assert measured
    assert all("make bench" in section for section in measured)
