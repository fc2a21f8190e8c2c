"""Trial: what `tracekit doctor` tries, as a service would do it: empty exports, and a small real flow."""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import getproxies

from tracekit.cli.called import us
from tracekit.flow.text import duration
from tracekit.sources import NotFoundError
from tracekit.sources.web import BROKEN, GARBAGE, opened, opener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tracekit._settings import Settings
    from tracekit.flow import Flow
    from tracekit.sources import Source

SERVICE: Final = "tracekit-doctor"
_ENTRY, _QUEUE, _INNER = "tracekit doctor", "tracekit-doctor", "look after it"
_SPANS: Final = (_ENTRY, f"process {_QUEUE}", _INNER)
_LINE: Final = "the doctor's message was processed"
_WAIT_S: Final = 0.02
_SEND_S: Final = 5.0
_EXPORT_S: Final = 10.0
_LATE_S: Final = 2.0
_COME_BACK_S: Final = 5.0
_LOOK_S: Final = 0.02
_SLACK_NS: Final = 2_000_000
"""Moments in headers are whole milliseconds."""


_REACH_S: Final = 3.0
_MAX_WORDS: Final = 64 * 1024
_GARBLED: Final = "BadStatusLine"
"""What the exporter says with the bytes that came, where they are no answer of HTTP."""
_NO_HTTP: Final = "what listens there speaks no HTTP"
_CURES: Final = (
    (("flows are read from",), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: where that one takes spans"),
    ((_GARBLED,), "if that port speaks gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc; HTTP has 4318"),
    (
        ("HTTP/2", "http1"),
        "if that port speaks HTTP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf; gRPC has 4317",
    ),
    (("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"), "look at OTEL_EXPORTER_OTLP_HEADERS"),
    (("SSL", "TLS", "certificate"), "look at its certificate, and at http:// or https://"),
    (
        ("404", "405", "UNIMPLEMENTED"),
        "is it an OTLP receiver, and OTEL_EXPORTER_OTLP_ENDPOINT without a path?",
    ),
    (("429", "503", "RESOURCE_EXHAUSTED"), "it cannot keep up: look at its own log"),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the endpoint of a signal said to an empty export; `wrong` is empty where it took it."""

    url: str
    took_s: float
    wrong: str = ""
    cure: str = ""


def probe(signal: str, settings: Settings) -> Probe:
    """An empty export of this signal, by the exporter that the settings name."""
    from tracekit._exporters import exporter_of

    began_s = time.monotonic()
    with overheard() as said:
        exporter = exporter_of(settings, signal, "otlp")
        url = str(getattr(exporter, "_endpoint", settings.endpoint))
        try:
            if reason := _unreached(url):
                cure = f"start it: {us()} serve; or say where it is: OTEL_EXPORTER_OTLP_ENDPOINT"
                return Probe(url, time.monotonic() - began_s, reason, cure)
            # The exporter waits anew for each piece of an answer, so it may never be done.
            within_s = _export_s(signal) + _LATE_S
            try:
                is_taken = (
                    _tried(lambda: exporter.export(_nothing(signal))).result(within_s).name == "SUCCESS"
                )
            except TimeoutError:
                wrong = f"its answer has no end within {within_s:g} s"
                return Probe(
                    url, time.monotonic() - began_s, wrong, "is it an OTLP receiver? Look at its log"
                )
        finally:
            exporter.shutdown()
    took_s = time.monotonic() - began_s
    if is_taken:
        return Probe(url, took_s)
    wrong = _in_words(url, settings, signal) or (said[0] if said else "it took no export")
    cure = next(
        (cure for signs, cure in _CURES if any(sign in wrong for sign in signs)), "look at its own log"
    )
    return Probe(url, took_s, _NO_HTTP if _GARBLED in wrong else wrong, cure)


def _in_words(url: str, settings: Settings, signal: str) -> str:
    """Why an endpoint of HTTP refuses an empty export, as it says itself; exporters keep only the number."""
    if settings.protocols[signal] != "http/protobuf":
        return ""
    try:
        with opened(opener(), url, _REACH_S, _REACH_S, {"content-type": "application/json"}, b"{}"):
            return ""
    except HTTPError as error:
        with error:
            try:
                message = json.loads(error.read(_MAX_WORDS))["message"]
            except (*BROKEN, *GARBAGE):
                return ""
            return f"{error.code}: {message}" if isinstance(message, str) and message else ""
    except (OSError, HTTPException):
        return ""


def _export_s(signal: str) -> float:
    """How long an exporter tries, as it reads it itself."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    return float(next((given for name in names if (given := os.environ.get(name))), _EXPORT_S))


def _tried(attempt: Callable[[], Any]) -> Future[Any]:
    """What comes of it, on a thread that nobody has to wait for."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(attempt())
        except Exception as error:  # noqa: BLE001 - who waits gets it
            outcome.set_exception(error)

    threading.Thread(target=run, name="tracekit-doctor", daemon=True).start()
    return outcome


def _unreached(url: str) -> str:
    """Why nobody can be reached there; empty where somebody can, or where only a proxy knows."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    if getproxies():
        return ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _REACH_S).close()
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def skew_s(url: str) -> float | None:
    """By how much the clock of the server there is ahead, within a second; None where it does not tell."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return None
    try:
        with opened(opener(), url, _REACH_S, _REACH_S) as answer:
            date = answer.headers.get("date")
    except HTTPError as error:
        with error:
            date = error.headers.get("date")
    except (OSError, HTTPException):
        return None
    try:
        return parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except (ValueError, OverflowError, OSError):  # a moment that is none, or that no clock here shows
        return None


def _nothing(signal: str) -> Any:
    from opentelemetry.sdk.metrics.export import MetricsData

    return MetricsData([]) if signal == "metrics" else []


def unhooked(settings: Settings, packages: Sequence[str]) -> dict[str, str]:
    """Those of the packages that cannot be imported, or not be instrumented, and why."""
    from dataclasses import replace

    from tracekit import _configure

    found: dict[str, str] = {}
    with overheard() as said:
        handle = _configure.start(replace(settings, exporters=dict.fromkeys(settings.exporters, ())))
        try:
            for package in packages:
                before = len(said)
                try:
                    importlib.import_module(package)
                except Exception as error:  # noqa: BLE001 - whatever somebody else's module raises
                    found[package] = f"cannot be imported: {error}"
                else:
                    if said[before:]:
                        found[package] = said[-1]
        finally:
            handle.undo(1.0)
    return found


@dataclass(frozen=True, slots=True)
class Trial:
    """A flow that was sent: its id, between which lengths its wait in the queue was, and what went wrong."""

    flow_id: str
    began_s: float
    wait_ns: tuple[int, int]
    sends_logs: bool
    troubles: tuple[str, ...]


def send(settings: Settings) -> Trial:
    """Send a flow of three spans, a hop through a queue and a log line, by the exporters that are set.

    What the exporters say of failures are its troubles.
    """
    from opentelemetry import trace

    from tracekit import TracedQueue, _configure
    from tracekit.context import flow_id

    with overheard() as said:
        handle = _configure.start(settings)
        try:
            tracer = trace.get_tracer(SERVICE)
            queue: TracedQueue[str] = TracedQueue(name=_QUEUE)
            began_s = time.monotonic()
            with tracer.start_as_current_span(_ENTRY):
                known_as = flow_id() or ""
                before = time.time_ns()
                queue.put("a message")
                put = time.time_ns()
                time.sleep(_WAIT_S)
            taking = time.time_ns()
            with queue.item():
                taken = time.time_ns()
                with tracer.start_as_current_span(_INNER):
                    logging.getLogger(SERVICE).warning(_LINE)
            if not handle.flush(_SEND_S):
                said.append(f"not everything was sent within {_SEND_S:.0f} s")
            lost = handle.dropped()
        finally:
            handle.undo(1.0)
    said += [f"{count} lost: {reason}" for reason, count in lost.items()]
    return Trial(
        known_as,
        began_s,
        (taking - put - _SLACK_NS, taken - before + _SLACK_NS),
        bool(settings.exporters["logs"]),
        tuple(dict.fromkeys(said)),
    )


def came_back(trial: Trial, source: Source) -> tuple[str, float]:
    """What is wrong with the flow as it can be read, and after how many seconds it was whole.

    Nothing is wrong: empty. It is asked for until nothing is, for `_COME_BACK_S` seconds at most. Raises
    SourceError where the source fails.
    """
    until = time.monotonic() + _COME_BACK_S
    while True:
        wrong = _looked_at(trial, source)
        took_s = time.monotonic() - trial.began_s
        if not wrong or time.monotonic() > until:
            return wrong, took_s
        time.sleep(_LOOK_S)


def _looked_at(trial: Trial, source: Source) -> str:
    try:
        flow = source.flow(trial.flow_id)
        lines = [line.body for line in source.logs(flow.id)] if trial.sends_logs else [_LINE]
    except NotFoundError:
        return "nothing of it arrived"
    return _difference(trial, flow, lines)


def _difference(trial: Trial, flow: Flow, lines: Sequence[object]) -> str:
    """What is missing or wrong, the worst first; empty where every edge is as it was sent."""
    names = [span.name for span in flow.spans]
    if absent := [name for name in _SPANS if name not in names]:
        return f"missing: {', '.join(absent)}"
    tied = [
        (names[parent], name)
        for name, parent in zip(names, flow.tree.parents, strict=True)
        if parent is not None
    ]
    if tied != [*pairwise(_SPANS)]:
        return f"tied otherwise than it was: {', '.join(f'{one} -> {other}' for one, other in tied)}"
    waits = [edge.wait.duration_ns for edge in flow.edges if edge.wait is not None]
    least, most = trial.wait_ns
    if len(waits) != 1 or not least <= waits[0] <= most:
        return f"its wait of {_WAIT_S * 1000:.0f} ms came back as {', '.join(map(duration, waits)) or 'none'}"
    if flow.breaks:
        return f"broken: {', '.join(each.reason for each in flow.breaks)}"
    return "" if _LINE in lines else "missing: its log line"


@contextmanager
def overheard() -> Iterator[list[str]]:
    """What tracekit and OpenTelemetry log within the block, instead of on standard error."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear = Ear(logging.WARNING)
    silent = logging.getLogger(SERVICE)
    loggers = [logging.getLogger(name) for name in ("tracekit", "opentelemetry")]
    before = [logger.propagate for logger in (*loggers, silent)]
    for logger in loggers:
        logger.addHandler(ear)
    nothing = logging.NullHandler()
    silent.addHandler(nothing)
    for logger in (*loggers, silent):
        logger.propagate = False
    try:
        yield said
    finally:
        for logger, propagates in zip((*loggers, silent), before, strict=True):
            logger.propagate = propagates
            logger.removeHandler(ear)
            logger.removeHandler(nothing)
