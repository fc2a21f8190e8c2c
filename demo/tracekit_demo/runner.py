"""The demo: collector, Kafka and shop are started, orders placed, and their flows shown."""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from tracekit_demo.broker import BrokerError, embedded_broker
from tracekit_demo.client import place
from tracekit_demo.scenarios import MODES, Scenario, stream
from tracekit_demo.services import CONSUMING, SERVING, ServiceError, Services, environment
from tracekit_demo.shop.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracekit_demo.watch import Watch, Watched

_NEEDED: Final = (
    "confluent_kafka",
    "fastapi",
    "grpc",
    "httpx",
    "kafka",
    "sqlalchemy",
    "structlog",
    "uvicorn",
)
_ORDER_EVERY_S: Final = 1.0
_REACH_S: Final = 3.0
_WIDTH: Final = 100


class DemoError(RuntimeError):
    """The demo cannot start, or not go on; the text says why, and what to do."""


def run(*, once: bool, kafka: str | None = None, database: str | None = None) -> int:
    """Run the demo; gives the exit code. `kafka`: the addresses of one; `database`: its URL."""
    folder = Path(tempfile.mkdtemp(prefix="tracekit-demo-"))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = 1
    try:
        with ExitStack() as started:
            try:
                services, watch = _start(started, folder, kafka, database)
                code = _once(services, watch) if once else _until_interrupted(services, watch)
            finally:
                for number in before:  # who presses Ctrl-C twice gets a clean end all the same
                    signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        code = 130 if once else 0
        print("\nended")
    except (BrokerError, DemoError, ServiceError) as error:
        print(f"\ntracekit demo: {error}", file=sys.stderr)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 1 and any(folder.iterdir()):
        print(f"The services' logs are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _start(
    started: ExitStack, folder: Path, kafka: str | None, database: str | None
) -> tuple[Services, Watch]:
    """Everything that the first order needs; the services that only consume are still on their way."""
    if absent := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise DemoError(f"not installed: {', '.join(absent)}. The cure: pip install 'tracekit[demo]'")
    with _progress("collector"):
        # Imported here, for it takes a moment, and needs what was just looked for.
        from tracekit.collector.server import CollectorServer
        from tracekit_demo.watch import Watch

        collector = started.enter_context(CollectorServer())
    with _progress(f"kafka ({kafka or 'embedded'})"):
        settings = (
            _given_kafka(kafka) if kafka else started.enter_context(embedded_broker(TOPICS)).environment
        )
    with _progress(", ".join(SERVING)):
        shared = environment(collector.http_endpoint, settings)
        services = started.enter_context(Services(shared, folder, database=database))
        services.start(SERVING)
        services.wait_ready(SERVING)
        services.start(CONSUMING)
    return services, Watch(collector.store)


def _given_kafka(addresses: str) -> Mapping[str, str]:
    """The settings for a Kafka that is there; all others are the user's own, from the environment."""
    for address in addresses.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdigit():
            raise DemoError(f"--kafka {address!r} is no address; it looks like localhost:9092")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DemoError(
                f"no Kafka at {address}: {reason}. Start it, or leave --kafka away: a Kafka is on board"
            ) from error
    own = {name: value for name, value in os.environ.items() if name.startswith("KAFKA_")}
    return {**own, "KAFKA_BOOTSTRAP_SERVERS": addresses}


@contextmanager
def _progress(what: str) -> Iterator[None]:
    print(f"starting {what} … ", end="", flush=True)
    began = time.monotonic()
    yield
    print(f"ok {time.monotonic() - began:.1f} s", flush=True)


def _once(services: Services, watch: Watch) -> int:
    """One order in each mode; 0 if each flow is what it must be."""
    faulty = 0
    for mode in MODES:
        _place(services, watch, Scenario(mode))
        while (done := watch.next_done(1.0)) is None:
            pass
        _show(done, whole=True)
        faulty += bool(done.faults)
        if mode == MODES[0]:
            _await_consuming(services)
    good = len(MODES) - faulty
    print(f"\n{good} of {len(MODES)} flows have every edge of their mode, and no break", flush=True)
    return 1 if faulty else 0


def _until_interrupted(services: Services, watch: Watch) -> int:
    """An order a second; the first flow of each kind is shown whole, the others as a line."""
    shown = set()
    next_at = time.monotonic()
    for number, scenario in enumerate(stream(Random(1))):
        _place(services, watch, scenario)
        next_at = max(next_at + _ORDER_EVERY_S, time.monotonic())
        while (left := next_at - time.monotonic()) > 0:
            if (done := watch.next_done(left)) is not None:
                kind = (done.scenario.mode, done.scenario.ending)
                _show(done, whole=kind not in shown)
                shown.add(kind)
        if number == 0:
            _await_consuming(services)
            print("an order a second from now on; Ctrl-C ends it all", flush=True)
    raise AssertionError("the stream of orders has no end")


def _await_consuming(services: Services) -> None:
    with _progress(", ".join(CONSUMING)):
        services.wait_ready(CONSUMING)


def _place(services: Services, watch: Watch, scenario: Scenario) -> None:
    try:
        watch.add(scenario, *place(services.port("orders"), scenario))
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(f"orders does not answer any more ({error})") from error


def _show(done: Watched, *, whole: bool) -> None:
    from tracekit.flow import render, render_line

    print()
    kind = f"{done.scenario.mode}, {done.scenario.ending}"
    if done.flow is None:
        print(f"{kind}: no flow")
    else:
        print(f"{kind}: {render_line(done.flow)}")
        if whole:
            color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
            print(render(done.flow, width=shutil.get_terminal_size((_WIDTH, 0)).columns, color=color))
    for fault in done.faults:
        print(f"  ✕ {fault}")
    sys.stdout.flush()
