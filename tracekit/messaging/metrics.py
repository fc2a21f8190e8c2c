"""The instruments of messaging: those of the conventions, and the queue's and the flow's duration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracekit import semconv

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter


class Instruments:
    """What the engine records, in seconds and messages, whether or not a span is sampled."""

    __slots__ = (
        "consumed_messages",
        "flow_duration",
        "operation_duration",
        "process_duration",
        "queue_duration",
        "sent_messages",
    )

    def __init__(self, meter: Meter) -> None:
        # The boundaries are given here because the conventions' own helpers give none, and the
        # SDK's default ones (0, 5, 10, 25, …) would put every call into one bucket.
        self.operation_duration = meter.create_histogram(
            semconv.CLIENT_OPERATION_DURATION,
            semconv.SECONDS,
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
        )
        self.process_duration = meter.create_histogram(
            semconv.PROCESS_DURATION,
            semconv.SECONDS,
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
        )
        self.queue_duration = meter.create_histogram(
            semconv.QUEUE_DURATION,
            semconv.SECONDS,
            "Time from publishing a message to the start of its processing.",
            explicit_bucket_boundaries_advisory=semconv.QUEUE_BUCKETS,
        )
        self.flow_duration = meter.create_histogram(
            semconv.FLOW_DURATION,
            semconv.SECONDS,
            "Time from a flow's beginning to a place where it may end.",
            explicit_bucket_boundaries_advisory=semconv.QUEUE_BUCKETS,
        )
        self.sent_messages = meter.create_counter(
            semconv.SENT_MESSAGES, semconv.MESSAGES, "Number of messages a producer attempted to send."
        )
        self.consumed_messages = meter.create_counter(
            semconv.CONSUMED_MESSAGES, semconv.MESSAGES, "Number of messages delivered to the application."
        )
