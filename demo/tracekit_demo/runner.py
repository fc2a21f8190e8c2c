"""The demo: collector, Kafka and shop are started, orders placed, and their flows shown."""

from __future__ import annotations

import http.client
import importlib.util
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from tracekit_demo.broker import BrokerError, embedded_broker
from tracekit_demo.client import place
from tracekit_demo.given import DemoError, check_database, kafka_settings
from tracekit_demo.home import Home, TakenError, default_folder
from tracekit_demo.scenarios import MODES, Ending, Scenario, stream
from tracekit_demo.services import CONSUMING, SERVING, ServiceError, Services
from tracekit_demo.shop.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tracekit.collector.archive import Archive
    from tracekit_demo.collector import Collector
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
_TYPED_S: Final = 0.2
_PATIENCE_S: Final = 60.0
_RECENT: Final = 200
_KEPT: Final = 3
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MEANT: Final[Mapping[Ending, str]] = {
    "accepted": "",
    "declined": ", to be declined",
    "malformed": ", malformed",
    "crashed": ", to crash",
}
"""What an order is made for, as it is said before what became of it."""


class _Started(NamedTuple):
    """What runs once the shop takes orders."""

    services: Services
    watch: Watch
    collector: Collector


def run(
    *,
    once: bool,
    kafka: str | None = None,
    database: str | None = None,
    data: Path | None = None,
    fault: str | None = None,
) -> int:
    """Run the demo; gives the exit code.

    `kafka`: the addresses of one; `database`: its URL; `data`: its home, None for the default one, of
    `once` for none that stays; `fault`: on from the start.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks our marks shows question marks
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if before[signal.SIGHUP] is not signal.SIG_IGN:  # under nohup, the closing of the terminal ends nothing
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        return _run(once, kafka, database, data, fault)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(once: bool, kafka: str | None, database: str | None, data: Path | None, fault: str | None) -> int:
    folder = Path(tempfile.mkdtemp(prefix="tracekit-demo-"))
    code, is_failed = 1, False
    try:
        with ExitStack() as started:
            try:
                home = _home(started, folder, data, once=once)
                if fault is not None:
                    home.switch(fault, on=True)
                shop = _start(started, folder, home, kafka, database, once=once)
                code = _once(shop, fault) if once else _until_interrupted(shop, home)
                is_failed = code == 1 and fault is None
            finally:
                for number in _SIGNALS:  # who presses Ctrl-C twice gets a clean end all the same
                    signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        code = 130 if once else 0
        end_heard()
    except (BrokerError, DemoError, ServiceError) as error:
        is_failed = True
        print(f"\ntracekit demo: {error}", file=sys.stderr)
    except OSError:
        if end_heard():
            raise
        code = 130 if once else 0
    finally:
        if is_failed and any(log.stat().st_size for log in folder.glob("*.log")):
            print(f"The services' logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


def end_heard() -> bool:
    """Say that all has ended; False where nobody reads any more: the terminal, or the pipe, is closed."""
    try:
        print("\nended", flush=True)
    except OSError:
        # What is left in the buffer goes nowhere; the interpreter would complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _home(started: ExitStack, folder: Path, data: Path | None, *, once: bool) -> Home:
    """The directory that this demo has to itself."""
    home = Home(folder / "home" if once and data is None else data or default_folder())
    try:
        started.enter_context(home.held())
    except OSError as error:
        raise DemoError(
            f"{home.folder} cannot be the demo's directory: {error.strerror}. Name another: --data FOLDER"
        ) from error
    except TakenError as error:
        if data is not None:
            raise DemoError(f"--data {data}: {error}. End that one, or name another directory") from error
        _say(f"{home.folder}: {error}; this one keeps its flows elsewhere, until it ends")
        home = Home(folder / "home")
        started.enter_context(home.held())
    return home


def _start(
    started: ExitStack,
    folder: Path,
    home: Home,
    kafka: str | None,
    database: str | None,
    *,
    once: bool,
) -> _Started:
    """Everything that the first order needs; the services that only consume are still on their way."""
    if absent := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise DemoError(
            f"not installed: {', '.join(absent)}. The cure: pip install '.[demo]' in tracekit's clone"
        )
    if database is not None:
        with _progress("database"):
            check_database(database)
    # The longest way to the first order is what the services import: it begins first.
    services = started.enter_context(Services(folder, database=database))
    with _progress("collector"):
        # Imported here, for it takes a moment, and needs what was just looked for.
        from tracekit_demo.collector import collecting
        from tracekit_demo.watch import PATIENCE_S, Watch

        collector = started.enter_context(collecting(home.folder, is_public=not once))
    _show_kept(collector.archive)
    with _progress(f"kafka ({kafka or 'embedded'})"):
        if kafka:
            broker = kafka_settings(kafka)
        else:
            broker = started.enter_context(embedded_broker(TOPICS)).environment
        settings = {
            **broker,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "FAULTS_FOLDER": str(home.faults_folder),
        }
    started.callback(services.end)  # while Kafka and the collector are there
    with _progress(", ".join(SERVING)):
        services.start(SERVING, settings)
        services.wait_answering(SERVING)
        services.start(CONSUMING, settings)
    watch = Watch(collector.archive, patience_s=PATIENCE_S if once else _PATIENCE_S)
    return _Started(services, watch, collector)


def _show_kept(archive: Archive) -> None:
    """The flows of earlier starts: how many, and the last ones."""
    from tracekit.cli import rows

    number, latest = archive.held().flows, archive.find((), limit=_KEPT).flows
    if latest:
        print(f"{number} flows of earlier starts are kept, the latest:")
    now = datetime.now().astimezone()
    for flow in latest:
        _say(f"  {rows.line(flow, now, color=False)}")


@contextmanager
def _progress(what: str) -> Iterator[None]:
    print(f"starting {what} … ", end="", flush=True)
    began = time.monotonic()
    yield
    print(f"ok {time.monotonic() - began:.1f} s", flush=True)


def _once(shop: _Started, fault: str | None) -> int:
    """One order in each mode; 0 if each flow is what it must be, and is so still when nothing more comes.

    Time alone fails no flow but under a fault: a busy machine is slow too.
    """
    done: list[Watched] = []
    for number, mode in enumerate(MODES, 1):
        _place(shop, number, Scenario(mode))
        while (watched := shop.watch.next_done(1.0)) is None:
            pass
        done.append(watched)
        _show(watched, whole=True)
        if number == 1:
            _await_consuming(shop.services)
    shown = [watched.defects for watched in done]
    shop.watch.settle(done)
    for watched, defects in zip(done, shown, strict=True):
        if watched.defects != defects:
            print(f"\n{_named(watched)}, now that nothing more comes")
            _show(watched, whole=True)
    good = sum(not watched.defects for watched in done)
    print()
    _say(f"{good} of {len(MODES)} flows have every edge of their mode, and no break")
    if fault is None:
        return 0 if good == len(MODES) else 1
    from tracekit.flow.text import harmless

    told = [(watched, remark) for watched in done for remark in watched.remarks]
    if told:
        print("What they say:")
    for watched, remark in told:
        _say(f"  #{watched.number} {watched.scenario.mode}: {harmless(remark)}")
    number = len({watched.number for watched, _ in told})
    flows = f"{number or 'none'} of {len(MODES)} flows {'say' if number > 1 else 'says'}"
    _say(f"{fault} was on, and {flows} so: exit code 1")
    return 1


def _until_interrupted(shop: _Started, home: Home) -> int:
    """An order a second: the first flow of each mode is shown whole, the others as a line."""
    recent: deque[Watched] = deque(maxlen=_RECENT)
    next_at = time.monotonic()
    faults: tuple[str, ...] = ()
    for number, scenario in enumerate(stream(Random(1)), 1):
        if (now_on := home.faults_on()) != faults:
            faults = now_on
            _say(f"faults that are on now: {', '.join(faults) or 'none'}")
        _place(shop, number, scenario)
        next_at = max(next_at + _ORDER_EVERY_S, time.monotonic())
        while (left := next_at - time.monotonic()) > 0 or (number == 1 and not recent):
            if (done := shop.watch.next_done(min(max(left, 0), _TYPED_S))) is not None:
                _show(done, whole=done.number <= len(MODES))
                recent.append(done)
            if wanted := _typed():
                _show_again(recent, wanted, shop.watch)
        if number == 1:
            _await_consuming(shop.services)
            _greet(shop.collector, home)
            print("an order a second from now on; Ctrl-C ends it all", flush=True)
            if _is_typed_to():
                print("type an order's number and Enter to see it as a tree", flush=True)
    raise AssertionError("the stream of orders has no end")


def _await_consuming(services: Services) -> None:
    with _progress(", ".join(CONSUMING)):
        services.wait_ready([*SERVING, *CONSUMING])


def _greet(collector: Collector, home: Home) -> None:
    """Where the flows are, and what to do with them from another terminal."""
    from tracekit.cli import called
    from tracekit.sources import DEFAULT_SERVER

    server = "" if collector.api == DEFAULT_SERVER else f" --server {collector.api}"
    data = "" if home.folder == default_folder() else f" --data {home.folder}"
    _say(f"flows are kept in {home.folder}, and answered for at {collector.api}/api/flows")
    us = called.us()
    _say(f"in another terminal: {us} flows{server}   {us} flow ID{server}")
    _say(f"to make something go wrong: {us} demo fault{data}")


def _place(shop: _Started, number: int, scenario: Scenario) -> None:
    try:
        shop.watch.add(number, scenario, *place(shop.services.port("orders"), scenario))
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


def _show_again(recent: Iterable[Watched], wanted: str, watch: Watch) -> None:
    found = next((watched for watched in recent if f"{watched.number}" == wanted.lstrip("#")), None)
    if found is None:
        _say(f"no order {wanted!r} among the last {_RECENT} that are done")
    else:
        watch.look_at(found)
        _show(found, whole=True)


def _named(watched: Watched) -> str:
    return f"#{watched.number} {watched.scenario.mode}{_MEANT[watched.scenario.ending]}"


def _show(done: Watched, *, whole: bool) -> None:
    from tracekit.cli import terminal
    from tracekit.flow import render, render_line
    from tracekit.flow.text import harmless

    if whole:
        print()
    if done.flow is None:
        print(f"{_named(done)}: no flow")
    else:
        _say(f"{_named(done)}: {render_line(done.flow)}{'' if whole else f'   {done.flow_id[:8]}'}")
    if done.flow is not None and whole:
        width, color = terminal.width(), terminal.is_colored(sys.stdout)
        print(render(done.flow, width=width, color=color))
        for flow in done.rest:
            print("what should follow in it, as a flow of its own:")
            print(render(flow, width=width, color=color))
    for mark, sentence in done.said(is_drawn=whole):
        _say(f"  {mark} {harmless(sentence)}")
    sys.stdout.flush()


def _say(line: str) -> None:
    """The line; in a terminal on as many as it takes, broken between words."""
    # Imported here, for it takes a moment: the services are on their way before.
    from tracekit.cli import terminal

    terminal.say(line)
