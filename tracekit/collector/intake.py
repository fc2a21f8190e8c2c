"""Intake: one OTLP request into a store. What HTTP and gRPC have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracekit.otlp import Decoded, OtlpError, decode_logs, decode_metrics, decode_spans, encode_answer

if TYPE_CHECKING:
    from tracekit.collector.store import Store
    from tracekit.otlp import Encoding, Signal

MAX_REQUEST_BYTES: Final = 20 * 1024 * 1024
"""The largest request, on the wire and inflated. Source: the OpenTelemetry Collector's default."""


def take_in(store: Store, signal: Signal, body: bytes, encoding: Encoding) -> bytes:
    """Add what the request holds to the store; gives the body of the answer.

    Raises OtlpError where nothing of it could be kept. What is refused is counted in the store, a
    request that cannot be read as one.
    """
    try:
        decoded = _added(store, signal, body, encoding)
    except OtlpError:
        store.count_refused(signal, 1)
        raise
    if decoded.rejected:
        store.count_refused(signal, decoded.rejected)
        if not decoded.records:
            raise OtlpError(decoded.reason)
    return encode_answer(signal, decoded, encoding)


def _added(store: Store, signal: Signal, body: bytes, encoding: Encoding) -> Decoded[object]:
    if signal == "traces":
        if encoding == "protobuf" and store.add_encoded_spans(body):
            return Decoded(())
        spans = decode_spans(body, encoding)
        store.add_spans(spans.records)
        return spans
    if signal == "logs":
        lines = decode_logs(body, encoding)
        store.add_logs(lines.records)
        return lines
    metrics = decode_metrics(body, encoding)
    store.add_metrics(metrics.records)
    return metrics
