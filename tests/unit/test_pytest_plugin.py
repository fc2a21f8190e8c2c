"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import pytest

from tracekit.otlp import decode_spans
from tracekit.testing import capture

if TYPE_CHECKING:
    from pathlib import Path

    from tracekit.testing import Captured, FlowSink

PROGRAM = """
import pytest
from opentelemetry import trace

tracer = trace.get_tracer("shop")

def place_order(*steps):
    with tracer.start_as_current_span("place order"):
        for step in steps:
            with tracer.start_as_current_span(step):
                pass

"""


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    """What a run in this process imports it forgets again: have it here before, once for all of them."""
    with capture():
        pass


def run(pytester: pytest.Pytester, program: str, *options: str) -> pytest.RunResult:
    """This program's tests, run in this process; warnings are errors."""
    pytester.makepyfile(PROGRAM + textwrap.dedent(program))
    return pytester.runpytest_inprocess("-p", "no:randomly", "-W", "error", "--strict-markers", *options)


def test_the_fixture_gives_the_flows_of_the_test(flows: Captured) -> None:
    assert flows.flows == ()
    assert flows.report_line.startswith("tracekit: test -> here")


def test_the_sink_is_a_real_port(flow_sink: FlowSink) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", flow_sink.http_endpoint)
    assert flow_sink.env["OTEL_EXPORTER_OTLP_ENDPOINT"] == flow_sink.http_endpoint
    assert flow_sink.grpc_env["OTEL_EXPORTER_OTLP_ENDPOINT"] == flow_sink.grpc_endpoint


def test_a_test_that_fails_shows_its_flows_and_saves_them(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        def test_an_order(flows):
            place_order("charge")
            assert flows.flow().services == ("billing",)
        """,
    )

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "*- flows seen by flows -*",
            "place order  done in * · 0 breaks *",
            "test  └ charge *",
            "saved: *.jsonl",
        ]
    )
    (saved,) = re.findall(r"^saved: (.*)$", done.stdout.str(), re.MULTILINE)
    assert saved.endswith("test_an_order-flows.jsonl")
    assert _names(pytester.path / saved) == ["charge", "place order"]


def _names(saved: Path) -> list[str]:
    (line,) = saved.read_bytes().splitlines()
    return sorted(span.name for span in decode_spans(line, "json").records)


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_wait_that_was_in_vain_names_the_hop_and_draws_the_flow_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)  # where it is set, pytest's summary has whole messages
    done = run(
        pytester,
        """
        def test_an_order(flows):
            place_order("charge")
            flows.wait_for_flow("place order", "charge", "ship", timeout_s=0)
        """,
    )

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E * - the path stopped after `charge`: no `ship` followed"])
    assert done.stdout.str().count("└ charge") == 1
    done.stdout.no_fnmatch_line("*tracekit/testing/*")


def test_a_budget_that_is_kept_passes(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        @pytest.mark.flow_budget(completion="1m", spans=2)
        def test_an_order(flows):
            place_order("charge")
        """,
    ).assert_outcomes(passed=1)


def test_a_budget_that_is_not_kept_fails(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        @pytest.mark.flow_budget(spans=2)
        def test_an_order(flows):
            place_order("charge", "ship")
        """,
    )

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E * over budget: it has 3 spans, not 2 at most"])


@pytest.mark.parametrize("fixture", ["flows", "tmp_path"])
def test_a_budget_on_nothing_fails(pytester: pytest.Pytester, fixture: str) -> None:
    done = run(
        pytester,
        f"""
        @pytest.mark.flow_budget(spans=2)
        def test_an_order({fixture}):
            pass
        """,
    )

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E * flow_budget: no flow was seen*"])


def test_a_test_that_failed_says_why_and_not_that_it_is_over_budget(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        @pytest.mark.flow_budget(spans=0)
        def test_an_order(flows):
            place_order()
            raise LookupError("the reason")
        """,
    )

    done.stdout.fnmatch_lines(["E * LookupError: the reason"])
    done.stdout.no_fnmatch_line("*over budget*")


def test_a_marker_says_how_the_test_is_traced(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        @pytest.mark.flows(service="orders", deterministic=True)
        def test_an_order(flows):
            place_order()
            (span,) = flows.spans
            assert (span.service.name, span.span_id) == ("orders", "0000000000000001")
        """,
    ).assert_outcomes(passed=1)


def test_its_markers_are_known(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.flows(*", "@pytest.mark.flow_budget(*"]
    )


def test_it_costs_nothing_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_of_it_is_loaded():
            assert "tracekit.pytest_plugin" in sys.modules
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert not {"opentelemetry", "google", "wrapt", "starlette", "grpc"} & loaded
            assert not {name for name in sys.modules if name.startswith("tracekit.testing")}
        """
    )

    done = pytester.runpytest_subprocess("-W", "error", "-p", "no:randomly", "-p", "no:hypothesispytest")

    done.assert_outcomes(passed=1)
    done.stdout.no_fnmatch_line("*flows*")


def test_workers_side_by_side_have_ports_and_files_of_their_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        PROGRAM
        + textwrap.dedent("""
        @pytest.mark.parametrize("number", range(2))
        def test_an_order(flows, flow_sink, number):
            place_order(f"charge {number}")
            flows.flow().assert_path("place order", f"charge {number}")
            assert False, flow_sink.http_endpoint
        """)
    )

    done = pytester.runpytest_subprocess("-W", "error", "-n", "2")

    done.assert_outcomes(failed=2)
    saved = re.findall(r"^saved: (.*)$", done.stdout.str(), re.MULTILINE)
    assert len(set(saved)) == 2
    assert {tuple(_names(pytester.path / one)) for one in saved} == {
        (f"charge {number}", "place order") for number in range(2)
    }


def test_a_report_that_fails_does_not_hide_why_the_test_failed(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        def test_an_order(flows):
            flows.save_as = lambda: 1 / 0
            place_order()
            raise LookupError("the reason")
        """,
    )

    done.stdout.fnmatch_lines(["E * LookupError: the reason"])
    done.stdout.fnmatch_lines(["they cannot be shown: ZeroDivisionError*"])
