"""The dashboard Queues: how long messages wait, how many there are, and the work that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders.dashboard import Row

from grafana.source import names, units
from grafana.source.frame import dashboard, variable
from grafana.source.panels import Line, lines, of, signed
from grafana.source.queries import AT_WORK, backlog_growth, both, failing, per_second, quantile, share_waiting

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_SENT: Final = f'{names.DESTINATION}=~"$destination"'
_TAKEN: Final = f'{_SENT}, {names.GROUP}=~"$group"'
_AT_WORK: Final = both(_TAKEN, AT_WORK)
_PROCESSED: Final = f"{names.PROCESS}_count"
_FAILED: Final = f'{names.ERROR}!=""'
_WHERE: Final = (names.DESTINATION, names.GROUP)
_LEGEND: Final = f"{of(names.DESTINATION)} → {of(names.GROUP)}"


def queues() -> Dashboard:
    """The dashboard."""
    return (
        dashboard(
            "queues",
            "Queues",
            "Each destination, and each consumer group of it. Made by the services themselves: the same "
            "whether or not spans are sampled.",
        )
        .with_variable(variable("destination", "Destination", names.SENT, names.DESTINATION, everything=".*"))
        .with_variable(variable("group", "Consumer group", names.CONSUMED, names.GROUP, everything=".*"))
        .with_row(Row("Waiting"))
        .with_panel(
            lines(
                "Wait, p95",
                "From publishing a message to the start of its processing, at most, 95 of 100 times. A point "
                "leads to the flow behind it. A message that still waits is not here: look at the backlog.",
                units.SECONDS,
                Line(quantile(0.95, names.WAIT, *_WHERE, where=_TAKEN), _LEGEND, exemplars=True),
            )
        )
        .with_panel(
            signed(
                "Growth of the backlog",
                "Messages sent, where the send did not fail, less messages consumed: above 0 more and more "
                "wait. Below 0 they are worked off, or somebody sends who is not traced.",
                units.MESSAGES,
                Line(backlog_growth(sent=_SENT, taken=_TAKEN), _LEGEND),
            )
        )
        .with_panel(
            lines(
                "Wait, p50 and p99",
                "Close together: all wait alike, there are too few consumers. Far apart: some partitions or "
                "some messages hold up what is behind them.",
                units.SECONDS,
                Line(quantile(0.5, names.WAIT, *_WHERE, where=_TAKEN), f"{_LEGEND} p50"),
                Line(quantile(0.99, names.WAIT, *_WHERE, where=_TAKEN), f"{_LEGEND} p99", exemplars=True),
            )
        )
        .with_panel(
            lines(
                "Time spent waiting",
                "Of the time from publishing a message to the end of its processing, the share that it lay "
                "in the queue.",
                units.SHARE,
                Line(share_waiting(*_WHERE, where=_TAKEN), _LEGEND),
                highest=1,
            )
        )
        .with_row(Row("Messages"))
        .with_panel(
            lines(
                "Sent",
                "Messages that a producer attempted to send.",
                units.MESSAGES,
                Line(
                    per_second(names.SENT, names.SERVICE, names.DESTINATION, where=_SENT),
                    f"{of(names.SERVICE)} → {of(names.DESTINATION)}",
                ),
            )
        )
        .with_panel(
            lines(
                "Consumed",
                "Messages that a consumer received.",
                units.MESSAGES,
                Line(per_second(names.CONSUMED, *_WHERE, where=_TAKEN), _LEGEND),
            )
        )
        .with_panel(
            lines(
                "Not sent, by error",
                "Sends that failed: the broker refused, or did not answer. Nothing here means that none did.",
                units.MESSAGES,
                Line(
                    per_second(names.SENT, names.DESTINATION, names.ERROR, where=f"{_SENT}, {_FAILED}"),
                    f"{of(names.DESTINATION)}: {of(names.ERROR)}",
                ),
            )
        )
        .with_panel(
            lines(
                "Who says how long a message waited",
                "`broker`: its own clock. `header`: ours, of the service that sent. `client`: a timestamp "
                "that the producer's client wrote.",
                units.MESSAGES,
                Line(
                    per_second(f"{names.WAIT}_count", names.WAIT_SOURCE, where=_TAKEN), of(names.WAIT_SOURCE)
                ),
            )
        )
        .with_row(Row("Work"))
        .with_panel(
            lines(
                "Processing, p95",
                "How long a message, or a batch of them as a whole, was worked on.",
                units.SECONDS,
                Line(quantile(0.95, names.PROCESS, *_WHERE, where=_AT_WORK), _LEGEND, exemplars=True),
            )
        )
        .with_panel(
            lines(
                "Processings at a time",
                "How many go on at once, in the mean. As many as there are consumers: they are busy all the "
                "time, and what waits will grow.",
                units.NUMBER,
                Line(per_second(f"{names.PROCESS}_sum", *_WHERE, where=_AT_WORK), _LEGEND),
            )
        )
        .with_panel(
            lines(
                "Processings",
                "Messages, or batches of them as a whole, whose processing ended.",
                units.PER_SECOND,
                Line(per_second(_PROCESSED, *_WHERE, where=_AT_WORK), _LEGEND),
            )
        )
        .with_panel(
            lines(
                "Processings that failed",
                "The share whose processing ended with an error: of messages, and of batches as a whole. "
                "Nothing here means that none did.",
                units.SHARE,
                Line(
                    failing(_PROCESSED, _FAILED, *_WHERE, where=_TAKEN),
                    _LEGEND,
                ),
            )
        )
    )
