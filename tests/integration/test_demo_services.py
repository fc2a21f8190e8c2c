"""The shop's processes and the runner around them, where something is missing or in the way."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from tracekit_demo import collector, runner
from tracekit_demo.broker import embedded_broker
from tracekit_demo.home import Home
from tracekit_demo.services import ServiceError, Services
from tracekit_demo.shop.topics import TOPICS

from tracekit.collector.disk import DiskStore

if TYPE_CHECKING:
    from pathlib import Path


SOON_S = 10.0


def test_a_service_that_ends_at_start_is_shown_with_its_last_words_and_a_cure(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        services.start(["no_such_service"], {})
        with pytest.raises(ServiceError) as caught:
            services.wait_ready(["no_such_service"])

    said = str(caught.value)
    assert said.startswith("no_such_service ended at start (exit 1). Its log (")
    assert "No module named tracekit_demo.shop.no_such_service" in said
    assert said.endswith("Something is not installed: pip install '.[demo]' in tracekit's clone")


def test_settings_meant_for_other_programs_do_not_reach_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "elsewhere:9092")
    monkeypatch.setenv("SHOP_SIGN", "open")

    with Services(tmp_path) as services:
        nursery, ours = psutil.Process(services._nursery.pid), psutil.Process().cmdline()
        until = time.monotonic() + SOON_S
        while nursery.cmdline() == ours and time.monotonic() < until:  # it is not that program yet
            time.sleep(0.01)
        given = nursery.environ()

    assert "OTEL_SDK_DISABLED" not in given
    assert "KAFKA_BOOTSTRAP_SERVERS" not in given
    assert given["SHOP_SIGN"] == "open"


def test_what_the_services_share_and_cannot_be_imported_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "httpx.py").write_text("import no_such_module")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    with Services(tmp_path) as services, pytest.raises(ServiceError) as caught:
        services.start(["orders"], {})

    said = str(caught.value)
    assert said.startswith("no service can be started. Its log (")
    assert said.endswith("Something is not installed: pip install '.[demo]' in tracekit's clone")


def test_programs_end_with_the_demo_and_those_that_linger_are_killed(tmp_path: Path) -> None:
    with embedded_broker(TOPICS) as kafka, Services(tmp_path) as services:
        services.start(["audit"], kafka.environment)
        nursery = psutil.Process(services._nursery.pid)
        services.wait_ready(["audit"])
        (audit,) = nursery.children()
        audit.suspend()

    assert not audit.is_running()
    assert not nursery.is_running()


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


def test_what_listens_and_is_no_kafka_is_said_before_anything_depends_on_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code = runner.run(once=True, kafka=address)

    said = capsys.readouterr().err
    assert code == 1
    assert f"what listens at {address} does not answer as a Kafka (" in said
    assert "logs" not in said


def test_a_version_of_kafka_that_is_none_is_said_with_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_API_VERSION", "new")
    with embedded_broker() as kafka:
        code = runner.run(once=True, kafka=kafka.address)

    assert code == 1
    assert "tracekit demo: KAFKA_API_VERSION='new': invalid literal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nope://x", "nope://x: Can't load plugin: sqlalchemy.dialects:nope. It looks like postgresql"),
        ("x", "'x': Could not parse SQLAlchemy URL from given URL string. It looks like postgresql"),
        ("sqlite://", "sqlite:// is in memory, where services cannot share it. Name a file"),
        ("sqlite:////no/such/shop.db", "sqlite:////no/such/shop.db: unable to open database file. It"),
        ("oracle://u:secret@h/shop", "oracle://u:***@h/shop: No module named 'oracledb'. For Postgre"),
    ],
)
def test_a_database_that_cannot_be_had_is_said_before_anything_starts(
    url: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert runner.run(once=True, database=url) == 1

    errors = capfd.readouterr().err
    assert errors.startswith(f"\ntracekit demo: --database {said}")
    assert "Traceback" not in errors
    assert "secret" not in errors


def test_an_address_without_a_port_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.run(once=True, kafka="localhost") == 1
    assert "'localhost' is no address; it looks like localhost:9092" in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sqlalchemy" else name)

    assert runner.run(once=True) == 1
    assert (
        "not installed: sqlalchemy. The cure: pip install '.[demo]' in tracekit's clone"
        in capsys.readouterr().err
    )


def test_a_directory_that_another_demo_has_is_not_taken_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Home(tmp_path).held():
        assert runner.run(once=True, data=tmp_path) == 1

    assert capsys.readouterr().err == (
        f"\ntracekit demo: --data {tmp_path}: another demo runs there (process {os.getpid()}). "
        "End that one, or name another directory\n"
    )


def test_a_directory_that_a_collector_has_is_not_taken_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DiskStore(tmp_path):
        assert runner.run(once=True, data=tmp_path) == 1

    assert (
        f"{tmp_path} is in use by process {os.getpid()}. Stop it, or give another directory with --data"
        in capsys.readouterr().err
    )


def test_a_directory_that_cannot_be_made_is_named_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert runner.run(once=True, data=tmp_path / "file" / "demo") == 1
    assert capsys.readouterr().err == (
        f"\ntracekit demo: {tmp_path}/file/demo cannot be the demo's directory: Not a directory. "
        "Name another: --data FOLDER\n"
    )


def test_a_port_that_is_taken_gives_way_to_any_that_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        while_taken = collector._free(port)

    assert (while_taken, collector._free(port)) == (0, port)
