"""The dashboard Flows: how long callers wait, how long it takes until all is done, and what fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders.dashboard import Row

from grafana.source import names, units
from grafana.source.frame import dashboard, variable
from grafana.source.panels import Line, lines, number, of
from grafana.source.queries import failing, per_second, quantile, share_waiting

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_ENTERED: Final = f'{names.SERVICE}=~"$origin"'
_BEGAN: Final = f'{names.ORIGIN}=~"$origin"'
_ENDS: Final = f"{names.FLOW}_count"
_ROUTE: Final = (names.SERVICE, names.METHOD, names.ROUTE)
_ROUTE_LEGEND: Final = f"{of(names.SERVICE)} {of(names.METHOD)} {of(names.ROUTE)}"
_FAILED: Final = f'{names.ERROR}!=""'


def flows() -> Dashboard:
    """The dashboard."""
    return (
        dashboard(
            "flows",
            "Flows",
            "From a request or a message to the end of all that it set off. Made by the services themselves: "
            "the same whether or not spans are sampled.",
        )
        .with_variable(variable("origin", "Began in", _ENDS, names.ORIGIN))
        .with_panel(
            number(
                "Response, p95",
                "What callers waited for an answer, at most, 95 of 100 times.",
                units.SECONDS,
                quantile(0.95, names.SERVED, where=_ENTERED),
            )
        )
        .with_panel(
            number(
                "Completion, p95",
                "From the beginning of a flow to a place where it ended, at most, 95 of 100 times.",
                units.SECONDS,
                quantile(0.95, names.FLOW, where=_BEGAN),
            )
        )
        .with_panel(
            number(
                "Time spent waiting",
                "Of the time from publishing a message to the end of its processing, the share that it lay "
                "in a queue. Of all services.",
                units.SHARE,
                share_waiting(),
            )
        )
        .with_panel(
            number(
                "Ends that failed",
                "The share of the places where a flow ended that ended it with an error.",
                units.SHARE,
                failing(_ENDS, _FAILED, where=_BEGAN),
            )
        )
        .with_row(Row("How long"))
        .with_panel(
            lines(
                "Response, by route",
                "What callers waited for an answer of the services where flows begin. A point leads to the "
                "flow behind it. Next to completion: what was answered early goes on.",
                units.SECONDS,
                Line(
                    quantile(0.95, names.SERVED, *_ROUTE, where=_ENTERED),
                    f"{_ROUTE_LEGEND} p95",
                    exemplars=True,
                ),
                Line(
                    quantile(0.5, names.SERVED, *_ROUTE, where=_ENTERED),
                    f"{_ROUTE_LEGEND} p50",
                ),
            )
        )
        .with_panel(
            lines(
                "Completion, by origin",
                "From the beginning of a flow to the places where it ended: a message whose processing sent "
                "nothing on, or a request that did not.",
                units.SECONDS,
                Line(
                    quantile(0.95, names.FLOW, names.ORIGIN, names.END, where=_BEGAN),
                    f"{of(names.ORIGIN)}, ended by a {of(names.END)} p95",
                    exemplars=True,
                ),
                Line(
                    quantile(0.5, names.FLOW, names.ORIGIN, names.END, where=_BEGAN),
                    f"{of(names.ORIGIN)}, ended by a {of(names.END)} p50",
                ),
            )
        )
        .with_panel(
            lines(
                "Completion, by the service where it ended",
                "Which branch of a flow is the late one.",
                units.SECONDS,
                Line(
                    quantile(0.95, names.FLOW, names.ORIGIN, names.SERVICE, where=_BEGAN),
                    f"{of(names.ORIGIN)} → {of(names.SERVICE)} p95",
                    exemplars=True,
                ),
            )
        )
        .with_panel(
            lines(
                "Time spent waiting, by consumer group",
                "Of the time from publishing a message to the end of its processing, the share that it lay "
                "in a queue. Near 1: more consumers help, faster code hardly does.",
                units.SHARE,
                Line(share_waiting(names.GROUP), of(names.GROUP)),
                highest=1,
            )
        )
        .with_row(Row("How many, and how many fail"))
        .with_panel(
            lines(
                "Ends",
                "Places where flows ended. A flow that fans out has several.",
                units.PER_SECOND,
                Line(
                    per_second(_ENDS, names.ORIGIN, names.END, where=_BEGAN),
                    f"{of(names.ORIGIN)}, by a {of(names.END)}",
                ),
            )
        )
        .with_panel(
            lines(
                "Ends that failed, by error",
                "Exceptions by their class, answers by their status from 500 on. Nothing here means that "
                "none failed.",
                units.PER_SECOND,
                Line(
                    per_second(_ENDS, names.ORIGIN, names.SERVICE, names.ERROR, where=f"{_BEGAN}, {_FAILED}"),
                    f"{of(names.ORIGIN)} → {of(names.SERVICE)}: {of(names.ERROR)}",
                ),
            )
        )
    )
