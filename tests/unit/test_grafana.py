"""Dashboards, alerts and provisioning: made from their source, and as Grafana is to have them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.source.alerts import ALERTS
from grafana.source.files import DASHBOARDS, GRAFANA_RULES, ROOT, RULES, files
from grafana.source.queries import KNOWN
from tracekit.guard import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROVISIONING: Final = ROOT / "grafana" / "provisioning"
PATHS: Final = sorted(DASHBOARDS.glob("*.json"))
BOARDS: Final[dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in PATHS}
_NAMED: Final = [
    (f"{name}: {panel['title']}", panel)
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
PANELS: Final = [pytest.param(panel, id=name) for name, panel in _NAMED]
TARGETS: Final = [
    pytest.param(target, panel, id=f"{name}, {target['refId']}")
    for name, panel in _NAMED
    for target in panel["targets"]
]
COUNTER: Final = re.compile(r"\b\w+_(?:total|count|sum|bucket)\b(?:\{[^}]*\})?")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


# -- made from their source -------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "text"), files().items(), ids=map(name_of, files()))
def test_what_is_committed_is_what_its_source_makes(path: Path, text: str) -> None:
    assert path.read_text() == text, "change grafana/source, then `make grafana`"


def test_no_dashboard_is_left_whose_source_is_gone() -> None:
    assert {*PATHS} == {path for path in files() if path.parent == DASHBOARDS}


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_a_dashboard_keeps_to_the_schema(path: Path) -> None:
    read = Dashboard.from_json(json.loads(path.read_text()))

    assert json.loads(json.dumps(read, cls=JSONEncoder)) == json.loads(path.read_text())


# -- dashboards -------------------------------------------------------------------------------------


def test_dashboards_keep_their_uids() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == {
        "flows": "tracekit-flows",
        "queues": "tracekit-queues",
        "http": "tracekit-http",
        "map": "tracekit-map",
        "health": "tracekit-health",
    }


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_dashboard_is_not_edited_in_the_browser(board: Any) -> None:
    assert board["editable"] is False


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_variable_of_a_dashboard_is_used_and_every_one_used_is_there(board: Any) -> None:
    text = json.dumps(board["panels"])
    used = {*re.findall(r"\$\{?([a-z][a-z_]*)\}?", text)}

    assert used == {variable["name"] for variable in board["templating"]["list"]}


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_lie_beside_each_other(board: Any) -> None:
    taken = [
        (x, y)
        for position in (panel["gridPos"] for panel in board["panels"])
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]

    assert len(taken) == len({*taken})
    assert all(x < 24 for x, _ in taken)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_of_a_dashboard_differ_in_id_and_title(board: Any) -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in board["panels"]]
        assert len(values) == len({*values})


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_a_title_a_description_a_unit_and_the_chosen_data_source(panel: Any) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("target", "panel"), TARGETS)
def test_a_query_asks_the_chosen_data_source(target: Any, panel: Any) -> None:
    assert target["datasource"] == panel["datasource"]


@pytest.mark.parametrize(("target", "panel"), TARGETS)
def test_a_query_looks_back_as_far_as_the_panel_is_wide(target: Any, panel: Any) -> None:
    windows = {*re.findall(r"\[([^\]]*)\]|offset ([^\s)]+)", target["expr"])}

    assert windows <= {("$__rate_interval", ""), ("", "$__rate_interval"), (KNOWN, "")}


@pytest.mark.parametrize(("target", "panel"), TARGETS)
def test_a_query_takes_no_counter_as_it_is(target: Any, panel: Any) -> None:
    assert bare_counters(target["expr"]) == []


def bare_counters(expression: str) -> list[str]:
    """Those of which neither the rate is taken, nor what was counted before is taken off."""
    return [
        found[0]
        for found in COUNTER.finditer(expression)
        if not expression.startswith("[", found.end())
        and f"{found[0]} - (last_over_time({found[0]}[" not in expression
    ]


@pytest.mark.parametrize(("target", "panel"), TARGETS)
def test_the_work_of_a_batch_is_counted_once(target: Any, panel: Any) -> None:
    work = re.findall(r"messaging_process_duration_seconds_\w+(?:\{([^}]*)\})?", target["expr"])

    is_of_outcomes = panel["title"] == "Processings that failed"
    assert is_of_outcomes or all('tracekit_messaging_in_batch=""' in matchers for matchers in work)


@pytest.mark.parametrize(("target", "panel"), TARGETS)
def test_a_route_is_told_by_its_method_too(target: Any, panel: Any) -> None:
    grouped = [found.split(", ") for found in re.findall(r"by \(([^)]*)\)", target["expr"])]

    assert all("http_request_method" in labels for labels in grouped if "http_route" in labels)
    assert ("{{http_route}}" in target.get("legendFormat", "")) == (
        "{{http_request_method}} {{http_route}}" in target.get("legendFormat", "")
    )


def test_a_send_that_failed_does_not_add_to_a_backlog() -> None:
    (panel,) = (panel for panel in BOARDS["queues"]["panels"] if panel["title"] == "Growth of the backlog")

    (sent,) = re.findall(r"client_sent_messages_total\{([^}]*)\}", panel["targets"][0]["expr"])
    assert 'error_type=""' in sent


@pytest.mark.parametrize(("target", "panel"), TARGETS)
def test_lines_have_legends_and_tables_have_none(target: Any, panel: Any) -> None:
    assert bool(target.get("legendFormat")) == (panel["type"] != "nodeGraph")


@pytest.mark.parametrize(("target", "panel"), TARGETS)
def test_exemplars_are_asked_of_histograms(target: Any, panel: Any) -> None:
    assert not target.get("exemplar") or "_bucket" in target["expr"]


@pytest.mark.parametrize("name", ["flows", "queues", "http"])
def test_the_first_durations_of_a_dashboard_lead_to_flows(name: str) -> None:
    durations = [
        panel
        for panel in BOARDS[name]["panels"]
        if panel["type"] == "timeseries"
        and panel["fieldConfig"]["defaults"]["unit"] == "s"
        and any("_bucket" in target["expr"] for target in panel["targets"])
    ]

    assert durations
    assert all(any(target["exemplar"] for target in panel["targets"]) for panel in durations)


def test_the_map_has_its_values_under_the_name_that_the_node_graph_knows() -> None:
    (panel,) = (panel for panel in BOARDS["map"]["panels"] if panel["type"] == "nodeGraph")

    assert [target["refId"] for target in panel["targets"]] == ["nodes", "edges"]
    assert [target["format"] for target in panel["targets"]] == ["table", "table"]
    assert panel["transformations"] == [
        {
            "id": "organize",
            "filter": {"id": "byRefId", "options": frame},
            "options": {"renameByName": {f"Value #{frame}": "mainstat"}},
        }
        for frame in ("nodes", "edges")
    ]


# -- alerts -----------------------------------------------------------------------------------------


def rules() -> Iterator[Any]:
    (group,) = loaded(RULES)["groups"]
    yield from group["rules"]


def grafana_rules() -> Iterator[Any]:
    (group,) = loaded(GRAFANA_RULES)["groups"]
    yield from group["rules"]


def test_prometheus_and_grafana_have_the_same_alerts() -> None:
    def of_grafana(rule: Any) -> tuple[str, str, str, Any]:
        value, above = (query["model"] for query in rule["data"])
        (condition,) = above["conditions"]
        assert (rule["condition"], above["expression"]) == (above["refId"], value["refId"])
        assert condition["evaluator"]["type"] == "gt"
        (threshold,) = condition["evaluator"]["params"]
        return rule["title"], f"({value['expr']}) > {threshold:g}", rule["for"], rule["annotations"]

    assert [of_grafana(rule) for rule in grafana_rules()] == [
        (rule["alert"], rule["expr"], rule.get("for", "0m"), rule["annotations"]) for rule in rules()
    ]


def test_prometheus_reads_the_alerts() -> None:
    assert loaded(ROOT / "prometheus" / "prometheus.yaml")["rule_files"] == [RULES.name]


def test_grafana_fills_in_nothing_in_alerts() -> None:
    assert "$" not in GRAFANA_RULES.read_text()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_names_labels_that_it_has(alert: Any) -> None:
    named = {*re.findall(r"\.Labels\.(\w+)", alert.summary + alert.description)}

    grouped = {label for found in re.findall(r"by \(([^)]*)\)", alert.value) for label in found.split(", ")}
    added = {*re.findall(r'label_replace\(.*?, "(\w+)", "[^"]*", "", ""\)', alert.value)}
    assert named <= grouped | added


def test_losses_are_reasons_that_there_are() -> None:
    (lost,) = (alert for alert in ALERTS if alert.name == "TelemetryLost")

    reasons = {
        reason
        for found in re.findall(r'tracekit_reason=~"([^"]*)"', lost.value)
        for reason in found.split("|")
    }
    assert reasons
    assert reasons <= {*get_args(Reason)}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_takes_no_counter_as_it_is(alert: Any) -> None:
    assert bare_counters(alert.value) == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_stays_silent(alert: Any) -> None:
    cases = loaded(ROOT / "prometheus" / "alerts.test.yaml")["tests"]
    asked = [
        any("exp_samples" in question for question in case["promql_expr_test"])
        for case in cases
        if all(f'alertname="{alert.name}"' in question["expr"] for question in case["promql_expr_test"])
    ]

    assert {*asked} == {False, True}


# -- provisioning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(PROVISIONING.rglob("*.yaml")), ids=name_of)
def test_provisioning_is_of_the_version_that_grafana_knows(path: Path) -> None:
    assert loaded(path)["apiVersion"] == 1


def test_data_sources_have_the_uids_that_dashboards_and_alerts_ask_for() -> None:
    sources = {source["uid"]: source["type"] for source in data_sources()}

    asked = {query["datasourceUid"] for rule in grafana_rules() for query in rule["data"]}
    chosen = {
        variable["current"]["value"]
        for board in BOARDS.values()
        for variable in board["templating"]["list"]
        if variable["type"] == "datasource"
    }
    assert sources == {"prometheus": "prometheus", "jaeger": "jaeger"}
    assert asked - {"__expr__"} == chosen == {"prometheus"}


def data_sources() -> Any:
    return loaded(PROVISIONING / "datasources" / "datasources.yaml")["datasources"]


def test_an_exemplar_leads_to_its_trace_and_to_its_flow() -> None:
    prometheus = next(source for source in data_sources() if source["uid"] == "prometheus")

    trace, flow = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert trace == {"name": "trace_id", "datasourceUid": "jaeger", "urlDisplayLabel": "Trace in Jaeger"}
    # `$$`: what is Grafana's to fill in when somebody clicks, and not at its start.
    assert flow == {
        "name": "trace_id",
        "url": "${VIEWER_URL}/flow/$${__value.raw}",
        "urlDisplayLabel": "Flow in tracekit",
    }


def test_the_variables_of_provisioning_are_in_the_readme() -> None:
    named = {
        name
        for path in PROVISIONING.rglob("*.yaml")
        for name in re.findall(r"(?<!\$)\$\{(\w+)\}", path.read_text())
    }
    readme = (ROOT / "grafana" / "README.md").read_text()

    assert named == {*re.findall(r"^\| `([A-Z_]+)`", readme, re.MULTILINE)}
