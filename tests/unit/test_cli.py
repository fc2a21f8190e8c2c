"""The command line as a stranger meets it: what its help says, and what it says when asked wrongly."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tracekit import _settings, cli


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
    assert done.stderr == "tracekit run: no program given. Try: tracekit run -- python worker.py\n"


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


@pytest.mark.parametrize("text", ["10", "0.5", ".5", "2."])
def test_an_export_s_timeout_is_in_seconds_as_the_exporters_read_it(text: str) -> None:
    settings = _settings.read({"OTEL_EXPORTER_OTLP_TIMEOUT": text}, service="orders")

    assert settings.service == "orders"


@pytest.mark.parametrize("text", ["5s", "-1", "ten", "1e3", "."])
def test_an_export_s_timeout_that_cannot_be_is_refused_with_its_unit(text: str) -> None:
    with pytest.raises(_settings.SettingError) as refused:
        _settings.read({"OTEL_EXPORTER_OTLP_TIMEOUT": text})

    assert str(refused.value) == f"OTEL_EXPORTER_OTLP_TIMEOUT={text!r}: must be seconds; e.g. 10 or 0.5"
