"""`tracekit flows`, `flow` and `tail`, asked of a real `tracekit serve`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import termios
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.programs import environment
from tests.integration.serving import PATIENCE_S, TRACEKIT, Ended, serving, tracekit_here
from tests.integration.test_api import damage
from tracekit.collector.archive import Summary
from tracekit.flow import build_flow, render
from tracekit.flow.text import duration
from tracekit.model import LogLine, Service
from tracekit.sources import ApiSource
from tracekit.testing.spans import at, flow_of, processed, request, sent, shop, span

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.serving import Serving

SHOP: Final = shop()
FLOW_ID: Final = flow_of(SHOP[0])
SHORT: Final = FLOW_ID[:8]
LOST: Final = processed(None, 4000, 4010, attributes={"tracekit.messaging.context": "absent"})
LINES: Final = (
    LogLine(
        at(12),
        "order 7 taken",
        severity=9,
        severity_text="information",
        attributes={"order.id": 7, "tracekit.flow.id": FLOW_ID},
        trace_id=SHOP[0].trace_id,
        span_id=SHOP[0].span_id,
        service=Service("orders"),
    ),
    LogLine(
        at(2100),
        "mail \x1b[31mrefused",
        severity=17,
        trace_id=SHOP[0].trace_id,
        span_id=SHOP[0].span_id,
        service=Service("notification"),
    ),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One that knows two flows: the shop's, and one whose producer lost its headers."""
    with serving(tmp_path_factory.mktemp("data")) as running:
        running.send([*SHOP, LOST], LINES)
        wait_until_analysed(running, 2)
        yield running


def wait_until_analysed(running: Serving, number: int) -> None:
    """What the list says of a flow is complete once it was built."""
    source = ApiSource(running.api)
    for told in source.follow(""):
        found = source.find("").flows
        if len(found) == number and all(flow.is_analysed for flow in found):
            return
        assert told is not None


def ask(server: Serving, *words: str, **variables: str) -> str:
    done = tracekit_here(*words, "--server", server.api, **variables)
    assert (done.code, done.err) == (0, "")
    return done.out


def test_flows_are_listed_the_latest_first(server: Serving) -> None:
    rows = ask(server, "flows", COLUMNS="80").splitlines()

    waited = duration(ApiSource(server.api).find("error").flows[0].waited_ns)
    assert [re.sub(" +", " ", row) for row in rows] == [
        "when flow answer done in waited marks id",
        f"2023-11-14 process … – 10 ms – break: headers_lost {LOST.trace_id[:8]}",
        f"2023-11-14 POST /or… 202 84 ms 2.63 s {waited} 1 error {SHORT}",
    ]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("error", [FLOW_ID]),
        ("break = headers_lost", [LOST.trace_id]),
        ("completion > 1s queue=order.confirmed", [FLOW_ID]),
        ("name = 'POST /orders'", [FLOW_ID]),
        ("pay", [FLOW_ID]),
        ("service=nobody", []),
    ],
)
def test_a_query_chooses_among_them(server: Serving, query: str, ids: list[str]) -> None:
    found = ask(server, "flows", "--json", *shlex.split(query))

    assert [json.loads(row)["id"] for row in found.splitlines()] == ids


def test_a_query_that_nothing_meets_and_one_that_cannot_be_read_say_so(server: Serving) -> None:
    assert ask(server, "flows", "service=nobody") == "no flow meets: service=nobody\n"
    assert ask(server, "flows", "name=POST /orders") == (
        """no flow meets: name=POST /orders (perhaps you meant 'name="POST /orders"')\n"""
    )
    refused = tracekit_here("flows", "colour", "=", "red", "--server", server.api)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("tracekit flows: ")


def test_more_flows_than_a_page_has_come_from_several(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        running.send(request("POST /orders", number, number + 1) for number in range(1200))
        rows: list[str] = []
        until = time.monotonic() + PATIENCE_S
        while not rows and time.monotonic() < until:  # of many, the list has what came a moment ago
            rows = ask(running, "flows", "--json", "--limit", "1100").splitlines()

    assert len({json.loads(row)["id"] for row in rows}) == 1100


def test_an_empty_list_says_how_to_send_the_first_flow(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        for command in ("flows", "flow"):
            assert ask(running, command) == (
                "There are no flows yet. Two lines in a service send the first one:\n"
                "    import tracekit\n"
                f'    tracekit.configure("orders", endpoint="{running.otlp}")\n'
                f"Without a change to it: tracekit run --endpoint {running.otlp} -- python worker.py\n"
            )


@pytest.mark.parametrize("asked", [FLOW_ID, SHORT, FLOW_ID[:4].upper()])
def test_a_flow_is_drawn_as_a_test_draws_it(server: Serving, asked: str) -> None:
    assert ask(server, "flow", asked, COLUMNS="100") == render(build_flow(SHOP)) + "\n"


def test_without_an_id_it_is_the_latest(server: Serving) -> None:
    assert ask(server, "flow").startswith("process orders  done in 10 ms · 1 break   ")


def test_a_break_comes_with_its_evidence_and_its_cure(server: Serving) -> None:
    assert ask(server, "flow", LOST.trace_id[:6]).endswith(
        "\n✕ headers_lost  process orders (notification)\n"
        "  The message brought no context.\n"
        "  Instrument the producer, and keep the message headers wherever it is copied.\n"
    )


def test_a_flow_whose_message_lost_its_headers_leads_to_what_followed_and_back(tmp_path: Path) -> None:
    entry = request("POST /orders", 0, 40)
    entry = replace(entry, attributes={**entry.attributes, "order.id": "17"})
    known = {"tracekit.messaging.context": "absent", "order.id": "17"}
    apart = processed(None, 3000, 3010, attributes=known)
    other = processed(None, 3500, 3510, attributes={**known, "order.id": "18"})
    with serving(tmp_path) as server:
        server.send([entry, apart, other])
        wait_until_analysed(server, 3)
        of_order = ask(server, "flow", entry.trace_id[:8])
        of_rest = ask(server, "flow", apart.trace_id[:8])
        of_other = ask(server, "flow", other.trace_id[:8])

    assert f"0 breaks, 1 in {apart.trace_id[:8]}   " in of_order
    assert of_order.endswith(
        f"\n✕ headers_lost  {apart.trace_id[:8]}, process orders (notification)\n"
        "  The message brought no context.\n"
        "  It has the same order.id 17: probably it belongs here.\n"
        "  Instrument the producer, and keep the message headers wherever it is copied.\n"
    )
    assert of_rest.endswith(
        f"\n  It probably belongs to {entry.trace_id[:8]}, POST /orders (orders), which has the same "
        "order.id 17.\n"
    )
    assert "probably" not in of_other


def test_what_was_logged_stands_at_its_moment(server: Serving) -> None:
    assert ask(server, "flow", SHORT, "--logs").endswith(
        "\n\n+12 ms  orders        INFO   order 7 taken  order.id=7\n"
        "+2.1 s  notification  ERROR  mail \\x1b[31mrefused\n"
    )
    assert ask(server, "flow", LOST.trace_id[:6], "--logs").endswith(
        "\n\nnothing was logged in this flow's spans\n"
    )


def test_as_json_a_flow_is_what_the_api_says_of_it(server: Serving) -> None:
    document = json.loads(ask(server, "flow", SHORT, "--json", "--logs"))

    assert (document["summary"]["id"], len(document["spans"])) == (FLOW_ID, len(SHOP))
    assert [line["body"] for line in document["logs"]] == [line.body for line in LINES]


def test_an_id_that_no_flow_has_is_said_with_what_to_do(server: Serving) -> None:
    assert tracekit_here("flow", "00000000", "--server", server.api) == Ended(
        1,
        "",
        "tracekit flow: no flow is called 00000000: it never came, or was dropped to make room; `tracekit "
        "flows` lists those kept\n",
    )


def test_a_flow_that_a_damaged_segment_cost_is_told_to_be_lost_and_one_in_part_says_so(
    tmp_path: Path,
) -> None:
    entry, orders = request("GET /lamp", 5000, 5001), sent("orders", 10, 18)
    for spans in ([entry, orders], [processed(orders, 1000, 1100)]):
        with serving(tmp_path) as server:
            server.send(spans)
            server.end()
    damage(tmp_path)

    with serving(tmp_path) as server:
        for asked in ((), (entry.trace_id[:8],), (entry.trace_id, "--json")):
            named = asked[0] if asked else entry.trace_id
            assert tracekit_here("flow", *asked, "--server", server.api) == Ended(
                1,
                "",
                f"tracekit flow: flow {named} came, and is lost: its spans were in a part of a segment "
                "that is damaged; `tracekit doctor` tells what was found damaged\n",
            )
        assert ask(server, "flow", orders.trace_id).endswith(
            "\n\n✕ incomplete  what came of it in 1 request cannot be read\n"
            "  The segment is damaged, or its disk fails; `tracekit doctor` tells where.\n"
        )
        assert json.loads(ask(server, "flow", orders.trace_id, "--json"))["unread"] == 1
        assert ask(server, "flows", COLUMNS="80").count("\n") == 3
        assert ask(server, "flows", "messaging.system=kafka", "--json").count("\n") == 1
        doctor = tracekit_here("doctor", "--server", server.api, OTEL_EXPORTER_OTLP_ENDPOINT=server.otlp)

    assert "are damaged; what was in them is lost" in doctor.out


@pytest.mark.parametrize("command", ["flows", "flow", "tail"])
def test_where_no_server_is_it_says_how_to_start_one(command: str) -> None:
    assert tracekit_here(command, "--server", "http://127.0.0.1:1") == Ended(
        1,
        "",
        f"tracekit {command}: nobody answers at http://127.0.0.1:1 (Connection refused). Start it: tracekit "
        "serve; or say where it is: --server URL\n",
    )


def test_a_reader_who_has_enough_ends_it_quietly(server: Serving) -> None:
    with subprocess.Popen(
        [*TRACEKIT, "flows", "--server", server.api],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def on_a_terminal(server: Serving, *words: str, **variables: str) -> str:
    """What a command shows on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(
        [*TRACEKIT, *words, "--server", server.api],
        env=environment(TERM="xterm", NO_COLOR="", COLUMNS="") | variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        shown = b""
        # Linux says EIO once the other side is closed.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_on_a_terminal_waiting_is_amber_and_what_is_wrong_red(server: Serving) -> None:
    shown = on_a_terminal(server, "flows")

    assert re.search(r"\x1b\[33m *1\.9\d s\x1b\[0m", shown)
    assert re.search(r"\x1b\[31mbreak: headers_lost *\x1b\[0m", shown)
    assert max(len(re.sub(r"\x1b\[\d+m", "", row)) for row in shown.splitlines()) <= 100
    assert "\x1b[33mkafka" not in on_a_terminal(server, "flow", SHORT)


def test_who_wants_no_colours_has_none(server: Serving) -> None:
    assert "\x1b" not in on_a_terminal(server, "flows", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(server, "flow", SHORT, TERM="dumb")


@contextmanager
def tailing(running: Serving, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`tracekit tail`, which is connected."""
    before = watchers(running)
    with subprocess.Popen(
        [*TRACEKIT, "tail", "--server", running.api, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            while watchers(running) == before:
                assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def watchers(running: Serving) -> object:
    return ApiSource(running.api).get("/api/status")["watchers"]


def test_each_flow_is_a_line_as_it_settles_over_a_restart_too(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        ports = [address.rpartition(":")[2] for address in (running.otlp, running.grpc, running.api)]
        with tailing(running, "service=orders") as tail:
            assert tail.stdout is not None
            assert tail.stderr is not None
            running.send([*SHOP, LOST])
            first = tail.stdout.readline()
            running.end()
            lost = tail.stderr.readline()
            with serving(
                tmp_path, "--http-port", ports[0], "--grpc-port", ports[1], "--port", ports[2]
            ) as again:
                found = tail.stderr.readline()
                again.send([request("GET /orders", 9000, 9012, status=200)])
                second = tail.stdout.readline()
                tail.send_signal(signal.SIGINT)
                said = tail.communicate(timeout=PATIENCE_S)

    assert re.fullmatch(
        r"2023-11-14  POST /orders 202 in 84 ms -> done in 2\.63 s "
        rf"\(waited 1\.9\d s in 2 queues, 1 error\)   {SHORT}\n",
        first,
    )
    assert lost == f"tracekit tail: the connection to {running.api} was lost; trying again\n"
    assert found == "tracekit tail: connected again\n"
    assert re.search(r"  GET /orders 200 in 12 ms -> done in 12 ms   [0-9a-f]{8}\n", second)
    assert (tail.returncode, said[0]) == (0, "")


def test_a_flow_that_grows_is_told_again_and_one_that_is_sent_again_is_not(tmp_path: Path) -> None:
    entry = request("POST /orders", 0, 84)
    late = span("late", 100, 200, parent=entry)
    with serving(tmp_path) as running, tailing(running) as tail:
        assert tail.stdout is not None
        source = ApiSource(running.api)
        heard = source._told(source._web.open("/api/events"))  # from now on
        for spans in ([entry], [entry], [entry, late]):
            running.send(spans)
            assert isinstance(next(heard), Summary)
        running.send([request("GET /orders", 500, 512)])
        told = [tail.stdout.readline() for _ in range(3)]

    assert [re.split(r"  | -> ", row.strip())[1:3] for row in told] == [
        ["POST /orders 202 in 84 ms", "done in 84 ms"],
        ["POST /orders 202 in 84 ms", "done in 200 ms"],
        ["GET /orders 202 in 12 ms", "done in 12 ms"],
    ]


def test_as_json_a_tail_is_an_object_a_line(tmp_path: Path) -> None:
    with serving(tmp_path) as running, tailing(running, "--json") as tail:
        assert tail.stdout is not None
        running.send(SHOP)
        told = json.loads(tail.stdout.readline())

    assert (told["id"], told["start_ns"], told["completion_ns"]) == (FLOW_ID, str(at(0)), 2_630_000_000)
