"""The README holds: its examples run, its commands exist, its tables list what the code has.

A fenced block of Python runs on the stage that the comment before it names (`<!-- test: kafka -->`): the
names that it uses, and what it must have done afterwards.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import functools
import http.server
import importlib
import inspect
import json
import logging
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
import urllib.request
from collections import deque
from contextlib import ExitStack, contextmanager
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from confluent_kafka.cimpl import Producer  # as it was imported before `configure()`
from kafka import KafkaProducer
from opentelemetry import trace
from opentelemetry.trace import SpanKind

import tracekit
from tests.e2e.programs import listening, running
from tests.integration.serving import PATIENCE_S, tracekit_here
from tracekit import cli, semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tracekit_demo.broker import Broker

    from tests.brokers import Kafka
    from tracekit.testing import Captured, FlowSink

    Stage = Callable[[pytest.FixtureRequest, Callable[[Mapping[str, Any]], Mapping[str, Any]]], None]

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
DEADLINE_S: Final = 10

TOP_LEVEL_AWAIT: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Block(NamedTuple):
    """A fenced block: its language, the stage that it runs on, its text and its line in the README."""

    language: str
    stage: str
    text: str
    line: int


def blocks() -> Iterator[Block]:
    fenced = re.compile(r"(?:<!-- test: ([\w ]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for found in fenced.finditer(README):
        yield Block(found[2], found[1] or "", found[3], README.count("\n", 0, found.start(3)) + 1)


BLOCKS: Final = [*blocks()]
PYTHON: Final = [block for block in BLOCKS if block.language == "python"]


def line_of(block: Block) -> str:
    return f"line-{block.line}"


# -- the stages -------------------------------------------------------------------------------------


class Numbered:
    """Three messages on a topic, and what became of them."""

    def __init__(self, kafka: Kafka) -> None:
        self.topic = kafka.topic("readme")
        producer = kafka.producer()
        for number in range(3):
            producer.send(self.topic, str(number).encode(), partition=0).get(DEADLINE_S)
        self.consumer = kafka.consumer(self.topic)
        self.handled: list[tuple[int, str]] = []

    def handle(self, message: Any) -> None:
        span: Any = trace.get_current_span()
        self.handled.append((int(message.value), span.name))
        if len(self.handled) == 3:
            self.consumer.config["consumer_timeout_ms"] = 0  # a loop over it ends now


def on_kafka(request: pytest.FixtureRequest, run: Any) -> None:
    seen: Captured = request.getfixturevalue("flows")
    given = Numbered(request.getfixturevalue("kafka"))

    while len(given.handled) < 3:  # `poll()` gives what is there
        before = len(given.handled)
        run({"consumer": given.consumer, "handle": given.handle})
        assert len(given.handled) > before

    process = f"process {given.topic}"
    assert given.handled == [(number, process) for number in range(3)]
    for flow in seen.wait_for_flows(3, f"send {given.topic}", process):
        flow.assert_complete()


def relaying(request: pytest.FixtureRequest, run: Any) -> None:
    seen: Captured = request.getfixturevalue("flows")
    kafka: Kafka = request.getfixturevalue("kafka")
    given = Numbered(kafka)
    message = next(given.consumer)

    producer = kafka.producer()
    run({"producer": producer, "message": message})
    producer.flush()

    (relayed,) = [span for span in seen.spans if span.name == "send orders.copy"]
    made = dict(message.headers)["traceparent"].decode()
    assert [(link.trace_id, link.span_id) for link in relayed.links] == [(made[3:35], made[36:52])]


def joining(request: pytest.FixtureRequest, run: Any) -> None:
    seen: Captured = request.getfixturevalue("flows")
    kafka: Kafka = request.getfixturevalue("kafka")
    topic = kafka.topic("joined")

    made_before = Producer({"bootstrap.servers": kafka.broker.settings["bootstrap_servers"]})
    joined = run({"producer": made_before})["producer"]
    joined.produce(topic, b"one")
    joined.flush(DEADLINE_S)

    assert len(joined) == 0
    assert [span.name for span in seen.spans] == [f"send {topic}"]


def shop(request: pytest.FixtureRequest, run: Any) -> None:
    """The service of the README, an order, then the worker of the README."""
    seen: Captured = request.getfixturevalue("flows")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("TRACEKIT_QUIET", "true")
    with ExitStack() as clients:
        end_loops = on_our_broker(request.getfixturevalue("kafka_broker"), monkeypatch, clients)
        url = clients.enter_context(bank(asked=end_loops))
        monkeypatch.setenv("BANK_URL", url)
        service = run({})
        assert post(service["app"], {"id": 7}) == 202
        service["producer"].flush()
        (worker,) = [block for block in PYTHON if block.stage == "worker"]
        exec(compiled(worker), {})

    flow = seen.wait_for_flow("POST /orders", "send orders", "process orders", "POST")
    flow.assert_complete()
    assert flow.services == ("orders", "billing")
    assert [line.body for line in flow.logs if line.service.name == "billing"] == ["order 7 billed: 200"]


def on_our_broker(broker: Broker, monkeypatch: pytest.MonkeyPatch, clients: ExitStack) -> Callable[[], None]:
    """Let kafka-python's clients go to this broker, whatever address they are given.

    What it gives ends the loops over the consumers, once they have handled the message that they are at.
    """
    import kafka

    consumers: list[Any] = []
    consumer_class, producer_class = kafka.KafkaConsumer, kafka.KafkaProducer

    def producer(**given: Any) -> Any:
        made = producer_class(**{**given, **broker.settings})
        clients.callback(made.close)
        return made

    def consumer(topic: str, **given: Any) -> Any:
        wanted = {**given, **broker.settings, "consumer_timeout_ms": DEADLINE_S * 1000}
        made = consumer_class(topic, **wanted)
        made.partitions_for_topic(topic)
        clients.callback(made.close)
        consumers.append(made)
        return made

    def end_loops() -> None:
        for consumer in consumers:
            consumer.config["consumer_timeout_ms"] = 0

    monkeypatch.setattr(kafka, "KafkaProducer", producer)
    monkeypatch.setattr(kafka, "KafkaConsumer", consumer)
    return end_loops


def post(app: Any, order: object) -> int:
    """The status with which the application answers an order from outside."""
    import httpx

    async def ask() -> int:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return (await client.post("/orders", json=order)).status_code

    return asyncio.run(ask())


@contextmanager
def bank(asked: Callable[[], None] = lambda: None) -> Iterator[str]:
    """An HTTP server that takes any order, by its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/orders"
        finally:
            server.shutdown()
            thread.join()


def by_hand(request: pytest.FixtureRequest, run: Any) -> None:
    seen: Captured = request.getfixturevalue("flows")
    sent: list[str] = []

    run(
        {
            "tracer": trace.get_tracer("readme"),
            "SpanKind": SpanKind,
            "mails": {"messaging.system": "jobs", "messaging.destination.name": "mails"},
            "jobs": deque(),
            "send": sent.append,
        }
    )

    assert sent == ["a customer"]
    flow = seen.wait_for_flow("send mails", "process mails")
    flow.assert_complete()
    assert flow.queue_wait("mails") >= 0


def threads(request: pytest.FixtureRequest, run: Any) -> None:
    seen: Captured = request.getfixturevalue("flows")
    tracer = trace.get_tracer("readme")
    here: list[str] = []
    done = threading.Event()

    class Database:
        def execute(self, query: str) -> list[int]:
            note()
            return [1, 2]

    def note(*_: object) -> None:
        here.append(trace.format_trace_id(trace.get_current_span().get_span_context().trace_id))

    def drain(mails: Any) -> None:
        note()
        done.set()

    names = {
        "threading": threading,
        "charge": note,
        "send": note,
        "order": 7,
        "drain": drain,
        "database": Database(),
        "mails": None,
    }
    with tracer.start_as_current_span("request") as span:
        flow_id = trace.format_trace_id(span.get_span_context().trace_id)
        after = run(names)
        if "rows" in after:
            assert [*after["rows"]("select")] == [1, 2]
    if "pool" in after:
        after["pool"].shutdown()
    if "drain" in after.get("__text__", ""):
        assert done.wait(DEADLINE_S)

    (flow,) = seen.wait_for_flows(1, "request")
    flow.assert_complete()
    detached = "spawn_detached" in after["__text__"]
    assert set(here) == ({"0" * 32} if detached else {flow_id})


def logs(request: pytest.FixtureRequest, run: Any) -> None:
    request.getfixturevalue("flows")
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Handler()
    run({"logging": logging, "handler": handler})
    log = logging.getLogger("readme")
    log.addHandler(handler)
    try:
        with trace.get_tracer("readme").start_as_current_span("work") as span:
            log.warning("billed")
        log.handlers[0].handle(logging.makeLogRecord({"msg": "from elsewhere", "levelname": "INFO"}))
    finally:
        log.removeHandler(handler)

    of_trace = trace.format_trace_id(span.get_span_context().trace_id)
    assert lines == [f"WARNING billed trace={of_trace} flow={of_trace}", "INFO from elsewhere trace= flow="]


def alone(request: pytest.FixtureRequest, run: Any) -> None:
    request.getfixturevalue("flows")
    run({"tracekit": tracekit})
    assert tracekit.configure(quiet=True).is_active


def under_pytest(request: pytest.FixtureRequest, run: Any) -> None:
    """The test in a folder with the service and the worker of the README."""
    pytester: pytest.Pytester = request.getfixturevalue("pytester")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    files = {
        "app": only_block("service"),
        "worker": only_block("worker"),
        "test_readme": run(None)["__text__"],
    }
    # With an order of somebody else, and a worker.
    with own_broker() as address, bank() as url:
        monkeypatch.setenv("BANK_URL", url)
        for name, text in files.items():
            pytester.makepyfile(**{name: on(address, text)})
        producer = KafkaProducer(bootstrap_servers=address)
        producer.send("orders", b'{"id": 1}')
        producer.close()
        beside = {"BANK_URL": url, "OTEL_SDK_DISABLED": "true"}
        with running([sys.executable, "worker.py"], beside, folder=pytester.path):
            for _ in range(2):
                done = pytester.runpytest_subprocess("-p", "no:randomly", "test_readme.py")
                done.assert_outcomes(passed=1)


def only_block(stage: str) -> str:
    (block,) = [block for block in PYTHON if block.stage == stage]
    return block.text


STAGES: Final[Mapping[str, Stage]] = {
    "kafka": on_kafka,
    "relay": relaying,
    "wrap": joining,
    "service": shop,
    "by hand": by_hand,
    "threads": threads,
    "logging": logs,
    "pytest": under_pytest,
    "run": alone,
}
"""What a block needs. The stage calls `run` with its names, and looks at what the block has done."""


def compiled(block: Block) -> Any:
    # As far down as it stands in the README, so that an error names its line there.
    return compile("\n" * (block.line - 1) + block.text, str(ROOT / "README.md"), "exec")


@pytest.mark.parametrize(
    "block", [block for block in PYTHON if block.stage not in ("worker", "bank")], ids=line_of
)  # these run with the service
def test_an_example_does_what_the_readme_says(block: Block, request: pytest.FixtureRequest) -> None:
    def run(names: Mapping[str, Any] | None) -> Mapping[str, Any]:
        namespace: dict[str, Any] = {"__text__": block.text}
        if names is not None:
            namespace.update({"tracekit": tracekit, **names})
            exec(compiled(block), namespace)
        return namespace

    STAGES[block.stage](request, run)


def test_its_programs_run_traced_without_the_two_lines(tmp_path: Path, flow_sink: FlowSink) -> None:
    shown = "\n".join(block.text for block in BLOCKS if block.language == "sh")
    front, back = (shlex.split(line) for line in shown.splitlines() if line.startswith("tracekit run "))
    with own_broker() as address, bank() as bank_url, listening() as (bound, url):
        for name, stage in (("app", "service"), ("worker", "worker")):
            text = re.sub(
                r"^(import tracekit|tracekit\.configure\(.*\))\n", "", only_block(stage), flags=re.MULTILINE
            )
            assert "tracekit" not in text
            (tmp_path / f"{name}.py").write_text(on(address, text))
        variables = {**flow_sink.env, "BANK_URL": bank_url}
        served = [*front, "--fd", str(bound.fileno())]
        with (
            running(served, variables, listening=bound, folder=tmp_path),
            running(back, variables, folder=tmp_path) as worker,
        ):
            assert order_at(url) == 202
            flow = flow_sink.wait_for_flow(
                "POST /orders", "send orders", "process orders", "POST", timeout_s=60
            )
            assert worker.end() == 0
            assert "Traceback" not in worker.stderr

    flow.assert_complete()
    assert flow.services == ("orders", "billing")
    assert "order 7 billed: 200" in [line.body for line in flow.logs]


def test_its_commands_in_their_order_show_the_flow_of_an_order(tmp_path: Path) -> None:
    """As they stand there, but for ports that are free, and for the data's directory."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    (shown,) = [block.text for block in BLOCKS if block.text.startswith("tracekit serve ")]
    http, grpc, api, kafka, bank_port, app_port = free_ports(6)
    for name in ("app", "worker", "bank"):
        text = only_block({"app": "service"}.get(name, name))
        (tmp_path / f"{name}.py").write_text(text.replace("9092", kafka).replace("8001", bank_port))
    for there, here in (("9092", kafka), ("8001", bank_port), ("8000", app_port)):
        shown = shown.replace(there, here)
    serve, broker, bank_, app, worker, curl, flow = (
        shlex.split(line, comments=True) for line in shown.splitlines()
    )
    ports = ["--http-port", http, "--grpc-port", grpc, "--port", api, "--data", str(tmp_path / "data")]
    programs = {
        http: [*serve, *ports],
        kafka: broker,
        bank_port: bank_,
        app_port: [*app, "--port", app_port],
        "": worker,
    }
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://localhost:{http}"}

    with ExitStack() as started:
        for port, command in programs.items():
            started.enter_context(running(command, variables, folder=tmp_path))
            if port:
                wait_for_listener(port)
        placed = subprocess.run(curl, capture_output=True, text=True, check=True)
        hops = ["POST /orders", "send orders", "orders waited", "process orders"]
        hops.append(f"POST localhost:{bank_port} /orders")
        drawn = ""
        rows: list[str] = []
        until = time.monotonic() + PATIENCE_S
        while rows != hops and time.monotonic() < until:
            drawn = tracekit_here(*flow[1:], "--server", f"http://127.0.0.1:{api}").out
            rows = re.findall(r"^(?:orders|kafka|billing) +[└├│ ]*(.+?)  ", drawn, re.MULTILINE)
            time.sleep(0.05)

    assert placed.stdout == '{"status":"taken"}'
    assert rows == hops
    assert "order 7 billed: 200" in drawn


def free_ports(number: int) -> list[str]:
    with ExitStack() as taken:
        bound = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [str(each.getsockname()[1]) for each in bound]


def wait_for_listener(port: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(port))).close()
        except OSError:
            assert time.monotonic() < until, f"nobody listens on {port}"
            time.sleep(0.02)
        else:
            return


@contextmanager
def own_broker() -> Iterator[str]:
    """The broker as the README starts it, at a port that is free; its address.

    Its own, for the topic's name is fixed. Unlike the one that other tests share, it lets a consumer learn
    what partitions a topic has before the group has formed: kafka-python asks only after 0.1 s, where its
    thread was faster than that of the program, and the mock would assign nothing for 29 s.
    """
    ((command, topic),) = re.findall(
        r"^(python -m tracekit_demo\.broker --port) 9092 (orders) ", README, re.MULTILINE
    )
    (port,) = free_ports(1)
    started = [sys.executable, *shlex.split(command)[1:], port, topic]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        try:
            address = broker.stdout.readline().strip()
            assert address == f"localhost:{port}"
            yield address
        finally:
            broker.terminate()


def on(address: str, text: str) -> str:
    """The program with this broker in the place of the one on localhost:9092."""
    return text.replace("localhost:9092", address)


def order_at(url: str) -> int:
    order = urllib.request.Request(
        f"{url}/orders", b'{"id": 7}', {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(order, timeout=60) as answer:
        return int(answer.status)


# -- names, commands, tables --------------------------------------------------------------------------


def names_used(module: ast.Module) -> set[str]:
    """The names of tracekit that an example takes from the package."""
    return {
        node.attr
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "tracekit"
    }


def test_every_public_name_has_its_example() -> None:
    used = set().union(*(names_used(ast.parse(block.text)) for block in PYTHON))

    assert used == set(tracekit.__all__) - {"Handle", "SettingError"}  # what `configure` gives, and raises


def examples(documented: object) -> Iterator[str]:
    """The indented examples of a docstring."""
    for paragraph in re.split(r"\n(?=\S)", inspect.getdoc(documented) or ""):
        found = re.search(r"\n\n((?:    .*(?:\n|$)|\n)+)", paragraph + "\n")
        if found:
            yield textwrap.dedent(found[1])


@pytest.mark.parametrize("name", tracekit.__all__)
def test_a_public_name_has_an_example_that_compiles_and_uses_public_names(name: str) -> None:
    found = "".join(examples(getattr(tracekit, name)))

    compile(found, name, "exec", flags=TOP_LEVEL_AWAIT)

    assert found, f"{name} shows no example"
    assert names_used(ast.parse(found)) <= set(tracekit.__all__)


@functools.cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_commands_of_make_are_there() -> None:
    named = {
        word
        for command in re.findall(r"(?:`|^    )make ([a-z -]+?)(?:`| ARGS|  )", README, re.MULTILINE)
        for word in command.split()
    }

    assert {"demo", "test", "bench", "lint"} <= named <= targets()


def test_the_commands_of_tracekit_are_there() -> None:
    named = set(re.findall(r"(?:`|\$ )tracekit\s([a-z]+)", README))

    for name in named:
        command = importlib.import_module(f"tracekit.cli.{name}")
        command.configure_parser(argparse.ArgumentParser())
    assert named == set(cli._COMMANDS)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    part = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert [row[0].strip("`") for row in rows("Install")] == list(project["optional-dependencies"])
    assert metadata("tracekit")["Name"] == "tracekit"


def test_every_variable_that_is_read_is_in_the_table() -> None:
    read = set()
    for path in (ROOT / "tracekit").rglob("*.py"):
        if "testing" not in path.parts:
            read |= set(re.findall(r"\b(?:OTEL|TRACEKIT)_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8")))
    signals = {f"OTEL_{signal}_EXPORTER" for signal in ("TRACES", "METRICS", "LOGS")}
    in_table = {
        name for row in rows("Settings") for name in re.findall(r"\b(?:OTEL|TRACEKIT)_[A-Z_]+", row[0])
    }

    assert in_table == read | signals


def test_the_arguments_in_the_table_are_those_of_configure() -> None:
    named = {cell.strip("`") for row in rows("Settings") if (cell := row[1])}

    assert named == set(inspect.signature(tracekit.configure).parameters)


def test_the_metrics_in_the_table_are_ours() -> None:
    ours = {
        value
        for name, value in vars(semconv).items()
        if name.endswith(("_DURATION", "_MESSAGES")) or name == "DROPPED"
    }

    assert {row[0].strip("`") for row in rows("Metrics")} == ours


def test_the_units_in_the_table_are_those_of_the_metrics(flows: Captured) -> None:
    tracer = trace.get_tracer("readme")
    jobs: tracekit.TracedQueue[str] = tracekit.TracedQueue(name="jobs")
    with tracer.start_as_current_span("request"):
        jobs.put("one")
    with jobs.item():
        pass
    units = {row[0].strip("`"): row[1].strip("`") for row in rows("Metrics")}

    measured = {name: points[0].unit for name, points in flows.metrics.items()}

    assert measured.items() <= units.items()
    assert {"tracekit.messaging.queue.duration", "tracekit.flow.duration"} <= set(measured)


def test_the_links_lead_somewhere() -> None:
    linked = re.findall(r"\]\(([^)]+)\)", README)

    assert [path for path in linked if not path.startswith("#") and not (ROOT / path).exists()] == []


def test_the_terminal_s_output_is_that_of_the_renderer() -> None:
    """The marks that the README explains are those that are drawn."""
    explained = set(re.findall(r"`([▇░╱✕]+)`", README))
    drawn = (ROOT / "tracekit" / "flow" / "render.py").read_text(encoding="utf-8") + (
        ROOT / "tracekit" / "flow" / "axis.py"
    ).read_text(encoding="utf-8")

    assert {mark[0] for mark in explained} == {mark for mark in "▇░╱✕" if mark in drawn}


def test_examples_of_headers_are_what_is_written(flows: Captured) -> None:
    with trace.get_tracer("readme").start_as_current_span("work"):
        carried = tracekit.inject({})
    assert isinstance(carried, dict)
    shape = re.search(r"^tracekit-flow: (.*)$", README, re.MULTILINE)

    assert shape is not None
    assert len(str(carried["tracekit-flow"]).split(";")) == len(shape[1].split(";"))
    assert json.dumps(carried)  # plain text, for any transport
