"""The command line as a stranger meets it: what its help says, and what it says when asked wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tracekit import _settings, cli
from tracekit.cli import flows

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def test_without_a_command_it_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main([])

    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert "tracekit run -- uvicorn app:app" in said.err
    assert "start a shop of six services" in said.err


def test_it_runs_as_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tracekit", "run"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"tracekit run: no program given. Try: {sys.executable} -m tracekit run -- python worker.py\n"
    )


@pytest.mark.parametrize(
    ("command", "path", "named"),
    [
        ("tracekit", "bin", "tracekit"),
        ("bin/tracekit", "bin", "tracekit"),
        ("bin/tracekit", "elsewhere", "bin/tracekit"),
        ("bin/tracekit", "other", "bin/tracekit"),  # one is found, and it is another one
    ],
)
def test_what_it_says_to_type_can_be_typed(tmp_path: Path, command: str, path: str, named: str) -> None:
    program = f"#!{sys.executable}\nfrom tracekit.cli import main\nmain()\n"
    for folder in ("bin", "other"):
        script = tmp_path / folder / "tracekit"
        script.parent.mkdir()
        script.write_text(program)
        script.chmod(0o755)

    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} run"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == f"tracekit run: no program given. Try: {named} run -- python worker.py\n"


@pytest.mark.parametrize(
    ("command", "options"), [("run", ["--service", "--endpoint", "--quiet"]), ("demo", ["--once", "--kafka"])]
)
def test_a_command_s_help_shows_its_options_in_its_usage(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])

    usage, _, _ = capsys.readouterr().out.partition("\n\n")
    assert ended.value.code == 0
    assert [option for option in options if option not in usage] == []


@pytest.mark.parametrize(
    ("given", "query", "limit"),
    [
        (["slow", "-n", "1", "orders"], ["slow", "orders"], 1),
        (["-n", "3", "slow"], ["slow"], 3),
        (["slow", "--json", "orders", "-n2", "error"], ["slow", "orders", "error"], 2),
        (["--", "-n"], ["-n"], 20),
    ],
)
def test_options_may_stand_between_the_words_of_a_query(
    given: list[str], query: list[str], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[argparse.Namespace] = []

    def run(arguments: argparse.Namespace) -> int:
        seen.append(arguments)
        return 0

    monkeypatch.setattr(flows, "run", run)

    assert cli.main(["flows", *given]) == 0
    assert [(each.query, each.limit) for each in seen] == [(query, limit)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["flow", ""],
            "tracekit flow: error: argument ID: '': must be a flow's id, or the first four or more",
        ),
        (["flow", "zz"], "'zz': must be a flow's id"),
        (["flow", "0af"], "'0af': must be a flow's id"),
        (["flow", "0" * 33], "must be a flow's id"),
        (
            ["flows", "slow", "--nonsense", "orders"],
            "tracekit flows: error: unrecognized arguments: --nonsense",
        ),
        (
            ["demo", "fault", "nonsense"],
            "tracekit demo fault: error: argument NAME: invalid choice: 'nonsense' (choose from ",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_would_be_right(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(given)

    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert said in shown.err


def test_until_a_ctrl_c_is_caught_next_to_nothing_is_imported() -> None:
    program = "import json, sys, tracekit.cli; print(json.dumps([*sys.modules]))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))

    assert {"argparse", "gettext", "subprocess"}.isdisjoint(modules)
    assert [name for name in modules if name.startswith("tracekit")] == ["tracekit", "tracekit.cli"]


def test_a_ctrl_c_while_a_command_is_imported_ends_it_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def run(_: argparse.Namespace) -> int:
        type("Imported", (), {"value": Interrupted()})  # Python 3.11 makes a RuntimeError of it
        return 0

    monkeypatch.setattr(flows, "run", run)

    assert cli.main(["flows"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["10", "0.5", ".5", "2."])
def test_an_export_s_timeout_is_in_seconds_as_the_exporters_read_it(text: str) -> None:
    settings = _settings.read({"OTEL_EXPORTER_OTLP_TIMEOUT": text}, service="orders")

    assert settings.service == "orders"


@pytest.mark.parametrize("text", ["5s", "-1", "ten", "1e3", "."])
def test_an_export_s_timeout_that_cannot_be_is_refused_with_its_unit(text: str) -> None:
    with pytest.raises(_settings.SettingError) as refused:
        _settings.read({"OTEL_EXPORTER_OTLP_TIMEOUT": text})

    assert str(refused.value) == f"OTEL_EXPORTER_OTLP_TIMEOUT={text!r}: must be seconds; e.g. 10 or 0.5"
