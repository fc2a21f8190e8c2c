"""`tracekit run -- PROGRAM …`: the program, traced, without a change to it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tracekit.cli.called import us

HELP = "run a program, traced: tracekit run -- uvicorn app:app"

_EPILOG = """\
examples:
  tracekit run -- uvicorn app:app --workers 2
  tracekit run --service worker -- python worker.py
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 tracekit run -- python -m shop

The program starts as it always does, in the same process. Tracing begins with the first import of
fastapi, httpx, kafka, requests, structlog or opentelemetry, in every worker. Then one line on standard
error says what is traced, and where telemetry goes: to port 4318 of this machine, unless told otherwise.
A program that imports none of them is not touched. OTEL_* variables count; the README lists them, and
those of tracekit.
"""


def configure_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.usage = "tracekit run [--service NAME] [--endpoint URL] [--quiet] -- PROGRAM [ARGUMENT ...]"
    parser.add_argument(
        "--service",
        metavar="NAME",
        type=_given,
        help="the service's name (OTEL_SERVICE_NAME; else the program's name)",
    )
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        type=_given,
        help="where telemetry goes (OTEL_EXPORTER_OTLP_ENDPOINT; else http://localhost:4318)",
    )
    parser.add_argument("--quiet", action="store_true", help="no start-up line (TRACEKIT_QUIET=true)")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _given(text: str) -> str:
    if not text.strip():
        # As a variable, an empty one would count as none.
        raise argparse.ArgumentTypeError(f"{text!r}: must not be empty; leave the option out")
    return text


def run(arguments: argparse.Namespace) -> int:
    program: list[str] = arguments.program
    if program[:1] == ["--"]:
        program = program[1:]
    if not program:
        return _fail(f"no program given. Try: {us()} run -- python worker.py")
    found = shutil.which(program[0])
    if found is None:
        hint = f"Try: {us()} run -- python {program[0]}" if program[0].endswith(".py") else "Is it installed?"
        return _fail(f"there is no program {program[0]!r} here. {hint}")
    environment = _environment(arguments)
    error = _wrong_setting(environment)
    if error:
        return _fail(error)
    sys.stdout.flush()
    try:
        os.execve(found, program, environment)  # noqa: S606 - that is what this command is for
    except OSError as failure:
        return _fail(f"{program[0]} cannot be started: {failure.strerror}")


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """The program's environment: ours, with the import hooks first on its path."""
    from tracekit import _autorun

    environment = dict(os.environ)
    hooks = str(Path(_autorun.__file__).parent)
    path = environment.get("PYTHONPATH", "")
    if hooks not in path.split(os.pathsep):
        environment["PYTHONPATH"] = os.pathsep.join([hooks, *([path] if path else [])])
    given = {
        "OTEL_SERVICE_NAME": arguments.service,
        "OTEL_EXPORTER_OTLP_ENDPOINT": arguments.endpoint,
        "TRACEKIT_QUIET": "true" if arguments.quiet else None,
    }
    return environment | {variable: value for variable, value in given.items() if value}


def _wrong_setting(environment: dict[str, str]) -> str:
    """What is wrong with the settings: said here, before the program has begun."""
    from tracekit import _settings

    try:
        _settings.read(environment)
    except _settings.SettingError as error:
        return str(error)
    return ""


def _fail(why: str) -> int:
    print(f"tracekit run: {why}", file=sys.stderr)
    return 2
