"""The demo: collector, Kafka and shop are started, orders placed, and their flows shown."""

from __future__ import annotations

import http.client
import importlib.util
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import textwrap
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from tracekit_demo.broker import BrokerError, embedded_broker
from tracekit_demo.client import place
from tracekit_demo.scenarios import MODES, Scenario, stream
from tracekit_demo.services import CONSUMING, SERVING, ServiceError, Services
from tracekit_demo.shop.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
_TYPED_S: Final = 0.2
_RECENT: Final = 200
_WIDTH: Final = 100


class DemoError(RuntimeError):
    """The demo cannot start, or not go on; the text says why, and what to do."""


def run(*, once: bool, kafka: str | None = None, database: str | None = None) -> int:
    """Run the demo; gives the exit code. `kafka`: the addresses of one; `database`: its URL."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks our marks shows question marks
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
    if code == 1 and any(log.stat().st_size for log in folder.glob("*.log")):
        print(f"The services' logs are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _start(
    started: ExitStack, folder: Path, kafka: str | None, database: str | None
) -> tuple[Services, Watch]:
    """Everything that the first order needs; the services that only consume are still on their way."""
    if absent := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise DemoError(
            f"not installed: {', '.join(absent)}. The cure: pip install '.[demo]' in tracekit's clone"
        )
    if database is not None:
        with _progress("database"):
            _check_database(database)
    # The longest way to the first order is what the services import: it begins first.
    services = started.enter_context(Services(folder, database=database))
    with _progress("collector"):
        # Imported here, for it takes a moment, and needs what was just looked for.
        from tracekit.collector.server import CollectorServer
        from tracekit_demo.watch import Watch

        collector = started.enter_context(CollectorServer())
    with _progress(f"kafka ({kafka or 'embedded'})"):
        settings = {
            **(_given_kafka(kafka) if kafka else started.enter_context(embedded_broker(TOPICS)).environment),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
        }
    started.callback(services.end)  # while Kafka and the collector are there
    with _progress(", ".join(SERVING)):
        services.start(SERVING, settings)
        services.wait_answering(SERVING)
        services.start(CONSUMING, settings)
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
    settings = {**own, "KAFKA_BOOTSTRAP_SERVERS": addresses}
    _check_kafka(settings)
    return settings


def _check_kafka(settings: Mapping[str, str]) -> None:
    """Ask once as the services will, for each of them would say at length what is wrong, after 30 s."""
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    from tracekit_demo.shop.events import kafka_settings

    address = settings["KAFKA_BOOTSTRAP_SERVERS"]
    try:
        KafkaConsumer(bootstrap_timeout_ms=1000 * _REACH_S, **kafka_settings(settings)).close()
    except KafkaError as error:
        raise DemoError(
            f"what listens at {address} does not answer as a Kafka ({error}). "
            "Look at --kafka, or leave it away: a Kafka is on board"
        ) from error
    except ValueError as error:
        version = settings.get("KAFKA_API_VERSION")
        raise DemoError(f"KAFKA_API_VERSION={version!r}: {error}. It looks like 2.3; or unset it") from error


def _check_database(url: str) -> None:
    """Connect once, for six services would each say at length what is wrong."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import SQLAlchemyError

    shown = repr(url)
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
            raise DemoError(f"--database {shown} is in memory, where services cannot share it. Name a file")
        is_postgres = parsed.get_backend_name() == "postgresql"
        engine = create_engine(parsed, connect_args={"connect_timeout": int(_REACH_S)} if is_postgres else {})
        engine.connect().close()
        engine.dispose()
    except ImportError as error:
        raise DemoError(
            f"--database {shown}: {error}. For PostgreSQL: pip install '.[postgres]' in tracekit's clone, "
            "and an address that begins with postgresql+psycopg://"
        ) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0].rstrip(".")
        raise DemoError(
            f"--database {shown}: {reason}. It looks like postgresql+psycopg://user:password@localhost/shop "
            "or sqlite:////tmp/shop.db; without --database, SQLite files are made"
        ) from error


@contextmanager
def _progress(what: str) -> Iterator[None]:
    print(f"starting {what} … ", end="", flush=True)
    began = time.monotonic()
    yield
    print(f"ok {time.monotonic() - began:.1f} s", flush=True)


def _once(services: Services, watch: Watch) -> int:
    """One order in each mode; 0 if each flow is what it must be, and is so still when nothing more comes."""
    done: list[Watched] = []
    for number, mode in enumerate(MODES, 1):
        _place(services, watch, number, Scenario(mode))
        while (watched := watch.next_done(1.0)) is None:
            pass
        done.append(watched)
        _show(watched, whole=True)
        if number == 1:
            _await_consuming(services)
    shown = [watched.faults for watched in done]
    watch.settle(done)
    for watched, faults in zip(done, shown, strict=True):
        if watched.faults != faults:
            print(f"\n{_named(watched)}, now that nothing more comes")
            _show(watched, whole=True)
    good = sum(not watched.faults for watched in done)
    print(f"\n{good} of {len(MODES)} flows have every edge of their mode, and no break", flush=True)
    return 0 if good == len(MODES) else 1


def _until_interrupted(services: Services, watch: Watch) -> int:
    """An order a second: the first flow of each mode is shown whole, the others as a line."""
    recent: deque[Watched] = deque(maxlen=_RECENT)
    next_at = time.monotonic()
    for number, scenario in enumerate(stream(Random(1)), 1):
        _place(services, watch, number, scenario)
        next_at = max(next_at + _ORDER_EVERY_S, time.monotonic())
        while (left := next_at - time.monotonic()) > 0 or (number == 1 and not recent):
            if (done := watch.next_done(min(max(left, 0), _TYPED_S))) is not None:
                _show(done, whole=done.number <= len(MODES))
                recent.append(done)
            if wanted := _typed():
                _show_again(recent, wanted)
        if number == 1:
            _await_consuming(services)
            print("an order a second from now on; Ctrl-C ends it all", flush=True)
            if _is_typed_to():
                print("type an order's number and Enter to see it as a tree", flush=True)
    raise AssertionError("the stream of orders has no end")


def _await_consuming(services: Services) -> None:
    with _progress(", ".join(CONSUMING)):
        services.wait_ready([*SERVING, *CONSUMING])


def _place(services: Services, watch: Watch, number: int, scenario: Scenario) -> None:
    try:
        watch.add(number, scenario, *place(services.port("orders"), scenario))
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(f"orders does not answer any more ({error})") from error


def _is_typed_to() -> bool:
    """Whether what somebody types comes to us: a terminal, and we in its foreground."""
    return sys.stdin is not None and sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def _typed() -> str:
    """The line that was typed, if there is one."""
    if _is_typed_to() and select.select([sys.stdin], [], [], 0)[0]:
        return os.read(sys.stdin.fileno(), 4096).decode(errors="replace").strip()
    return ""


def _show_again(recent: Iterable[Watched], wanted: str) -> None:
    found = next((watched for watched in recent if f"{watched.number}" == wanted.lstrip("#")), None)
    if found is None:
        print(f"no order {wanted!r} among the last {_RECENT} that are done", flush=True)
    else:
        _show(found, whole=True)


def _named(watched: Watched) -> str:
    return f"#{watched.number} {watched.scenario.mode}, {watched.scenario.ending}"


def _show(done: Watched, *, whole: bool) -> None:
    from tracekit.flow import render, render_line
    from tracekit.flow.text import harmless

    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    if whole:
        print()
    if done.flow is None:
        print(f"{_named(done)}: no flow")
    else:
        _say(f"{_named(done)}: {render_line(done.flow)}{'' if whole else f'   {done.flow_id[:8]}'}", width)
    if done.flow is not None and whole:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(render(done.flow, width=width, color=color))
    for fault in done.faults:
        _say(f"  ✕ {harmless(fault)}", width)
    sys.stdout.flush()


def _say(line: str, width: int) -> None:
    """The line; in a terminal on as many as it takes, broken between words."""
    if sys.stdout.isatty():
        line = textwrap.fill(line, max(width, 40), subsequent_indent="    ", break_on_hyphens=False)
    print(line)
