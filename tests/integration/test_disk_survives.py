"""A collector on its disk, as its senders see it: killed, full, slow, damaged, under another clock.

The collector is a process of its own, on real files; what it answered 200 must be found again.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import queue
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.integration.test_disk import taken_in
from tracekit.collector.archive import LostError
from tracekit.collector.disk import DiskStore
from tracekit.collector.intake import MAX_WAIT_S
from tracekit.flow.search import Query, parse
from tracekit.model import Kind, LogLine, Service, Span, Status
from tracekit.otlp import encode_logs, encode_spans
from tracekit.otlp.scan import Scanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tracekit.collector.archive import Archive, Summary
    from tracekit.otlp.scan import Strand

KILLS = int(os.environ.get("TRACEKIT_TEST_KILLS", "100"))
SOON_S = 30.0  # a bound for what happens at once
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MIB = 1 << 20

# Imports once what takes long, and has a child for each life of the collector: says its pid, what ports it
# listens on once it does, and how it ended.
COLLECTORS = """
import json, os, pathlib, signal, sys, traceback
from tracekit.collector.disk import DiskStore
from tracekit.collector.intake import MAX_WAIT_S
from tracekit.collector.server import CollectorServer

def say(**what):
    os.write(1, json.dumps(what).encode() + b"\\n")

for line in sys.stdin:
    child = os.fork()
    if child:
        say(pid=child)
        _, status = os.waitpid(child, 0)
        say(status=os.waitstatus_to_exitcode(status))
        continue
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with DiskStore(pathlib.Path(sys.argv[1]), **json.loads(line)) as store:
            with CollectorServer(store) as server:
                say(ports=[server.http_port, server.grpc_port])
                while True:
                    signal.pause()
    except SystemExit:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(3)
"""


class Collectors:
    """One collector after the other on one folder, each a process."""

    def __init__(self, folder: Path, prefix: Sequence[str] = (), **options: int) -> None:
        self._options = json.dumps(options)
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", COLLECTORS, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, name="tracekit-test-collectors")
        self._listener.start()
        self.pid = 0
        self.host_pid = self._process.pid
        self.ports: tuple[int, int] | None = None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))

    def _next(self, key: str, timeout_s: float = SOON_S) -> object:
        return self._said.get(timeout=timeout_s)[key]

    def begin(self) -> None:
        """A child is there; it may not listen yet."""
        assert self._process.stdin is not None
        self._process.stdin.write(self._options + "\n")
        self._process.stdin.flush()
        pid = self._next("pid")
        assert isinstance(pid, int)
        self.pid, self.ports = pid, None

    def is_listening(self, within_s: float = SOON_S) -> bool:
        try:
            self.ports = tuple(self._next("ports", within_s))  # type: ignore[assignment, arg-type]
        except queue.Empty:
            return False
        return True

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        while "status" not in (said := self._said.get(timeout=SOON_S)):
            assert "ports" in said
        assert said["status"] == -signal.SIGKILL, "the collector ended before it was killed"

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        assert self._next("status") == 0

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
        self._process.wait(SOON_S)
        self._listener.join(SOON_S)
        self._process.stdout.close()


@contextmanager
def collectors(folder: Path, prefix: Sequence[str] = (), **options: int) -> Iterator[Collectors]:
    running = Collectors(folder, prefix, **options)
    try:
        yield running
    finally:
        running.close()


# -- what is sent -----------------------------------------------------------------------------------


@dataclass
class Telemetry:
    """Requests of a shop, a few spans each; some belong to flows that began long ago."""

    rnd: random.Random
    traces: list[str] = field(default_factory=list)
    at_ns: int = 1_764_000_000_000_000_000

    def spans(self, padding: int = 0) -> list[Span]:
        self.at_ns += self.rnd.randrange(10**8)
        service = Service(self.rnd.choice(("orders", "payment", "inventory")))
        spans = []
        for _ in range(self.rnd.randrange(1, 4)):
            is_late = bool(self.traces) and self.rnd.random() < 0.4
            trace = self.rnd.choice(self.traces) if is_late else self._id(16)
            if not is_late:
                self.traces.append(trace)
            start = self.at_ns + self.rnd.randrange(10**7)
            spans.append(
                Span(
                    trace,
                    self._id(8),
                    self.rnd.choice(("POST /orders", "POST /charge", "process orders")),
                    start,
                    start + self.rnd.randrange(10**9),
                    parent_id=self._id(8) if is_late else None,
                    kind=Kind.INTERNAL if is_late else Kind.SERVER,
                    status=self.rnd.choice((Status.UNSET, Status.ERROR)),
                    attributes={"padding": self._id(padding)} if padding else {},
                    service=service,
                )
            )
        return spans

    def lines(self) -> list[LogLine]:
        return [LogLine(self.at_ns, f"line {self._id(4)}", trace_id=self.rnd.choice(self.traces))]

    def _id(self, size: int) -> str:
        return self.rnd.randbytes(size).hex()


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> int:
    connection.request("POST", path, body, {"content-type": "application/x-protobuf"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Loader:
    """Threads that send to whichever collector lives, and note what was answered."""

    def __init__(self, seed: int) -> None:
        self.spans: set[tuple[str, str]] = set()
        self.entries: set[str] = set()
        self.lines: Counter[object] = Counter()
        self.requests = 0
        self._turn = threading.Condition()
        self._ports: tuple[int, int] | None = None
        self._life = 0
        self._is_over = False
        senders = (self._over_http, self._over_http, self._over_grpc)
        self._threads = [
            threading.Thread(
                target=self._send,
                args=(sender, Telemetry(random.Random(f"{seed} {n}"))),
                name="tracekit-test-loader",
            )
            for n, sender in enumerate(senders)
        ]
        for thread in self._threads:
            thread.start()

    def send_to(self, ports: tuple[int, int] | None) -> None:
        with self._turn:
            self._ports, self._life = ports, self._life + 1
            self._turn.notify_all()

    def close(self) -> None:
        with self._turn:
            self._is_over = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join(SOON_S)

    def _send(self, sender: Callable[[tuple[int, int], int, Telemetry], None], telemetry: Telemetry) -> None:
        last = 0
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._is_over or (self._ports and self._life != last))  # noqa: B023
                if self._is_over:
                    return
                assert self._ports is not None
                ports, last = self._ports, self._life
            sender(ports, last, telemetry)

    def _lives(self, life: int) -> bool:
        return self._life == life and not self._is_over

    def _over_http(self, ports: tuple[int, int], life: int, telemetry: Telemetry) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=SOON_S)
        with suppress(OSError, http.client.HTTPException):  # it was killed
            while self._lives(life):
                spans = telemetry.spans()
                if post(connection, "/v1/traces", encode_spans(spans)) == 200:
                    self._was_answered(spans=spans)
                if telemetry.rnd.random() < 0.2:
                    lines = telemetry.lines()
                    if post(connection, "/v1/logs", encode_logs(lines)) == 200:
                        self._was_answered(lines=lines)
        connection.close()

    def _over_grpc(self, ports: tuple[int, int], life: int, telemetry: Telemetry) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel, suppress(grpc.RpcError):
            export = channel.unary_unary(EXPORT)
            while self._lives(life):
                spans = telemetry.spans()
                export(encode_spans(spans), timeout=SOON_S)
                self._was_answered(spans=spans)

    def _was_answered(self, spans: Sequence[Span] = (), lines: Sequence[LogLine] = ()) -> None:
        with self._turn:
            self.requests += 1
            self.spans |= ids(spans)
            self.entries.update(span.trace_id for span in spans if span.parent_id is None)
            self.lines.update(line.body for line in lines)


@contextmanager
def load(seed: int) -> Iterator[Loader]:
    loader = Loader(seed)
    try:
        yield loader
    finally:
        loader.close()


# -- what is found ----------------------------------------------------------------------------------


def ids(spans: Sequence[Span]) -> set[tuple[str, str]]:
    return {(span.trace_id, span.span_id) for span in spans}


def listed(archive: Archive) -> set[str]:
    found, after = [], None
    while True:
        page = archive.find(Query(()), after=after)
        found += [summary.id for summary in page.flows]
        if page.next is None:
            assert len(found) == len(set(found))
            return set(found)
        after = page.next


def built(archive: Archive, flows: Sequence[str]) -> list[Summary | None]:
    """As they are now; whether they settled depends on the hour."""
    found = [archive.build(flow) for flow in flows]
    return [replace(each.summary, is_settled=False) if each else None for each in found]


def rows(folder: Path) -> tuple[dict[bytes, tuple[set[int], set[int]]], list[tuple[int, ...]]]:
    """Of a folder that nobody has open: where the index says that ids are, and what segments hold."""

    def places(blob: bytes) -> set[int]:
        return set(struct.unpack(f"<{len(blob) // 8}q", blob))

    with closing(sqlite3.connect(folder / "index.db")) as index:
        where = index.execute("select id, places, logs from flow").fetchall()
        held = index.execute("select number, spans, logs from segment order by number").fetchall()
    return {id_: (places(spans), places(lines)) for id_, spans, lines in where}, held


def rebuilt(folder: Path, at: Path) -> Path:
    """The folder without its index."""
    shutil.copytree(folder, at)
    for file in at.glob("index*"):
        file.unlink()
    return at


# -- killed -----------------------------------------------------------------------------------------


def test_whatever_was_answered_outlives_a_hundred_kills(tmp_path: Path) -> None:
    folder, rnd = tmp_path / "data", random.Random(4)
    listened = 0
    with collectors(folder, max_bytes=256 * MIB) as lives, load(seed=4) as loader:
        for _ in range(KILLS):
            lives.begin()
            # Some are killed while they open, and some live until rows are written to the index.
            life = rnd.choices(("opens", "short", "long"), (2, 7, 1))[0]
            if life != "opens":
                assert lives.is_listening()
                loader.send_to(lives.ports)
                listened += 1
            time.sleep(rnd.uniform(0.5, 0.8) if life == "long" else rnd.uniform(0, 0.12))
            lives.kill()
            loader.send_to(None)
    assert loader.requests > listened

    some = rnd.sample(sorted(loader.entries), min(200, len(loader.entries)))
    with DiskStore(folder, max_bytes=256 * MIB) as store:
        spans = store.spans()
        there = ids(spans)
        assert loader.spans <= there
        assert loader.lines.keys() <= {line.body for line in store.logs()}
        # An entry that was not answered may be there or not; what has none is listed once it was looked at.
        entries = {span.trace_id for span in spans if span.parent_id is None}
        assert loader.entries <= entries
        soon(lambda: entries <= listed(store))  # a flow that is built meanwhile may move between two pages
        for trace in some:
            assert ids(store.flow(trace)) == {found for found in there if found[0] == trace}
        flows = built(store, some)
        # Of a write that was under way nobody was told that it is kept.
        assert all(told.endswith("are of a write that was cut off") for told in store.held().troubles)
    anew = rebuilt(folder, tmp_path / "rebuilt")
    with DiskStore(anew, max_bytes=256 * MIB) as store:
        soon(lambda: entries <= listed(store))
        assert built(store, some) == flows
    assert rows(folder) == rows(anew)


def test_an_index_that_was_made_again_only_in_part_is_made_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, anew = tmp_path / "whole", tmp_path / "anew"
    filled(whole, 200)
    rebuilt(whole, anew)
    chunk, replay = Scanner.scan_spans, iter(range(130))

    def scan(scanner: Scanner, body: bytes) -> list[Strand] | None:
        if next(replay, None) is None:
            raise KeyboardInterrupt  # whatever ends a process
        return chunk(scanner, body)

    with monkeypatch.context() as patched:
        patched.setattr("tracekit.collector.disk._MAX_REPLAYED", 20)
        patched.setattr("tracekit.collector.disk._MAX_GROWTHS", 20)
        patched.setattr(Scanner, "scan_spans", scan)
        with pytest.raises(KeyboardInterrupt):
            DiskStore(anew)
    DiskStore(anew).close()

    assert rows(anew) == rows(whole)


# -- full, slow -------------------------------------------------------------------------------------


def on_a_disk(mount: str, at: Path) -> list[str]:
    """A command before a command: with a file system at this path that nobody else sees."""
    at.mkdir()
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own, "--mount", "sh", "-c", f'mount {mount} "$0" && exec "$@"', str(at)]


def seen_from_outside(lives: Collectors, path: Path) -> Path:
    return Path(f"/proc/{lives.host_pid}/root{path}")


class Sender:
    """One exporter: sends spans of some size, and notes what was answered."""

    def __init__(self, ports: tuple[int, int] | None, seed: int = 0) -> None:
        assert ports is not None
        self.accepted: set[tuple[str, str]] = set()
        self.answers: Counter[int] = Counter()
        self.retry_after: str | None = None
        self._telemetry = Telemetry(random.Random(seed))
        self._connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=SOON_S)

    def send(self, padding: int = 0) -> int:
        spans = self._telemetry.spans(padding)
        self._connection.request(
            "POST", "/v1/traces", encode_spans(spans), {"content-type": "application/x-protobuf"}
        )
        answer = self._connection.getresponse()
        answer.read()
        self.answers[answer.status] += 1
        if answer.status == 200:
            self.accepted |= ids(spans)
        else:
            self.retry_after = answer.getheader("retry-after")
        return answer.status

    def send_until(self, status: int, padding: int = 0) -> None:
        end = time.monotonic() + SOON_S
        while self.send(padding) != status:
            assert time.monotonic() < end

    def close(self) -> None:
        self._connection.close()


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with collectors(disk / "data", on_a_disk("-t tmpfs -o size=8m none", disk), max_bytes=MIB * 64) as lives:
        lives.begin()
        assert lives.is_listening()
        ballast = seen_from_outside(lives, disk) / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:  # no space is left
            for _ in range(8 * 32 - 8):
                file.write(bytes(MIB // 32))
        with closing(Sender(lives.ports)) as sender:
            assert sender.send() == 200

            sender.send_until(503, padding=10_000)
            for _ in range(20):
                sender.send(padding=10_000)
            assert sender.answers.keys() == {200, 503}
            assert sender.retry_after is not None

            ballast.unlink()
            sender.send_until(200)
            for _ in range(20):
                assert sender.send(padding=1000) == 200
        lives.kill()

        kept = shutil.copytree(seen_from_outside(lives, disk) / "data", tmp_path / "kept")
    with DiskStore(kept, max_bytes=MIB * 64) as store:
        assert sender.accepted <= ids(store.spans())


def test_a_store_on_a_full_disk_still_answers_and_lists_all_once_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    program = Path(__file__).with_name("store_on_a_full_disk.py")
    command = [*on_a_disk("-t tmpfs -o size=8m none", disk), sys.executable, str(program), str(disk)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    said = json.loads(done.stdout)
    assert said["listed"] == [1, 1]  # with room, and without
    assert said["found"] == said["built"] == said["kept"] > 21


@contextmanager
def frozen(path: Path) -> Iterator[None]:
    """Writes to this file system wait."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(directory, 0xC0045877, 0)  # FIFREEZE
        try:
            yield
        finally:
            fcntl.ioctl(directory, 0xC0045878, 0)  # FITHAW
    finally:
        os.close(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may freeze a file system")
def test_a_disk_that_hangs_refuses_and_goes_on_when_it_moves(tmp_path: Path) -> None:
    disk, image = tmp_path / "disk", tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with collectors(disk / "data", on_a_disk(f"-o loop {image}", disk), max_bytes=MIB * 64) as lives:
        lives.begin()
        assert lives.is_listening()
        outside = seen_from_outside(lives, disk)
        with closing(Sender(lives.ports)) as one, closing(Sender(lives.ports, seed=1)) as other:
            with ThreadPoolExecutor(1) as thread:
                for _ in range(5):  # slow: the answer waits for the disk
                    with frozen(outside):
                        answer = thread.submit(one.send)
                        with pytest.raises(TimeoutError):
                            answer.result(0.05)
                    assert answer.result(SOON_S) == 200
                with frozen(outside):  # it hangs: so does one request, and no other
                    answer = thread.submit(one.send)
                    other.send_until(503)
                    assert not answer.done()
                    assert other.retry_after is not None
                    began = time.monotonic()
                    assert [other.send() for _ in range(10)] == [503] * 10
                    assert time.monotonic() - began < MAX_WAIT_S
                assert answer.result(SOON_S) == 200
            other.send_until(200)
        lives.kill()
        kept = shutil.copytree(outside / "data", tmp_path / "kept")
    with DiskStore(kept, max_bytes=MIB * 64) as store:
        assert one.accepted | other.accepted <= ids(store.spans())


# -- damaged, too large, under another clock --------------------------------------------------------


def filled(folder: Path, requests: int, segment_bytes: int = MIB) -> list[Span]:
    """What a store was given that closed in good order."""
    telemetry = Telemetry(random.Random(11))
    given: list[Span] = []
    with DiskStore(folder, segment_bytes=segment_bytes) as store:
        for _ in range(requests):
            spans = telemetry.spans(padding=500)
            store.add_spans(spans)
            given += spans
    return given


def test_a_damaged_segment_costs_what_is_damaged_and_is_told(tmp_path: Path) -> None:
    given = filled(tmp_path, 600, segment_bytes=100_000)
    segments = sorted((tmp_path / "segments").glob("*.seg"))
    data = bytearray(segments[1].read_bytes())
    data[50_000:50_100] = bytes(100)
    segments[1].write_bytes(data)

    with DiskStore(tmp_path) as store:
        found = ids(store.spans())
        lost = ids(given) - found
        assert 0 < len(lost) < len(given) / 4
        assert found <= ids(given)
        for trace in sorted({span.trace_id for span in given})[::5]:
            assert ids(store.trace(trace)) == {each for each in found if each[0] == trace}
            with suppress(LostError):
                store.build(trace)
        assert {span.trace_id for span in given if span.parent_id is None} <= listed(store)
        (told,) = store.held().troubles
        assert told.startswith(f"{segments[1]}: ")
        assert told.endswith(" are damaged; what was in them is lost")
        assert all(store.find(Query(())).flows)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_index_costs_nothing(tmp_path: Path, seed: int) -> None:
    given = filled(tmp_path, 300)
    index, rnd = tmp_path / "index.db", random.Random(seed)
    data = bytearray(index.read_bytes())
    for _ in range(3):
        at = rnd.randrange(100, len(data) - 4096)
        data[at : at + 4096] = rnd.randbytes(4096)
    index.write_bytes(data)
    (tmp_path / "index.db-wal").unlink(missing_ok=True)

    with DiskStore(tmp_path) as store:
        entries = {span.trace_id for span in given if span.parent_id is None}
        assert entries <= listed(store)
        for trace in sorted(entries)[::10]:
            assert ids(store.trace(trace)) == {each for each in ids(given) if each[0] == trace}
        (told,) = store.held().troubles
        assert "index.db is damaged" in told


def test_over_its_cap_the_oldest_segment_goes_with_its_rows_and_is_counted(tmp_path: Path) -> None:
    cap, rnd = MIB, random.Random(3)
    with DiskStore(tmp_path, max_bytes=cap) as store:
        sent: list[str] = []
        for _ in range(60):
            for _ in range(20):
                trace = rnd.randbytes(16).hex()
                attributes = {"padding": rnd.randbytes(1000).hex()}
                taken_in(
                    store,
                    [
                        Span(
                            trace, trace[:16], "POST /orders", len(sent), len(sent) + 1, attributes=attributes
                        )
                    ],
                )
                sent.append(trace)
        soon(lambda: store.counts()["traces"].dropped > 0 and store.held().bytes <= cap)

        soon(lambda: listed(store) == traces(store))
        kept = traces(store)
        assert kept == set(sent[-len(kept) :])  # the latest, and all of those
        assert 0 < len(kept) < len(sent)
        counts = store.counts()["traces"]
        assert (counts.kept, counts.dropped) == (len(kept), len(sent) - len(kept))
        assert store.build(sent[0]) is None
        assert store.held().troubles == ()


YEAR_NS = 365 * 24 * 3600 * 10**9


def test_flows_from_the_past_and_the_future_are_listed_paged_settled_and_dropped_by_arrival(
    tmp_path: Path,
) -> None:
    cap, rnd = MIB, random.Random(6)
    now = time.time_ns()
    # A clock that was set back, one far ahead, one that says nothing, one that says all that it can.
    starts = [now, now - YEAR_NS, now + YEAR_NS, 0, 2**63 - 10**9, now - 10**9]
    with DiskStore(tmp_path, max_bytes=cap) as store:
        sent: list[tuple[str, int]] = []

        def send(start: int, padding: int) -> None:
            trace = rnd.randbytes(16).hex()
            attributes = {"padding": rnd.randbytes(padding).hex()}
            span = Span(trace, trace[:16], "POST /orders", start, start + 1000, attributes=attributes)
            taken_in(store, [span])
            sent.append((trace, start))

        for number in range(60):
            send(starts[number % len(starts)] + number, 10)
        by_start = [trace for trace, _ in sorted(sent, key=lambda each: (each[1], each[0]), reverse=True)]
        pages, after = [], None
        while True:
            page = store.find(Query(()), limit=7, after=after)
            pages += [flow.id for flow in page.flows]
            if (after := page.next) is None:
                break
        assert pages == by_start
        soon(lambda: all(flow.is_settled for flow in store.find(Query(())).flows))

        for number in range(1500):
            send(starts[number % len(starts)] + number, 1000)
        soon(lambda: store.counts()["traces"].dropped > 0 and store.held().bytes <= cap)

        soon(lambda: listed(store) == traces(store))
        kept = traces(store)
        assert kept == {trace for trace, _ in sent[-len(kept) :]}
        assert 0 < len(kept) < len(sent)
        assert store.held().troubles == ()


def test_a_clock_that_is_set_back_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own, under a running server: what is due goes by a clock that nobody sets."""
    real, back_ns = time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: real() - back_ns)
    monkeypatch.setattr(time, "time", lambda: (real() - back_ns) / 1e9)
    rnd, sent = random.Random(8), list[Span]()

    def placed(store: DiskStore) -> Span:
        trace, now = rnd.randbytes(16).hex(), time.time_ns()
        sent.append(Span(trace, trace[:16], "POST /orders", now, now + 1000, kind=Kind.SERVER))
        store.add_spans(sent[-1:])
        return sent[-1]

    def are_settled(store: DiskStore) -> bool:
        return [flow.id for flow in store.find(()).flows if flow.is_settled] == [
            span.trace_id for span in sorted(sent, key=lambda each: each.start_ns, reverse=True)
        ]

    with DiskStore(tmp_path) as store:
        before = placed(store)
        soon(lambda: are_settled(store))
        back_ns = 3600 * 10**9
        after = placed(store)
        soon(lambda: are_settled(store))
        late = Span(before.trace_id, "1" * 16, "late", before.start_ns, before.start_ns + 5000)
        store.add_spans([replace(late, parent_id=before.span_id)])
        soon(lambda: {flow.spans for flow in store.find(()).flows if flow.id == before.trace_id} == {2})
        assert [flow.id for flow in store.find(parse("started > 10m", now_ns=real() - back_ns)).flows] == [
            before.trace_id,  # which is an hour ahead now
            after.trace_id,
        ]
    back_ns *= 2
    with DiskStore(tmp_path) as store:
        placed(store)
        soon(lambda: are_settled(store))
        assert store.held().troubles == ()


def traces(store: DiskStore) -> set[str]:
    return {span.trace_id for span in store.spans()}


def soon(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
