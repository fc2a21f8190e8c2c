"""The shop's processes and the runner around them, where something is missing or in the way."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from tracekit_demo import runner
from tracekit_demo.services import ServiceError, Services, environment

if TYPE_CHECKING:
    from pathlib import Path


def test_a_service_that_ends_at_start_is_shown_with_its_last_words_and_a_cure(tmp_path: Path) -> None:
    with Services(environment("http://127.0.0.1:9", {}), tmp_path) as services:
        services.start(["no_such_service"])
        with pytest.raises(ServiceError) as caught:
            services.wait_ready(["no_such_service"])

    said = str(caught.value)
    assert said.startswith("no_such_service ended at start (exit 1). Its log (")
    assert "No module named tracekit_demo.shop.no_such_service" in said
    assert said.endswith("Something is not installed: pip install 'tracekit[demo]'")


def test_settings_meant_for_other_programs_do_not_reach_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "elsewhere:9092")
    monkeypatch.setenv("LANG", "C.UTF-8")

    given = environment("http://127.0.0.1:4318", {"KAFKA_BOOTSTRAP_SERVERS": "here:9092"})

    assert "OTEL_SDK_DISABLED" not in given
    assert given["KAFKA_BOOTSTRAP_SERVERS"] == "here:9092"
    assert given["LANG"] == "C.UTF-8"


def test_a_kafka_that_is_not_there_is_said_before_anything_depends_on_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as bound:  # bound, but not listening: nobody else can be there
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        code = runner.run(once=True, kafka=address)

    assert code == 1
    assert (
        f"no Kafka at {address}: Connection refused. Start it, or leave --kafka away"
        in capsys.readouterr().err
    )


def test_an_address_without_a_port_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.run(once=True, kafka="localhost") == 1
    assert "'localhost' is no address; it looks like localhost:9092" in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sqlalchemy" else name)

    assert runner.run(once=True) == 1
    assert "not installed: sqlalchemy. The cure: pip install 'tracekit[demo]'" in capsys.readouterr().err
