"""`tracekit demo`, as a stranger types it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from typing import IO, TYPE_CHECKING

import psutil
import pytest
from tracekit_demo.broker import embedded_broker
from tracekit_demo.collector import GRPC_PORT, HTTP_PORT
from tracekit_demo.home import Home, default_folder
from tracekit_demo.shop.topics import TOPICS

from tracekit.sources import API_PORT, DEFAULT_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

DEMO = [sys.executable, "-m", "tracekit", "demo"]
PATIENCE_S = 90


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A demo of a test keeps nothing in the user's own directory, nor are the standard ports its own."""
    with contextlib.ExitStack() as held:
        monkeypatch.setenv("XDG_DATA_HOME", held.enter_context(tempfile.TemporaryDirectory()))
        for port in (HTTP_PORT, GRPC_PORT, API_PORT):
            # Bound but not listening; or somebody else has it, which is as well.
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        yield


def test_once_shows_one_whole_flow_of_each_mode() -> None:
    demo = subprocess.run([*DEMO, "--once"], capture_output=True, text=True, timeout=PATIENCE_S)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    lines = re.findall(r"^#(\d) (\w+): POST /orders (\d+) in .* -> done in ", demo.stdout, re.MULTILINE)
    assert lines == [("1", "sync", "201"), ("2", "async", "202"), ("3", "hybrid", "202")]
    assert "3 of 3 flows have every edge of their mode, and no break" in demo.stdout
    assert demo.stdout.count("0 breaks") == 3
    assert "kafka (embedded)" in demo.stdout
    assert demo.stderr == ""


def test_with_a_kafka_by_address_orders_go_on_until_ctrl_c_ends_everything() -> None:
    with embedded_broker(TOPICS) as kafka:
        demo = subprocess.Popen(
            [*DEMO, "--kafka", kafka.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KAFKA_API_VERSION": kafka.environment["KAFKA_API_VERSION"]},
        )
        with demo:
            assert demo.stdout is not None
            said = ""
            for line in demo.stdout:
                said += line
                if "\n#11 " in said and "\n#12 " in said:
                    break
            children = psutil.Process(demo.pid).children(recursive=True)
            demo.send_signal(signal.SIGINT)
            rest, errors = demo.communicate(timeout=PATIENCE_S)

    assert f"kafka ({kafka.address})" in said
    assert (demo.returncode, rest.splitlines()[-1:], errors) == (0, ["ended"], ""), said + rest + errors
    assert len(re.findall(r"^#\d+ .*   [0-9a-f]{8}$", said, re.MULTILINE)) >= 8
    assert ", 1 error: payment process order.created: RuntimeError)" in said
    assert said.count("0 breaks") == 3
    assert len(children) == 7, children
    assert psutil.wait_procs(children, PATIENCE_S)[1] == []


@pytest.mark.parametrize("said", ["collector", "kafka", "orders", "an order a second"])
def test_ctrl_c_ends_everything_at_any_moment_of_the_start(said: str) -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with demo:
        assert demo.stdout is not None
        so_far = ""
        while said not in so_far:
            so_far += demo.stdout.read(1)
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=PATIENCE_S)

    assert (demo.returncode, rest.splitlines()[-1:], errors) == (0, ["ended"], ""), so_far + rest + errors
    assert psutil.wait_procs(children, PATIENCE_S)[1] == []


def test_ctrl_c_once_more_when_all_has_ended_changes_nothing() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.read(len("starting collector")) == "starting collector"
        demo.send_signal(signal.SIGINT)
        said = list(iter(demo.stdout.readline, "ended\n"))
        while demo.poll() is None:
            demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=PATIENCE_S)

    assert (demo.returncode, rest, errors) == (0, "", ""), said


def test_two_demos_at_once_do_not_disturb_each_other() -> None:
    both = [subprocess.Popen([*DEMO, "--once"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [demo.communicate(timeout=PATIENCE_S)[0] for demo in both]

    assert [demo.returncode for demo in both] == [0, 0], said


def test_a_fault_begins_and_ends_while_the_demo_runs(tmp_path: Path) -> None:
    def fault(*arguments: str) -> str:
        command = [*DEMO, "fault", *arguments, "--data", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with subprocess.Popen(
        [*DEMO, "--data", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        said = _lines_until(demo.stdout, "an order a second")
        before = fault()
        switched = fault("failing-payment")
        said += _lines_until(demo.stdout, "payment POST /charge failed: ConnectionError")
        during = fault()
        fault("failing-payment", "off")
        said += _lines_until(demo.stdout, "faults that are on now: none")
        said += _lines_until(demo.stdout, "sync: POST /orders 201")
        demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=PATIENCE_S)

    assert "faults that are on now: failing-payment\n" in said
    assert re.findall(r"^(\S+) +on ", before, re.MULTILINE) == []
    assert re.findall(r"^(\S+) +on ", during, re.MULTILINE) == ["failing-payment"]
    assert switched.startswith("failing-payment is on: payment's card network hangs up on every charge.")
    assert (demo.returncode, rest.splitlines()[-1:], errors) == (0, ["ended"], "")


def test_a_second_start_shows_the_flows_of_the_first() -> None:
    first = _stopped_after("#1 sync: ", "#2 async: ", "#3 hybrid: ")
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        said = _lines_until(demo.stdout, "in another terminal: ")
        server = said.rpartition("answered for at ")[2].split("/api/flows")[0]
        # The standard port is ours where a test beside this one has just let go of it.
        option = "" if server == DEFAULT_SERVER else f" --server {server}"
        assert f"tracekit flows{option}   " in said.splitlines()[-1]
        flows = subprocess.run(
            [sys.executable, "-m", "tracekit", "flows", "--server", server],
            capture_output=True,
            text=True,
            check=True,
        )
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=PATIENCE_S)

    ids = re.findall(r"   ([0-9a-f]{8})$", first, re.MULTILINE)
    assert (demo.returncode, errors) == (0, "")
    assert len(ids) >= 2
    kept = said[said.index(" flows of earlier starts are kept, the latest:") :]
    latest = re.findall(r"^  \S.*  POST /orders .*   ([0-9a-f]{8})$", kept, re.MULTILINE)
    assert latest, "what came last may not be listed yet, but something is\n" + said
    assert all(f"  {each}" in flows.stdout for each in [*ids, *latest]), flows.stdout


def test_a_second_demo_at_once_says_so_and_keeps_its_flows_elsewhere() -> None:
    home = Home(default_folder())
    with home.held():
        said = _stopped_after("starting collector")

    begin = f"{home.folder}: another demo runs there (process {os.getpid()}); "
    assert said.startswith(begin + "this one keeps its flows elsewhere, until it ends\n")


@pytest.mark.parametrize("options", [[], ["--once"]])
def test_when_its_reader_or_its_terminal_is_gone_it_ends_and_leaves_nothing(
    options: list[str], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    on_terminal = subprocess.Popen(
        [*DEMO, *options],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    piped = subprocess.Popen(
        [*DEMO, *options, "--data", str(tmp_path / "other")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with on_terminal, piped:
        with os.fdopen(ours, "r+b", buffering=0) as terminal:
            _read_until(terminal, "#1 sync: ")
            children = psutil.Process(on_terminal.pid).children(recursive=True)
        assert piped.stdout is not None
        assert piped.stderr is not None
        piped.stdout.readline()
        piped.stdout.close()
        errors = piped.stderr.read()
        codes = [on_terminal.wait(PATIENCE_S), piped.wait(PATIENCE_S)]

    assert (codes, errors) == ([130, 130] if options else [0, 0], "")
    assert psutil.wait_procs(children, PATIENCE_S)[1] == []
    assert list(tmp_path.glob("tracekit-demo-*")) == []


def _stopped_after(*wanted: str) -> str:
    """What a demo said that got Ctrl-C when all of these lines had come."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        said = _lines_until(demo.stdout, *wanted)
        demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, rest.splitlines()[-1:], errors) == (0, ["ended"], ""), said + rest + errors
    return said + rest


def test_an_order_whose_number_is_typed_is_shown_as_a_tree() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    demo = subprocess.Popen(
        DEMO,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    with demo, os.fdopen(ours, "r+b", buffering=0) as terminal:
        said = _read_until(terminal, "\n#4 ")
        terminal.write(b"4\n")
        said += _read_until(
            terminal, "\n#4 sync, to be declined: ", "0 breaks", "orders", "└ POST payment /charge: 402"
        )
        terminal.write(b"99999\n")
        _read_until(terminal, "no order '99999' among the last 200 that are done")
        terminal.write(b"\x03")
        _read_until(terminal, "ended")
        assert demo.wait(PATIENCE_S) == 0

    plain = re.sub(r"\x1b\[\d+m", "", said)
    assert "async: POST /orders 202" in plain
    assert "process notification.sent " in plain
    assert max(map(len, plain.splitlines())) <= 80, plain


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(terminal: IO[bytes], *wanted: str) -> str:
    """What was said until all of these have come, one after another."""
    said, start = b"", 0
    for text in wanted:
        while (at := said.find(text.encode(), start)) < 0:
            said += terminal.read(1).replace(b"\r", b"")
        start = at + len(text.encode())
    return said.decode()


def _lines_until(said: Iterable[str], *wanted: str) -> str:
    """What was said, up to the line with which each of these has come, in whatever order."""
    lines = []
    left = set(wanted)
    for line in said:
        lines.append(line)
        left -= {each for each in left if each in line}
        if not left:
            return "".join(lines)
    raise AssertionError("".join(lines))
