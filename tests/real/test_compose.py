"""compose.yaml under a real engine: valid, healthy in order, one order through all of it, and gone again.

Its images are local ones that hold what the public ones hold (see `engine`), but Grafana's, which cannot be
had: it is left out, and its files are checked elsewhere.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
from tracekit_demo.client import place
from tracekit_demo.expected import EXPECTED, seen
from tracekit_demo.scenarios import Scenario, stream

from tests.integration.servers.process import fetched
from tests.real.engine import LEFT_OUT, Compose, config, engine
from tests.real.stack import eventually
from tracekit.flow import Flow, build_flow
from tracekit.otlp import decode_spans
from tracekit.sources import ApiSource, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

ORDER: Final = Scenario("hybrid")
WHOLE: Final = Counter(EXPECTED["hybrid", "accepted"])
_PATIENCE_S: Final = 15
TOUR: Final = {"activemq", "moto", "pubsub", "rabbitmq", "redis"}
SHOP: Final = {"analytics", "audit", "inventory", "notification", "orders", "payment"}
MANY: Final = 300
"""Orders: ten minutes of the customers'."""
_QUESTIONS: Final = 600
"""More than the spans that an SDK lets wait for a timer."""


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """All of it but Grafana, healthy."""
    with engine() as running:
        stack = Compose(running, tmp_path_factory.mktemp("compose"))
        stack.build()
        with stack.up(), running.inside():
            yield stack
        left = running.docker("ps", "--all", "--quiet") + running.docker("volume", "ls", "--quiet")
        assert left == "", "down leaves something behind"


@pytest.fixture(scope="module")
def flow_id(compose: Compose) -> str:
    """An order, placed from this machine at the port that is published for that."""
    flow_id, status = place(compose.ports["ORDERS_PORT"], ORDER)
    assert status == ORDER.answer
    return flow_id


@pytest.mark.parametrize(("profiles", "more"), [((), set()), (("tour",), TOUR)], ids=["default", "tour"])
def test_compose_takes_its_file(profiles: tuple[str, ...], more: set[str]) -> None:
    services = set(json.loads(config(*profiles))["services"])

    assert services & TOUR == more


def test_all_of_it_is_healthy(compose: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in compose("ps", "--all", "--format", "json").splitlines()]
    states = {row["Service"]: (row["State"], row["Health"]) for row in rows}

    with capsys.disabled():
        print(f"\n{LEFT_OUT}: no registry of programs has it, so its container was not started here")
        print(_memory(compose))
    unwatched = {"collector", "customers"}
    assert states == {
        name: ("running", "" if name in unwatched else "healthy") for name in compose.services()
    } | {"topics": ("exited", "")}


def test_an_order_is_whole_in_jaeger(compose: Compose, flow_id: str) -> None:
    url = f"http://127.0.0.1:{compose.ports['JAEGER_PORT']}/api/v3/traces/{flow_id}"

    def stored() -> Flow | None:
        status, said = fetched(url)
        if status != 200:
            return None
        return build_flow(decode_spans(json.dumps(json.loads(said)["result"]).encode(), "json").records)

    assert _edges(stored) == WHOLE


def test_an_order_is_whole_in_tracekit_serve(compose: Compose, flow_id: str) -> None:
    source = ApiSource(f"http://127.0.0.1:{compose.ports['VIEWER_PORT']}")

    def answered() -> Flow | None:
        try:
            return source.flow(flow_id)
        except SourceError:
            return None

    assert _edges(answered) == WHOLE


def test_jaeger_has_the_shop_and_not_itself(compose: Compose, flow_id: str) -> None:
    def services() -> set[str]:
        _, said = fetched(f"http://127.0.0.1:{compose.ports['JAEGER_PORT']}/api/v3/services")
        return {*json.loads(said).get("services", ())}

    for _ in range(_QUESTIONS):  # each would be a trace of Jaeger's own
        services()

    assert not eventually(lambda: "jaeger" in services(), 2), flow_id
    assert eventually(lambda: services() == SHOP, _PATIENCE_S), services()


def test_four_may_list_many_orders_at_once(compose: Compose) -> None:
    port = compose.ports["ORDERS_PORT"]
    source = ApiSource(f"http://127.0.0.1:{compose.ports['VIEWER_PORT']}", silence_s=60)
    with ThreadPoolExecutor(4) as four:  # their sockets are where this thread's are
        list(four.map(lambda scenario: place(port, scenario), islice(stream(Random(7)), MANY)))
        # A list has what there was when it began: services send their last spans some seconds later.
        assert eventually(lambda: _listed(source) == MANY, _PATIENCE_S)
        listed = list(four.map(lambda _: _listed(source), range(4)))

    container = compose("ps", "--quiet", "tracekit").strip()
    fell = compose.engine.docker("inspect", "--format", "{{.RestartCount}} {{.State.OOMKilled}}", container)
    assert (listed, fell.strip()) == ([MANY] * 4, "0 false")


def test_its_log_lines_are_in_tracekit_serve(compose: Compose, flow_id: str) -> None:
    url = f"http://127.0.0.1:{compose.ports['VIEWER_PORT']}/api/status"

    def taken() -> Any:
        return json.loads(fetched(url)[1])["logs"]["kept"]

    assert eventually(taken), flow_id


def test_its_metrics_are_in_prometheus(compose: Compose, flow_id: str) -> None:
    query = "sum(tracekit_messaging_queue_duration_seconds_count)"
    url = f"http://127.0.0.1:{compose.ports['PROMETHEUS_PORT']}/api/v1/query?query={query}"

    def counted() -> Any:
        status, said = fetched(url)
        return json.loads(said)["data"]["result"] if status == 200 else None

    assert eventually(counted), flow_id


def test_its_customers_say_where_to_look(compose: Compose) -> None:
    def lines() -> list[str]:
        return compose("logs", "--no-log-prefix", "customers").splitlines()

    assert eventually(lambda: len(lines()) > 2, _PATIENCE_S), lines()  # their first order is placed
    said = lines()
    assert said[0].startswith("order 1: sync, accepted: 201   flow ")
    assert f"http://127.0.0.1:{compose.ports['JAEGER_PORT']}/" in said[2]


def _listed(source: ApiSource) -> int:
    """How many flows it lists, at most MANY, page after page: a search ends a page when it has taken long."""
    listed, page = 0, source.find("", limit=MANY)
    while True:
        listed += len(page.flows)
        if page.next is None or listed >= MANY:
            return listed
        page = source.find("", limit=MANY - listed, after=page.next)


def _edges(flow: Callable[[], Flow | None]) -> Counter[Any]:
    """Those of a flow that has all of them, or those that it had at last."""

    def found() -> Counter[Any]:
        return Counter() if (known := flow()) is None else seen(known)

    until = time.monotonic() + _PATIENCE_S
    while (edges := found()) != WHOLE and time.monotonic() < until:
        time.sleep(0.3)
    return edges


def _memory(compose: Compose) -> str:
    """What each container takes of what it may."""
    rows = (json.loads(line) for line in compose("stats", "--no-stream", "--format", "json").splitlines())
    return "\n".join(f"  {row['Name']:32} {row['MemUsage']}" for row in rows)
