"""Stable names: OpenTelemetry's instrumentors of HTTP made to speak the conventions of today.

Contrib's still default to names from before 1.21 and read `OTEL_SEMCONV_STABILITY_OPT_IN` once. The
variable stays as it is, for it would be handed on to child processes and their other libraries; what
contrib made of it is changed instead. What the user set for HTTP is kept.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from tracekit.guard import count_drop

if TYPE_CHECKING:
    from tracekit.patching import Patches

_VARIABLE: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
_CONTRIB: Final = "opentelemetry.instrumentation"


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
        if isinstance(error, ModuleNotFoundError) and error.name == _CONTRIB:
            return  # without contrib there is nothing to rename
        # A contrib that has no such switch any more: it chooses its names itself.
        count_drop("internal", "the stable names of HTTP", error=error)
        return
    patches.on_undo(lambda: modes.__setitem__(Signal.HTTP, before))


def says_http() -> bool:
    """Whether the user's own setting speaks of HTTP: then it counts."""
    return not _chosen().isdisjoint({"http", "http/dup"})


def keeps_old_names() -> bool:
    """Whether the user asked for the old names beside the stable ones."""
    return "http/dup" in _chosen()


def _chosen() -> set[str]:
    return {name.strip() for name in os.environ.get(_VARIABLE, "").split(",")}
