"""`configure()`: arguments and `OTEL_*` variables become providers, exporters and instrumentation.

What it sets up, its handle undoes, and it can be done again. Where the application has set a provider
before, that one is joined, not replaced.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import socket
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, distribution, distributions, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tracekit import _settings

try:
    from opentelemetry import metrics, propagate  # noqa: F401 - the second for what it raises
except ValueError:
    _settings.read()  # OpenTelemetry reads OTEL_PROPAGATORS as it is imported, and names no setting
    raise

from tracekit import http, logs, rpc, semconv
from tracekit._exporters import Exports, exporters
from tracekit._hush import UNSENT, hush
from tracekit.guard import count_drop, dropped, shielded
from tracekit.messaging import scope
from tracekit.messaging.engine import Engine
from tracekit.messaging.metrics import Instruments
from tracekit.messaging.telemetry import Telemetry
from tracekit.patching import Integration, Patches
from tracekit.tracing.signals import Outputs, Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from types import TracebackType

    from tracekit._exporters import Counted
    from tracekit._settings import KafkaOwner, ParentRule, Settings
    from tracekit.guard import Reason
    from tracekit.messaging.transport import Transport

_EXIT_S: Final = 5.0  # how long the end of the process may wait for what is still unsent
_REACH_S: Final = 0.25
_SERVER_S: Final = 2.0  # a server that ends may be given little time
_REJOIN_S: Final = 0.5  # the application waits: it is setting its provider


class Handle:
    """What `configure()` gives: `flush()` what is unsent, `undo()` everything, `dropped()` so far.

    As a context manager it undoes at the end of the block. `report` is the start-up line. None of it
    raises.

        with tracekit.configure("nightly") as handle:
            run()
            if not handle.flush(timeout_s=2):
                print("not all was sent:", handle.dropped())
    """

    def __init__(
        self, report: str, signals: Signals | None, patches: Patches, counted: Sequence[Counted] = ()
    ) -> None:
        self.report = report
        self._signals = signals
        self._patches = patches
        self._undone = False
        self._counted = counted
        self._unhush = hush(counted) if counted else None
        self._flushing: threading.Thread | None = None

    @property
    def is_active(self) -> bool:
        """False once undone."""
        return not self._undone

    def flush(self, timeout_s: float = _EXIT_S) -> bool:
        """Send what is unsent; whether all of it went out within the time, in seconds.

        Never takes longer: OpenTelemetry's own flush waits for a hung exporter for minutes
        (opentelemetry-python#4568). While one of ours still waits there, another waits for that one.
        """
        if self._signals is None:
            return True
        until = time.monotonic() + timeout_s
        lost = dropped().get("export", 0)
        if self._flushing is not None:
            self._flushing.join(timeout_s)
            if self._flushing.is_alive():
                return False
        left_s = max(0.0, until - time.monotonic())
        done, self._flushing = _within(left_s, functools.partial(self._signals.flush, left_s))
        return done and dropped().get("export", 0) == lost

    def undo(self, timeout_s: float = _EXIT_S) -> None:
        """Flush, then take everything back: patches, processors, providers' targets, propagators.

        Never takes longer than this; what an exporter still holds then is lost, and counted.
        """
        if self._undone:
            return
        self._undone = True
        until = time.monotonic() + timeout_s
        atexit.unregister(self._end)
        scope.install(None)
        self._patches.undo()
        if not self.flush(timeout_s):
            count_drop("late", UNSENT)
        if self._signals is not None:
            self._signals.give_back()
            _within(max(0.0, until - time.monotonic()), self._signals.shut_down)
        if self._unhush is not None:
            self._unhush()

    def _server_ends(self) -> None:
        """Send what is unsent, if somebody listens. What is emitted after it goes out as ever."""
        if not self._undone and not any(one.is_refused() for one in self._counted):
            self.flush(_SERVER_S)

    def _end(self) -> None:
        """Undo, without waiting for what nobody listens to."""
        if not self._undone:
            for one in self._counted:
                with shielded("the end of a configuration"):
                    one.hurry()
        self.undo()

    @staticmethod
    def dropped() -> Mapping[Reason, int]:
        """What tracekit left out in this process, by reason (also the metric `tracekit.dropped`)."""
        return dropped()

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


class _Process:
    """The configuration of this process: there is one, and a second one takes its place."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.handle: Handle | None = None


_process = _Process()


def configure(
    service: str | None = None,
    *,
    endpoint: str | None = None,
    parent: ParentRule | None = None,
    kafka: KafkaOwner | None = None,
    receive_spans: bool | None = None,
    wait_spans: bool | None = None,
    trust: Mapping[str, str] | None = None,
    quiet: bool | None = None,
) -> Handle:
    """Trace this process: its HTTP, its Kafka, its logs; and say on standard error what is traced.

    `service` is its name (else OTEL_SERVICE_NAME, else the program's), `endpoint` an OTLP address
    (else OTEL_EXPORTER_OTLP_ENDPOINT, else this machine's port 4318). `parent` says whose child the
    processing of a message is: the ambient span's, else the message's (`auto`, the default); always
    the message's (`message`); nobody's, with a link (`link`). `kafka="contrib"` leaves kafka-python
    to opentelemetry-instrumentation-kafka-python. `receive_spans` shows the calls that fetch
    messages too, `wait_spans` the time of each message in its queue, for viewers that draw spans and
    nothing else, such as Jaeger. `trust` names routes and hosts that context is neither taken from nor
    given to: `{"/webhooks/*": "none", "api.partner.example": "none"}`. `quiet` leaves the start-up line
    out. What is not given is as the TRACEKIT_* and OTEL_* variables say; README lists them.

    A second call takes the place of the first. What was not sent is sent at the end of the process, for
    at most five seconds. Raises SettingError, a ValueError, for a setting that cannot be, with the
    setting, its value and the cure; nothing has been changed then.

        handle = tracekit.configure("orders")
        handle.undo()  # takes everything back
    """
    settings = _settings.read(
        service=service,
        endpoint=endpoint,
        parent=parent,
        kafka=kafka,
        receive_spans=receive_spans,
        wait_spans=wait_spans,
        trust=trust,
        quiet=quiet,
    )
    return start(settings)


def start(settings: Settings, outputs: Outputs | None = None) -> Handle:
    """Trace this process by these settings; `outputs` take the place of the exporters."""
    # Raises before anything is changed.
    web = [
        *http.integrations(settings.service, settings.trust, _server_ends),
        *rpc.integrations(settings.service, settings.trust),
    ]
    with _process.lock:
        is_second = is_configured()
        if _process.handle is not None:
            _process.handle._end()  # noqa: SLF001
        patches = Patches()
        if settings.disabled:
            handle = Handle("tracekit: off (OTEL_SDK_DISABLED)", None, patches)
        else:
            signals = Signals(
                settings.service,
                settings.propagators,
                lambda: outputs or exporters(settings),
                functools.partial(_rejoin, settings) if outputs is None else None,
            )
            counted = signals.outputs.counted if isinstance(signals.outputs, Exports) else ()
            engine, brokers = _messaging(settings, signals)
            scope.install(engine)
            known = [*web, *brokers, *logs.integrations()]
            wanted = [one for one in known if settings.without.isdisjoint({one.name, "*"})]
            for one in wanted:
                if is_ready(one):
                    one.arm(patches)
            report = " | ".join(
                [
                    *_report(settings, signals, wanted, exporting=outputs is None),
                    *_unknown(settings.without - {one.name for one in known}),
                    *(["takes the place of the configuration before"] if is_second else ()),
                    f"pid {os.getpid()}",
                ]
            )
            handle = Handle(report, signals, patches, counted)
            atexit.register(handle._end)  # noqa: SLF001
        _process.handle = handle
        if not settings.quiet:
            print(handle.report, file=sys.stderr, flush=True)
        return handle


def _rejoin(settings: Settings) -> None:
    """Begin again, under the handle that there is: the application has set a provider of its own."""
    with _process.lock:
        handle = _process.handle
        if handle is None or not handle.is_active:
            return
        handle.undo(_REJOIN_S)
        anew = start(settings)
        atexit.unregister(anew._end)  # noqa: SLF001
        vars(handle).update(vars(anew))
        atexit.register(handle._end)  # noqa: SLF001
        _process.handle = handle


def _server_ends() -> None:
    if _process.handle is not None:
        _process.handle._server_ends()  # noqa: SLF001


def is_configured() -> bool:
    """Whether a configuration is in force."""
    return _process.handle is not None and _process.handle.is_active


# -- instrumentation --------------------------------------------------------------------------------


def _messaging(settings: Settings, signals: Signals) -> tuple[Engine, list[Integration]]:
    """The messaging engine, and the client libraries that it knows, whether or not they are used."""
    transports: list[Transport] = [point.load()() for point in entry_points(group="tracekit.transports")]
    tracer = signals.tracer("tracekit")
    meter = metrics.get_meter("tracekit.messaging", schema_url=semconv.SCHEMA_URL)
    instruments = Instruments(meter, signals.cells)
    telemetry = Telemetry(
        settings.service,
        tracer,
        signals.quick(tracer),
        instruments,
        has_wait_spans=settings.wait_spans,
    )
    engine = Engine(
        transports,
        telemetry,
        parent=settings.parent,
        has_receive_spans=settings.receive_spans,
        by_contrib=frozenset({"kafka"} if settings.kafka == "contrib" else ()),
    )
    return engine, [
        Integration(
            one.package,
            one.package,
            "",
            functools.partial(engine.install, one),
            one.contrib.partition(":")[0],
            [one.contrib_asks.partition(":")[0]] if one.contrib_asks else [],
        )
        for one in transports
    ]


def is_installed(module: str) -> bool:
    """Whether it can be imported, as far as can be told without; "" can."""
    with contextlib.suppress(ImportError, ValueError):
        return not module or find_spec(module) is not None
    return False


def is_ready(one: Integration) -> bool:
    """Whether all is here that tracing it takes."""
    return is_installed(one.package) and is_installed(one.needs)


# -- the start-up line ------------------------------------------------------------------------------


def _report(
    settings: Settings, signals: Signals, wanted: Sequence[Integration], *, exporting: bool
) -> list[str]:
    """The parts of `tracekit: orders -> http://localhost:4318 ok | fastapi, kafka on | httpx found …`"""
    target = _destination(settings, signals.joined) if exporting else "here"
    parts = [f"tracekit: {settings.service} -> {target}"]
    on = dict.fromkeys(one.name for one in wanted if is_ready(one))  # a client may have several transports
    parts.append(f"{', '.join(on)} on" if on else "nothing to instrument found")
    # OpenTelemetry's packages are named as their modules.
    parts += [
        f"{one.name} found but not traced: pip install {one.needs.replace('.', '-')}"
        for one in wanted
        if is_installed(one.package) and not is_installed(one.needs) and is_used(one.package)
    ]
    if settings.kafka == "contrib":
        parts.append("kafka by contrib: without the broker's answer, waits, batches and metrics")
    parts += [f"{signal}: joined the application's provider" for signal in signals.joined]
    if exporting and any("otlp" in names for names in settings.exporters.values()):
        parts += [
            f"{signal}: {', '.join(names) or 'none'}"
            for signal, names in settings.exporters.items()
            if names != ("otlp",) and signal not in signals.joined
        ]
    return parts


def is_used(package: str) -> bool:
    """Whether the application may be using it: requests comes with OpenTelemetry's exporter, too."""
    if package != "requests":
        return True
    with contextlib.suppress(PackageNotFoundError):
        # pip and uv leave an empty file with this name where somebody asked for the package itself.
        return distribution(package).read_text("REQUESTED") is not None or any(
            re.match(rf"{package}\b(?!-)(?!.*\bextra\b)", wanted)
            for one in distributions()
            if not str(one.name).startswith("opentelemetry-exporter-")
            for wanted in one.requires or ()
        )
    return True


def _unknown(names: Collection[str]) -> list[str]:
    """What OTEL_PYTHON_DISABLED_INSTRUMENTATIONS names in vain, as a part of the start-up line."""
    if not names:
        return []
    strange = {*names} - {"*"} - entry_points(group="opentelemetry_instrumentor").names
    return [f"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS: there is no {name} here" for name in sorted(strange)]


def _destination(settings: Settings, joined: Sequence[str]) -> str:
    names = {name for chosen in settings.exporters.values() for name in chosen}
    if not names:
        return "where the application's providers export" if joined else "nowhere (OTEL_*_EXPORTER=none)"
    if "otlp" not in names:
        return ", ".join(sorted(names))
    url = urlsplit(settings.endpoint)
    shown = f"{url.scheme}://{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname or "", port), _REACH_S):
            return f"{shown} ok"
    except OSError:
        return f"{shown} (nobody listens there yet)"


def _within(timeout_s: float, action: Callable[[], object]) -> tuple[bool, threading.Thread]:
    """Do it in at most so many seconds, in a thread that is left behind if it takes longer."""
    done = threading.Event()

    def run() -> None:
        with shielded("sending what is unsent"):
            if action() is not False:
                done.set()

    worker = threading.Thread(target=run, name="tracekit-flush", daemon=True)
    worker.start()
    worker.join(timeout_s)
    return done.is_set(), worker
