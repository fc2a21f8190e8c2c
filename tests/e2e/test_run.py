"""`tracekit run`: the program as it always was, traced; and what it says where it cannot be."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import time
import venv
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e.programs import PATIENCE_S, PLAIN, TRACEKIT_RUN, environment, listening, running, uvicorn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracekit.testing import FlowSink


NOWHERE = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


def run(*arguments: str, said: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """`tracekit run` with these arguments, until the program's end; nothing is exported by itself."""
    exported = {} if "OTEL_EXPORTER_OTLP_ENDPOINT" in variables else NOWHERE
    return subprocess.run(
        [*TRACEKIT_RUN, *arguments],
        input=said,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=PLAIN,
        env=environment(**exported) | variables,
    )


def python(program: str) -> tuple[str, ...]:
    return "--", "python", "-c", program


NO_SUCH_SETTING = (
    "TRACEKIT_PARENTS='link': there is no such setting; there are TRACEKIT_PARENT, TRACEKIT_KAFKA, "
    "TRACEKIT_RECEIVE_SPANS, TRACEKIT_WAIT_SPANS, TRACEKIT_UNTRUSTED, TRACEKIT_QUIET"
)
STARTED = "open('started', 'w')"


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        ((), {}, "no program given. Try: tracekit run -- python worker.py"),
        (("--", "no-such-program"), {}, "there is no program 'no-such-program' here. Is it installed?"),
        (
            ("--", "worker.py"),
            {},
            "there is no program 'worker.py' here. Try: tracekit run -- python worker.py",
        ),
        (
            python(STARTED),
            {"OTEL_TRACES_SAMPLER": "sometimes"},
            (
                "OTEL_TRACES_SAMPLER='sometimes': must be one of always_off, always_on, "
                "parentbased_always_off, parentbased_always_on, parentbased_traceidratio, traceidratio"
            ),
        ),
        (
            ("--endpoint", "collector:4318", *python(STARTED)),
            {},
            "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318': must be a URL; e.g. http://localhost:4318",
        ),
        (python(STARTED), {"TRACEKIT_PARENTS": "link"}, NO_SUCH_SETTING),
    ],
    ids=["no program", "not found", "a script", "wrong variable", "wrong argument", "no such variable"],
)
def test_what_is_wrong_is_said_with_its_cure_before_the_program_starts(
    arguments: tuple[str, ...], variables: dict[str, str], says: str
) -> None:
    done = run(*arguments, **variables)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"tracekit run: {says}\n")
    assert not (PLAIN / "started").exists()


def test_an_empty_name_is_refused_as_none_could_be_meant() -> None:
    done = run("--service", "", *python(STARTED))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("argument --service: '': must not be empty; leave the option out\n")
    assert not (PLAIN / "started").exists()


def test_exit_code_input_and_output_are_the_program_s_own() -> None:
    done = run(*python("import sys; print(sys.stdin.read().upper(), end=''); sys.exit(7)"), said="an order\n")

    assert (done.returncode, done.stdout, done.stderr) == (7, "AN ORDER\n", "")


def test_a_program_that_imports_something_traced_says_one_line() -> None:
    done = run("--service", "shop", *python("import requests, httpx; print('done')"))

    assert (done.returncode, done.stdout) == (0, "done\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("tracekit: shop -> nowhere (OTEL_*_EXPORTER=none) | fastapi, httpx, httpx2, ")


@pytest.mark.parametrize(
    "first",
    [
        "from opentelemetry import trace",
        "import opentelemetry.sdk.trace",  # it imports the API: nobody may import it in the midst of that
        "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter",
        "from opentelemetry.instrumentation.requests import RequestsInstrumentor",
        "import opentelemetry; assert opentelemetry.__file__ is None",  # a namespace, as ever
        "import fastapi.telemetry",  # it imports OpenTelemetry's API
    ],
)
def test_a_program_with_spans_of_its_own_is_traced_whatever_it_imports_first(
    first: str, flow_sink: FlowSink
) -> None:
    program = (
        f"{first}\n"
        "from opentelemetry import trace\n"
        "trace.get_tracer('program').start_span('theirs').end()\n"
        "print(tracekit.Handle.dropped())"
    )

    done = run("--service", "shop", *python(f"import tracekit\n{program}"), **flow_sink.env)

    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stderr
    assert re.fullmatch(r"tracekit: shop .* on \| pid \d+\n", done.stderr), done.stderr
    assert [(span.name, span.service.name) for span in flow_sink.spans] == [("theirs", "shop")]


def test_a_program_in_an_archive_may_look_for_its_libraries_first(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("structlog.py", "print('imported')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'app.zip')!r})\n"
        "from importlib.util import find_spec; find_spec('structlog'); find_spec('structlog')\n"
        "import structlog"
    )

    done = run(*python(program), OTEL_SDK_DISABLED="true")

    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_a_program_that_imports_nothing_traced_is_not_touched() -> None:
    program = (
        "import logging, sys, threading; logging.warning('a line')\n"
        "print('opentelemetry' in sys.modules, threading.active_count())"
    )

    done = run(*python(program))

    assert (done.returncode, done.stdout, done.stderr) == (0, "False 1\n", "WARNING:root:a line\n")


def test_quiet_says_nothing() -> None:
    done = run("--quiet", *python("import requests; print('done')"))

    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@contextmanager
def started(program: str) -> Iterator[subprocess.Popen[str]]:
    """The program, ready: it has said so in its first line."""
    with subprocess.Popen(
        [*TRACEKIT_RUN, "--quiet", *python(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{process.pid}\n"  # the program took the command's place
            yield process
        finally:
            process.kill()


WAITS = "import os, requests, signal, sys\nprint(os.getpid(), flush=True)\n"


def test_a_program_with_a_provider_of_its_own_keeps_its_exporter() -> None:
    done = run(
        *python(
            "import requests\n"
            "from opentelemetry import trace\n"
            "from opentelemetry.sdk.trace import TracerProvider\n"
            "from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor\n"
            "own = TracerProvider()\n"
            "own.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))\n"
            "trace.set_tracer_provider(own)\n"
            "trace.get_tracer('program').start_span('theirs').end()\n"
        )
    )

    assert done.returncode == 0
    assert '"name": "theirs"' in done.stdout
    assert '"tracekit.flow.id"' in done.stdout
    assert "| traces: joined the application's provider |" in done.stderr.splitlines()[-1]


def test_ctrl_c_is_the_program_s_to_catch() -> None:
    program = (
        "import os, requests, signal, sys\n"
        "try:\n    print(os.getpid(), flush=True)\n    signal.pause()\n"
        "except KeyboardInterrupt:\n    print('caught'); sys.exit(5)"
    )
    with started(program) as process:
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, said, errors) == (5, "caught\n", "")


def test_sigterm_ends_a_program_that_does_not_mind_it_as_ever() -> None:
    with started(f"{WAITS}signal.pause()") as process:
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, said, errors) == (-signal.SIGTERM, "", "")


def test_the_user_s_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['THEIRS'] = 'ran'\n")

    done = run(
        *python("import os, requests, sitecustomize; print(os.environ['THEIRS'], sitecustomize.__file__)"),
        PYTHONPATH=str(tmp_path),
    )

    assert done.stdout == f"ran {tmp_path / 'sitecustomize.py'}\n"
    assert done.stderr.startswith("tracekit: ")


def test_a_python_without_tracekit_runs_untraced_and_says_why(tmp_path: Path) -> None:
    venv.create(tmp_path)
    other = tmp_path / "bin" / "python"

    done = run("--", str(other), "-c", "print('done')")

    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr == (
        f"tracekit: not tracing: No module named 'tracekit' (is tracekit installed for {other}?)\n"
    )


def told_to_end(variables: dict[str, str]) -> tuple[int, float]:
    """A server that SIGTERM ends after one request: its exit code, and how many seconds it took."""
    with listening() as (bound, url):
        command = [*TRACEKIT_RUN, "--", *uvicorn("stock:app", bound)]
        with running(command, {**variables, "OTEL_SERVICE_NAME": "stock"}, listening=bound) as program:
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
            connection.request("POST", "/reserve/1")
            assert connection.getresponse().read() == b'{"reserved":"1"}'
            connection.close()
            program.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            return program.process.wait(PATIENCE_S), time.monotonic() - began


def test_a_server_that_is_told_to_end_sends_what_it_has(flow_sink: FlowSink) -> None:
    late = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}

    code, _ = told_to_end({**flow_sink.env, **late})

    assert code == -signal.SIGTERM
    assert [span.name for span in flow_sink.spans] == ["POST /reserve/{number}"]
    assert "http.server.request.duration" in flow_sink.metrics


def test_a_server_whose_collector_is_away_ends_at_once() -> None:
    code, took_s = told_to_end({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})

    assert code == -signal.SIGTERM
    assert took_s < 1.5


def test_every_worker_is_traced_and_their_supervisor_stays_silent(flow_sink: FlowSink) -> None:
    variables = {**flow_sink.env, "OTEL_SERVICE_NAME": "stock"}
    with listening() as (bound, url):
        command = [*TRACEKIT_RUN, "--", *uvicorn("stock:app", bound, "--workers", "2")]
        with running(command, variables, listening=bound) as program:
            address = url.removeprefix("http://")

            def workers() -> set[object]:
                return {span.service.instance for span in flow_sink.spans}

            def asked() -> bool:
                # A new connection goes to whichever worker takes it.
                connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
                connection.request("POST", "/reserve/1")
                assert connection.getresponse().read() == b'{"reserved":"1"}'
                connection.close()
                return len(workers()) == 2

            flow_sink.wait_for(asked, timeout_s=PATIENCE_S, quiet_s=0, says="spans of two workers")
            code = program.end()
            said = program.stderr

    lines = [line for line in said.splitlines() if line.startswith("tracekit")]
    assert len(set(lines)) == len(lines) == 2, said
    assert all(line.startswith(f"tracekit: stock -> {flow_sink.http_endpoint} ok | ") for line in lines)
    assert {(span.name, span.parent_id) for span in flow_sink.spans} == {("POST /reserve/{number}", None)}
    assert code in (0, -signal.SIGINT, 130), said
