"""Waiting: by condition and quiescence, with a report that names the hop that is missing."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from tracekit.collector.memory import MemoryStore
from tracekit.flow import render
from tracekit.otlp import decode_spans
from tracekit.testing import Flows, NotSeenError
from tracekit.testing.spans import batch, processed, request, sent, span
from tracekit.testing.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tracekit.model import Span

ENTRY = request("POST /orders")
SENT = sent("orders", parent=ENTRY)
BILLED = processed(SENT, service="billing")
AUDITED = processed(SENT, 110, 115, service="audit")
PATH = ("POST /orders", "send orders", "process orders")


def flows_of(*spans: Span, quiet_s: float = 0) -> Flows:
    store = MemoryStore()
    store.add_spans(spans)
    return Flows(store, quiet_s=quiet_s)


def not_seen(flows: Flows, *path: str, **expected: int) -> str:
    """The report, down to the first tree."""
    with pytest.raises(NotSeenError) as caught:
        flows.wait_for_flow(*path, consumed=expected, timeout_s=0)
    return str(caught.value).partition("\n\n")[0]


# -- by condition and quiescence --------------------------------------------------------------------


def test_a_wait_is_over_when_its_condition_holds_and_nothing_new_comes() -> None:
    arrived = [1]
    steps = until(lambda: True, lambda: arrived[0], timeout_s=60, quiet_s=1)

    condition, _ = next(steps)
    assert condition()
    more_came, quiet_s = steps.send(True)
    assert (more_came(), quiet_s) == (False, 1)
    with pytest.raises(StopIteration) as end:
        steps.send(False)

    assert end.value.value == "met"


def test_what_comes_in_the_quiet_time_is_looked_at_again() -> None:
    arrived = [1]
    steps = until(lambda: arrived[0] == 1, lambda: arrived[0], timeout_s=60, quiet_s=1)
    next(steps)
    more_came, _ = steps.send(True)

    arrived[0] = 2
    assert more_came()
    condition, _ = steps.send(True)

    assert not condition()


def test_a_condition_that_never_holds_ends_at_the_deadline() -> None:
    steps = until(lambda: False, lambda: 0, timeout_s=0, quiet_s=1)
    next(steps)

    with pytest.raises(StopIteration) as end:
        steps.send(False)

    assert end.value.value == "late"


def test_spans_that_never_stop_coming_end_it_at_the_deadline_too() -> None:
    steps = until(lambda: True, lambda: 0, timeout_s=0, quiet_s=1)
    next(steps)
    steps.send(True)

    with pytest.raises(StopIteration) as end:
        steps.send(True)

    assert end.value.value == "restless"


def test_a_thread_that_waits_goes_on_when_the_last_hop_arrives() -> None:
    flows = flows_of(ENTRY, SENT)
    late = threading.Thread(target=flows.store.add_spans, args=([BILLED],))
    late.start()

    flow = flows.wait_for_flow(*PATH)

    late.join()
    assert flow.services == ("orders", "billing")


def test_a_task_that_waits_lets_its_event_loop_go_on() -> None:
    flows = flows_of(ENTRY, SENT)

    async def consume() -> None:
        flows.store.add_spans([BILLED])

    async def wait() -> tuple[str, ...]:
        consuming = asyncio.create_task(consume())
        await flows.wait_for_async(lambda: len(flows.spans) == 3)
        (flow,) = await flows.wait_for_flows_async(1)
        await consuming
        return (await flows.wait_for_flow_async(*PATH)).services + flow.services

    assert asyncio.run(wait()) == ("orders", "billing") * 2


def test_any_condition_can_be_waited_for() -> None:
    flows = flows_of(ENTRY)

    flows.wait_for(lambda: len(flows.spans) == 1)
    with pytest.raises(NotSeenError, match="2 spans: not seen within 0 s"):
        flows.wait_for(lambda: len(flows.spans) == 2, timeout_s=0, says="2 spans")


def test_so_many_flows_are_so_many_and_no_more() -> None:
    two = [ENTRY, request("POST /orders", 200)]

    assert len(flows_of(*two).wait_for_flows(2, "POST /orders")) == 2
    with pytest.raises(AssertionError, match=r"2 flows `POST /orders`, not 1: POST /orders"):
        flows_of(*two).wait_for_flows(1, "POST /orders")


def test_flows_that_go_another_way_do_not_count() -> None:
    flows = flows_of(ENTRY, SENT, BILLED, request("GET /health", 50, 51))

    assert [flow.name for flow in flows.wait_for_flows(1, *PATH)] == ["POST /orders"]


def test_a_hop_into_a_batch_counts_for_each_of_its_messages() -> None:
    other = request("POST /orders", 1)
    sends = [SENT, sent("orders", 20, 21, parent=other)]
    flows = flows_of(ENTRY, other, *sends, batch(sends))

    assert len(flows.wait_for_flows(2, *PATH)) == 2


# -- the report -------------------------------------------------------------------------------------


def test_the_report_names_the_hop_after_which_the_path_stopped() -> None:
    assert not_seen(flows_of(ENTRY, SENT), *PATH) == (
        "1 flow `POST /orders → send orders → process orders`: not seen within 0 s\n"
        "  - the path stopped after `send orders`: no `process orders` followed\n"
        "  - nothing consumed from `orders`"
    )


def test_the_report_names_what_came_instead_of_the_beginning() -> None:
    assert not_seen(flows_of(request("GET /health")), "POST /orders") == (
        "1 flow `POST /orders`: not seen within 0 s\n"
        "  - no `POST /orders` arrived; what did begins with `GET /health`"
    )


def test_the_report_counts_the_consumers() -> None:
    lost = sent("orders.dlq", 30, 31, parent=ENTRY)
    flows = flows_of(ENTRY, SENT, BILLED, AUDITED, lost)

    assert not_seen(flows, "POST /orders", orders=3, **{"orders.dlq": 1}) == (
        "1 flow `POST /orders`, 3 consumed from `orders`, 1 consumed from `orders.dlq`: "
        "not seen within 0 s\n"
        "  - 2 of 3 consumers of `orders` seen: audit, billing\n"
        "  - nothing consumed from `orders.dlq`"
    )


def test_the_report_tells_where_the_hop_is_that_lost_its_context() -> None:
    alone = processed(None, 100, destination="orders", service="billing")

    assert not_seen(flows_of(ENTRY, SENT, alone), *PATH).splitlines()[2] == (
        f"  - `process orders` is in flow {alone.trace_id[:8]}, which begins with `process orders`: "
        "its context was lost"
    )


def test_the_report_says_how_many_flows_are_there() -> None:
    with pytest.raises(NotSeenError, match=r"1 of 2 flows seen\n  - the path stopped after `POST /orders`"):
        flows_of(ENTRY, SENT, request("POST /orders", 200)).wait_for_flows(
            2, "POST /orders", "send orders", timeout_s=0
        )


def test_the_report_says_that_it_was_not_quiet() -> None:
    class Restless(Flows):
        def _arrived(self) -> int:
            self.store.add_spans([span("tick", start) for start in range(len(self.spans) + 1)])
            return len(self.spans)

    with pytest.raises(NotSeenError, match=r"- it was there, but not quiet for 60 s"):
        Restless(MemoryStore(), quiet_s=60).wait_for(lambda: True, timeout_s=0)


def test_the_report_draws_what_came_and_saves_it(tmp_path: Path) -> None:
    flows = flows_of(ENTRY, SENT)
    flows.save_as = lambda: tmp_path / "seen.jsonl"

    with pytest.raises(NotSeenError) as caught:
        flows.wait_for_flow(*PATH, timeout_s=0)

    assert render(flows.flow().flow) in str(caught.value)
    assert f"saved: {tmp_path / 'seen.jsonl'}" in str(caught.value)
    (line,) = (tmp_path / "seen.jsonl").read_bytes().splitlines()
    assert {one.span_id for one in decode_spans(line, "json").records} == {ENTRY.span_id, SENT.span_id}


def test_with_nothing_there_the_report_says_so_and_saves_nothing() -> None:
    with pytest.raises(NotSeenError) as caught:
        flows_of().wait_for_flow("POST /orders", timeout_s=0)

    assert str(caught.value) == "1 flow `POST /orders`: not seen within 0 s\n\nno span arrived"


def test_many_flows_are_not_all_drawn() -> None:
    flows = flows_of(*(request("GET /x", start, start + 1) for start in range(12)))

    assert "… and 2 flows more" in flows.report()


def test_the_report_says_what_the_receiver_refused() -> None:
    flows = flows_of(ENTRY)
    flows.store.count_refused("traces", 2)

    assert "traces: 2 refused, 0 dropped by the receiver" in flows.report()


def test_there_is_one_flow_or_it_says_how_many() -> None:
    flows = flows_of(ENTRY, request("GET /health", 50))

    assert flows.flow(ENTRY.trace_id).name == "POST /orders"
    with pytest.raises(AssertionError, match="2 flows, not the only one"):
        flows.flow()
