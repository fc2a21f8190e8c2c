"""`tracekit serve`: how it begins, whom it refuses, and how it ends."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import sys
import time
from random import Random
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest

from tests.e2e.programs import environment
from tests.integration.serving import FREE, PATIENCE_S, TRACEKIT, US, Ended, serving, tracekit
from tracekit.collector.segments import Segments
from tracekit.otlp import encode_spans
from tracekit.sources import ApiSource
from tracekit.testing.spans import request, shop, span

if TYPE_CHECKING:
    from pathlib import Path

    from tracekit.testing import FlowSink


def test_it_says_where_it_listens_what_it_has_and_how_to_begin(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        assert re.fullmatch(
            r"tracekit is collecting; Ctrl-C ends it\n"
            r"  OTLP  http://127\.0\.0\.1:\d+ \(HTTP\), http://127\.0\.0\.1:\d+ \(gRPC\)\n"
            r"  API   http://127\.0\.0\.1:\d+/api/flows\n"
            rf"  data  {tmp_path}/data: 0 flows, \d+ (bytes|kB) of 2 GB\n"
            r"Two lines in a service send the first one:\n"
            r"    import tracekit\n"
            rf'    tracekit\.configure\("orders", endpoint="{server.otlp}"\)\n'
            rf"Without a change to it: {US} run --endpoint {server.otlp} -- python worker\.py\n",
            server.greeting,
        )


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT, signal.SIGHUP)],
)
def test_it_ends_cleanly_and_says_what_it_keeps(tmp_path: Path, signals: tuple[int, ...]) -> None:
    with serving(tmp_path) as server:
        server.send(shop())
        ended = server.end(*signals)

    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(rf"\nended: 1 flow, \d+ kB in {tmp_path}\n", ended.out)


def test_what_was_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.send(shop())
        server.end()
    with serving(tmp_path) as server:
        assert re.search(rf"data  {tmp_path}: 1 flow, \d+ kB of 2 GB, since 2023-11-14\n", server.greeting)
        assert server.greeting.endswith(f"  look  {US} flows --server {server.api}\n")
        source = ApiSource(server.api)
        (flow,) = source.find("").flows
        assert len(source.flow(flow.id).spans) == len(shop())


def test_who_comes_second_to_a_directory_learns_who_has_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        refused = tracekit("serve", "--data", str(tmp_path), *FREE)

        assert refused == Ended(
            1,
            "",
            f"tracekit serve: {tmp_path} is in use by process {server.process.pid}. Stop it, or give another "
            "directory with --data\n",
        )


@pytest.mark.parametrize("option", ["--port", "--http-port", "--grpc-port"])
def test_a_port_that_is_taken_is_named(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = tracekit("serve", "--data", str(tmp_path), *FREE, option, port)

    assert (refused.code, refused.out) == (1, "")
    assert f"cannot listen on 127.0.0.1 port {port}" in refused.err
    assert f"give this one another port with {option} (0 takes a free one)" in refused.err
    assert "Traceback" not in refused.err


def test_a_port_that_is_given_twice_is_refused_with_both_options(tmp_path: Path) -> None:
    refused = tracekit("serve", "--data", str(tmp_path), "--http-port", "5555", "--port", "5555")

    assert refused == Ended(
        1,
        "",
        "tracekit serve: --http-port and --port are both 5555: give each a port of its own (0 takes a free "
        "one)\n",
    )


@pytest.mark.parametrize("host", ["nohost.invalid", "1.2.3.4", "::1"])
def test_what_is_no_address_of_this_machine_is_called_that(tmp_path: Path, host: str) -> None:
    refused = tracekit("serve", "--data", str(tmp_path), *FREE, "--host", host)

    assert (refused.code, refused.out) == (1, "")
    assert re.fullmatch(
        rf"tracekit serve: {host} is no IPv4 address of this machine \(.+\): leave --host out for this "
        r"machine only, or give it 0\.0\.0\.0 for all addresses that this machine has\n",
        refused.err,
    )


def test_a_port_that_another_tracekit_has_is_named_with_it(tmp_path: Path) -> None:
    with serving(tmp_path / "first") as server:
        taken = server.api.rpartition(":")[2]
        refused = tracekit("serve", "--data", str(tmp_path / "second"), *FREE, "--port", taken)

        assert refused.code == 1
        assert refused.err.endswith(
            f". A `tracekit serve` is running: process {server.process.pid}, with its data in "
            f"{tmp_path / 'first'}\n"
        )


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        (lambda data: data.write_text("a file"), "is no directory. Move it away, or give another directory"),
        (
            lambda data: (data.mkdir(), (data / "tracekit.version").write_text("99")),
            "was written by a newer tracekit",
        ),
        (
            lambda data: (data / "index.db").mkdir(parents=True),
            "index.db is a directory, where a file is meant. Move it away, or give another directory",
        ),
    ],
)
def test_a_directory_that_cannot_be_is_refused_with_the_cure(
    tmp_path: Path, prepare: object, complaint: str
) -> None:
    assert callable(prepare)
    prepare(tmp_path / "data")

    refused = tracekit("serve", "--data", str(tmp_path / "data"), *FREE)

    assert (refused.code, refused.out) == (1, "")
    assert complaint in refused.err
    assert "Traceback" not in refused.err


def test_a_disk_without_room_for_an_index_is_refused_with_the_cure(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from tracekit import cli;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY));"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    refused = subprocess.run(
        [sys.executable, "-c", program, "serve", "--data", str(tmp_path / "data"), *FREE],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.search(r"data cannot be used: .+\. Make room on its disk, or give another", refused.stderr)
    assert "Traceback" not in refused.stderr


def test_without_its_extra_it_names_the_extra_and_how_to_get_it() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None; from tracekit import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    refused = subprocess.run(
        [sys.executable, "-c", program, "serve"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        'tracekit serve: the extra "serve" is not installed (there is no grpc). '
        "pip install '.[serve]' in tracekit's clone\n"
    )


def test_a_disk_with_less_room_than_it_may_take_is_told_at_the_start(tmp_path: Path) -> None:
    with serving(tmp_path, *FREE, "--max-size", "1000000TB") as server:
        ended = server.end()

    assert re.fullmatch(
        rf"tracekit serve: \d\S* [kMGT]B are free on the disk of {tmp_path}, and --max-size 1000000 TB "
        r"allows for 1000000 TB more: once it is full, senders get 503 and try again; free some, or start "
        r"with a smaller --max-size\n",
        ended.err,
    )


def test_where_only_the_demo_has_flows_it_says_how_to_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    data = tmp_path / "tracekit"
    with Segments(data / "demo" / "segments", max_bytes=10**9) as segments:
        segments.append(1, encode_spans(shop()))
    hint = f"  demo  its flows: {US} serve --data {data / 'demo'}\n"

    with serving(data) as server:
        assert hint in server.greeting
        server.send(shop())
        server.end()
    with serving(data) as server:
        assert hint not in server.greeting
    with serving(tmp_path / "elsewhere") as server:
        assert hint not in server.greeting


def test_who_opens_it_to_others_is_warned(tmp_path: Path) -> None:
    with serving(tmp_path, *FREE, "--host", "0.0.0.0") as server:
        ended = server.end()

    assert ended.code == 0
    assert ended.err == (
        "tracekit serve: --host 0.0.0.0: whoever reaches this address can read all flows and send some; "
        "there are no passwords\n"
    )


def test_once_its_size_is_reached_it_says_what_that_means_and_how_to_keep_more(tmp_path: Path) -> None:
    chance = Random(1)
    with serving(tmp_path, *FREE, "--max-size", "10MB") as server:
        for number in range(30):
            noise = {"noise": chance.randbytes(500_000)}  # nothing for a compressor
            server.send([span("work", start=number, attributes=noise)])
        assert server.process.stdout is not None
        ready, _, _ = select.select([server.process.stdout], [], [], PATIENCE_S)
        said = server.process.stdout.readline() if ready else ""
        ended = server.end()

    assert said == (
        "--max-size 10 MB is full: from now on the oldest flows make room for new ones; a larger one keeps "
        "more\n"
    )
    assert (ended.code, ended.err) == (0, "")


def test_quiet_it_says_nothing(tmp_path: Path) -> None:
    command = [*TRACEKIT, "serve", "--data", str(tmp_path), *FREE, "--quiet", "--host", "0.0.0.0"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()  # that it is open to others: by then it listens
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, *said) == (0, "", "")


@pytest.mark.parametrize(
    ("option", "value", "cure"),
    [
        ("--max-size", "much", "'much': must be a size; e.g. 500MB or 2GB"),
        ("--max-size", "9MB", "'9MB': must be 10 MB or more"),
        ("--port", "70000", "'70000': must be a port, 0 to 65535; 0 takes a free one"),
        ("--data", "", "'': must not be empty; leave the option out"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_one_that_can(option: str, value: str, cure: str) -> None:
    refused = tracekit("serve", option, value)

    assert refused.code == 2
    assert refused.err.endswith(f"error: argument {option}: {cure}\n")


def test_it_goes_on_where_nobody_reads_what_it_says(tmp_path: Path) -> None:
    with serving(tmp_path, *FREE, "--forward", "http://127.0.0.1:1") as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.send(shop())
        assert len(ApiSource(server.api).find("").flows) == 1
        server.process.send_signal(signal.SIGINT)

        assert server.process.wait(PATIENCE_S) == 0


def test_what_came_goes_on_to_another_collector(tmp_path: Path, flow_sink: FlowSink) -> None:
    there = flow_sink.http_endpoint
    with serving(tmp_path, *FREE, "--forward", there) as server:
        assert f"\n  to    {there}\n" in server.greeting
        server.send(shop())
        ended = server.end()

    assert ended.err == ""
    assert len(flow_sink.spans) == len(shop())


def test_a_collector_that_cannot_be_forwarded_to_is_said_once(tmp_path: Path) -> None:
    with serving(tmp_path, *FREE, "--forward", "http://127.0.0.1:1") as server:
        server.send(shop())
        server.send([request("POST /orders", 5)])
        told: object = []
        until = time.monotonic() + PATIENCE_S
        while not told and time.monotonic() < until:  # it is tried by a thread that nobody waits for
            told = ApiSource(server.api).get("/api/status")["troubles"]
        ended = server.end()

    meaning = (
        "All is kept here, and tried again for 5 minutes; what waits beyond 32 MiB is not sent on. Start a "
        "collector there, or name another with --forward"
    )
    assert told == [f"forwarding to http://127.0.0.1:1 fails: Connection refused. {meaning}"]
    assert ended.code == 0
    assert ended.err == (
        f"tracekit serve: forwarding to http://127.0.0.1:1 fails (1 in all): Connection refused. {meaning}\n"
        "tracekit serve: 4 requests were not forwarded to http://127.0.0.1:1; it is all kept here\n"
    )


def test_an_address_to_forward_to_that_cannot_be_is_refused(tmp_path: Path) -> None:
    refused = tracekit("serve", "--data", str(tmp_path), *FREE, "--forward", "collector")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("tracekit serve: forwarding to collector: ")


def test_it_ends_and_says_why_where_its_directory_is_taken_away(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.send(shop())
        (tmp_path / "data").rename(tmp_path / "away")
        with pytest.raises(HTTPError) as refused:
            server.send(shop())
        server.process.wait(PATIENCE_S)
        ended = server.end()

    refused.value.close()
    assert refused.value.code == 503
    assert (ended.code, ended.out) == (1, "")
    assert f"{tmp_path / 'data'} was removed or replaced while it was in use" in ended.err
    assert "Traceback" not in ended.err
    with serving(tmp_path / "away") as server:
        assert "1 flow, " in server.greeting


def test_it_ends_at_once_while_it_makes_its_index_again_and_loses_nothing(tmp_path: Path) -> None:
    body = encode_spans([span("work", number) for number in range(2000)])
    with Segments(tmp_path / "segments", max_bytes=10**9) as segments:
        for _ in range(400):
            segments.append(1, body)

    with subprocess.Popen(
        [*TRACEKIT, "serve", "--data", str(tmp_path), *FREE],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        ended = process.communicate(timeout=PATIENCE_S)

    assert first.startswith("tracekit serve: making the index again: segment 1 of ")
    assert (process.returncode, ended) == (0, ("", ""))
    with Segments(tmp_path / "segments", max_bytes=10**9) as segments:
        assert sum(1 for _ in segments.replay()) == 400
