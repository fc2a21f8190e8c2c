"""tracekit: one flow, end to end, across HTTP and queues.

    import tracekit

    tracekit.configure("orders")

The names below are all that is public; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracekit._configure import Handle, configure
    from tracekit._settings import SettingError
    from tracekit.carried import ContextExecutor, carry, spawn_detached
    from tracekit.context import extract, inject
    from tracekit.messaging.inprocess import TracedQueue
    from tracekit.messaging.scope import consuming, process, process_batch, relay, wrap
    from tracekit.tracing.generators import traced_generator

__all__ = [
    "ContextExecutor",
    "Handle",
    "SettingError",
    "TracedQueue",
    "carry",
    "configure",
    "consuming",
    "extract",
    "inject",
    "process",
    "process_batch",
    "relay",
    "spawn_detached",
    "traced_generator",
    "wrap",
]

_HOMES = {
    "tracekit._configure": ("Handle", "configure"),
    "tracekit._settings": ("SettingError",),
    "tracekit.carried": ("ContextExecutor", "carry", "spawn_detached"),
    "tracekit.context": ("extract", "inject"),
    "tracekit.messaging.inprocess": ("TracedQueue",),
    "tracekit.messaging.scope": ("consuming", "process", "process_batch", "relay", "wrap"),
    "tracekit.tracing.generators": ("traced_generator",),
}


def __getattr__(name: str) -> Any:
    # Late, so that `tracekit run` and a command's --help do not load OpenTelemetry.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'tracekit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
