"""Frame: what all dashboards have around their panels, and the variables that filter them."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana.source.panels import PROMETHEUS, SOURCE

_TAG: Final = "tracekit"


def dashboard(uid: str, title: str, description: str) -> Dashboard:
    """An empty one. Its uid stands in people's bookmarks: it stays."""
    return (
        Dashboard(f"tracekit: {title}")
        .uid(f"tracekit-{uid}")
        .description(description)
        .tags([_TAG])
        .readonly()  # edited where it is made, not in the browser
        .timezone("browser")
        .time("now-30m", "now")
        .refresh("10s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            DatasourceVariable("datasource")
            .label("Prometheus")
            .type(PROMETHEUS)
            .current(VariableOption(selected=True, text="Prometheus", value=PROMETHEUS))
        )
        .link(
            DashboardLink("tracekit")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([_TAG])
            .include_vars(False)
            .keep_time(True)
        )
    )


def variable(name: str, label: str, metric: str, of: str, *, everything: str | None = None) -> QueryVariable:
    """A choice among the values of a label, several or all of them.

    `everything` is what stands for all; by default their list. `.*` takes what has no such label, too.
    """
    chosen = (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {of})")
        .definition(f"label_values({metric}, {of})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )
    return chosen if everything is None else chosen.all_value(everything)
