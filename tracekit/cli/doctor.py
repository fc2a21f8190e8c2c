"""`tracekit doctor`: what is traced here, whether telemetry arrives, and whether a flow comes back whole."""

from __future__ import annotations

import difflib
import json
import os
import platform
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Timer
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from tracekit.cli import terminal
from tracekit.cli.terminal import size, styled
from tracekit.flow.text import counted, harmless

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from tracekit._settings import Settings
    from tracekit.cli.terminal import Style
    from tracekit.patching import Integration
    from tracekit.sources import ApiSource

HELP: Final = "look what is traced here, and whether a test flow comes back whole"

_EPILOG: Final = """\
examples:
  tracekit doctor                                       here, with the settings of this shell
  OTEL_EXPORTER_OTLP_ENDPOINT=… tracekit doctor         as a service would be that has this setting
  tracekit doctor --json                                for scripts; the exit code is 1 if something fails

Run it in the environment of the service: its virtualenv, its variables. It sends a flow of three spans, of
the service tracekit-doctor. Where a `tracekit serve` answers at --server, it is read back and compared.
"""

State: TypeAlias = Literal["ok", "note", "warning", "failure"]
_STYLES: Final[Mapping[State, Style | None]] = {
    "ok": "good",
    "note": "dim",
    "warning": None,
    "failure": "bad",
}
_SECRET: Final = ("HEADERS", "KEY", "TOKEN", "PASSWORD", "SECRET", "CREDENTIAL")
_OTHERS: Final = ("OTEL_PYTHON_", "OTEL_INSTRUMENTATION_", "OTEL_EXPERIMENTAL_")
"""Beginnings of names that others than the SDK know too."""
_ALIKE: Final = 0.85
_UNSET: Final = "unset it, unless the application exports by a provider of its own"
_SKEW_S: Final = 2.0
_LONG_S: Final = 3.0
_TIMEOUT: Final = "OTEL_EXPORTER_OTLP_TIMEOUT"
_TRYING: Final = {"OTEL_TRACES_SAMPLER": "always_on", _TIMEOUT: "4"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, what was found, and the cure where it is not well."""

    about: str
    state: State
    text: str
    cure: str = ""


def configure_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    terminal.add_server(parser)


def run(arguments: argparse.Namespace) -> int:
    from tracekit.sources import SourceError

    terminal.speak_plainly()
    color = terminal.is_colored(sys.stdout)
    findings: list[Finding] = []
    try:
        server = terminal.server(arguments)
    except SourceError as error:
        return terminal.fail("doctor", error)
    for finding in _findings(server):
        findings.append(finding)
        if not arguments.json:
            for row in _rows(finding, color=color):
                print(row, flush=True)
    failures = sum(finding.state == "failure" for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not failures, "findings": [asdict(finding) for finding in findings]}))
    else:
        warnings = sum(finding.state == "warning" for finding in findings)
        print(f"\n{_verdict(failures, warnings)}")
    return 1 if failures else 0


def _rows(finding: Finding, *, color: bool) -> Iterator[str]:
    state = styled(f"{finding.state:<7}", _STYLES[finding.state], color=color)
    yield f"{state}  {finding.about:<10}  {harmless(finding.text)}"
    if finding.cure:
        yield f"{'':21}{harmless(finding.cure)}"


def _verdict(failures: int, warnings: int) -> str:
    if failures or warnings:
        said = [counted(n, noun) for n, noun in ((failures, "failure"), (warnings, "warning")) if n]
        return ", ".join(said)
    return "all is well"


def _findings(server: ApiSource) -> Iterator[Finding]:
    """Everything that was found, in the order in which it matters."""
    from importlib.metadata import version

    from tracekit import _settings
    from tracekit.cli import trial

    yield Finding("tracekit", "ok", f"{version('tracekit')} on Python {platform.python_version()}")
    given = {name: value for name, value in os.environ.items() if name.startswith(("OTEL_", "TRACEKIT_"))}
    yield from _variables(given)
    try:
        settings = _settings.read(service=trial.SERVICE, quiet=True)
    except _settings.SettingError as error:
        yield Finding("settings", "failure", str(error))
        return
    yield _in_force(settings, given)
    yield from _unseen(settings, given)
    yield from _libraries(settings)
    if settings.disabled:
        yield Finding("endpoint", "warning", "nothing is traced: OTEL_SDK_DISABLED is set", "unset it")
        return
    with _recorded_and_soon():
        endpoints = list(_endpoints(settings))
    yield from endpoints
    yield from _server(server)
    if "otlp" in settings.exporters["traces"] and all(each.state != "failure" for each in endpoints):
        with _recorded_and_soon():
            flow = _flow(settings, server)
        yield flow


@contextmanager
def _recorded_and_soon() -> Iterator[None]:
    """Whatever the sampler is, what is tried is recorded; where no time is set, an export has little."""
    before = {name: os.environ.get(name) for name in _TRYING}
    os.environ.update(_TRYING | {name: value for name, value in before.items() if value and name == _TIMEOUT})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _waited_for(server: ApiSource) -> Iterator[None]:
    """Say it where that takes long."""
    timer = Timer(_LONG_S, _say_that_it_waits, (server.url,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _say_that_it_waits(url: str) -> None:
    print(f"tracekit doctor: waiting for {harmless(url)}, half a minute at most", file=sys.stderr, flush=True)


def _variables(given: Mapping[str, str]) -> Iterator[Finding]:
    """Each variable that is set, without its secrets; names that look like one that there is."""
    from opentelemetry import environment_variables
    from opentelemetry.sdk import environment_variables as of_sdk

    known = {*vars(environment_variables), *vars(of_sdk)}
    for name, value in sorted(given.items()):
        shown = "[redacted]" if any(part in name for part in _SECRET) else _without_password(value)
        near = [] if name in known else difflib.get_close_matches(name, known, 1, _ALIKE)
        if near and name.startswith("OTEL_") and not name.startswith(_OTHERS):
            yield Finding(
                "settings", "warning", f"{name}={shown} is none that we know", f"{near[0]} perhaps?"
            )
        else:
            yield Finding("settings", "ok", f"{name}={shown}")


def _without_password(value: str) -> str:
    """A URL without its user and password; anything else as it is."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return value
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else value


def _in_force(settings: Settings, given: Mapping[str, str]) -> Finding:
    exported = [
        f"{signal} by {', '.join(names) if names else 'none'}" for signal, names in settings.exporters.items()
    ]
    kinds = {*settings.exporters.values()}
    said = "everything by OTLP" if kinds == {("otlp",)} else "; ".join(exported)
    sampler = given.get("OTEL_TRACES_SAMPLER", "")
    ratio = f"; sampled by {sampler} {given.get('OTEL_TRACES_SAMPLER_ARG', '')}".rstrip() if sampler else ""
    named = "OTEL_SERVICE_NAME" in given or "service.name=" in given.get("OTEL_RESOURCE_ATTRIBUTES", "")
    name = "" if named else "; a service is called as its program (OTEL_SERVICE_NAME says otherwise)"
    nothing = kinds == {()}
    return Finding(
        "settings",
        "warning" if nothing else "ok",
        "nothing is exported: OTEL_*_EXPORTER=none" if nothing else f"{said}{ratio}{name}",
        _UNSET if nothing else "",
    )


def _unseen(settings: Settings, given: Mapping[str, str]) -> Iterator[Finding]:
    """What keeps spans from ever being seen, though nothing fails."""
    if not settings.exporters["traces"] and any(settings.exporters.values()):
        yield Finding("settings", "warning", "no span is exported: OTEL_TRACES_EXPORTER=none", _UNSET)
    sampler = given.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    share = given.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    is_none = sampler.endswith("traceidratio") and bool(share) and float(share) == 0
    if is_none or sampler in ("always_off", "parentbased_always_off"):
        which = "trace that begins here" if sampler.startswith("parentbased_") else "trace"
        by = f"{sampler} with {share}" if is_none else sampler
        yield Finding(
            "settings",
            "warning",
            f"no {which} is recorded: OTEL_TRACES_SAMPLER is {by}",
            "unset it: all are recorded then; or with OTEL_TRACES_SAMPLER_ARG=0.1 parentbased_traceidratio "
            "records a tenth",
        )


def _libraries(settings: Settings) -> Iterator[Finding]:
    """What is installed of what can be traced; whether it is; what would have to be installed for that."""
    from importlib.metadata import packages_distributions, version

    from tracekit._configure import is_installed, is_ready, is_used
    from tracekit.cli.trial import unhooked

    distributions = packages_distributions()
    absent = []
    known = list(_known())
    traced = [one for one in known if is_ready(one) and settings.without.isdisjoint({one.name, "*"})]
    troubles = {} if settings.disabled else unhooked(settings, [one.package for one in traced])
    for one in known:
        if not is_installed(one.package):
            absent.append(one.name)
            continue
        packaged = distributions.get(one.package, [])
        what = f"{packaged[0]} {version(packaged[0])}" if packaged else "of the standard library"
        if one.package in troubles:
            yield Finding(one.name, "failure", f"{what} is not traced: {troubles[one.package]}")
        elif one in traced and one.contrib and not is_installed(one.contrib):
            cure = f"for OpenTelemetry's instrumentation instead: {_pip(one.contrib)}"
            yield Finding(one.name, "note", f"{what}, traced by itself", cure)
        elif one in traced:
            yield Finding(one.name, "ok", f"{what}, traced")
        elif is_ready(one):
            yield Finding(one.name, "note", f"{what}, left alone: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS")
        elif is_used(one.package):
            yield Finding(one.name, "warning", f"{what} is here and not traced", _pip(one.needs))
        else:
            said = f"{what} is here for OpenTelemetry's exporter, and not traced"
            yield Finding(one.name, "note", said, f"if the service uses it: {_pip(one.needs)}")
    if absent:
        yield Finding("libraries", "note", f"not here: {', '.join(absent)}")


def _pip(module: str) -> str:
    """How a module of OpenTelemetry is installed: its packages are named as their modules."""
    return f"pip install {module.replace('.', '-')}"


def _known() -> Iterator[Integration]:
    """All that `configure()` can trace."""
    from importlib.metadata import entry_points

    from tracekit import http, logs
    from tracekit.patching import Integration

    yield from http.INTEGRATIONS
    for point in entry_points(group="tracekit.transports"):
        transport = point.load()
        yield Integration(transport.package, transport.package, "", lambda _: None)
    yield from logs.INTEGRATIONS


def _endpoints(settings: Settings) -> Iterator[Finding]:
    """Where each signal goes by OTLP, and what was answered there; what cannot be reached is tried once."""
    from tracekit.cli.trial import probe, skew_s

    taken: dict[str, list[str]] = {}
    urls = []
    for signal, names in settings.exporters.items():
        if "otlp" not in names:
            continue
        found = probe(signal, settings)
        if found.wrong:
            yield Finding("endpoint", "failure", f"{_without_password(found.url)}: {found.wrong}", found.cure)
            return
        taken.setdefault(f"{_place(found.url)} over {settings.protocols[signal]}", []).append(signal)
        urls.append(found.url)
    for place, signals in taken.items():
        yield Finding("endpoint", "ok", f"{place} takes {', '.join(signals)}")
    ahead_s = skew_s(urls[0]) if urls else None
    if ahead_s is not None and abs(ahead_s) > _SKEW_S:
        said = f"that of the endpoint is {abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}"
        yield Finding(
            "clock", "warning", said, "synchronise the two (NTP, chrony): waits are as good as clocks"
        )


def _place(url: str) -> str:
    parts = urlsplit(url if "//" in url else f"//{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".removeprefix("://")


def _server(server: ApiSource) -> Iterator[Finding]:
    """What a `tracekit serve` says of itself, where one answers."""
    from importlib.metadata import version

    from tracekit.sources import SourceError

    try:
        with _waited_for(server):
            status = server.get("/api/status")
    except SourceError as error:
        yield Finding("server", "warning", str(error))
        return
    ours, theirs = version("tracekit"), status.get("version")
    held = f"{server.url} has {counted(_number(status, 'flows'), 'flow')}, {size(_number(status, 'bytes'))}"
    if theirs == ours:
        yield Finding("server", "ok", held)
    else:
        yield Finding("server", "warning", f"{held}, by tracekit {theirs}", f"here it is {ours}: update one")
    troubles = status.get("troubles")
    for trouble in troubles if isinstance(troubles, list) else ():
        yield Finding("server", "warning", str(trouble))


def _number(status: Mapping[str, object], name: str) -> int:
    found = status.get(name)
    return found if isinstance(found, int) and 0 <= found < 1 << 63 else 0


def _flow(settings: Settings, server: ApiSource) -> Finding:
    """A small flow, sent as a service sends it, and read back where that can be."""
    from tracekit.cli import trial
    from tracekit.sources import NotReachedError, SourceError

    sent = trial.send(settings)
    if sent.troubles:
        return Finding("flow", "failure", f"it was not sent: {'; '.join(sent.troubles)}")
    try:
        with _waited_for(server):
            wrong, took_s = trial.came_back(sent, server)
    except NotReachedError:
        return Finding(
            "flow",
            "warning",
            f"{sent.flow_id[:8]} was sent; whether it arrived cannot be seen",
            f"no `tracekit serve` answers at {server.url}; say where one is: --server URL",
        )
    except SourceError as error:
        return Finding("flow", "failure", f"{sent.flow_id[:8]} was sent, but not to be read: {error}")
    if wrong:
        return Finding(
            "flow",
            "failure",
            f"{sent.flow_id[:8]} was sent; at {server.url}, {wrong}",
            "does OTEL_EXPORTER_OTLP_ENDPOINT lead there? `tracekit flow` shows what arrived",
        )
    hops = "3 spans, a hop through a queue with its wait, a log line"
    return Finding("flow", "ok", f"{sent.flow_id[:8]} came back whole in {round(took_s * 1000)} ms: {hops}")
