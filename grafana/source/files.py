"""Files: the text of each that is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from grafana_foundation_sdk.builders import alerting, expr, prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.alerting import RelativeTimeRange
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import RowPanel

from grafana.source.alerts import ALERTS
from grafana.source.flows import flows
from grafana.source.health import health
from grafana.source.map import service_map
from grafana.source.panels import PROMETHEUS
from grafana.source.queues import queues
from grafana.source.requests import requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grafana_foundation_sdk.builders.dashboard import Dashboard
    from grafana_foundation_sdk.cog.builder import Builder

    from grafana.source.alerts import Alert

ROOT: Final = Path(__file__).parents[2]
DASHBOARDS: Final = ROOT / "grafana" / "dashboards"
RULES: Final = ROOT / "prometheus" / "alerts.yaml"
GRAFANA_RULES: Final = ROOT / "grafana" / "provisioning" / "alerting" / "alerts.yaml"
_MADE: Final = "# Made by `make grafana` from grafana/source/alerts.py: change it there.\n"
_WIDTH: Final = 110
_EXPRESSION: Final = "__expr__"
"""The uid that Grafana's own expressions have among the data sources."""


def files() -> Mapping[Path, str]:
    """All that is written, by path."""
    boards = (flows(), queues(), requests(), service_map(), health())
    built = [_dashboard(board) for board in boards]
    return {
        **{DASHBOARDS / f"{board['uid'].removeprefix('tracekit-')}.json": _json(board) for board in built},
        RULES: _yaml({"groups": [{"name": "tracekit", "rules": [_rule(alert) for alert in ALERTS]}]}),
        GRAFANA_RULES: _yaml({"apiVersion": 1, "groups": [_grafana_group()]}),
    }


def _dashboard(builder: Dashboard) -> Any:
    built = builder.build()
    for number, panel in enumerate(built.panels or [], 1):
        panel.id_val = number  # as Grafana would, whenever it loads one without
        assert not isinstance(panel, RowPanel) or not panel.panels
    return json.loads(json.dumps(built, cls=JSONEncoder))


def _rule(alert: Alert) -> dict[str, object]:
    lasting = {"for": f"{alert.minutes}m"} if alert.minutes else {}
    return {
        "alert": alert.name,
        "expr": alert.expression,
        **lasting,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.description},
    }


def _grafana_group() -> dict[str, object]:
    return {
        "orgId": 1,
        "name": "tracekit",
        "folder": "tracekit",
        "interval": "30s",
        "rules": [_grafana_rule(alert) for alert in ALERTS],
    }


def _grafana_rule(alert: Alert) -> dict[str, object]:
    value = (
        prometheus.Dataquery()
        .ref_id("value")
        .expr(alert.value)
        .instant()
        .datasource(DataSourceRef(PROMETHEUS, PROMETHEUS))
    )
    evaluator = expr.ExprTypeThresholdConditionsEvaluator().type("gt").params([alert.threshold])
    above = (
        expr.TypeThreshold()
        .ref_id("above")
        .expression("value")
        .conditions([expr.ExprTypeThresholdConditions().evaluator(evaluator)])
        .datasource(DataSourceRef(_EXPRESSION, _EXPRESSION))
    )
    return {
        "uid": f"tracekit-{alert.name.lower()}",
        "title": alert.name,
        "condition": "above",
        "data": [_query("value", PROMETHEUS, value), _query("above", _EXPRESSION, above)],
        "for": f"{alert.minutes}m",
        # Nothing failed, nothing is lost: most of these have no series then.
        "noDataState": "OK",
        "execErrState": "Error",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.description},
        "isPaused": False,
    }


def _query(ref: str, source: str, model: Builder[Any]) -> object:
    query = (
        alerting.Query(ref)
        .datasource_uid(source)
        .model(model)
        .relative_time_range(RelativeTimeRange(600, 0))
        .build()
    )
    return json.loads(json.dumps(query, cls=JSONEncoder))


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _yaml(value: object) -> str:
    return _MADE + yaml.safe_dump(value, sort_keys=False, width=_WIDTH, allow_unicode=True)
