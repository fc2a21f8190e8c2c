"""Panels: the ways in which our dashboards show a query, alike on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    DataSourceRef,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS: Final = "prometheus"
"""The data source's type, and the uid under which `provisioning/datasources` has it."""
SOURCE: Final = DataSourceRef(PROMETHEUS, "${datasource}")
_HEIGHT: Final = 9


@dataclass(frozen=True, slots=True)
class Line:
    """A query, and how its series are called. With exemplars, points lead to the flows behind them."""

    query: str
    legend: str
    exemplars: bool = False


def of(label: str) -> str:
    """The value of a label, in a legend."""
    return f"{{{{{label}}}}}"


def lines(
    title: str,
    description: str,
    unit: str,
    *shown: Line,
    width: int = 12,
    lowest: float | None = 0,
    highest: float | None = None,
) -> timeseries.Panel:
    """Over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(_HEIGHT)
        .fill_opacity(8)
        .show_points(VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if lowest is not None:
        panel.min(lowest)
    if highest is not None:
        panel.max(highest)
    for ref, line in zip("ABCDEFGH", shown, strict=False):
        panel.with_target(query(ref, line.query).range().legend_format(line.legend).exemplar(line.exemplars))
    return panel


def bars(title: str, description: str, unit: str, *shown: Line, width: int = 12) -> timeseries.Panel:
    """Over time, what is counted within each interval."""
    return (
        lines(title, description, unit, *shown, width=width)
        .draw_style(GraphDrawStyle.BARS)
        .fill_opacity(60)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    )


def signed(title: str, description: str, unit: str, *shown: Line) -> timeseries.Panel:
    """Over time, about nought."""
    return lines(title, description, unit, *shown, lowest=None).axis_centered_zero(True)


def number(title: str, description: str, unit: str, value: str, width: int = 6) -> stat.Panel:
    """One number, the latest, and how it came to be."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .graph_mode(BigValueGraphMode.AREA)
        .with_target(query("A", value).range().legend_format(title))
    )


def query(ref: str, expression: str) -> prometheus.Dataquery:
    """A query of a panel."""
    return prometheus.Dataquery().ref_id(ref).expr(expression).datasource(SOURCE)


def table(ref: str, expression: str, format_: PromQueryFormat) -> prometheus.Dataquery:
    """A query of a panel for what is now, in rows."""
    return query(ref, expression).instant().format(format_)
