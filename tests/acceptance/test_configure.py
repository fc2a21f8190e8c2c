"""configure(): its start-up line, its settings, its handle, and whose providers they are."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
from opentelemetry import _logs, metrics, propagate, trace
from opentelemetry import context as otel
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    InMemoryLogRecordExporter,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.util._once import Once

import tracekit
from tests.acceptance.http_rig import ask, serving
from tracekit import _configure
from tracekit.testing.environment import only
from tracekit.tracing.providers import Providers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tracekit.testing import FlowSink

NOT_HERE: Final = ("httpx2", "aiohttp", "grpc", "strawberry", "gql", "uplink", "descanso", "websockets")
NOWHERE: Final = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}
PATIENCE_S: Final = 10


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """No setting of the machine's counts here, and nothing is exported unless a test says so."""
    with only(NOWHERE):
        yield


@pytest.fixture(autouse=True)
def _few_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that is installed here, a service has a part: the line names what it finds."""
    found = entry_points(group="tracekit.transports").select(name="kafka_python")
    theirs, is_installed = entry_points, _configure.is_installed
    monkeypatch.setattr(
        _configure,
        "entry_points",
        lambda **selection: found if selection == {"group": "tracekit.transports"} else theirs(**selection),
    )
    monkeypatch.setattr(
        _configure, "is_installed", lambda module: module not in NOT_HERE and is_installed(module)
    )


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    yield
    with only({"OTEL_SDK_DISABLED": "true"}):
        tracekit.configure(quiet=True).undo()  # takes the place of what a test that failed left


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: nobody has set a provider."""
    for module, name in (
        ("opentelemetry.trace", "TRACER"),
        ("opentelemetry.metrics._internal", "METER"),
        ("opentelemetry._logs._internal", "LOGGER"),
    ):
        monkeypatch.setattr(f"{module}._{name}_PROVIDER", None)
        monkeypatch.setattr(f"{module}._{name}_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(
        "opentelemetry.metrics._internal._PROXY_METER_PROVIDER", metrics._internal._ProxyMeterProvider()
    )


def span(name: str) -> None:
    trace.get_tracer("program").start_span(name).end()


def names(sink: FlowSink) -> list[str]:
    return [each.name for each in sink.spans]


@contextmanager
def collector(
    status: int, release: threading.Event | None = None
) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """An OTLP endpoint that answers so, once `release` is set: its URL, and paths and keys that came."""
    found: list[tuple[str, Any]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            found.append((self.path, self.headers["authorization"]))
            if release is not None:
                release.wait(3 * PATIENCE_S)
            with suppress(OSError):  # who asked may have gone
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", found
        finally:
            server.shutdown()
            thread.join(PATIENCE_S)


# -- the start-up line ------------------------------------------------------------------------------


def test_the_line_says_what_is_on_and_where_telemetry_goes(
    flow_sink: FlowSink, capsys: pytest.CaptureFixture[str]
) -> None:
    with only(flow_sink.env), tracekit.configure("orders") as handle:
        said = capsys.readouterr()

    line = (
        f"tracekit: orders -> {flow_sink.http_endpoint} ok | "
        f"fastapi, httpx, requests, kafka, structlog, logging on | pid {os.getpid()}"
    )
    assert (handle.report, said.out, said.err) == (line, "", f"{line}\n")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (NOWHERE, "nowhere (OTEL_*_EXPORTER=none)"),
        ({**NOWHERE, "OTEL_TRACES_EXPORTER": "console"}, "console"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            "http://127.0.0.1:9 (nobody listens there yet)",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@127.0.0.1:9/otlp?key=secret"},
            "http://127.0.0.1:9 (nobody listens there yet)",
        ),
    ],
)
def test_the_line_says_where_it_cannot_go(variables: Mapping[str, str], says: str) -> None:
    with only(variables), tracekit.configure("orders", quiet=True) as handle:
        assert handle.report.startswith(f"tracekit: orders -> {says} | ")
        # What is unsent stays unsent: nobody listens.
        with only(NOWHERE):
            tracekit.configure(quiet=True)


def test_what_is_there_but_cannot_be_traced_is_named_with_the_line_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.httpx", None)

    with tracekit.configure("orders", quiet=True) as handle:
        assert "| fastapi, requests, kafka, structlog, logging on |" in f"{handle.report} |"
        assert (
            "| httpx found but not traced: pip install opentelemetry-instrumentation-httpx |" in handle.report
        )


def test_a_library_that_only_the_exporter_brings_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str, *requires: str) -> Path:
        """A package's metadata, as pip writes it."""
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {each}" for each in requires)]
        (folder / "METADATA").write_text("\n".join(lines))
        return folder

    def is_named(library: str) -> bool:
        """Whether the start-up line would name it where only these are installed."""
        with monkeypatch.context() as there:
            there.setattr(sys, "path", [str(tmp_path)])
            return _configure.is_used(library)

    mark = installed("requests") / "REQUESTED"
    installed("httpx")
    installed("opentelemetry-exporter-otlp-proto-http", "requests~=2.7")
    installed("sdk-of-a-bank", "requests-toolbelt", 'requests>=2; extra == "sync"')
    (tmp_path / "broken-1.0.dist-info").mkdir()
    assert (is_named("httpx"), is_named("requests")) == (True, False)

    mark.touch()  # somebody asked pip for it
    assert is_named("requests")

    mark.unlink()
    installed("sdk-of-a-shop", "requests>=2")
    assert is_named("requests")


def test_a_second_configuration_says_that_it_takes_the_place_of_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tracekit.configure("first")
    tracekit.configure("second").undo()
    tracekit.configure("third").undo()

    said = capsys.readouterr().err.splitlines()
    assert ["| takes the place of the configuration before |" in line for line in said] == [
        False,
        True,
        False,
    ]


@pytest.mark.shield
def test_a_second_configuration_does_not_wait_for_what_nobody_listens_to() -> None:
    with only({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}):
        first = tracekit.configure("first", quiet=True)
    logging.getLogger("program").warning("a line")
    span("work")

    began = time.monotonic()
    with tracekit.configure("second", quiet=True):
        took_s = time.monotonic() - began

    assert took_s < 4  # it would be five, and takes a fifth of one
    assert not first.is_active
    assert first.dropped()["late"] >= 2  # the span and the line


def test_an_instrumentation_that_is_disabled_in_vain_is_named() -> None:
    variables = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastpai,kafka,tracekit,logging"}

    with only({**NOWHERE, **variables}), tracekit.configure("orders", quiet=True) as handle:
        parts = handle.report.split(" | ")

    assert parts[1:-1] == [
        "fastapi, httpx, requests, structlog on",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS: there is no fastpai here",
    ]


def test_all_instrumentations_can_be_disabled_as_opentelemetry_has_it() -> None:
    with (
        only({**NOWHERE, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}),
        tracekit.configure("orders", quiet=True) as handle,
    ):
        assert handle.report.split(" | ")[1:-1] == ["nothing to instrument found"]


def test_a_collector_in_kubernetes_may_be_called_tracekit() -> None:
    variables = {
        "TRACEKIT_PORT": "tcp://10.0.0.1:4318",
        "TRACEKIT_PORT_4318_TCP_ADDR": "10.0.0.1",
        "TRACEKIT_SERVICE_HOST": "10.0.0.1",
        "TRACEKIT_COLLECTOR_SERVICE_PORT_OTLP": "4318",
    }
    with only({**NOWHERE, **variables}), tracekit.configure("orders", quiet=True) as handle:
        assert handle.is_active


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with tracekit.configure("orders", quiet=True):
        pass
    with only({**NOWHERE, "TRACEKIT_QUIET": "true"}), tracekit.configure("orders"):
        pass

    assert capsys.readouterr() == ("", "")


# -- wrong settings ---------------------------------------------------------------------------------


def in_force() -> list[object]:
    """What a configuration changes, as it is now; the process's providers, which stay, are there."""
    Providers()
    import fastapi
    import httpx
    import kafka
    import starlette.background

    owners: list[tuple[Any, str]] = [
        (fastapi.applications.FastAPI, "__call__"),
        (starlette.background.BackgroundTask, "__init__"),
        (starlette.background.BackgroundTask, "__call__"),
        (httpx.HTTPTransport, "handle_request"),
        (httpx.AsyncHTTPTransport, "handle_async_request"),
        (requests.Session, "send"),
        (kafka.KafkaProducer, "send"),
        (kafka.KafkaConsumer, "__iter__"),
        (kafka.KafkaConsumer, "__next__"),
        (kafka.KafkaConsumer, "poll"),
        (kafka.KafkaConsumer, "commit"),
        (logging.Logger, "handle"),
        (logging.Logger, "callHandlers"),
    ]
    return [
        *(vars(owner).get(name) for owner, name in owners),
        propagate.get_global_textmap(),
        otel.get_current(),
        getattr(trace.get_tracer_provider(), "target", None).__class__,
        getattr(metrics.get_meter_provider(), "target", None).__class__,
        getattr(_logs.get_logger_provider(), "target", None).__class__,
        sorted(each.name for each in threading.enumerate() if each.name.startswith(("Otel", "tracekit"))),
    ]


LOCAL: Final = "http://localhost:4318"
OURS: Final = (
    "TRACEKIT_PARENT, TRACEKIT_KAFKA, TRACEKIT_RECEIVE_SPANS, TRACEKIT_WAIT_SPANS, TRACEKIT_UNTRUSTED, "
    "TRACEKIT_QUIET"
)
WRONG: Final[list[tuple[dict[str, Any], dict[str, str], str]]] = [
    ({"service": ""}, {}, "service='': must be a name; e.g. orders"),
    ({"service": 7}, {}, "service=7: must be a name; e.g. orders"),
    ({"parent": "nobody"}, {}, "parent='nobody': must be one of auto, message, link"),
    ({"kafka": "neither"}, {}, "kafka='neither': must be one of tracekit, contrib"),
    ({"endpoint": "collector:4318"}, {}, f"endpoint='collector:4318': must be a URL; e.g. {LOCAL}"),
    ({"endpoint": ""}, {}, f"endpoint='': must be a URL; e.g. {LOCAL}"),
    ({"quiet": "no"}, {}, "quiet='no': must be True or False"),
    ({"receive_spans": 1}, {}, "receive_spans=1: must be True or False"),
    ({"trust": "none"}, {}, "trust='none': must be a mapping; e.g. {'/webhooks/*': 'none'}"),
    *(
        ({"trust": {"/x": level}}, {}, f"trust={{'/x': {level!r}}}: must be 'none' or 'internal'; e.g. ")
        for level in ("some", None, 7)
    ),
    *(
        ({"trust": {place: "none"}}, {}, f"trust={{{place!r}: 'none'}}: must be of a path (* only for all ")
        for place in ("http://x/", "api.example:443", "a b", "/web*hooks", "/web*", "", 7)
    ),
    (
        {},
        {"TRACEKIT_UNTRUSTED": "/webhooks/*, foo bar"},
        (
            "TRACEKIT_UNTRUSTED='foo bar': must be a path (* only for all that is below), "
            "or a host's name without scheme, port and path; e.g. /webhooks/*,api.partner.example"
        ),
    ),
    (
        {},
        {"TRACEKIT_PARENTS": "link"},
        f"TRACEKIT_PARENTS='link': there is no such setting; there are {OURS}",
    ),
    ({}, {"TRACEKIT_PARENT": "nobody"}, "TRACEKIT_PARENT='nobody': must be one of auto, message, link"),
    ({}, {"TRACEKIT_KAFKA": "neither"}, "TRACEKIT_KAFKA='neither': must be one of tracekit, contrib"),
    ({}, {"TRACEKIT_QUIET": "perhaps"}, "TRACEKIT_QUIET='perhaps': must be true or false"),
    ({}, {"TRACEKIT_RECEIVE_SPANS": "2"}, "TRACEKIT_RECEIVE_SPANS='2': must be true or false"),
    ({}, {"TRACEKIT_WAIT_SPANS": "2"}, "TRACEKIT_WAIT_SPANS='2': must be true or false"),
    ({}, {"OTEL_SDK_DISABLED": "perhaps"}, "OTEL_SDK_DISABLED='perhaps': must be true or false"),
    (
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"},
        f"OTEL_EXPORTER_OTLP_ENDPOINT='collector': must be a URL; e.g. {LOCAL}",
    ),
    (
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": LOCAL, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "ftp://collector"},
        f"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT='ftp://collector': must be a URL; e.g. {LOCAL}",
    ),
    *(
        ({}, {name: "http/json"}, f"{name}='http/json': must be one of http/protobuf, grpc")
        for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL")
    ),
    *(
        (
            {},
            {name: f"tenant=7,{wrong}"},
            f"{name}='[redacted]': must be name=value pairs, URL-encoded; e.g. authorization=Bearer%20abc",
        )
        for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
        for wrong in ("Bearer abc", "authorization: abc", "=abc", "key=a;b", "key=\u20ac")
    ),
    (
        {},
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"},
        "OTEL_EXPORTER_OTLP_COMPRESSION='zip': must be one of none, gzip, deflate, over http/protobuf",
    ),
    (
        {},
        {"OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "deflate", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"},
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION='deflate': must be one of gzip, over grpc",
    ),
    (
        {},
        {"OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "5s"},
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT='5s': must be seconds; e.g. 10 or 0.5",
    ),
    (
        {},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        "OTEL_TRACES_EXPORTER='zipkin': must be one of otlp, none, console",
    ),
    ({}, {"OTEL_LOGS_EXPORTER": "file"}, "OTEL_LOGS_EXPORTER='file': must be one of otlp, none, console"),
    (
        {},
        {"OTEL_PROPAGATORS": "b3"},
        "OTEL_PROPAGATORS='b3': must be some of baggage, tracecontext, tracekit, xray, xray-lambda, or none",
    ),
    (
        {},
        {"OTEL_TRACES_SAMPLER": "sometimes"},
        "OTEL_TRACES_SAMPLER='sometimes': must be one of always_off, ",
    ),
    (
        {},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"},
        "OTEL_TRACES_SAMPLER_ARG='10%': must be a ratio from 0 to 1; e.g. 0.1",
    ),
    (
        {},
        {"OTEL_BSP_SCHEDULE_DELAY": "1s"},
        "OTEL_BSP_SCHEDULE_DELAY='1s': must be a whole number, 0 or more (times in milliseconds); e.g. 5000",
    ),
    (
        {},
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "200", "OTEL_BSP_MAX_QUEUE_SIZE": "100"},
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE='200': must be at most OTEL_BSP_MAX_QUEUE_SIZE, which is 100",
    ),
    (
        {},
        {"OTEL_BLRP_MAX_QUEUE_SIZE": "100"},
        "OTEL_BLRP_MAX_QUEUE_SIZE='100': must be at least OTEL_BLRP_MAX_EXPORT_BATCH_SIZE, which is 512",
    ),
    ({}, {"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_MAX_QUEUE_SIZE='0': must be 1 or more"),
    ({}, {"OTEL_METRIC_EXPORT_INTERVAL": "0"}, "OTEL_METRIC_EXPORT_INTERVAL='0': must be 1 or more"),
    (
        {},
        {"OTEL_RESOURCE_ATTRIBUTES": "version"},
        (
            "OTEL_RESOURCE_ATTRIBUTES='version': "
            "must be name=value pairs; e.g. service.version=1.2,deployment.environment.name=test"
        ),
    ),
]


@pytest.mark.parametrize(
    ("arguments", "variables", "says"), WRONG, ids=[" ".join([*a, *e]) for a, e, _ in WRONG]
)
def test_a_wrong_setting_fails_with_its_value_and_the_cure_and_changes_nothing(
    arguments: dict[str, Any], variables: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = in_force()

    with only({**NOWHERE, **variables}), pytest.raises(tracekit.SettingError) as raised:
        tracekit.configure(**{"service": "orders", **arguments})

    assert says in str(raised.value)
    assert in_force() == before
    assert capsys.readouterr() == ("", "")


def test_a_wrong_setting_leaves_the_configuration_in_force_that_there_was(flow_sink: FlowSink) -> None:
    with only(flow_sink.env), tracekit.configure("orders", quiet=True) as handle:
        with pytest.raises(ValueError, match="parent"):
            tracekit.configure("orders", parent="nobody")  # type: ignore[arg-type]  # that is the test

        span("after")
        assert (handle.is_active, handle.flush()) == (True, True)

    assert names(flow_sink) == ["after"]


def test_wrong_propagators_are_named_before_opentelemetry_refuses_them() -> None:
    variables = {"PATH": os.environ["PATH"], "OTEL_PROPAGATORS": "b4"}
    done = subprocess.run(
        [sys.executable, "-c", "import tracekit; tracekit.configure()"],
        env=variables,
        capture_output=True,
        text=True,
    )

    assert done.stderr.splitlines()[-1] == (
        "tracekit.SettingError: OTEL_PROPAGATORS='b4': "
        "must be some of baggage, tracecontext, tracekit, xray, xray-lambda, or none"
    )


def test_grpc_that_is_not_installed_fails_with_the_line_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracekit._settings.find_spec", lambda _: None)

    with (
        only({**NOWHERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}),
        pytest.raises(tracekit.SettingError) as raised,
    ):
        tracekit.configure("orders", quiet=True)

    assert str(raised.value) == (
        "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': must be installed: "
        "pip install opentelemetry-exporter-otlp-proto-grpc; or use http/protobuf"
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "setting"),
    [({"kafka": "contrib"}, {}, "kafka"), ({}, {"TRACEKIT_KAFKA": "contrib"}, "TRACEKIT_KAFKA")],
)
def test_contrib_s_kafka_that_is_not_installed_fails_with_the_line_that_helps(
    arguments: dict[str, Any],
    variables: dict[str, str],
    setting: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracekit._settings.find_spec", lambda _: None)

    with only({**NOWHERE, **variables}), pytest.raises(ValueError, match="pip install") as raised:
        tracekit.configure("orders", quiet=True, **arguments)

    assert str(raised.value) == (
        f"{setting}='contrib': must be installed: "
        "pip install opentelemetry-instrumentation-kafka-python; or use tracekit"
    )


# -- the standard variables -------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_endpoint_protocol_service_and_resource_come_from_the_variables(
    protocol: str, flow_sink: FlowSink
) -> None:
    variables = {
        **(flow_sink.env if protocol == "http/protobuf" else flow_sink.grpc_env),
        "OTEL_SERVICE_NAME": "billing",
        "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.2,deployment.environment.name=test",
    }

    with only(variables), tracekit.configure(quiet=True) as handle:
        span("work")
        metrics.get_meter("application").create_counter("tracekit.test.orders").add(7)
        logging.getLogger("program").warning("an order")
        assert handle.flush(PATIENCE_S)

    (seen,) = flow_sink.spans
    expected = {"service.name": "billing", "service.version": "1.2", "deployment.environment.name": "test"}
    assert {name: seen.service.attributes.get(name) for name in expected} == expected
    assert [point.value for point in flow_sink.metrics["tracekit.test.orders"]] == [7]
    assert [line.body for line in flow_sink.logs] == ["an order"]


@pytest.mark.parametrize(
    ("argument", "variables", "name"),
    [
        (None, {"OTEL_RESOURCE_ATTRIBUTES": "team=a, service.name=my%20shop"}, "my shop"),
        (None, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop", "OTEL_SERVICE_NAME": "orders"}, "orders"),
        ("own", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop", "OTEL_SERVICE_NAME": "orders"}, "own"),
    ],
)
def test_the_nearest_name_of_the_service_counts(
    argument: str | None, variables: dict[str, str], name: str, flow_sink: FlowSink
) -> None:
    with only({**flow_sink.env, **variables}), tracekit.configure(argument, quiet=True) as handle:
        span("work")
        assert handle.flush(PATIENCE_S)

    assert [each.service.name for each in flow_sink.spans] == [name]
    assert handle.report.startswith(f"tracekit: {name} -> ")


@pytest.mark.parametrize(
    ("variables", "says", "seen"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, ["traces: none"], ([], ["a line"])),
        ({"OTEL_LOGS_EXPORTER": "none"}, ["logs: none"], (["work"], [])),
        (
            {"OTEL_TRACES_EXPORTER": "otlp,console", "OTEL_METRICS_EXPORTER": "none"},
            ["traces: otlp, console", "metrics: none"],
            (["work"], ["a line"]),
        ),
    ],
)
def test_each_signal_goes_where_its_variable_says(
    variables: dict[str, str], says: list[str], seen: tuple[list[str], list[str]], flow_sink: FlowSink
) -> None:
    with only({**flow_sink.env, **variables}), tracekit.configure("orders", quiet=True) as handle:
        span("work")
        logging.getLogger("program").warning("a line")
        assert handle.flush(PATIENCE_S)

    assert handle.report.split(" | ")[2:-1] == says
    assert (names(flow_sink), [line.body for line in flow_sink.logs]) == seen


def test_an_argument_goes_before_its_variable(flow_sink: FlowSink) -> None:
    variables = {
        **flow_sink.env,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_SERVICE_NAME": "variable",
    }

    with (
        only(variables),
        tracekit.configure("argument", endpoint=flow_sink.http_endpoint, quiet=True) as handle,
    ):
        span("work")
        assert handle.flush(PATIENCE_S)

    assert [each.service.name for each in flow_sink.spans] == ["argument"]


def test_headers_come_from_the_variable() -> None:
    with collector(200) as (endpoint, found):
        variables = {
            **NOWHERE,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{endpoint}/otlp",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc",
        }
        with only(variables), tracekit.configure("orders", quiet=True) as handle:
            span("work")
            flushed = handle.flush(PATIENCE_S)

    assert flushed
    assert found == [("/otlp/v1/traces", "Bearer abc")]


@pytest.mark.parametrize(
    ("sampler", "argument", "is_seen"),
    [
        ("always_on", "", True),
        ("always_off", "", False),
        ("traceidratio", "1", True),
        ("traceidratio", "0", False),
        ("parentbased_traceidratio", "0", False),
    ],
)
def test_the_sampler_comes_from_the_variables(
    sampler: str, argument: str, is_seen: bool, flow_sink: FlowSink
) -> None:
    variables = {
        **flow_sink.env,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": argument,
    }

    with only(variables), tracekit.configure("orders", quiet=True) as handle:
        span("work")
        assert handle.flush()

    assert names(flow_sink) == (["work"] if is_seen else [])


@pytest.mark.parametrize(
    ("variable", "fields"),
    [
        ("", {"traceparent", "tracestate", "baggage", "tracekit-flow"}),
        ("tracecontext", {"traceparent", "tracestate", "tracekit-flow"}),
        ("tracekit,baggage", {"baggage", "tracekit-flow"}),
        ("none", set()),
    ],
)
def test_the_propagators_come_from_the_variable(variable: str, fields: set[str]) -> None:
    with only({**NOWHERE, "OTEL_PROPAGATORS": variable}), tracekit.configure("orders", quiet=True):
        assert set(propagate.get_global_textmap().fields) == fields


def test_console_is_an_exporter_for_any_signal() -> None:
    program = (
        "import tracekit, logging; from opentelemetry import trace\n"
        "with tracekit.configure('orders'):\n"
        "    trace.get_tracer('program').start_span('a span').end()\n"
        "    logging.getLogger('program').warning('a line')\n"
    )
    variables = {**os.environ, **NOWHERE, "OTEL_TRACES_EXPORTER": "console", "OTEL_LOGS_EXPORTER": "console"}

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=variables, check=True
    )

    assert '"name": "a span"' in done.stdout
    assert '"body": "a line"' in done.stdout
    assert done.stderr.startswith("tracekit: orders -> console | ")


def test_a_disabled_sdk_changes_nothing() -> None:
    before = in_force()

    with only({"OTEL_SDK_DISABLED": "true"}), tracekit.configure("orders", quiet=True) as handle:
        assert in_force() == before
        assert handle.report == "tracekit: off (OTEL_SDK_DISABLED)"
        assert handle.flush()
        with tracekit.process("no message"), tracekit.extract({"traceparent": "nonsense"}):
            assert tracekit.inject({"a": "b"}) == {"a": "b"}


def test_a_disabled_instrumentation_is_left_alone() -> None:
    import kafka

    before = vars(kafka.KafkaProducer)["send"], requests.Session.send
    variables = {**NOWHERE, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "kafka, requests"}

    with only(variables), tracekit.configure("orders", quiet=True) as handle:
        assert (vars(kafka.KafkaProducer)["send"], requests.Session.send) == before
        assert "| fastapi, httpx, structlog, logging on" in handle.report


def test_each_signal_goes_by_its_own_protocol(flow_sink: FlowSink) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": flow_sink.http_endpoint,
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": flow_sink.grpc_endpoint,
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
    }
    with only(variables), tracekit.configure("orders", quiet=True) as handle:
        with trace.get_tracer("program").start_as_current_span("work"):
            logging.getLogger("program").warning("by another way")
        assert handle.flush(PATIENCE_S)

    assert [one.name for one in flow_sink.spans] == ["work"]
    assert [line.body for line in flow_sink.logs] == ["by another way"]


# -- the handle -------------------------------------------------------------------------------------


@pytest.fixture
def hung() -> Iterator[str]:
    """An OTLP endpoint that does not answer. At the end it refuses what it holds, and all that comes."""
    release = threading.Event()
    with collector(400, release) as (endpoint, _):
        yield endpoint
        release.set()
        for thread in threading.enumerate():
            if thread.name.startswith(("Otel", "tracekit-flush")):
                thread.join(PATIENCE_S)
    with warnings.catch_warnings():  # what was given up in mid-request leaves its socket to the collector:
        warnings.simplefilter("ignore", ResourceWarning)  # now, and not in some other test
        gc.collect()


@pytest.mark.shield
def test_a_hung_collector_holds_up_neither_flush_nor_undo(hung: str) -> None:
    with only({"OTEL_EXPORTER_OTLP_ENDPOINT": hung}):
        handle = tracekit.configure("orders", quiet=True)
    before = propagate.get_global_textmap()
    began = time.thread_time()
    tracer = trace.get_tracer("program")
    for _ in range(10_000):
        tracer.start_span("work").end()
    worked_s = time.thread_time() - began
    worked = time.monotonic()
    flushed = handle.flush(0.5)
    waited = time.monotonic()
    handle.undo(1)
    ended = time.monotonic()

    # With room for a machine that has other work: the exporter hangs for ten seconds, and tries again.
    assert worked_s < 2
    assert (flushed, waited - worked <= 1.5) == (False, True)
    assert ended - waited <= 2.5
    assert propagate.get_global_textmap() is not before
    assert handle.dropped()["late"] == 1


@pytest.mark.shield
def test_what_is_still_open_when_tracing_is_undone_is_counted_as_it_ends() -> None:
    with only(NOWHERE):
        handle = tracekit.configure("orders", quiet=True)
    tracer = trace.get_tracer("program")
    open_spans = [tracer.start_span("work") for _ in range(3)]
    handle.undo()
    before = handle.dropped().get("late", 0)
    for one in open_spans:
        one.end()
    tracer.start_span("afterwards").end()

    assert (before, handle.dropped()["late"]) == (0, 3)


@pytest.mark.shield
def test_an_export_that_fails_makes_flush_say_so_and_is_counted() -> None:
    with collector(400) as (endpoint, _):
        variables = {**NOWHERE, "OTEL_TRACES_EXPORTER": "otlp"}
        with only(variables), tracekit.configure("orders", endpoint=endpoint, quiet=True) as handle:
            span("one")
            span("two")
            flushed = handle.flush(PATIENCE_S)

    assert (flushed, handle.dropped()["export"]) == (False, 2)


def test_undo_gives_back_the_very_same_functions_context_and_propagator() -> None:
    before = in_force()

    handle = tracekit.configure("orders", quiet=True)
    assert all(now is not then for now, then in zip(in_force()[:14], before[:14], strict=True))
    handle.undo()
    handle.undo()

    assert (handle.is_active, in_force()) == (False, before)
    assert all(now is then for now, then in zip(in_force()[:14], before[:14], strict=True))


def test_it_can_be_done_again_for_what_was_cached_before_and_between(
    fresh: None, flow_sink: FlowSink
) -> None:
    tracer, counter, logger = _instruments("before")

    def work(name: str) -> None:
        tracer.start_span(f"{name} before").end()
        counter.add(1, {"tracekit.in": name})
        logger.emit(_logs.LogRecord(body=f"{name} before"))

    with only({**flow_sink.env, "OTEL_METRIC_EXPORT_INTERVAL": "60000"}):
        work("unconfigured")
        with tracekit.configure("first", quiet=True):
            work("first")
            late = _instruments("between")
        work("undone")
        late[0].start_span("undone between").end()
        with tracekit.configure("second", quiet=True):
            work("second")
            late[0].start_span("second between").end()
            late[1].add(1, {"tracekit.in": "second"})
            late[2].emit(_logs.LogRecord(body="second between"))

    assert [(each.service.name, each.name) for each in flow_sink.spans] == [
        ("first", "first before"),
        ("second", "second before"),
        ("second", "second between"),
    ]
    assert [(line.service.name, line.body) for line in flow_sink.logs] == [
        ("first", "first before"),
        ("second", "second before"),
        ("second", "second between"),
    ]
    counts = {
        (name, point.service, point.attributes["tracekit.in"], point.value)
        for name in ("before", "between")
        for point in flow_sink.metrics[f"tracekit.test.{name}"]
    }
    assert counts == {
        ("before", "first", "first", 1),
        ("before", "second", "second", 1),
        ("between", "second", "second", 1),
    }


def _instruments(name: str) -> tuple[trace.Tracer, metrics.Counter, _logs.Logger]:
    return (
        trace.get_tracer("program"),
        metrics.get_meter("application").create_counter(f"tracekit.test.{name}"),
        _logs.get_logger("program"),
    )


def test_what_was_undone_leaves_no_instrument_behind() -> None:
    def instruments() -> int:
        gc.collect()
        return sum(isinstance(each, metrics.ObservableCounter) for each in gc.get_objects())

    tracekit.configure("orders", quiet=True).undo()
    before = instruments()
    for _ in range(5):
        tracekit.configure("orders", quiet=True).undo()

    assert instruments() == before


def test_a_second_configuration_takes_the_place_of_the_first(flow_sink: FlowSink) -> None:
    before = in_force()
    with only(flow_sink.env):
        first = tracekit.configure("first", quiet=True)
        span("one")
        second = tracekit.configure("second", quiet=True)
        span("two")
        first.undo()  # is undone already
        span("three")
        second.undo()

    assert (first.is_active, second.is_active) == (False, False)
    assert [(each.service.name, each.name) for each in flow_sink.spans] == [
        ("first", "one"),
        ("second", "two"),
        ("second", "three"),
    ]
    assert in_force() == before


# -- providers of the application's -----------------------------------------------------------------


def test_the_application_s_tracer_provider_is_joined_and_left(fresh: None, flow_sink: FlowSink) -> None:
    own = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(own))
    trace.set_tracer_provider(provider)

    with only(flow_sink.env), tracekit.configure("orders", quiet=True) as handle:
        assert trace.get_tracer_provider() is provider
        assert "| traces: joined the application's provider |" in handle.report
        span("inside")
        assert handle.flush()
    span("after")

    seen = [(each.name, (each.attributes or {}).get("tracekit.flow.id")) for each in own.get_finished_spans()]
    assert seen == [("inside", flow_sink.spans[0].trace_id), ("after", None)]
    assert names(flow_sink) == ["inside"]
    provider.shutdown()


def test_the_application_s_meter_provider_is_joined_and_left(fresh: None, flow_sink: FlowSink) -> None:
    own = InMemoryMetricReader()
    provider = MeterProvider([own])
    metrics.set_meter_provider(provider)
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="jobs")

    with only(flow_sink.env), tracekit.configure("orders", quiet=True) as handle:
        assert metrics.get_meter_provider() is provider
        assert "| metrics: joined the application's provider |" in handle.report
        jobs.put("one")
        with jobs.item():
            pass
        assert handle.flush()
    found = {
        metric.name: (
            metric.unit,
            metric.data.data_points[0].count,
            metric.data.data_points[0].explicit_bounds[0],
        )
        for metric in _metrics_of(own)
        if metric.name.endswith(".duration")
    }
    assert found["messaging.process.duration"] == ("s", 1, 0.005)
    assert found["tracekit.messaging.queue.duration"] == ("s", 1, 0.005)
    assert flow_sink.metrics["messaging.process.duration"][0].count == 1
    provider.shutdown()


def _metrics_of(reader: InMemoryMetricReader) -> list[Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return [
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def test_the_application_s_logger_provider_is_joined_and_left(fresh: None, flow_sink: FlowSink) -> None:
    own = _log_exporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(own))
    _logs.set_logger_provider(provider)

    with only(flow_sink.env), tracekit.configure("orders", quiet=True) as handle:
        assert _logs.get_logger_provider() is provider
        assert "| logs: joined the application's provider |" in handle.report
        logging.getLogger("program").warning("inside")
        assert handle.flush()
    logging.getLogger("program").warning("after")
    _logs.get_logger("program").emit(_logs.LogRecord(body="by hand"))

    assert [each.log_record.body for each in own.get_finished_logs()] == ["inside", "by hand"]
    assert [line.body for line in flow_sink.logs] == ["inside"]
    provider.shutdown()


def test_what_the_application_exports_to_the_same_place_is_not_exported_twice(
    fresh: None, flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[str] = []
    add_spans, add_logs = flow_sink.store.add_spans, flow_sink.store.add_logs

    def counting(spans: Any) -> None:
        received.extend(each.name for each in spans)
        add_spans(spans)

    def counting_lines(lines: Any) -> None:
        received.extend(each.body for each in lines)
        add_logs(lines)

    monkeypatch.setattr(flow_sink.store, "add_spans", counting)
    monkeypatch.setattr(flow_sink.store, "add_logs", counting_lines)
    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{flow_sink.http_endpoint}/v1/traces"))
    )
    loggers.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(endpoint=f"{flow_sink.http_endpoint}/v1/logs"))
    )
    trace.set_tracer_provider(tracers)
    _logs.set_logger_provider(loggers)

    with only(flow_sink.env), tracekit.configure("orders", quiet=True) as handle:
        span("work")
        logging.getLogger("program").warning("a line")
        assert handle.flush()
    tracers.shutdown()
    loggers.shutdown()

    assert received == ["work", "a line"]
    assert "tracekit.flow.id" in flow_sink.spans[0].attributes


def test_providers_that_the_application_sets_afterwards_are_joined_too(
    fresh: None, flow_sink: FlowSink, capsys: pytest.CaptureFixture[str]
) -> None:
    own, own_logs, own_metrics = InMemorySpanExporter(), _log_exporter(), InMemoryMetricReader()
    tracers, loggers, meters = TracerProvider(), LoggerProvider(), MeterProvider([own_metrics])
    tracers.add_span_processor(SimpleSpanProcessor(own))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(own_logs))
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="jobs")

    with only(flow_sink.env), tracekit.configure("orders") as handle:
        cached = _instruments("cached")
        trace.set_tracer_provider(tracers)
        _logs.set_logger_provider(loggers)
        metrics.set_meter_provider(meters)
        assert trace.get_tracer_provider() is tracers
        assert metrics.get_meter_provider() is meters
        assert _logs.get_logger_provider() is loggers
        cached[0].start_span("work").end()
        cached[1].add(1)
        cached[2].emit(_logs.LogRecord(body="a line"))
        jobs.put("one")
        with jobs.item():
            pass
        assert (handle.is_active, handle.flush()) == (True, True)
        said = capsys.readouterr().err.splitlines()
    span("after")

    assert [each.name for each in own.get_finished_spans()] == ["work", "process jobs", "after"]
    assert names(flow_sink) == ["work", "process jobs"]
    assert [each.log_record.body for each in own_logs.get_finished_logs()] == ["a line"]
    assert {"tracekit.test.cached", "messaging.process.duration"} <= {
        one.name for one in _metrics_of(own_metrics)
    }
    assert [line.partition(" on")[2].rpartition(" | pid ")[0] for line in said] == [
        "",
        " | traces: joined the application's provider",
        " | traces: joined the application's provider | logs: joined the application's provider",
        (
            " | traces: joined the application's provider | metrics: joined the application's provider"
            " | logs: joined the application's provider"
        ),
    ]
    tracers.shutdown()
    loggers.shutdown()
    meters.shutdown()


def _log_exporter() -> InMemoryLogRecordExporter:
    return InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's


def test_a_provider_of_another_kind_makes_its_spans_as_it_likes(fresh: None) -> None:
    class Own(trace.TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
            return trace.NoOpTracer()

    own = Own()
    trace.set_tracer_provider(own)
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="jobs")

    with tracekit.configure("orders", quiet=True) as handle:
        span("work")
        jobs.put("one")
        with jobs.item() as item:
            assert item == "one"
        assert trace.get_tracer_provider() is own

    assert handle.dropped() == {}


# -- what the application brings and what raises ----------------------------------------------------


class Failing(SpanProcessor):
    """A span processor whose methods raise."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.called: list[str] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.called.append("start")
        raise self.error

    def on_end(self, span: Any) -> None:
        self.called.append("end")
        raise self.error


@pytest.mark.shield
def test_case_14_a_span_processor_that_raises_hurts_neither_its_span_nor_the_next(
    flow_sink: FlowSink,
) -> None:
    failing = Failing(RuntimeError("a processor that fails"))

    with only(flow_sink.env), tracekit.configure("orders", quiet=True) as handle:
        trace.get_tracer_provider().add_span_processor(failing)  # type: ignore[attr-defined]  # the SDK's method
        span("one")
        span("two")
        assert handle.flush()
        dropped = handle.dropped()

    assert names(flow_sink) == ["one", "two"]
    assert (failing.called, dropped) == (["start", "end"] * 2, {"internal": 4})


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_case_14_what_belongs_to_the_application_passes_through(kind: type[BaseException]) -> None:
    failing = Failing(kind())

    with tracekit.configure("orders", quiet=True) as handle:
        trace.get_tracer_provider().add_span_processor(failing)  # type: ignore[attr-defined]  # the SDK's method
        with pytest.raises(kind) as raised:
            span("one")

    assert raised.value is failing.error
    assert handle.dropped() == {}


class FailingSampler(Sampler):
    """A sampler that raises, as an entry point of the application's would give it."""

    def __init__(self, _: str) -> None:
        pass

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise RuntimeError("a sampler that fails")

    def get_description(self) -> str:
        return "failing"


@pytest.mark.shield
def test_case_14_where_a_sampler_raises_the_span_is_recorded(
    flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, "opentelemetry_traces_sampler", "failing", f"{__name__}:FailingSampler")

    with (
        only({**flow_sink.env, "OTEL_TRACES_SAMPLER": "failing"}),
        tracekit.configure("orders", quiet=True) as handle,
    ):
        span("one")
        span("two")
        assert handle.flush()
        dropped = handle.dropped()

    assert names(flow_sink) == ["one", "two"]
    assert dropped == {"internal": 2}


class FailingExporter(SpanExporter):
    """An exporter that raises."""

    def export(self, spans: Any) -> SpanExportResult:
        raise RuntimeError("an exporter that fails")

    def shutdown(self) -> None:
        raise RuntimeError("an exporter that fails")

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        raise RuntimeError("an exporter that fails")


@pytest.mark.shield
def test_case_14_an_exporter_that_raises_loses_its_spans_and_is_counted(
    flow_sink: FlowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, "opentelemetry_traces_exporter", "failing", f"{__name__}:FailingExporter")

    variables = {**flow_sink.env, "OTEL_TRACES_EXPORTER": "failing,otlp"}
    with only(variables), tracekit.configure("orders", quiet=True) as handle:
        span("one")
        span("two")
        flushed = handle.flush()

    assert (flushed, handle.dropped()["export"]) == (False, 2)
    assert names(flow_sink) == ["one", "two"]


def _register(monkeypatch: pytest.MonkeyPatch, group: str, name: str, value: str) -> None:
    """One more entry point, as an installed package has it."""
    from importlib.metadata import EntryPoint, EntryPoints

    from tracekit import _exporters, _settings
    from tracekit.tracing import signals

    ours = EntryPoint(name, value, group)

    def found(**selection: str) -> EntryPoints:
        theirs = entry_points(**selection)
        return EntryPoints(
            [*theirs, *([ours] if selection.items() <= {"group": group, "name": name}.items() else [])]
        )

    for module in (_exporters, _settings, signals):
        if hasattr(module, "entry_points"):
            monkeypatch.setattr(module, "entry_points", found)


# -- what of ours raises ----------------------------------------------------------------------------


class FailingSpan(trace.NonRecordingSpan):
    """A span that records, and fails in one method."""

    def __init__(self, context: trace.SpanContext, method: str) -> None:
        super().__init__(context)
        self._method = method

    def is_recording(self) -> bool:
        return True

    def _maybe(self, method: str) -> None:
        if method == self._method:
            raise RuntimeError(f"a tracer that fails in {method}")

    def set_attribute(self, key: str, value: Any) -> None:
        self._maybe("set_attribute")

    def set_attributes(self, attributes: Any) -> None:
        self._maybe("set_attribute")

    def end(self, end_time: int | None = None) -> None:
        self._maybe("end")


class FailingProvider(trace.TracerProvider):
    """A provider of the application's, whose tracers or spans raise."""

    def __init__(self, method: str) -> None:
        self._method = method

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        method = self._method

        class Failing(trace.NoOpTracer):
            def start_span(self, *_: Any, **__: Any) -> trace.Span:
                if method == "start":
                    raise RuntimeError("a tracer that fails in start")
                return FailingSpan(
                    trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)), method
                )

        return Failing()


@pytest.mark.shield
@pytest.mark.parametrize("method", ["start", "set_attribute", "end"])
def test_case_29_whatever_of_a_tracer_raises_the_work_is_done(method: str, fresh: None, topic: Any) -> None:
    trace.set_tracer_provider(FailingProvider(method))
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="jobs")

    @tracekit.traced_generator
    def rows() -> Iterator[int]:
        yield 1
        yield 2

    with tracekit.configure("orders", quiet=True):
        jobs.put("one")
        with jobs.item() as item:
            assert item == "one"
        assert list(rows()) == [1, 2]
        assert topic.send(b"an order").offset == 0
        record = topic.record()
        with tracekit.process(record):
            assert record.value == b"an order"


@pytest.mark.shield
def test_case_29_a_propagator_that_raises_leaves_headers_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a propagator that fails")

    with tracekit.configure("orders", quiet=True) as handle:
        monkeypatch.setattr(propagate.get_global_textmap(), "inject", fail)
        monkeypatch.setattr(propagate.get_global_textmap(), "extract", fail)
        before = otel.get_current()
        assert tracekit.inject({"tenant": "north"}) == {"tenant": "north"}
        with tracekit.extract({"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}):
            assert otel.get_current() == before
        dropped = handle.dropped()

    assert dropped == {"internal": 1, "invalid_context": 1}


# -- libraries that contrib imports first -----------------------------------------------------------


def test_a_library_that_contrib_s_module_imports_is_traced_like_any_other() -> None:
    program = """
import importlib, sys, tracekit
from tracekit import guard
handle = tracekit.configure("orders", quiet=True)
assert not {"httpx", "requests", "fastapi", "kafka"} & set(sys.modules), "nothing is imported yet"
for name in ("httpx", "requests", "fastapi", "kafka"):
    importlib.import_module(f"opentelemetry.instrumentation.{name}")
import fastapi, httpx, kafka, requests
for owner, name in (
    (httpx.HTTPTransport, "handle_request"), (requests.Session, "send"),
    (fastapi.FastAPI, "__call__"), (kafka.KafkaProducer, "send"),
):
    function = vars(owner)[name]
    print(owner.__name__, hasattr(function, "__wrapped__"))
print(dict(handle.dropped()))
"""

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **NOWHERE}
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "HTTPTransport True",
        "Session True",
        "FastAPI True",
        "KafkaProducer True",
        "{}",
    ]


@pytest.mark.shield
def test_however_often_a_hung_collector_is_flushed_to_one_thread_waits() -> None:
    release = threading.Event()
    with collector(400, release) as (endpoint, _), only({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}):
        handle = tracekit.configure("orders", quiet=True)
        span("work")
        flushed = [handle.flush(0.05) for _ in range(5)]
        waiting = [thread for thread in threading.enumerate() if thread.name == "tracekit-flush"]
        release.set()
        handle.undo(PATIENCE_S)

    assert (flushed, len(waiting)) == ([False] * 5, 1)


# -- cases 3 and 29, over HTTP ----------------------------------------------------------------------


def test_an_exporter_that_hangs_does_not_hold_up_a_request(hung: str) -> None:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/orders/{number}")
    def order(number: int) -> int:
        return number

    with only({"OTEL_EXPORTER_OTLP_ENDPOINT": hung}):
        handle = tracekit.configure("orders", quiet=True)
    try:
        with serving(app) as url:
            assert ask(f"{url}/orders/7") == (200, "7")
            assert requests.get(f"{url}/orders/8", timeout=PATIENCE_S).json() == 8
    finally:
        handle.undo(0.1)


NOBODY: Final = (
    "tracekit: nobody listens at http://127.0.0.1:9: telemetry is lost until somebody does "
    "(OTEL_TRACES_EXPORTER=none and the like: be quiet)"
)


def ended(program: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The program, which ended well within 2 s of the moment that it printed as its first word.

    Where it takes longer it is run anew: a busy machine delays some ends, a wait of ours all of them.
    """
    for _ in range(3):
        command = [sys.executable, "-c", program]
        ran = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        at = time.time()
        assert ran.returncode == 0, ran.stderr
        if at - float(ran.stdout.split()[0]) < 2:
            return ran
    raise AssertionError("three times it took more than 2 s to end")


@pytest.mark.shield
@pytest.mark.parametrize(
    ("protocol", "endpoint", "said"),
    [
        ("http/protobuf", "http://somebody:secret@127.0.0.1:9", NOBODY),
        ("grpc", "http://127.0.0.1:9", NOBODY.replace("http://", "")),
    ],
)
def test_where_nobody_listens_the_process_ends_at_once_and_says_so_once(
    protocol: str, endpoint: str, said: str
) -> None:
    variables = {
        "PATH": os.environ["PATH"],
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3",
    }
    program = """
import logging, time, tracekit
from opentelemetry import trace
tracekit.configure("alone", quiet=True)
logging.getLogger("program").addHandler(logging.NullHandler())
until = time.monotonic() + 2
while time.monotonic() < until or tracekit.Handle.dropped().get("export", 0) <= 3:
    trace.get_tracer("program").start_span("work").end()
    logging.getLogger("program").error("a line")
    time.sleep(0.05)
print(time.time(), flush=True)
"""

    assert ended(program, variables).stderr.splitlines() == [said]


@pytest.mark.shield
def test_where_nobody_listens_the_end_does_not_wait_for_the_next_attempt() -> None:
    program = """
import atexit, time, tracekit
atexit.register(lambda: print([*tracekit.Handle.dropped()]))
from opentelemetry import trace
tracekit.configure("alone", quiet=True)
trace.get_tracer("program").start_span("work").end()
print(time.time(), flush=True)
"""
    variables = {"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}

    ran = ended(program, variables)

    _, dropped = ran.stdout.splitlines()
    assert (dropped, ran.stderr.splitlines()) == ("['late']", [NOBODY])


def test_a_line_of_an_exporter_that_cannot_be_formatted_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = logging.getLogger(OTLPSpanExporter.__module__)
    kept = MemoryHandler(10)
    monkeypatch.setattr(exporter, "propagate", False)
    monkeypatch.setattr(exporter, "handlers", [kept])

    with only({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}):
        handle = tracekit.configure("orders", quiet=True)
    exporter.warning("%d spans", "some")
    handle.undo(0.1)

    assert [line.msg for line in kept.buffer] == ["%d spans"]


@pytest.mark.shield
def test_what_a_collector_refuses_is_said_beside_where_nobody_listens() -> None:
    program = """
import logging, tracekit
from opentelemetry import trace
handle = tracekit.configure("alone", quiet=True)
trace.get_tracer("program").start_span("work").end()
logging.getLogger("program").error("a line")
handle.flush()
"""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        serve = threading.Thread(target=server.serve_forever)
        serve.start()
        variables = {
            "PATH": os.environ["PATH"],
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{server.server_port}/v1/traces",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3",
        }
        ran = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
        server.shutdown()
        serve.join()

    lost = "tracekit: spans that could not be exported left out (export, "
    said = [line for line in ran.stderr.splitlines() if line != "a line"]
    assert [line for line in said if not line.startswith(lost)] == [
        "Failed to export spans batch code: 401, reason: Unauthorized",
        NOBODY,
    ]
    assert len(said) == 3


@pytest.mark.shield
def test_what_a_full_queue_drops_is_counted(hung: str) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": hung,
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
    }
    with only(variables):
        handle = tracekit.configure("orders", quiet=True)
    for _ in range(100):
        span("work")
    dropped = handle.dropped().get("queue_full", 0)
    is_watched = handle._signals is None or handle._signals._processor.is_watched
    handle.undo(0.1)

    assert not is_watched, "our queue looks at no span as it starts"
    assert 80 <= dropped <= 90  # ten are queued, and ten may be on their way
