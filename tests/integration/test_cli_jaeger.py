"""The commands on a Jaeger, and `tracekit serve` before one: what it takes, what it refuses, what it says.

Jaeger is one of our own making here; the real one is in tests/real.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError

import pytest

from tests.integration.servers.process import fetched
from tests.integration.serving import FREE, US, serving, tracekit, tracekit_here
from tests.unit.test_sources_jaeger import APART, ENTRY, FLOW, answering, jaeger, orders
from tracekit.model import LogLine
from tracekit.otlp import encode_logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.serving import Serving

AS_PROTOBUF: Final = {"content-type": "application/x-protobuf"}


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """Where a Jaeger is that has three flows."""
    with answering(jaeger(orders(3, until_ns=time.time_ns()))) as url:
        yield url


@pytest.fixture
def server(storage: str, tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path, *FREE, "--jaeger", storage) as running:
        yield running


def status(server: Serving) -> Any:
    return json.loads(fetched(f"{server.api}/api/status")[1])


def test_it_says_that_it_takes_log_lines_and_metrics_only(storage: str, server: Serving) -> None:
    first, otlp, *_ = server.greeting.splitlines()

    assert first == "tracekit is collecting log lines and metrics only; Ctrl-C ends it"
    assert otlp == f"  OTLP  {server.otlp} (HTTP), {server.grpc} (gRPC): no spans"
    assert f"  flows from {storage}; log lines sent here are shown with them" in server.greeting
    assert " flow" not in server.end().out.splitlines()[-1]


def test_refused_spans_are_told_once_with_the_cure(storage: str, server: Serving) -> None:
    with pytest.raises(HTTPError):
        server.send([ENTRY])
    with pytest.raises(HTTPError) as refused:
        server.send([ENTRY])
    cure = (
        f"flows are read from {storage} here: send spans to where it takes them "
        "(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)"
    )

    assert (refused.value.code, cure in refused.value.read().decode()) == (400, True)
    assert status(server)["troubles"] == [f"spans that came were refused: {cure}"]
    time.sleep(1.5)  # it says what goes wrong each second
    assert server.end().err == f"tracekit serve: spans that came were refused: {cure}\n"


def test_doctor_says_that_spans_go_elsewhere(storage: str, server: Serving) -> None:
    found = tracekit("doctor", "--server", server.api, OTEL_EXPORTER_OTLP_ENDPOINT=server.otlp)

    (failure,) = [row for row in found.out.splitlines() if row.startswith("failure")]
    assert failure.endswith(
        f"{server.otlp}/v1/traces: 400: flows are read from {storage} here: send spans to where it takes "
        "them (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)"
    )
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: where that one takes spans" in found.out


def test_the_id_of_a_trace_finds_its_flow_and_its_log_lines(storage: str, server: Serving) -> None:
    flow_id, apart = f"{3:032x}", f"{0xF003:032x}"
    line = LogLine(time.time_ns(), "charged", trace_id=apart, span_id=APART.span_id)
    assert fetched(f"{server.otlp}/v1/logs", encode_logs([line]), AS_PROTOBUF)[0] == 200
    drawn = tracekit_here("flow", apart, "--logs", "--server", server.api)
    page = fetched(f"{server.api}/flow/{apart}")[1].decode()
    assert f"/trace/{apart}\n" in page  # where Jaeger shows it
    directly = tracekit_here("flow", apart, "--source", "jaeger", "--server", storage)

    assert (drawn.code, directly.code) == (0, 0)
    assert "charged" in drawn.out
    for said in (drawn.out, directly.out, page):
        assert f"done in 0 ms · waited 0 ms in 1 queue · 0 breaks   {flow_id[:8]}" in said


def test_where_it_has_none_it_does_not_tell_to_send_them_here(tmp_path: Path) -> None:
    with answering(jaeger([])) as empty:
        said = f"There are no flows: {empty}, which has their spans, got none in the last 24 hours.\n"
        assert tracekit_here("flows", "--source", "jaeger", "--server", empty).out == said
        with serving(tmp_path, *FREE, "--jaeger", empty) as server:
            assert tracekit_here("flows", "--server", server.api).out == said


def test_that_jaeger_has_no_log_lines_is_told_with_what_has_them() -> None:
    with answering(jaeger([ENTRY])) as url:
        found = tracekit("flow", FLOW, "--logs", "--source", "jaeger", "--server", url)

    assert found.out.splitlines()[-2:] == [
        f"Jaeger has no log lines. `{US} serve --jaeger {url}` takes those that are sent to it, and shows",
        f"them with its flows: {US} flow ID --logs",
    ]
