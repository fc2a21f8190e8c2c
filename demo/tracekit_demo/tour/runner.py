"""`tracekit demo tour`: starts what there is, sends one order through all of it, and draws its flow."""

from __future__ import annotations

import http.client
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracekit.flow import Knowledge, build_flow, facts
from tracekit_demo.client import place
from tracekit_demo.collector import collecting
from tracekit_demo.given import DemoError
from tracekit_demo.runner import end_heard
from tracekit_demo.scenarios import Scenario
from tracekit_demo.servers.process import ServerError
from tracekit_demo.tour.reachable import reached
from tracekit_demo.tour.stations import stations
from tracekit_demo.tour.whole import lacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tracekit.collector.archive import Archive
    from tracekit.flow import Flow
    from tracekit_demo.tour.reachable import Reached

_PATIENCE_S: Final = 30.0
_QUIET_S: Final = 0.7
"""So long nothing may come before the flow counts as settled; stations export every 0.2 s."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Toured:
    """An order that went on tour: through which systems, and its flow, None where no span of it came."""

    reached: Reached
    flow: Flow | None

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is wrong with the flow, in words; empty if it is whole."""
        return ("no span arrived",) if self.flow is None else tuple(lacks(self.flow, self.reached.names))


def run() -> int:
    """Take the tour; gives the exit code, 0 if the flow is whole."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks our marks shows question marks
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # under nohup, the closing of the terminal ends nothing
            signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="tracekit-tour-"))
    code = 1
    try:
        with toured(folder, _say) as tour:
            _show(tour)
            _ignore()
            code = 1 if tour.lacks else 0
    except KeyboardInterrupt:
        code = 130
        end_heard()
    except (DemoError, ServerError) as error:
        print(f"\ntracekit demo tour: {error}", file=sys.stderr)
    except OSError:
        code = 130
        if end_heard():
            raise
    finally:
        if code == 1:
            print(f"The logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


@contextmanager
def toured(folder: Path, say: Callable[[str], None]) -> Iterator[Toured]:
    """One order's tour, with logs in this directory; all that was started for it ends with the block.

    Raises DemoError.
    """
    (folder / "flows").mkdir()
    with collecting(folder / "flows", is_public=False) as collector:
        say("starting the servers …")
        with reached(folder) as systems:
            for name, why in systems.left_out.items():
                say(f"left out: {name}: {why}")
            if "shop" not in systems.names:
                raise DemoError("without its first station, shop, there is no tour")
            say(f"starting {len(systems.names)} stations: {', '.join(systems.names)} …")
            environment = {**systems.environment, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
            with stations(systems.names, environment, folder) as port:
                say("placing an order …")
                try:
                    flow_id, status = place(port, Scenario("async"))
                except (OSError, http.client.HTTPException) as error:
                    raise DemoError(f"the first station does not answer ({error})") from error
                if status != http.client.CREATED:
                    say(f"the answer was {status}")
                yield Toured(systems, _awaited(collector.archive, flow_id, systems.names))


def _end(*_: object) -> None:
    _ignore()
    raise KeyboardInterrupt


def _ignore() -> None:
    """Who presses Ctrl-C twice, or while all ends, gets a clean end all the same."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _awaited(archive: Archive, flow_id: str, names: Sequence[str]) -> Flow | None:
    """The flow, once it is whole and nothing more comes, or once patience has ended."""
    flow: Flow | None = None
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        version = archive.changes.version
        # What shows a wait is no part of a flow, and may be there before all that is.
        spans = [span for span in archive.flow(flow_id) if not facts.is_wait(span)]
        flow = build_flow(spans, flow_id, known=Knowledge(is_quiet=True)) if spans else None
        is_whole = flow is not None and not [*lacks(flow, names)]
        moved = archive.changes.wait(lambda: archive.changes.version != version, _QUIET_S)  # noqa: B023
        if is_whole and not moved:
            break
    return flow


def _show(tour: Toured) -> None:
    from tracekit.cli import terminal
    from tracekit.flow import render, render_line

    if tour.flow is not None:
        print()
        _say(render_line(tour.flow))
        print(render(tour.flow, width=terminal.width(), color=terminal.is_colored(sys.stdout)))
    print()
    for sentence in tour.lacks:
        _say(f"  ✕ {sentence}")
    number, whole = (
        len(tour.reached.names),
        "is not one whole flow" if tour.lacks else "is one flow, no break",
    )
    _say(f"one order through {number} of {number + len(tour.reached.left_out)} systems {whole}")


def _say(line: str) -> None:
    from tracekit.cli import terminal

    terminal.say(line)
    sys.stdout.flush()
