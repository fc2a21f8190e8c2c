"""Every query of every dashboard and alert, asked of a real Prometheus that the running shop feeds.

Grafana itself cannot be had here, and its pages are not looked at. In its place:
- its variables are replaced: `$__rate_interval` by a minute, those of a dashboard by `.*`, and the steps of
  subqueries, of which there are none yet in a Prometheus that has just begun, by five seconds;
- of an alert the value is asked, without its threshold; whether it fires is what promtool tests.
What shows only when something fails is made to fail.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import pytest
from tracekit_demo.scenarios import ENDINGS, MODES, Scenario
from tracekit_demo.shop import faults

from grafana.source.alerts import ALERTS
from grafana.source.files import DASHBOARDS, ROOT
from grafana.source.queries import share_waiting
from tests.integration.servers.process import fetched
from tests.integration.servers.prometheus import promtool
from tests.real.losing import export_point, losing
from tests.real.stack import Stack, eventually, stack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.real

_ROUND: Final = [Scenario(mode, ending) for mode in MODES for ending in ENDINGS]
_ROUNDS: Final = 3
_REST_S: Final = 0.1
_TOO_LARGE: Final = 1_100_000
"""Bytes; a producer of Kafka's clients refuses what is larger than a MiB."""
_BATCH: Final = """
import time, tracekit
from kafka.consumer.fetcher import ConsumerRecord
handle = tracekit.configure("analytics")
record = ConsumerRecord(
    "order.confirmed", 0, None, 1, time.time_ns() // 1_000_000, 0, None, b"{}", [], None, 0, 2, 0
)
with tracekit.process_batch([record]) as batch, batch.message(record):
    pass
handle.flush()
"""
"""A service that takes messages by batches, as none of the shop does."""
_OF_THE_LEFT: Final = ("and", "unless")
"""Operators whose result is of the left side alone."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a dashboard or an alert, its variables replaced. `legend` are the labels that it shows."""

    of: str
    expression: str
    legend: frozenset[str] = frozenset()
    exemplars: bool = False


def of_dashboards() -> Iterator[Query]:
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        variables = board["templating"]["list"]
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"].replace("$__rate_interval", "1m")
                for variable in variables:
                    expression = expression.replace(f'"${variable["name"]}"', '".*"')
                yield Query(
                    f"{path.stem}: {panel['title']}, {target['refId']}",
                    expression,
                    frozenset(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))),
                    bool(target.get("exemplar")),
                )
        for variable in variables:
            if variable["type"] == "query":
                metric, label = re.findall(r"\w+", variable["query"].removeprefix("label_values"))
                yield Query(f"{path.stem}: ${variable['name']}", f"count by ({label}) ({metric})")


def of_alerts() -> Iterator[Query]:
    for alert in ALERTS:
        value = re.sub(r"\[\w+:\w+\]", "[1m:5s]", alert.value)
        yield Query(f"alert {alert.name}", value, frozenset(re.findall(r"\.Labels\.(\w+)", alert.summary)))


QUERIES: Final = [*of_dashboards(), *of_alerts()]
each_query = pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.of)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, under orders of all modes and endings, with faults and with losses of each kind."""
    folder = tmp_path_factory.mktemp("grafana")
    with (
        stack(_made(folder / "stack")) as running,
        losing(_made(folder / "losing"), running.prometheus.url, running.otlp),
        ThreadPoolExecutor(1) as customer,
    ):
        (folder / "stack" / "faults" / faults.SLOW_CONSUMER).touch()
        _post(running, Scenario("sync"), {"tracekit-flow": "1;nothing that can be read"})
        _batch(running)
        enough = threading.Event()
        shopping = customer.submit(_shop, running, enough)
        try:
            assert eventually(lambda: len(running.orders) >= _ROUNDS * len(_ROUND) or shopping.done())
            yield running
        finally:
            enough.set()
            shopping.result()


def _shop(running: Stack, enough: threading.Event) -> None:
    """Until it is enough: a rate of which nothing comes any more is 0, and a share of nothing is none."""
    while True:
        for scenario in _ROUND:
            running.place(scenario)
            if enough.wait(_REST_S):
                return
        _post(running, Scenario("async", sku="x" * _TOO_LARGE))


def _batch(running: Stack) -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = {**others, "OTEL_EXPORTER_OTLP_ENDPOINT": running.otlp}
    subprocess.run([sys.executable, "-c", _BATCH], env=environment, capture_output=True, check=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _post(running: Stack, scenario: Scenario, headers: Mapping[str, str] | None = None) -> None:
    """An order that is none of those with an expected answer."""
    connection = http.client.HTTPConnection("127.0.0.1", running.services.port("orders"), timeout=15)
    body = json.dumps(scenario.order)
    connection.request("POST", "/orders", body, {"content-type": "application/json", **(headers or {})})
    connection.getresponse().read()
    connection.close()


def emitted(fed: Stack) -> Mapping[str, frozenset[str]]:
    """The labels of each metric that there is by now."""
    found: dict[str, frozenset[str]] = {}
    for series in fed.prometheus.series():
        name = series["__name__"]
        found[name] = found.get(name, frozenset()) | {*series}
    return found


@pytest.fixture(scope="module", autouse=True)
def _says_what_was_not_tried(request: pytest.FixtureRequest) -> None:
    capturing = request.config.pluginmanager.getplugin("capturemanager")
    with capturing.global_and_fixture_disabled():
        print(
            "\nGrafana could not be had here, and its pages not looked at. In its place a real Prometheus is "
            f"asked the {len(QUERIES)} queries of its dashboards, of their variables and of the alerts."
        )


@each_query
def test_a_query_returns_data(fed: Stack, query: Query) -> None:
    def numbers() -> list[float]:
        found = fed.prometheus.query(query.expression)
        return [number for series in found if math.isfinite(number := float(series["value"][1]))]

    assert eventually(numbers), query.expression


@each_query
def test_a_query_names_only_what_is_emitted(fed: Stack, query: Query) -> None:
    parsed = _parsed(fed, query.expression)

    def unknown() -> str:
        try:
            shown = _labels(parsed, emitted(fed))
        except _UnknownError as error:
            return str(error)
        return ", ".join(query.legend - shown)

    eventually(lambda: not unknown())

    assert unknown() == ""


@pytest.mark.parametrize("query", [query for query in QUERIES if query.exemplars], ids=lambda query: query.of)
def test_a_point_leads_to_a_trace_in_jaeger(fed: Stack, query: Query) -> None:
    asked = {"query": query.expression, "start": time.time() - 300, "end": time.time()}
    status, said = fetched(f"{fed.prometheus.url}/api/v1/query_exemplars?{urlencode(asked)}")
    assert status == 200, said
    traces = [
        point["labels"]["trace_id"] for series in json.loads(said)["data"] for point in series["exemplars"]
    ]

    assert traces
    assert fetched(f"{fed.jaeger.query}/api/v3/traces/{traces[0]}")[0] == 200


def test_a_point_of_a_response_leads_to_the_flow_of_its_order(fed: Stack) -> None:
    asked = {
        "query": 'http_server_request_duration_seconds_bucket{service_name="orders"}',
        "start": time.time() - 300,
        "end": time.time(),
    }
    _, said = fetched(f"{fed.prometheus.url}/api/v1/query_exemplars?{urlencode(asked)}")
    traces = {
        point["labels"]["trace_id"] for series in json.loads(said)["data"] for point in series["exemplars"]
    }

    assert traces & {flow for flow, _ in fed.orders}


def test_the_map_has_every_service_every_destination_and_what_goes_between_them(fed: Stack) -> None:
    def rows(frame: str) -> list[dict[str, str]]:
        (query,) = (query for query in QUERIES if query.of == f"map: Map, {frame}")
        return [series["metric"] for series in fed.prometheus.query(query.expression)]

    eventually(lambda: len(rows("edges")) >= len(_CALLS) + len(_SENDS) + len(_TAKES))

    assert {(node["id"], node["title"], node["subtitle"]) for node in rows("nodes")} == {
        *((f"service {name}", name, "service") for name in _SERVICES),
        *((f"kafka {name}", name, "kafka") for name in _DESTINATIONS),
    }
    edges = rows("edges")
    assert {(edge["source"], edge["target"]) for edge in edges} == {
        *((f"service {a}", f"service {b}") for a, b in _CALLS),
        *((f"service {a}", f"kafka {b}") for a, b in _SENDS),
        *((f"kafka {a}", f"service {b}") for a, b in _TAKES),
    }
    assert len(edges) == len({edge["id"] for edge in edges})


_SERVICES: Final = ("analytics", "audit", "inventory", "notification", "orders", "payment")
_DESTINATIONS: Final = (
    "notification.sent",
    "order.confirmed",
    "order.created",
    "order.rejected",
    "payment.authorized",
    "payment.declined",
    "stock.reserved",
)
_CALLS: Final = (("orders", "payment"), ("orders", "inventory"), ("orders", "notification"))
_SENDS: Final = (
    ("orders", "order.created"),
    ("orders", "order.confirmed"),
    ("payment", "order.rejected"),
    ("payment", "payment.authorized"),
    ("payment", "payment.declined"),
    ("inventory", "stock.reserved"),
    ("notification", "notification.sent"),
)
_TAKES: Final = (
    ("order.created", "payment"),
    ("order.confirmed", "analytics"),
    ("order.confirmed", "audit"),
    ("order.confirmed", "notification"),
    ("order.rejected", "orders"),
    ("payment.authorized", "inventory"),
    ("payment.declined", "orders"),
    ("stock.reserved", "notification"),
    ("notification.sent", "orders"),
    ("notification.sent", "audit"),
)


def test_prometheus_evaluates_every_alert(fed: Stack) -> None:
    def health() -> dict[str, str] | None:
        _, said = fetched(f"{fed.prometheus.url}/api/v1/rules")
        rules = [rule for group in json.loads(said)["data"]["groups"] for rule in group["rules"]]
        found = {rule["name"]: rule["health"] for rule in rules}
        return None if "unknown" in found.values() else found

    assert eventually(health) == {alert.name: "ok" for alert in ALERTS}


def test_promtool_takes_the_rules_and_each_alert_fires_and_stays_silent() -> None:
    folder = ROOT / "prometheus"

    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "alerts.yaml", cwd=folder)
    promtool("check", "config", "prometheus.yaml", cwd=folder)
    promtool("test", "rules", "alerts.test.yaml", cwd=folder)


@pytest.mark.parametrize("hours", [1, 11])
def test_prometheus_takes_metrics_that_waited_through_an_outage(fed: Stack, hours: int) -> None:
    otlp = f"{fed.prometheus.url}/api/v1/otlp"
    assert export_point(otlp, "waited", 0) == 200

    assert export_point(otlp, "waited", hours * 3600) == 200


_BATCHES: Final = """
rule_files: []
tests:
  - input_series:
      - {series: "tracekit_messaging_queue_duration_seconds_sum", values: "0+300x10"}
      - {series: "tracekit_messaging_queue_duration_seconds_count", values: "0+10x10"}
      - {series: "messaging_process_duration_seconds_sum", values: "0+10x10"}
      - {series: "messaging_process_duration_seconds_count", values: "0+1x10"}
      - series: messaging_process_duration_seconds_sum{tracekit_messaging_in_batch="true"}
        values: "0+10x10"
      - series: messaging_process_duration_seconds_count{tracekit_messaging_in_batch="true"}
        values: "0+10x10"
    promql_expr_test:
      - {expr: EXPRESSION, eval_time: 10m, exp_samples: [{labels: "{}", value: 0.75}]}
"""
"""Ten messages a minute, each of which waits for 30 s, and is then in a batch that takes 10 s."""


def test_the_share_of_waiting_is_that_of_a_message_of_a_batch_too(tmp_path: Path) -> None:
    (tmp_path / "batches.yaml").write_text(
        _BATCHES.replace("EXPRESSION", json.dumps(share_waiting(window="5m")))
    )

    promtool("test", "rules", "batches.yaml", cwd=tmp_path)


# -- what a query names -----------------------------------------------------------------------------


def _parsed(fed: Stack, expression: str) -> Any:
    """As Prometheus itself reads it."""
    status, said = fetched(f"{fed.prometheus.url}/api/v1/parse_query?{urlencode({'query': expression})}")
    assert status == 200, said
    return json.loads(said)["data"]


class _UnknownError(Exception):
    """A name that nothing emits."""


def _known(named: Iterable[str], there: Iterable[str], where: str) -> None:
    if unknown := {*named} - {*there}:
        raise _UnknownError(f"{where}: {', '.join(sorted(unknown))}")


def _labels(node: Any, emitted: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The labels that a result may have. Raises _UnknownError where one is named that nothing beneath has."""
    match node:
        case {"type": "vectorSelector" | "matrixSelector", "name": name, "matchers": matchers}:
            _known([name], emitted, "no metric")
            _known((matcher["name"] for matcher in matchers), emitted[name], f"no label of {name}")
            return emitted[name]
        case {"type": "aggregation", "expr": inner, "grouping": grouping, "without": False}:
            beneath = _labels(inner, emitted)
            _known(grouping, beneath, f"no label for {node['op']}")
            return frozenset(grouping)
        case {"type": "call", "func": {"name": "label_replace" | "label_join" as name}, "args": arguments}:
            beneath = _labels(arguments[0], emitted)
            texts = [argument["val"] for argument in arguments[1:]]
            sources = {texts[2]} - {""} if name == "label_replace" else {*texts[2:]}
            _known(sources, beneath, f"no label for {name}")
            return beneath | {texts[0]}
        case {"type": "call", "args": arguments}:
            return frozenset().union(*(_labels(argument, emitted) for argument in arguments))
        case {"type": "binaryExpr", "lhs": left, "rhs": right, "matching": matching, "op": operator}:
            sides = _labels(left, emitted), _labels(right, emitted)
            if matching is not None and matching["on"]:
                _known(matching["labels"], sides[0] & sides[1], f"no label of both sides of {operator}")
            return sides[0] if operator in _OF_THE_LEFT else sides[0] | sides[1]
        case {"type": "parenExpr" | "unaryExpr" | "subquery", "expr": inner}:
            return _labels(inner, emitted)
        case {"type": "numberLiteral" | "stringLiteral"}:
            return frozenset()
        case _:
            raise AssertionError(f"a kind of expression that is not looked into yet: {node}")
