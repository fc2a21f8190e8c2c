"""The dashboard Telemetry health: what was lost, refused or late on the way to those who look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders.dashboard import Row

from grafana.source import names, units
from grafana.source.frame import dashboard
from grafana.source.panels import Line, bars, lines, of
from grafana.source.queries import INTERVAL, grown, per_second, total

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_EXPORTER: Final = of(names.EXPORTER)


def _lost(counter: str, what: str, beside: str = "") -> Line:
    return Line(grown(counter, names.EXPORTER, window=INTERVAL, beside=beside), f"{_EXPORTER}: {what}")


def _refused(counter: str, what: str) -> Line:
    return Line(grown(counter, window=INTERVAL), what)


def health() -> Dashboard:
    """The dashboard."""
    return (
        dashboard(
            "health", "Telemetry health", "Whether what the other dashboards show is all that there was."
        )
        .with_row(Row("Services"))
        .with_panel(
            bars(
                "Left out, by reason",
                "What tracekit left out rather than trouble a service. Spans and log lines: `export` (nobody "
                "took them), `queue_full`, `late`, `internal`. Headers: `invalid_…` (nobody can read them), "
                "`size` and `oversized` (no room on the message). Nothing here means that nothing was.",
                units.NUMBER,
                Line(
                    grown(names.DROPPED, names.SERVICE, names.REASON, window=INTERVAL),
                    f"{of(names.SERVICE)}: {of(names.REASON)}",
                ),
                width=24,
            )
        )
        .with_row(Row("Collectors"))
        .with_panel(
            lines(
                "Queues",
                "How full the queue of an exporter is. Full: what comes next is refused. It fills while "
                "what it exports to does not answer.",
                units.SHARE,
                Line(
                    f"max by ({names.INSTANCE}, {names.EXPORTER}, {names.SIGNAL}) "
                    f"({names.QUEUED} / {names.CAPACITY})",
                    f"{_EXPORTER}: {of(names.SIGNAL)} ({of(names.INSTANCE)})",
                ),
                highest=1,
            )
        )
        .with_panel(
            lines(
                "Spans in and out",
                "Out less than in: they are sampled, held in a queue, or lost. In tiers of Collectors each "
                "tier counts.",
                units.PER_SECOND,
                Line(per_second(names.ACCEPTED_SPANS, names.INSTANCE), f"in ({of(names.INSTANCE)})"),
                Line(
                    per_second(names.SENT_SPANS, names.INSTANCE, names.EXPORTER),
                    f"out to {_EXPORTER} ({of(names.INSTANCE)})",
                ),
            )
        )
        .with_panel(
            bars(
                "Lost",
                "What an exporter gave up: it was refused for good or for too long. Or sampling had kept it, "
                "and the queue was full; elsewhere what finds a queue full is refused. Of metrics it is what "
                "Prometheus refused, such as what is too old: while it is not reached, nothing is shown.",
                units.NUMBER,
                _lost(names.UNSENT_SPANS, "spans not taken"),
                _lost(names.UNSENT_LINES, "log lines not taken"),
                _lost(names.UNSENT_POINTS, "points of metrics not taken"),
                _lost(names.UNQUEUED_SPANS, "spans kept, queue full", beside=names.UNDECIDED),
            )
        )
        .with_panel(
            bars(
                "Refused",
                "What a Collector did not take, for want of memory or of room in a queue. Who sent it sends "
                "it again, and loses it in the end.",
                units.NUMBER,
                _refused(names.REFUSED_SPANS, "spans"),
                _refused(names.REFUSED_LINES, "log lines"),
                _refused(names.REFUSED_POINTS, "points of metrics"),
            )
        )
        .with_panel(
            lines(
                "Memory",
                "Of each Collector, as the system counts it. It begins to refuse when what Go has allocated, "
                "garbage included, reaches 64 of 100 of what it may have: by that count, which is lower.",
                units.BYTES,
                Line(total(names.MEMORY, names.INSTANCE), of(names.INSTANCE)),
                width=24,
            )
        )
        .with_row(Row("Gateways that sample"))
        .with_panel(
            bars(
                "Late",
                "Spans that came after their trace was kept, as they do behind a long wait: they are kept "
                "too. What comes late to a trace that was not kept is decided by itself, and is not counted.",
                units.NUMBER,
                Line(
                    grown(names.LATE, names.SAMPLED, window=INTERVAL),
                    f"kept with its trace: {of(names.SAMPLED)}",
                ),
            )
        )
        .with_panel(
            bars(
                "Dropped undecided",
                "Traces that were dropped before their time, since more came than are held at once. Raise "
                "`num_traces`, or add a gateway.",
                units.NUMBER,
                Line(grown(names.DECIDED_EARLY, names.INSTANCE, window=INTERVAL), of(names.INSTANCE)),
            )
        )
    )
