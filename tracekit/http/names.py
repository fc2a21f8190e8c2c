"""Stable names: OpenTelemetry's instrumentors of HTTP made to speak the conventions of today.

Contrib's still default to names from before 1.21 and read `OTEL_SEMCONV_STABILITY_OPT_IN` once. The
variable stays as it is, for it would be handed on to child processes and their other libraries; what
contrib made of it is changed instead. What the user set for HTTP is kept.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tracekit.guard import count_drop, shielded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracekit.patching import Patches

Scope = Any  # ASGI's: a mapping that servers fill

_VARIABLE: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def stable_names(patches: Patches) -> None:
    """Let contrib's HTTP instrumentors emit the stable names, until undone."""
    if says_http():
        return
    try:
        from opentelemetry.instrumentation._semconv import (
            _OpenTelemetrySemanticConventionStability as Stability,
        )
        from opentelemetry.instrumentation._semconv import _OpenTelemetryStabilitySignalType as Signal
        from opentelemetry.instrumentation._semconv import _StabilityMode as Mode

        Stability._initialize()  # type: ignore[no-untyped-call]  # noqa: SLF001 - contrib is untyped, and offers no other way
        modes = Stability._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING  # noqa: SLF001 - as above
        before = modes.get(Signal.HTTP, Mode.DEFAULT)
        if before is not Mode.DEFAULT:
            return
        modes[Signal.HTTP] = Mode.HTTP
    except (ImportError, AttributeError) as error:
        # A contrib that has no such switch any more: it chooses its names itself.
        count_drop("internal", "the stable names of HTTP", error=error)
        return
    patches.on_undo(lambda: modes.__setitem__(Signal.HTTP, before))


def says_http() -> bool:
    """Whether the user's own setting speaks of HTTP: then it counts."""
    chosen = {name.strip() for name in os.environ.get(_VARIABLE, "").split(",")}
    return not chosen.isdisjoint({"http", "http/dup"})


def sound_addresses(patches: Patches) -> None:
    """Let contrib's SERVER spans name the address that was asked for, without its port.

    Contrib joins host and port of the socket, and writes `t:None` where there is no port.
    """
    old_names = says_http() and "http/dup" in os.environ.get(_VARIABLE, "")

    def addressing(original: Callable[[Scope], tuple[str, Any, str]]) -> Callable[[Scope], Any]:
        def host_port_url(scope: Scope) -> tuple[str, Any, str]:
            host, port, url = original(scope)
            with shielded("the address of a request"):
                if old_names:
                    return host.removesuffix(":None"), port, url
                asked = _address_asked(scope)
                if asked is not None:
                    return *asked, url
                served = scope.get("server")
                if served:
                    return served[0], port, url
            return host, port, url

        return host_port_url

    patches.wrap("opentelemetry.instrumentation.asgi:get_host_port_url_tuple", addressing)


def _address_asked(scope: Mapping[str, Any]) -> tuple[str, int | None] | None:
    for name, value in scope.get("headers") or ():
        if name == b"host":
            return _authority(value.decode("latin-1"), scope.get("scheme", "http"))
    return None


@functools.lru_cache(maxsize=256)
def _authority(text: str, scheme: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.hostname, port or _PORTS.get(scheme)
