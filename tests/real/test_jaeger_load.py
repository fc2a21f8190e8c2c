"""`tracekit serve` before a stock Jaeger that has a thousand orders: what it takes to show the latest.

The limits are those that compose.yaml gives it, and a user's patience. That is held against the CPU that it
took, for the machine may be busy with something else; what was measured is printed.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.integration.servers.jaeger import jaeger
from tests.integration.servers.process import fetched
from tests.integration.serving import FREE, serving, tracekit
from tracekit.model import Kind, Link, Service, Span
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.servers.jaeger import Jaeger

pytestmark = pytest.mark.real

ORDERS: Final = 1_000
APART_NS: Final = 100_000_000
MOST_MIB: Final = 150
MOST_S: Final = 1.0
MOST_IDLE: Final = 0.05
IDLE_S: Final = 10.0
NAMES: Final = ("orders", "payment", "inventory", "notification", "audit", "analytics")
_MS: Final = 1_000_000


def order(number: int, at_ns: int) -> list[Span]:
    """25 spans of six services: a request, and eight messages one after another, each with its wait."""
    flow_id = f"{number * 2654435761 % 2**32:08x}{number:024x}"
    marked = {
        "tracekit.flow.id": flow_id,
        "order.id": str(number),
        **{f"app.detail.{n}": "x" * 20 for n in range(6)},
    }
    entry = Span(flow_id, f"{number:08x}{1:08x}", "POST /orders", at_ns, at_ns + 12 * _MS, kind=Kind.SERVER,
                 service=Service("orders"), attributes=marked)  # fmt: skip
    spans, up = [entry], entry
    for hop in range(8):
        queue = {"messaging.system": "kafka", "messaging.destination.name": f"topic.{hop}"}
        here, there = Service(NAMES[hop % 6]), Service(NAMES[(hop + 1) % 6])
        start_ns, place = at_ns + (2 + 13 * hop) * _MS, len(spans)
        ids = [f"{number:08x}{place + n:08x}" for n in range(1, 4)]
        send = Span(flow_id, ids[0], f"send topic.{hop}", start_ns, start_ns + 2 * _MS, parent_id=up.span_id,
                    kind=Kind.PRODUCER, service=here, attributes={**marked, **queue})  # fmt: skip
        wait = replace(send, span_id=ids[1], name=f"wait topic.{hop}", end_ns=start_ns + 11 * _MS,
                       kind=Kind.INTERNAL, parent_id=ids[0], service=there,
                       attributes={**send.attributes, "tracekit.messaging.wait": True})  # fmt: skip
        up = replace(send, span_id=ids[2], name=f"process topic.{hop}", start_ns=start_ns + 11 * _MS,
                     end_ns=start_ns + 19 * _MS, kind=Kind.CONSUMER, parent_id=ids[0], service=there,
                     links=(Link(flow_id, ids[0], {"tracekit.flow.id": flow_id}),))  # fmt: skip
        spans += [send, wait, up]
    return spans


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with jaeger(tmp_path_factory.mktemp("jaeger")) as running:
        began_ns = time.time_ns() - ORDERS * APART_NS
        for first in range(0, ORDERS, 20):
            some = [span for n in range(first, first + 20) for span in order(n, began_ns + n * APART_NS)]
            headers = {"content-type": "application/x-protobuf"}
            assert fetched(f"{running.http}/v1/traces", encode_spans(some), headers)[0] == 200
        yield running


def test_a_server_before_it_is_small_and_answers_at_once(storage: Jaeger, tmp_path: Path) -> None:
    with serving(tmp_path, *FREE, "--jaeger", storage.query) as server, ThreadPoolExecutor(4) as four:
        pid = server.process.pid

        def listed(_: int = 0) -> float:
            began_s = time.monotonic()
            found: Any = json.loads(fetched(f"{server.api}/api/flows?limit=3")[1])
            assert [flow["spans"] for flow in found["flows"]] == [17, 17, 17]  # the waits are none of them
            return time.monotonic() - began_s

        cold = [*four.map(listed, range(4))]
        cpu_s = of_cpu(pid)
        warm = [*four.map(listed, range(4))]
        warm_s = of_cpu(pid) - cpu_s
        began_s = time.monotonic()
        page = json.loads(fetched(f"{server.api}/api/flows?limit=500")[1])
        long_s = time.monotonic() - began_s
        listed()
        time.sleep(5)  # what was just read is looked after a last time
        cpu_s = of_cpu(pid)
        time.sleep(IDLE_S)
        idle, peak_mib = (of_cpu(pid) - cpu_s) / IDLE_S, peak(pid)

    print(f"\nfour lists at once: {max(cold):.2f} s, then {max(warm):.2f} s; {len(page['flows'])} flows in "
          f"{long_s:.1f} s; {peak_mib:.0f} MiB at most; idle {idle:.1%} of a core")  # fmt: skip
    assert warm_s < MOST_S
    assert peak_mib < MOST_MIB
    assert idle < MOST_IDLE


def test_the_commands_answer_soon(storage: Jaeger) -> None:
    where = ("--source", "jaeger", "--server", storage.query)
    whole = order(ORDERS // 2, 0)[0].trace_id
    took = []
    for asked in (("flows", "-n", "3"), ("flow", whole), ("flows", f"order.id={ORDERS // 2}")):
        began_s = time.monotonic()
        found = tracekit(*asked, *where)
        took.append(f"{' '.join(asked)}: {time.monotonic() - began_s:.1f} s")
        assert (found.code, found.err) == (0, "")
        assert asked[-1] == "3" or whole[:8] in found.out
    print("\n" + "\n".join(took))


def of_cpu(pid: int) -> float:
    """Seconds of CPU that a process took so far. Source: proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(pid: int) -> float:
    """The most MiB that it had resident."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("VmHWM")).split()[1]) / 1024
