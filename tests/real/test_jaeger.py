"""The stock Jaeger has the whole path of an order, and `tracekit` reads its flows from there."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError

import pytest
from tracekit_demo.expected import EXPECTED, seen
from tracekit_demo.scenarios import ENDINGS, MODES, Scenario

from tests.integration.servers.process import fetched
from tests.integration.serving import FREE, serving, tracekit
from tests.real.stack import Stack, eventually, stack
from tracekit.model import LogLine
from tracekit.otlp import encode_logs
from tracekit.sources import JaegerSource, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracekit_demo.scenarios import Ending, Mode

    from tracekit.flow import Flow

pytestmark = pytest.mark.real

ORDER: Final = "orders POST /orders"


def _called(*calls: str) -> list[str]:
    return [
        f"- -> {ORDER}",
        *(f"{ORDER} -> orders POST" for _ in calls),
        *(f"orders POST -> {call}" for call in calls),
    ]


def _sent(by: str, topic: str, *to: str) -> list[str]:
    """An event's send, and for each that consumes it the bar of its wait and its processing."""
    service = by.partition(" ")[0]
    return [
        f"{by} -> {service} send {topic}",
        *(f"{service} send {topic} -> {each} wait {topic}" for each in to),
        *(f"{service} send {topic} -> {each} process {topic}, and linked" for each in to),
    ]


CHARGED: Final = _called("payment POST /charge")
CREATED: Final = [f"- -> {ORDER}", *_sent(ORDER, "order.created", "payment")]
PAID: Final = "payment process order.created"

EDGES: Final[Mapping[tuple[Mode, Ending], list[str]]] = {
    ("sync", "accepted"): _called(
        "payment POST /charge", "inventory POST /reserve", "notification POST /notify"
    ),
    ("async", "accepted"): [
        *CREATED,
        *_sent(PAID, "payment.authorized", "inventory"),
        *_sent("inventory process payment.authorized", "stock.reserved", "notification"),
        *_sent("notification process stock.reserved", "notification.sent", "orders", "audit"),
    ],
    ("async", "declined"): [*CREATED, *_sent(PAID, "payment.declined", "orders")],
    ("async", "malformed"): [*CREATED, *_sent(PAID, "order.rejected", "orders")],
    ("async", "crashed"): CREATED,
    ("hybrid", "accepted"): [
        *_called("payment POST /charge", "inventory POST /reserve"),
        *_sent(ORDER, "order.confirmed", "notification", "analytics", "audit"),
        *_sent("notification process order.confirmed", "notification.sent", "orders", "audit"),
    ],
    ("sync", "declined"): CHARGED,
    ("sync", "malformed"): CHARGED,
    ("sync", "crashed"): CHARGED,
    ("hybrid", "declined"): CHARGED,
    ("hybrid", "malformed"): CHARGED,
    ("hybrid", "crashed"): CHARGED,
}


@pytest.fixture(scope="module", params=["memory", "badger"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The shop, with an order placed of each mode and ending."""
    with stack(tmp_path_factory.mktemp(request.param), request.param) as running:
        for mode in MODES:
            for ending in ENDINGS:
                running.place(Scenario(mode, ending))
        yield running


def test_every_order_is_one_trace_with_every_edge(shop: Stack) -> None:
    for flow_id, scenario in shop.orders:
        wanted = Counter(EDGES[scenario.mode, scenario.ending])
        assert eventually(lambda: edges(shop, flow_id) == wanted, 20) or edges(shop, flow_id) == wanted  # noqa: B023


def test_a_flow_read_from_jaeger_is_what_the_shop_did(shop: Stack) -> None:
    source = JaegerSource(shop.jaeger.query)
    for flow_id, scenario in shop.orders:
        flow = settled(source, flow_id, scenario)
        assert (seen(flow), flow.breaks) == (Counter(EXPECTED[scenario.mode, scenario.ending]), ())
    latest = source.find("", limit=100).flows
    assert {flow.id for flow in latest} == {flow_id for flow_id, _ in shop.orders}
    assert [flow.start_ns for flow in latest] == sorted((flow.start_ns for flow in latest), reverse=True)


def test_the_commands_read_from_jaeger(shop: Stack) -> None:
    where = ("--source", "jaeger", "--server", shop.jaeger.query)
    flow_id = next(each for each, scenario in shop.orders if scenario == Scenario("hybrid"))
    settled(JaegerSource(shop.jaeger.query), flow_id, Scenario("hybrid"))

    one = tracekit("flow", flow_id[:8], *where)
    assert (one.code, one.err) == (0, "")
    assert f"in 2 of 5 queues · 0 breaks   {flow_id[:8]}" in one.out
    assert one.out.count("order.confirmed waited") == 3
    some = tracekit("flows", "queue=order.confirmed", *where, "--json")
    assert [json.loads(row)["id"] for row in some.out.splitlines()] == [flow_id]
    refused = tracekit("flows", "no such = = term", *where)
    assert (refused.code, refused.out) == (1, "")


def test_a_server_shows_them_with_the_log_lines_that_came_to_itself(shop: Stack, tmp_path: Any) -> None:
    flow_id = next(each for each, scenario in shop.orders if scenario == Scenario("hybrid"))
    flow = settled(JaegerSource(shop.jaeger.query), flow_id, Scenario("hybrid"))
    line = LogLine(flow.start_ns, "order placed", trace_id=flow_id, span_id=flow.entry.span_id)
    with serving(tmp_path, *FREE, "--jaeger", shop.jaeger.query) as server:
        with pytest.raises(HTTPError) as refused:
            server.send([flow.entry])
        body = encode_logs([line])
        status, _ = fetched(f"{server.otlp}/v1/logs", body, {"content-type": "application/x-protobuf"})
        of_server = ("--server", server.api)
        listed = tracekit("flows", "queue=order.confirmed", *of_server, "--json")
        drawn = tracekit("flow", flow_id, *of_server, "--logs")
        watched = eventually(
            lambda: json.loads(fetched(f"{server.api}/api/destinations")[1])["destinations"], 20
        )

    assert (refused.value.code, status) == (400, 200)
    assert f"flows are read from {shop.jaeger.query} here" in refused.value.read().decode()
    assert [json.loads(row)["id"] for row in listed.out.splitlines()] == [flow_id]
    assert f"in 2 of 5 queues · 0 breaks   {flow_id[:8]}" in drawn.out
    assert "order placed" in drawn.out
    assert {"order.confirmed", "notification.sent"} <= {each["destination"] for each in watched}


def test_what_jaeger_does_not_have_is_told(shop: Stack) -> None:
    unknown = tracekit("flow", "f" * 32, "--source", "jaeger", "--server", shop.jaeger.query)
    assert unknown.err == (
        f"tracekit flow: {shop.jaeger.query} has no flow {'f' * 32}, and no trace of one that is called so\n"
    )
    with pytest.raises(NotFoundError, match=r"has no flow f{32}"):
        JaegerSource(shop.jaeger.query).flow("f" * 32)
    nowhere = tracekit("flow", "f" * 32, "--source", "jaeger", "--server", "http://127.0.0.1:9")
    assert nowhere.err == (
        "tracekit flow: nobody answers at http://127.0.0.1:9 (Connection refused). Start it: a Jaeger, of "
        "version 2; or say where it is: --server URL\n"
    )


@pytest.mark.parametrize("kept", ["memory", "badger"])
def test_across_links_a_flow_is_found_by_its_id(tmp_path: Any, kept: Any) -> None:
    with stack(tmp_path, kept, {"TRACEKIT_PARENT": "link"}) as shop:
        flow_id = shop.place(Scenario("hybrid"))
        flow = settled(JaegerSource(shop.jaeger.query), flow_id, Scenario("hybrid"))

    assert len({span.trace_id for span in flow.spans}) == 6  # the order's, and one for each processing
    assert (seen(flow), flow.breaks) == (Counter(EXPECTED["hybrid", "accepted"]), ())


def settled(source: JaegerSource, flow_id: str, scenario: Scenario) -> Flow:
    """The flow, once it has all that it must."""
    wanted = Counter(EXPECTED[scenario.mode, scenario.ending])

    def flow() -> Flow | None:
        try:
            return source.flow(flow_id)
        except NotFoundError:
            return None

    eventually(lambda: (found := flow()) is not None and seen(found) == wanted, 20)
    found = flow()
    assert found is not None
    return found


def edges(shop: Stack, flow_id: str) -> Counter[str]:
    """Of the order's trace, as Jaeger has it: from which span to which, and whether by a link too."""
    status, said = fetched(f"{shop.jaeger.query}/api/v3/traces/{flow_id}?raw_traces=true")
    if status == 404:
        return Counter()
    named: dict[str, str] = {}
    spans: dict[str, Any] = {}  # each once: what was acknowledged too late was sent again
    for part in json.loads(said)["result"]["resourceSpans"]:
        attributes = {each["key"]: each["value"] for each in part["resource"]["attributes"]}
        for scope in part["scopeSpans"]:
            for span in scope["spans"]:
                named[span["spanId"]] = f"{attributes['service.name']['stringValue']} {span['name']}"
                spans[span["spanId"]] = span
    found: Counter[str] = Counter()
    for span in spans.values():
        # The customer's own span is nobody's: it sends nothing.
        parent = span.get("parentSpanId", "")
        links = {link["spanId"] for link in span.get("links", ())}
        assert links <= {parent}
        found[f"{named.get(parent, '-')} -> {named[span['spanId']]}{', and linked' if links else ''}"] += 1
    return found
