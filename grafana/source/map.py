"""The dashboard Map: services and destinations, and what goes between them.

Grafana takes a node by a row with `id`, an edge by one with `source` and `target`; both may have `mainstat`.
A destination's edges come from the services' own metrics: no two sides must meet in one Collector for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import nodegraph
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig, MatcherConfig
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.source import names, units
from grafana.source.frame import dashboard
from grafana.source.panels import SOURCE, Line, lines, of, table
from grafana.source.queries import AT_WORK, either, joined, labelled, per_second, ratio, total

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_BLUE: Final = "#5794f2"
_ORANGE: Final = "#ff9830"
_DASHED: Final = "6 4"
_SERVICE: Final = "service $1"
_ALL: Final = "(.*)"
_CALLING: Final = f'{names.CONNECTION}!="messaging_system"'  # through queues: the services' own say more


def _edges() -> str:
    sent = per_second(names.SENT, names.SERVICE, names.SYSTEM, names.DESTINATION)
    taken = per_second(names.CONSUMED, names.SERVICE, names.SYSTEM, names.DESTINATION, names.GROUP)
    called = per_second(names.CALLS, names.CLIENT_END, names.SERVER_END, where=_CALLING)
    edges = either(
        _dashed(_at_destination(_at_service(sent, "source", names.SERVICE), "target")),
        _dashed(_at_service(_at_destination(taken, "source"), "target", names.SERVICE)),
        _at_service(_at_service(called, "source", names.CLIENT_END), "target", names.SERVER_END),
    )
    named = labelled(edges, "detail__group", "$1", names.GROUP, _ALL)
    identified = joined(named, "id", "source", "target", "detail__group")
    return total(identified, "id", "source", "target", "detail__group", "strokedasharray")


def _nodes() -> str:
    """What each takes in. One that only gives has 0, so that no edge is without its ends."""
    served = _at_service(per_second(f"{names.SERVED}_count", names.SERVICE), "id", names.SERVICE)
    processed = _at_service(
        per_second(f"{names.PROCESS}_count", names.SERVICE, where=AT_WORK), "id", names.SERVICE
    )
    sent = _at_destination(per_second(names.SENT, names.SYSTEM, names.DESTINATION), "id")
    taken_in = either(
        labelled(served, "by", "requests"),
        labelled(processed, "by", "messages"),
        labelled(sent, "by", "sends"),
    )
    edges = _edges()
    ends = either(*(f"0 * {labelled(edges, 'id', '$1', end, _ALL)}" for end in ("source", "target")))
    nodes = total(f"{taken_in} or {ends}", "id")
    called = labelled(labelled(nodes, "title", "$1", "id", ".+? (.+)"), "subtitle", "$1", "id", "(.+?) .+")
    return labelled(labelled(called, "color", _ORANGE), "color", _BLUE, "id", "service .+")


def _at_service(value: str, end: str, label: str) -> str:
    return labelled(value, end, _SERVICE, label, _ALL)


def _at_destination(value: str, end: str) -> str:
    return joined(value, end, names.SYSTEM, names.DESTINATION)


def _dashed(value: str) -> str:
    return labelled(value, "strokedasharray", _DASHED)


def _map() -> nodegraph.Panel:
    panel = (
        nodegraph.Panel()
        .title("Map")
        .description(
            "Services are blue, and have how many requests they serve and messages, or batches of them, they "
            "process a second. Destinations are orange, and have how many messages are sent to them. "
            "Messages go along dashed lines, calls along plain ones."
        )
        .datasource(SOURCE)
        .unit(units.PER_SECOND)
        .span(24)
        .height(20)
        .nodes(nodegraph.NodeOptions().main_stat_unit(units.PER_SECOND))
        .edges(nodegraph.EdgeOptions().main_stat_unit(units.PER_SECOND))
    )
    for frame, query in (("nodes", _nodes()), ("edges", _edges())):
        panel.with_target(table(frame, query, PromQueryFormat.TABLE))
        panel.with_transformation(
            DataTransformerConfig(
                "organize",
                filter_val=MatcherConfig("byRefId", frame),
                # So Grafana calls the values of one query among several.
                options={"renameByName": {f"Value #{frame}": "mainstat"}},
            )
        )
    return panel


def service_map() -> Dashboard:
    """The dashboard."""
    ends = (names.CLIENT_END, names.SERVER_END)
    return (
        dashboard("map", "Map", "Who talks to whom, by calls and through queues.")
        .with_panel(_map())
        .with_panel(
            lines(
                "Calls that failed",
                "The share of the calls between two services, of those that were traced.",
                units.SHARE,
                Line(
                    ratio(
                        per_second(names.FAILED_CALLS, *ends, where=_CALLING),
                        per_second(names.CALLS, *ends, where=_CALLING),
                    ),
                    f"{of(names.CLIENT_END)} → {of(names.SERVER_END)}",
                ),
                width=24,
            )
        )
    )
