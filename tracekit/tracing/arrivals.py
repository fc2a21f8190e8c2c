"""Arrivals: requests from outside, whose context is taken or not, and with which a flow may end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics

from tracekit import semconv
from tracekit.context import Checkpoint, with_checkpoint
from tracekit.tracing.propagator import Arrival, arriving

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from tracekit.tracing.trust import Trust

_NS: Final = 1_000_000_000


class Arrivals:
    """The requests that one service takes; `trust` says which routes context is taken from."""

    def __init__(self, service: str, trust: Trust) -> None:
        self._service = service
        self._trust = trust
        self._duration = metrics.get_meter("tracekit", schema_url=semconv.SCHEMA_URL).create_histogram(
            semconv.FLOW_DURATION,
            semconv.SECONDS,
            # To the letter as the messaging engine has it: for the SDK they are one instrument then.
            "Time from a flow's beginning to a place where it may end.",
            explicit_bucket_boundaries_advisory=semconv.QUEUE_BUCKETS,
        )

    def begin(self, context: Context, *paths: str, may_end: bool = True) -> tuple[Arrival, Context]:
        """A request that arrives at this route (by any of its names), and the context that it starts in.

        `may_end`: a flow may end with it.
        """
        checkpoint = Checkpoint() if may_end else None
        arrival = Arrival(checkpoint, trusted=not self._trust.routes or all(map(self._trust.takes, paths)))
        if checkpoint is not None:
            context = with_checkpoint(checkpoint, context)
        return arrival, arriving(arrival, context)

    def end(self, arrival: Arrival, failure: str = "") -> None:
        """Record the flow's duration, where it began with this request and nothing was sent on.

        `failure` is the error's type. Not called for what was cancelled: that is neither done nor failed.
        """
        if arrival.checkpoint is None or arrival.pathway is None:
            return
        if arrival.brought_flow or arrival.checkpoint.sent:
            return
        labels = {
            semconv.FLOW_END: "request",
            semconv.FLOW_ORIGIN: self._service or arrival.pathway.origin,
        }
        if failure:
            labels[semconv.ERROR_TYPE] = failure
        self._duration.record(max(0, time.time_ns() - arrival.pathway.origin_ns) / _NS, labels)
