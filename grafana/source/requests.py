"""The dashboard HTTP: rate, errors and duration of requests, of those who serve and of those who call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders.dashboard import Row

from grafana.source import names, units
from grafana.source.frame import dashboard, variable
from grafana.source.panels import Line, lines, of
from grafana.source.queries import chosen, failing, per_second, quantile, total

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_SERVING: Final = f'{names.SERVICE}=~"$service"'
_SERVED: Final = f"{names.SERVED}_count"
_CALLED: Final = f"{names.CALLED}_count"
_ROUTE: Final = (names.SERVICE, names.METHOD, names.ROUTE)
_ROUTE_LEGEND: Final = f"{of(names.SERVICE)} {of(names.METHOD)} {of(names.ROUTE)}"
_CALL: Final = (names.SERVICE, names.SERVER, names.PORT)
_CALL_LEGEND: Final = f"{of(names.SERVICE)} → {of(names.SERVER)}:{of(names.PORT)}"


def requests() -> Dashboard:
    """The dashboard."""
    return (
        dashboard("http", "HTTP", "Requests: how many, how many fail, and how long they take.")
        .with_variable(variable("service", "Service", _SERVED, names.SERVICE))
        .with_row(Row("Served"))
        .with_panel(
            lines(
                "Requests",
                "By method and route.",
                units.REQUESTS,
                Line(per_second(_SERVED, *_ROUTE, where=_SERVING), _ROUTE_LEGEND),
            )
        )
        .with_panel(
            lines(
                "Requests that failed",
                "The share that was answered with a status from 500 on, or not at all. What the caller did "
                "wrong, below 500, is not among them. Nothing here means that none failed.",
                units.SHARE,
                Line(failing(_SERVED, f'{names.ERROR}!=""', *_ROUTE, where=_SERVING), _ROUTE_LEGEND),
            )
        )
        .with_panel(
            lines(
                "Duration, p95",
                "Until the answer was sent. A point leads to the flow behind it.",
                units.SECONDS,
                Line(quantile(0.95, names.SERVED, *_ROUTE, where=_SERVING), _ROUTE_LEGEND, exemplars=True),
            )
        )
        .with_panel(
            lines(
                "Duration, p50 and p99",
                "Until the answer was sent.",
                units.SECONDS,
                Line(quantile(0.5, names.SERVED, *_ROUTE, where=_SERVING), f"{_ROUTE_LEGEND} p50"),
                Line(
                    quantile(0.99, names.SERVED, *_ROUTE, where=_SERVING),
                    f"{_ROUTE_LEGEND} p99",
                    exemplars=True,
                ),
            )
        )
        .with_panel(
            lines(
                "Requests, by status",
                "What callers were answered.",
                units.REQUESTS,
                Line(
                    per_second(_SERVED, names.SERVICE, names.STATUS, where=_SERVING),
                    f"{of(names.SERVICE)} {of(names.STATUS)}",
                ),
            )
        )
        .with_panel(
            lines(
                "Requests in service",
                "That came in, and are not answered yet.",
                units.NUMBER,
                Line(total(chosen(names.IN_SERVICE, _SERVING), names.SERVICE), of(names.SERVICE)),
            )
        )
        .with_row(Row("Called"))
        .with_panel(
            lines(
                "Calls, p95",
                "As the caller sees it: with the way there and back, and of what is not traced there, too.",
                units.SECONDS,
                Line(quantile(0.95, names.CALLED, *_CALL, where=_SERVING), _CALL_LEGEND, exemplars=True),
            )
        )
        .with_panel(
            lines(
                "Calls that failed",
                "The share that got a status from 400 on, or no answer. Nothing here means that none failed.",
                units.SHARE,
                Line(failing(_CALLED, f'{names.ERROR}!=""', *_CALL, where=_SERVING), _CALL_LEGEND),
            )
        )
    )
