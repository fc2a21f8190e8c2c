"""Alerts: what somebody should look at, each a value and the threshold that it is not to pass.

Written once; `prometheus/alerts.yaml` has them for Prometheus, `provisioning/alerting` for Grafana.
Thresholds are guesses that suit a shop: change them here to what yours promises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from grafana.source import names
from grafana.source.queries import (
    KNOWN,
    SUCCEEDED,
    either,
    failing,
    grown,
    labelled,
    per_second,
    quantile,
    ratio,
)

RECENT: Final = "5m"
"""How far a rate looks back: services export once a minute by default."""
_LONG: Final = "15m"
_FAILED: Final = f'{names.ERROR}!=""'
_WHERE: Final = (names.DESTINATION, names.GROUP)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. It fires once `value` has been above `threshold` for that long."""

    name: str
    value: str
    threshold: float
    minutes: int
    severity: Literal["critical", "warning"]
    summary: str
    description: str

    @property
    def expression(self) -> str:
        """In PromQL."""
        return f"({self.value}) > {self.threshold:g}"


def label(name: str) -> str:
    """The value of a label, in a text; both Prometheus and Grafana take this spelling."""
    return f"{{{{ .Labels.{name} }}}}"


def _growing_wait() -> str:
    """By how many seconds a second the wait grows, where it is more than one.

    Where one message is taken while two are sent, each second makes the next one wait half a second longer.
    """
    waited = per_second(f"{names.WAIT}_sum", *_WHERE, window=RECENT)
    messages = per_second(f"{names.WAIT}_count", *_WHERE, window=RECENT)
    # Of a time without messages there is no mean: 0/0 would hide what comes after, as long as it is in sight.
    wait = ratio(waited, f"({messages} > 0)")
    return f"deriv(({wait})[{_LONG}:1m]) and {wait} > 1"


def _not_consumed() -> str:
    """Messages a second that are sent while a group consumes none.

    A consumer that is gone has no series: groups are those that consumed in the last hours. What failed to be
    sent is not there to be consumed.
    """
    now = per_second(names.CONSUMED, *_WHERE, window=RECENT)
    known = per_second(names.CONSUMED, *_WHERE, window=KNOWN)
    sent = per_second(names.SENT, names.DESTINATION, where=SUCCEEDED, window=RECENT)
    return f"(({now} or 0 * {known}) == bool 0) * on ({names.DESTINATION}) group_left () {sent}"


def _lost_by_collectors() -> str:
    """Each counter with a label of its own: where two of them count, `or` would take the first only.

    What finds a queue full is refused, and sent again. But who sampled it has nobody to tell.
    """
    lost = {
        "spans not taken": grown(names.UNSENT_SPANS, names.EXPORTER, window=_LONG),
        "log lines not taken": grown(names.UNSENT_LINES, names.EXPORTER, window=_LONG),
        "points of metrics not taken": grown(names.UNSENT_POINTS, names.EXPORTER, window=_LONG),
        "spans kept, queue full": grown(
            names.UNQUEUED_SPANS, names.EXPORTER, window=_LONG, beside=names.UNDECIDED
        ),
    }
    return either(*(labelled(value, "lost", what) for what, value in lost.items()))


def _silent_collectors() -> str:
    """How many that export to the same have gone silent, where all of them have.

    Not each by itself: one that is started again is another instance. By exporter, for that is the tier.
    """
    queues = f"last_over_time({names.QUEUED}[{KNOWN}])"
    return f"count by ({names.EXPORTER}) ({queues}) unless count by ({names.EXPORTER}) ({names.QUEUED})"


_QUEUE: Final = f"{label(names.DESTINATION)}, group {label(names.GROUP)}"

ALERTS: Final = (
    Alert(
        "FlowCompletionSlow",
        quantile(0.95, names.FLOW, names.ORIGIN, window=RECENT),
        30,
        5,
        "warning",
        f"What begins in {label(names.ORIGIN)} takes long until all is done",
        "More than 5 of 100 flows take more than 30 s to an end. The dashboard Flows says whether they wait "
        "or are worked on, and behind which service.",
    ),
    Alert(
        "FlowsFail",
        failing(f"{names.FLOW}_count", _FAILED, names.ORIGIN, window=RECENT),
        0.05,
        5,
        "critical",
        f"What begins in {label(names.ORIGIN)} ends with errors",
        "More than 5 of 100 ends of flows are errors. The dashboard Flows says which, and where.",
    ),
    Alert(
        "ResponsesFail",
        failing(f"{names.SERVED}_count", _FAILED, names.SERVICE, window=RECENT),
        0.05,
        5,
        "critical",
        f"{label(names.SERVICE)} answers with errors",
        "More than 5 of 100 requests got a status from 500 on, or no answer. The dashboard HTTP says which.",
    ),
    Alert(
        "ProcessingFails",
        failing(f"{names.PROCESS}_count", _FAILED, *_WHERE, window=RECENT),
        0.05,
        5,
        "critical",
        f"Processing fails: {_QUEUE}",
        "More than 5 of 100 messages end with an error. The dashboard Queues says since when.",
    ),
    Alert(
        "QueueWaitGrows",
        _growing_wait(),
        0.05,
        5,
        "warning",
        f"Messages wait longer and longer: {_QUEUE}",
        "Each minute adds more than 3 s. The group does not keep up: see on the dashboard Queues whether "
        "more is sent, or each takes longer.",
    ),
    Alert(
        "QueueNotConsumed",
        _not_consumed(),
        0,
        5,
        "critical",
        f"Nobody consumes: {_QUEUE}",
        "Messages are sent, and the group, which did consume in the last 6 hours, consumes none.",
    ),
    Alert(
        "TelemetryLost",
        grown(
            names.DROPPED,
            names.SERVICE,
            names.REASON,
            # The other reasons are headers that were not sent or not read: flows break, nothing is lost.
            where=f'{names.REASON}=~"export|internal|late|queue_full"',
            window=_LONG,
        ),
        0,
        0,
        "warning",
        f"{label(names.SERVICE)} lost spans or log lines: {label(names.REASON)}",
        "What is shown of its flows is not all. Look at its log, and whether its Collector answers.",
    ),
    Alert(
        "CollectorLosesTelemetry",
        _lost_by_collectors(),
        0,
        0,
        "warning",
        f"A Collector lost what was for {label(names.EXPORTER)}: {label('lost')}",
        "It was refused for good or for too long; or sampling kept it, and the queue was full. The dashboard "
        "Telemetry health says which, and how much.",
    ),
    Alert(
        "CollectorQueueFills",
        f"max by ({names.INSTANCE}, {names.EXPORTER}, {names.SIGNAL}) ({names.QUEUED} / {names.CAPACITY})",
        0.8,
        5,
        "warning",
        f"A Collector's queue for {label(names.EXPORTER)} is nearly full",
        "Once it is full, what comes is refused, and lost when services give up. See whether what it exports "
        "to answers, and is fast enough.",
    ),
    Alert(
        "CollectorsSilent",
        _silent_collectors(),
        0,
        5,
        "critical",
        f"No Collector that exports to {label(names.EXPORTER)} is heard of",
        "They are gone, or what they say does not come through: an agent's own metrics wait in the same "
        "queue as all else. No other alert can fire on what is not seen. This one ends when they are back, "
        f"or after {KNOWN}.",
    ),
)
