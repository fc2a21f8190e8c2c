"""HTTP, owned once: FastAPI as server; httpx, httpx2, aiohttp and requests as clients; uplink and descanso.

The spans and the metrics are those of OpenTelemetry's own instrumentors, with the stable names. Ours
is what they leave open: one SERVER span whatever else is switched on, where flows end, and trust.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracekit.http import clients, declared, server, websocket
from tracekit.patching import Integration
from tracekit.tracing.trust import TRUST_ALL, Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["INTEGRATIONS", "Trust", "integrations"]


def integrations(
    service: str = "",
    trust: Mapping[str, str] | Trust = TRUST_ALL,
    flush: Callable[[], object] = lambda: None,
) -> Sequence[Integration]:
    """How HTTP is instrumented, for this service, and with this trust in routes and hosts.

    `flush` sends what is unsent: called when a server ends.
    """
    whom = trust if isinstance(trust, Trust) else Trust.of(trust)
    return (
        Integration(
            "fastapi",
            "fastapi",
            "" if _fastapi_traces_itself() else server.CONTRIB,
            functools.partial(server.install, service=service, trust=whom, flush=flush),
            server.CONTRIB,
        ),
        Integration(
            "httpx",
            "httpx",
            "opentelemetry.instrumentation.httpx",
            functools.partial(clients.install_httpx, trust=whom),
            "opentelemetry.instrumentation.httpx",
        ),
        Integration(
            "httpx2",
            "httpx2",
            "opentelemetry.instrumentation.httpx",
            functools.partial(clients.install_httpx, trust=whom, package="httpx2"),
            "opentelemetry.instrumentation.httpx",
        ),
        Integration(
            "aiohttp",
            "aiohttp",
            "opentelemetry.instrumentation.aiohttp_client",
            functools.partial(clients.install_aiohttp, trust=whom),
            "opentelemetry.instrumentation.aiohttp_client",
        ),
        Integration(
            "requests",
            "requests",
            "opentelemetry.instrumentation.requests",
            functools.partial(clients.install_requests, trust=whom),
            "opentelemetry.instrumentation.requests",
        ),
        Integration("uplink", "uplink", "", declared.install_uplink),
        Integration("descanso", "descanso", "", declared.install_descanso),
        Integration("websockets", "websockets", "", functools.partial(websocket.install, trust=whom)),
    )


def _fastapi_traces_itself() -> bool:
    """Whether this FastAPI (0.165 or newer) can own its SERVER span where contrib cannot be had.

    Looked up without importing it: an application that does not use it must not load it.
    """
    spec = find_spec("fastapi")
    places = (spec.submodule_search_locations if spec else None) or ()
    return any((Path(place) / "telemetry").is_dir() for place in places)


INTEGRATIONS: Final = integrations()
