"""The pytest plugin: fixtures that give the flows of a test, and markers that hold them to a budget.

Loaded with every pytest where tracekit is installed, so it imports nothing of it before a test asks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tracekit.testing.captured import Captured
    from tracekit.testing.flows import Flows
    from tracekit.testing.sink import FlowSink

_SEEN: pytest.StashKey[dict[str, Flows]] = pytest.StashKey()
_MARKERS = (
    "flows(service='test', deterministic=False, ...): the arguments with which `flows` traces this test",
    "flow_budget(response=None, completion=None, spans=None): the most that a flow of this test may take",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture
def flows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    """The flows of this process, traced for the length of the test.

        def test_an_order_is_billed(flows, client):
            client.post("/orders")

            flow = flows.wait_for_flow("POST /orders", "send orders", "process orders")
            flow.assert_complete()

    `@pytest.mark.flows(deterministic=True)` counts ids and time.
    """
    from tracekit.testing.captured import capture

    marker = request.node.get_closest_marker("flows")
    with capture(**(marker.kwargs if marker else {})) as captured:
        _watch(request, tmp_path_factory, "flows", captured)
        yield captured


@pytest.fixture
def flow_sink(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowSink]:
    """The flows of other processes: a real OTLP receiver, on free ports of loopback.

    def test_the_worker_bills(flow_sink):
        subprocess.run([sys.executable, "worker.py"], env={**os.environ, **flow_sink.env}, check=True)

        flow_sink.wait_for_flow("process orders").assert_complete()
    """
    from tracekit.testing.sink import FlowSink

    with FlowSink() as sink:
        _watch(request, tmp_path_factory, "flow_sink", sink)
        yield sink


def _watch(
    request: pytest.FixtureRequest, folders: pytest.TempPathFactory, fixture: str, seen: Flows
) -> None:
    """Let the hooks below find what this test sees, and name its file after the test."""
    item: pytest.Item = request.node
    name = re.sub(r"[^\w.-]+", "-", item.nodeid.rpartition("/")[2])[-100:]
    seen.save_as = lambda: folders.getbasetemp() / f"{name}-{fixture}.jsonl"
    item.stash.setdefault(_SEEN, {})[fixture] = seen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that passed must have kept to its budget, with what was seen by then."""
    result = yield
    marker = item.get_closest_marker("flow_budget")
    if marker is not None:
        found = [flow for seen in item.stash.get(_SEEN, {}).values() for flow in seen.flows]
        if not found:
            raise AssertionError("flow_budget: no flow was seen. Does the test use `flows` or `flow_sink`?")
        for flow in found:
            flow.assert_within(**marker.kwargs)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows the flows it saw, if its error does not."""
    report = yield
    if report.failed and report.when == "call":
        for fixture, seen in item.stash.get(_SEEN, {}).items():
            error = call.excinfo.value if call.excinfo is not None else None
            if getattr(error, "flows", None) is not seen:
                report.sections.append((f"flows seen by {fixture}", _reported(seen)))
            elif (crash := getattr(report.longrepr, "reprcrash", None)) is not None:
                # For the summary, which under CI repeats the whole message: not its trees.
                crash.message = crash.message.partition("\n\n")[0]
    return report


def _reported(seen: Flows) -> str:
    try:
        return seen.report()
    except Exception as error:  # noqa: BLE001 - it would take the place of the test's own failure
        return f"they cannot be shown: {error!r}"
