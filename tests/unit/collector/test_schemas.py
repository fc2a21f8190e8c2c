"""What the query API says of its answers holds for flows of any shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema_rs
import pytest
from hypothesis import given, settings

from tests.unit.flow.test_flow_properties import GRAPHS
from tracekit.collector import overviews, views
from tracekit.collector.archive import Built, Summary
from tracekit.collector.openapi import OPERATIONS, document
from tracekit.collector.schemas import SCHEMAS
from tracekit.collector.traffic import Traffic
from tracekit.flow import build_flows, facts
from tracekit.flow.search import destinations

if TYPE_CHECKING:
    from tracekit.flow import Flow
    from tracekit.model import Span

WHOLE = {
    name: {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}} for name in SCHEMAS
}
FLOW, SERVICES, DESTINATIONS = (
    jsonschema_rs.validator_for(WHOLE[name]) for name in ("Flow", "Services", "Destinations")
)


def summary(flow: Flow) -> Summary:
    return Summary(
        id=flow.id,
        name=flow.name,
        service=flow.entry.service.name,
        start_ns=flow.start_ns,
        response_ns=flow.response_ns,
        completion_ns=flow.completion_ns,
        waited_ns=flow.waited_ns,
        status=facts.http_status(flow.entry),
        spans=len(flow.spans),
        services=flow.services,
        destinations=destinations(flow),
        breaks=tuple(each.reason for each in flow.breaks),
    )


def as_sent(found: object) -> object:
    return json.loads(json.dumps(found, allow_nan=False))


@given(GRAPHS)
@settings(max_examples=100, deadline=None)
def test_flows_of_any_shape_are_shown_as_described(spans: list[Span]) -> None:
    for flow in build_flows(spans):
        FLOW.validate(as_sent(views.flow(Built(summary(flow), flow))))


@given(GRAPHS)
@settings(max_examples=50, deadline=None)
def test_traffic_of_any_shape_is_shown_as_described_and_replaced_whole(spans: list[Span]) -> None:
    traffic = Traffic(lambda: 100)
    built = [Built(summary(flow), flow) for flow in build_flows(spans)]
    traffic(built)
    seen = traffic.seen()
    traffic(built)

    assert traffic.seen() == seen
    SERVICES.validate(as_sent(overviews.services(seen)))
    DESTINATIONS.validate(as_sent(overviews.destinations(seen)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one_and_is_used(name: str) -> None:
    jsonschema_rs.validator_for(WHOLE[name])
    text = json.dumps(document("0"))

    assert name in ("Lost", "Status") or f'"#/components/schemas/{name}"' in text


def test_the_description_has_every_route_with_its_own_name() -> None:
    described = document("1.2.3")

    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert list(described["paths"]) == [operation.path for operation in OPERATIONS]  # type: ignore[call-overload]  # an object
