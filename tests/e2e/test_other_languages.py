"""A flow through services of two languages: OpenTelemetry's SDK for Node, and tracekit."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tracekit_demo.broker import embedded_broker

from tests.e2e.programs import PLAIN, TRACEKIT_RUN, listening, running, uvicorn
from tests.e2e.shop import place, seen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.testing import FlowSink

NODE: Final = Path(__file__).parent / "node"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracekit"
INSTALL_S: Final = 240
PATIENCE_S: Final = 60
SPANS: Final = Counter(
    [
        ("web", "SERVER", "POST"),
        ("web", "CLIENT", "POST"),
        ("front", "SERVER", "POST /orders/{number}"),
        ("front", "PRODUCER", "send orders"),
        ("worker", "CONSUMER", "process orders"),
        ("worker", "CLIENT", "POST"),
        ("stock", "SERVER", "POST"),
    ]
)


def lacking(reason: str) -> None:
    """Where this is a machine of CI, what it lacks is a fault."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What `package-lock.json` names, installed once for each content of it, and kept outside of the tree."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            lacking(f"{program} is not on PATH. The cure: install Node 20 or newer, with npm")
    lock = (NODE / "package-lock.json").read_bytes()
    folder = CACHE / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # for tests run in several processes
        done = folder / "done"
        if not done.exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(NODE / name, folder)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            npm = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S)
            if npm.returncode:
                lacking(f"`npm ci` failed. The cure: let it reach its registry, once.\n{npm.stderr}")
            done.touch()
    return folder / "node_modules"


def exported(sink: FlowSink, protocol: str) -> Mapping[str, str]:
    """Where a program of Node finds the sink: traces alone, in this protocol."""
    env = sink.grpc_env if protocol == "grpc" else sink.env
    unused = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    return {**env, **unused, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_SEMCONV_STABILITY_OPT_IN": "http"}


def test_services_in_node_over_grpc_and_json_and_in_python_share_one_flow(
    flow_sink: FlowSink, node_modules: Path
) -> None:
    with ExitStack() as ends:
        kafka = ends.enter_context(embedded_broker(["orders"])).environment
        bound, urls = {}, {}
        for service in ("web", "front", "stock"):
            bound[service], urls[service] = ends.enter_context(listening())

        def start(service: str, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
            named = {**variables, "OTEL_SERVICE_NAME": service}
            ends.enter_context(running(command, named, listening=bound.get(service), folder=folder))

        python = {**flow_sink.env, **kafka, "TOPIC": "orders", "GROUP": "worker", "STOCK_URL": urls["stock"]}
        start("worker", [*TRACEKIT_RUN, "--", "python", "worker.py"], python, PLAIN)
        start("front", [*TRACEKIT_RUN, "--", *uvicorn("app:app", bound["front"])], python, PLAIN)
        for service, protocol in (("web", "grpc"), ("stock", "http/json")):
            command = ["node", "--require", "./tracing.js", f"{service}.js", str(bound[service].fileno())]
            node = {"NODE_PATH": str(node_modules), "FRONT_URL": urls["front"]}
            start(service, command, {**exported(flow_sink, protocol), **node}, NODE)

        assert place(urls["web"], "7") == 202
        flow_sink.wait_for(
            lambda: len(flow_sink.spans) >= SPANS.total(), timeout_s=PATIENCE_S, says="the order's spans"
        )
        flow = flow_sink.wait_for_flow("POST /orders/{number}", "process orders")

    flow.assert_complete()
    assert flow.edges == [
        ("front", "POST /orders/{number}", "call", "front", "send orders"),
        ("front", "send orders", "message", "worker", "process orders"),
        ("web", "POST", "call", "front", "POST /orders/{number}"),
        ("web", "POST", "call", "web", "POST"),
        ("worker", "POST", "call", "stock", "POST"),
        ("worker", "process orders", "call", "worker", "POST"),
    ]
    assert seen(flow) == SPANS
    languages = {span.service.name: span.service.attributes["telemetry.sdk.language"] for span in flow.spans}
    assert languages == {"web": "nodejs", "front": "python", "worker": "python", "stock": "nodejs"}
    # Those in Node do not know it; those behind them keep to it.
    assert flow.id == flow.spans[0].trace_id
    assert {
        span.attributes.get("tracekit.flow.id")
        for span in flow.spans
        if span.service.name in ("front", "worker")
    } == {flow.id}
