"""The query API against its own description: whatever is asked, the answer is one that it promises."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import settings
from hypothesis import strategies as st

from tests.integration.test_api import NOW_NS, damage, keep, renamed
from tracekit.collector.api import create_api
from tracekit.collector.disk import DiskStore
from tracekit.collector.openapi import document
from tracekit.collector.server import CollectorServer
from tracekit.model import LogLine, Metric, Point
from tracekit.testing.spans import at, processed, shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

schemathesis.openapi.format(
    "tracekit-query",
    st.sampled_from(
        [
            "",
            "lamp",
            "error",
            "completion > 1s queue=order.confirmed",
            "order.id != 17",
            "started>1h",
            '"a b"',
        ]
    ),
)
schemathesis.openapi.format("tracekit-cursor", st.just(""))


SHOP = shop()
LOST = replace(
    processed(None, attributes={"tracekit.messaging.context": "absent", "deep": {"a": [1.5, b"x", None]}}),
    end_ns=None,
)
# A stream has no end; test_api.py reads it.
DESCRIBED = schemathesis.openapi.from_dict(document("0")).exclude(path="/api/events")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the API is served, with an archive behind it that holds a little of everything."""
    with DiskStore(tmp_path_factory.mktemp("api") / "data") as archive:
        keep(archive, SHOP)
        keep(archive, renamed(SHOP, 1))
        keep(archive, [LOST])
        archive.add_logs([LogLine(at(1), {"said": ("hello", 1.5, None)}, trace_id=SHOP[0].trace_id)])
        points = (Point(at(1), 1.5, count=3, bounds=(1,), buckets=(1, 2)),)
        archive.add_metrics([Metric("m", "histogram", points)])
        with CollectorServer(archive, pages=create_api(archive, now_ns=lambda: NOW_NS)) as server:
            yield server.pages_endpoint


@DESCRIBED.parametrize()
@settings(max_examples=25, deadline=None)
def test_every_answer_is_as_described(case: Any, url: str) -> None:
    case.call_and_validate(base_url=url)


@pytest.mark.parametrize("flow_id", [SHOP[0].trace_id, SHOP[0].trace_id[:9], LOST.trace_id])
@pytest.mark.parametrize("what", ["", "/logs", "/otlp"])
def test_every_flow_is_shown_as_described(what: str, flow_id: str, url: str) -> None:
    asked = DESCRIBED[f"/api/flows/{{flow_id}}{what}"]["GET"].Case(path_parameters={"flow_id": flow_id})

    answer = asked.call_and_validate(base_url=url)

    assert answer.status_code == 200


@pytest.mark.parametrize("what", ["", "/logs", "/otlp"])
def test_a_flow_that_is_lost_is_refused_as_described(what: str, tmp_path: Path) -> None:
    for spans in ([SHOP[0]], [LOST]):
        with DiskStore(tmp_path) as archive:
            keep(archive, spans)
    damage(tmp_path)
    path = {"flow_id": SHOP[0].trace_id}
    asked = DESCRIBED[f"/api/flows/{{flow_id}}{what}"]["GET"].Case(path_parameters=path)

    with DiskStore(tmp_path) as archive, CollectorServer(archive, pages=create_api(archive)) as server:
        answer = asked.call_and_validate(base_url=server.pages_endpoint)

    assert answer.status_code == 410
