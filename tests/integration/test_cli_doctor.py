"""`tracekit doctor`, as a person runs it in the environment of a service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import opentelemetry
import pytest

from tests.e2e.programs import environment
from tests.integration.serving import US, serving
from tracekit import _configure, cli
from tracekit.cli import trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracekit.testing import FlowSink

NOBODY: Final = "http://127.0.0.1:1"


class Doctor(Protocol):
    def __call__(self, server: str = NOBODY, **variables: str) -> Found: ...


@dataclass(frozen=True, slots=True)
class Found:
    """The exit code, and what was found by what it is about: state, text and cure."""

    code: int
    about: Mapping[str, list[tuple[str, str, str]]]
    said: str


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """`tracekit doctor --json` with just these variables; where no server is named, none can be asked."""

    def run(server: str = NOBODY, **variables: str) -> Found:
        for name in [name for name in os.environ if name.startswith(("OTEL_", "TRACEKIT_"))]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code = cli.main(["doctor", "--json", "--server", server])
        out, err = capsys.readouterr()
        assert err == ""
        about: dict[str, list[tuple[str, str, str]]] = {}
        for each in json.loads(out)["findings"]:
            about.setdefault(each["about"], []).append((each["state"], each["text"], each["cure"]))
        return Found(code, about, out)

    return run


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_where_no_server_can_be_asked_it_says_that_only_sending_was_tried(
    doctor: Doctor, flow_sink: FlowSink, protocol: str
) -> None:
    settings = flow_sink.grpc_env if protocol == "grpc" else flow_sink.env
    there = settings["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://" if protocol == "grpc" else "")

    found = doctor(**settings)

    assert found.code == 0
    assert found.about["endpoint"] == [("ok", f"{there} over {protocol} takes traces, metrics, logs", "")]
    ((state, text, cure),) = found.about["flow"]
    assert (state, text[8:]) == ("warning", " was sent; whether it arrived cannot be seen")
    assert cure == f"no `tracekit serve` answers at {NOBODY}; say where one is: --server URL"
    (flow,) = flow_sink.flows
    assert (flow.id[:8], flow.services) == (text[:8], ("tracekit-doctor",))
    flow.assert_complete()


def test_a_flow_that_came_back_is_compared_with_what_was_sent(doctor: Doctor, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for protocol, endpoint in (("http/protobuf", server.otlp), ("grpc", server.grpc)):
            found = doctor(
                server.api,
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
                OTEL_SERVICE_NAME="orders",
            )

            ((state, text, cure),) = found.about["flow"]
            assert (found.code, state, cure) == (0, "ok", "")
            assert re.search(r"^\w{8} came back whole in \d+ ms: 3 spans, a hop through a queue", text)
            assert [state for state, _, _ in found.about["server"]] == ["ok"]


def test_a_flow_that_does_not_come_back_is_a_failure(
    doctor: Doctor, flow_sink: FlowSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_COME_BACK_S", 0.1)
    with serving(tmp_path) as server:
        found = doctor(server.api, **flow_sink.env)  # which leads elsewhere

    ((state, text, cure),) = found.about["flow"]
    assert (found.code, state) == (1, "failure")
    assert text[8:] == f" was sent; at {server.api}, nothing of it arrived"
    assert cure == "does OTEL_EXPORTER_OTLP_ENDPOINT lead there? `tracekit flow` shows what arrived"


def test_what_can_be_traced_is_listed_with_its_version(doctor: Doctor, flow_sink: FlowSink) -> None:
    found = doctor(**flow_sink.env)

    ((state, text, _),) = found.about["kafka"]
    assert state == "ok"
    assert text.startswith("kafka-python 3.")
    assert text.endswith(", traced")
    assert found.about["logging"] == [("ok", "of the standard library, traced", "")]


def test_what_would_have_to_be_installed_is_said_with_the_command(
    doctor: Doctor, flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = _configure.is_installed
    monkeypatch.setattr(_configure, "is_installed", lambda name: "instrument" not in name and installed(name))
    monkeypatch.setattr(_configure, "is_used", lambda package: package != "requests")

    found = doctor(**flow_sink.env)

    ((state, text, cure),) = found.about["httpx"]
    assert (state, cure) == ("warning", "pip install opentelemetry-instrumentation-httpx")
    assert text.endswith(" is here and not traced")
    ((state, text, cure),) = found.about["requests"]
    assert (state, cure) == (
        "note",
        "if the service uses it: pip install opentelemetry-instrumentation-requests",
    )
    assert text.endswith(" is here for OpenTelemetry's exporter, and not traced")


def test_without_opentelemetry_s_instrumentations_nothing_is_lost_and_the_command_is_said(
    flow_sink: FlowSink, tmp_path: Path
) -> None:
    (installed,) = {Path(place) for place in opentelemetry.__path__}
    for place in installed.iterdir():
        if place.name != "instrumentation":
            (tmp_path / place.name).symlink_to(place)
    program = (
        "import sys, opentelemetry; opentelemetry.__path__ = [sys.argv.pop(1)];"
        "from tracekit import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "doctor", "--json", "--server", NOBODY],
        env=environment(**flow_sink.env),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    found = {each["about"]: each for each in json.loads(done.stdout)["findings"]}
    assert found["fastapi"]["state"] == "note"
    assert found["fastapi"]["text"].endswith(", traced by itself")
    assert found["fastapi"]["cure"] == (
        "for OpenTelemetry's instrumentation instead: pip install opentelemetry-instrumentation-fastapi"
    )
    assert found["flow"]["text"].endswith(" was sent; whether it arrived cannot be seen")


def test_what_is_disabled_is_left_alone(doctor: Doctor, flow_sink: FlowSink) -> None:
    found = doctor(**flow_sink.env, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="kafka, logging")

    assert [found.about[name][0][0] for name in ("kafka", "logging", "fastapi")] == ["note", "note", "ok"]


def test_an_endpoint_that_nobody_listens_at_is_a_failure_with_the_cure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tracekit", "doctor", "--server", NOBODY],
        env=environment(OTEL_EXPORTER_OTLP_ENDPOINT=NOBODY),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert (
        f"failure  endpoint    {NOBODY}/v1/traces: Connection refused\n"
        f"                     start it: {US} serve; or say where it is: OTEL_EXPORTER_OTLP_ENDPOINT\n"
    ) in done.stdout
    assert done.stdout.endswith("\n1 failure, 1 warning\n")


def test_the_wrong_protocol_is_told_from_the_answer(doctor: Doctor, flow_sink: FlowSink) -> None:
    swapped = {**flow_sink.grpc_env, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}

    found = doctor(**swapped)

    ((state, text, cure),) = found.about["endpoint"]
    assert (state, text, cure) == (
        "failure",
        f"{flow_sink.grpc_env['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces: what listens there speaks no HTTP",
        "if that port speaks gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc; HTTP has 4318",
    )
    assert "flow" not in found.about


def test_a_path_that_takes_no_telemetry_is_named(doctor: Doctor, flow_sink: FlowSink) -> None:
    wrong = {**flow_sink.env, "OTEL_EXPORTER_OTLP_ENDPOINT": f"{flow_sink.http_endpoint}/otlp"}

    found = doctor(**wrong)

    ((state, text, _),) = found.about["endpoint"]
    assert state == "failure"
    assert text.startswith(f"{flow_sink.http_endpoint}/otlp/v1/traces: ")
    assert "404" in text


def test_a_setting_that_cannot_be_is_named_and_nothing_is_tried(doctor: Doctor) -> None:
    found = doctor(OTEL_EXPORTER_OTLP_PROTOCOL="http")

    assert found.code == 1
    assert found.about["settings"][-1] == (
        "failure",
        "OTEL_EXPORTER_OTLP_PROTOCOL='http': must be one of http/protobuf, grpc",
        "",
    )
    assert "endpoint" not in found.about


def test_variables_are_shown_without_secrets_and_misspelt_ones_are_named(
    doctor: Doctor, flow_sink: FlowSink
) -> None:
    given = {
        **flow_sink.env,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": flow_sink.http_endpoint.replace("//", "//me:abc@") + "/v1/logs",
        "OTEL_EXPORTER_OTLP_ENDPIONT": "http://collector:4318",
    }

    found = doctor(**given)

    assert "abc" not in found.said
    settings = found.about["settings"]
    assert ("ok", "OTEL_EXPORTER_OTLP_HEADERS=[redacted]", "") in settings
    assert (
        "warning",
        "OTEL_EXPORTER_OTLP_ENDPIONT=http://collector:4318 is none that we know",
        "OTEL_EXPORTER_OTLP_ENDPOINT perhaps?",
    ) in settings


def test_what_is_switched_off_is_a_warning(doctor: Doctor) -> None:
    found = doctor(OTEL_SDK_DISABLED="true")

    assert found.code == 0
    assert found.about["endpoint"] == [("warning", "nothing is traced: OTEL_SDK_DISABLED is set", "unset it")]


def test_what_it_sets_for_its_trial_is_as_before_afterwards(doctor: Doctor, flow_sink: FlowSink) -> None:
    doctor(**flow_sink.env, OTEL_EXPORTER_OTLP_TIMEOUT="7")

    assert os.environ["OTEL_TRACES_SAMPLER"] == flow_sink.env["OTEL_TRACES_SAMPLER"]
    assert os.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] == "7"


def test_a_sampler_that_drops_everything_drops_no_trial(doctor: Doctor, flow_sink: FlowSink) -> None:
    found = doctor(**{**flow_sink.env, "OTEL_TRACES_SAMPLER": "always_off"})

    assert [flow.id[:8] for flow in flow_sink.flows] == [found.about["flow"][0][1][:8]]


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            "no trace that begins here is recorded: OTEL_TRACES_SAMPLER is parentbased_traceidratio with 0",
        ),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "no trace is recorded: OTEL_TRACES_SAMPLER is always_off"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "no span is exported: OTEL_TRACES_EXPORTER=none"),
    ],
)
def test_a_setting_by_which_no_span_is_ever_seen_is_a_warning_with_the_cure(
    doctor: Doctor, flow_sink: FlowSink, variables: Mapping[str, str], warning: str
) -> None:
    found = doctor(**{**flow_sink.env, **variables})

    ((text, cure),) = [(text, cure) for state, text, cure in found.about["settings"] if state == "warning"]
    assert text == warning
    assert cure.startswith("unset it")


def test_a_sampler_that_records_a_part_is_no_warning(doctor: Doctor, flow_sink: FlowSink) -> None:
    part = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}

    found = doctor(**{**flow_sink.env, **part})

    assert {state for state, _, _ in found.about["settings"]} == {"ok"}


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_endpoint_whose_answer_has_no_end_is_a_failure_with_the_cure(doctor: Doctor, first: bytes) -> None:
    is_over = threading.Event()
    by = time.monotonic() + 20

    class Endless(BaseHTTPRequestHandler):
        """A receiver that goes on with its answer."""

        def do_POST(self) -> None:
            self.close_connection = True
            self.rfile.read(int(self.headers["content-length"]))
            with suppress(OSError):
                self.wfile.write(first)
                while not is_over.wait(0.05) and time.monotonic() < by:
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" if not first else b"x")

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            found = doctor(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="1")
        finally:
            is_over.set()
            server.shutdown()
            thread.join()
    for trying in threading.enumerate():
        if trying.name == "tracekit-doctor":
            trying.join()

    assert found.about["endpoint"] == [
        (
            "failure",
            f"{url}/v1/traces: its answer has no end within 3 s",
            "is it an OTLP receiver? Look at its log",
        )
    ]
    assert time.monotonic() < by


def test_a_server_whose_answer_takes_long_is_waited_for_with_a_word(
    flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracekit.cli.doctor._LONG_S", 0.1)
    monkeypatch.setattr("tracekit.sources.web._ANSWER_S", 0.6)
    for name, value in flow_sink.env.items():
        monkeypatch.setenv(name, value)
    is_over = threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
                while not is_over.wait(0.05):
                    self.wfile.write(b"x")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            code = cli.main(["doctor", "--server", url])
        finally:
            is_over.set()
            server.shutdown()
            thread.join()

    out, err = capsys.readouterr()
    assert code == 0
    assert f"{url} did not answer within" in out
    assert err.splitlines() == [f"tracekit doctor: waiting for {url}, half a minute at most"] * 2


def test_a_clock_that_is_apart_from_the_endpoint_s_is_a_warning(doctor: Doctor) -> None:
    class Ahead(BaseHTTPRequestHandler):
        """A receiver that takes everything, and whose clock is an hour ahead."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() + 3600)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Ahead) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            found = doctor(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()

    ((state, text, cure),) = found.about["clock"]
    assert (found.code, state) == (0, "warning")
    assert re.fullmatch(r"that of the endpoint is 3[56]\d\d s ahead", text)
    assert cure == "synchronise the two (NTP, chrony): waits are as good as clocks"
