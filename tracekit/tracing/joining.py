"""Joining: what a provider of the application's exports already, and must not be exported twice.

The SDK tells nobody where its exporters send. Where its insides are other than known here, nothing is
found, and both export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tracekit.guard import shielded

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Output(Protocol):
    def shutdown(self) -> Any: ...


Output = TypeVar("Output", bound=_Output)

_OUTPUTS = ("_active_span_processor", "_multi_log_record_processor", "_sdk_config")
_PARTS = ("_span_processors", "_log_record_processors", "metric_readers")
_INNER = ("_batch_processor", "span_exporter", "_exporter", "exporter")


def missing(outputs: Iterable[Output], provider: object) -> list[Output]:
    """Those of our outputs that send elsewhere than the provider's own. The others are shut down."""
    theirs: set[str] = set()
    with shielded("what the application exports already"):
        theirs = {_address(output) for output in _outputs(provider)} - {""}
    kept = []
    for output in outputs:
        if _address(output) in theirs:
            output.shutdown()
        else:
            kept.append(output)
    return kept


def _outputs(provider: object) -> list[object]:
    for name in _OUTPUTS:
        for part in _PARTS:
            found = getattr(getattr(provider, name, None), part, None)
            if found is not None:
                return [*found]
    return []


def _address(output: object) -> str:
    """Where a processor or reader sends by OTLP; "" where it does not say."""
    while output is not None:
        endpoint = getattr(output, "_endpoint", None)
        if isinstance(endpoint, str):
            return endpoint
        output = next((inner for name in _INNER if (inner := getattr(output, name, None)) is not None), None)
    return ""
