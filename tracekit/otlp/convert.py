"""Convert: a request in JSON as one in protobuf, for a way that takes no JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tracekit.otlp import envelope, logs, metrics, spans

if TYPE_CHECKING:
    from tracekit.otlp.envelope import Shape, Signal

_SHAPES: Final[dict[Signal, Shape[Any]]] = {
    "traces": spans.SHAPE,
    "logs": logs.SHAPE,
    "metrics": metrics.SHAPE,
}


def to_protobuf(signal: Signal, body: bytes) -> bytes:
    """The same request, without fields that protobuf does not know. Raises OtlpError where it is none."""
    return envelope.to_protobuf(body, _SHAPES[signal])
