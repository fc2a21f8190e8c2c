"""What `tracekit run` puts on a program's path: it arms import hooks, nothing more.

Providers, threads and the start-up line come with the first import of a library that is instrumented,
so supervisors and resource trackers stay silent, and every worker is traced.
"""

from __future__ import annotations

import functools
import sys
from typing import Final

PACKAGES: Final = ("fastapi", "httpx", "kafka", "requests", "structlog")
"""The imports that begin the tracing: those of our integrations that say what a program is."""


def arm() -> None:
    """Configure tracekit once one of PACKAGES was imported."""
    from tracekit.patching import when_imported

    begun: list[str] = []  # configuring imports some of PACKAGES itself

    def begin(package: str) -> None:
        if not begun:
            begun.append(package)
            _configure()

    for package in PACKAGES:
        when_imported(package, functools.partial(begin, package))


def _configure() -> None:
    try:
        from tracekit._configure import configure, is_configured

        if not is_configured():
            configure()
    except Exception as error:  # noqa: BLE001 - the program goes on untraced, and says why
        print(f"tracekit: not tracing: {error}", file=sys.stderr, flush=True)
