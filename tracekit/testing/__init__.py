"""Testing: the flows that a test made, as values to assert on, with any test runner.

    from tracekit.testing import capture

    with capture("orders") as seen:
        client.post("/orders")
        flow = seen.wait_for_flow("POST /orders", "send orders", "process orders")
    flow.assert_complete()
    assert flow.queue_wait("orders") < 1

`capture` sees this process; `FlowSink` takes OTLP from others. Both give the surface of `Flows`. The
pytest plugin has them as the fixtures `flows` and `flow_sink`. `tracekit.testing.spans` builds spans
for tests that need none of that, and `TransportContract` is what every transport must pass.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracekit.testing.captured import Captured, capture
    from tracekit.testing.checked import CheckedFlow, Edge
    from tracekit.testing.contract import Rig, TransportContract
    from tracekit.testing.flows import Flows, NotSeenError
    from tracekit.testing.measured import Measured
    from tracekit.testing.sink import FlowSink

__all__ = [
    "Captured",
    "CheckedFlow",
    "Edge",
    "FlowSink",
    "Flows",
    "Measured",
    "NotSeenError",
    "Rig",
    "TransportContract",
    "capture",
]

_HOMES = {
    "tracekit.testing.captured": ("Captured", "capture"),
    "tracekit.testing.checked": ("CheckedFlow", "Edge"),
    "tracekit.testing.contract": ("Rig", "TransportContract"),
    "tracekit.testing.flows": ("Flows", "NotSeenError"),
    "tracekit.testing.measured": ("Measured",),
    "tracekit.testing.sink": ("FlowSink",),
}


def __getattr__(name: str) -> Any:
    # Late, so that a test of pure functions, with built spans, loads no OpenTelemetry.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'tracekit.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
