"""The query API over real HTTP, on an archive with real flows."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from tests.integration.servers.programs import ROOT
from tracekit.collector.api import MAX_PAGE_LINES, MAX_UNDER_WAY, create_api
from tracekit.collector.chunks import HEAD_BYTES
from tracekit.collector.disk import DiskStore
from tracekit.collector.live import MAX_QUERIES, MAX_WATCHERS
from tracekit.collector.server import CollectorServer
from tracekit.flow import build_flow, render
from tracekit.model import Kind, Link, LogLine, Metric, Point, Service
from tracekit.otlp import decode_spans, encode_spans
from tracekit.testing.spans import BEGINNING, MS, at, hexadecimal, processed, request, sent, shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tracekit.collector.archive import Built
    from tracekit.collector.cut import Json
    from tracekit.model import Span

SOON_S: Final = 30.0
"""A bound for what happens at once."""
NOW_NS: Final = at(60_000)
T = TypeVar("T")


class Client:
    """Asks a collector's pages, a connection a question."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON_S)) as asked:
            asked.request(method, path, headers=headers or {})
            answer = asked.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def get(self, path: str, status: int = 200) -> Any:
        found, _, body = self.ask(path)
        assert found == status, body
        return json.loads(body)

    def error(self, path: str, status: int) -> str:
        found = self.get(path, status)
        assert list(found) == ["error"]
        return str(found["error"])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "data") as archive:
        yield archive


@pytest.fixture
def client(archive: DiskStore) -> Iterator[Client]:
    api = create_api(archive, now_ns=lambda: NOW_NS, more=lambda: {"forwarding": None})
    with CollectorServer(archive, pages=api) as server:
        yield Client(server.pages_port)


def keep(archive: DiskStore, spans: Sequence[Span]) -> None:
    """As a receiver does."""
    body = encode_spans(spans)
    if not archive.add_encoded_spans(body):
        archive.add_spans(decode_spans(body).records)


def damage(folder: Path) -> None:
    """All that the first segment held, of a directory that nobody has open."""
    segment = min((folder / "segments").glob("*.seg"))
    data = segment.read_bytes()
    segment.write_bytes(data[:HEAD_BYTES] + bytes(len(data) - HEAD_BYTES))


def soon(found: Callable[[], T], is_there: Callable[[T], bool]) -> T:
    """What is found, once it is there: flows are built some time after they came."""
    until = time.monotonic() + SOON_S
    while not is_there(there := found()) and time.monotonic() < until:
        time.sleep(0.02)
    return there


def settled(client: Client, number: int) -> list[Any]:
    """The flows, once so many were built."""

    def are_built(page: Any) -> bool:
        return [flow["is_analysed"] for flow in page["flows"]] == [True] * number

    return list(soon(lambda: client.get("/api/flows"), are_built)["flows"])


def renamed(spans: Sequence[Span], number: int) -> list[Span]:
    """The same flow once more, ids and times another's."""
    ids = {span.trace_id: hexadecimal(16, span.trace_id, number) for span in spans}
    later = number * 10 * MS
    return [
        replace(
            span,
            trace_id=ids[span.trace_id],
            start_ns=span.start_ns + later,
            end_ns=None if span.end_ns is None else span.end_ns + later,
            links=tuple(replace(link, trace_id=ids[link.trace_id]) for link in span.links),
        )
        for span in spans
    ]


# -- flows --------------------------------------------------------------------------------------------


def test_an_empty_archive_has_no_flows(client: Client) -> None:
    assert client.get("/api/flows") == {"flows": [], "next": None}


def test_flows_come_in_pages_the_latest_first(archive: DiskStore, client: Client) -> None:
    ids = []
    for number in range(5):
        spans = renamed(shop(), number)
        keep(archive, spans)
        ids.append(spans[0].trace_id)
    settled(client, 5)

    page = client.get("/api/flows?limit=2")
    found = page["flows"]
    while page["next"] is not None:
        page = client.get(f"/api/flows?limit=2&after={page['next']}")
        assert len(page["flows"]) <= 2
        found += page["flows"]

    assert [flow["id"] for flow in found] == ids[::-1]


def test_a_query_finds_the_flows_that_meet_it(archive: DiskStore, client: Client) -> None:
    keep(archive, shop())
    lamp = request("GET /lamp", 500, 501)
    keep(archive, [lamp])
    settled(client, 2)

    def found(query: str) -> list[str]:
        return [flow["name"] for flow in client.get(f"/api/flows?query={query}")["flows"]]

    assert found("lamp") == ["GET /lamp"]
    assert found("completion+%3E+1s+queue%3Dorder.confirmed+error") == ["POST /orders"]
    assert found("http.route=/charge") == ["POST /orders"]
    assert found("started%3E2m") == ["GET /lamp", "POST /orders"]
    assert found("started%3E1s") == []


def test_one_flow_is_shown_whole(archive: DiskStore, client: Client) -> None:
    spans = shop()
    keep(archive, spans)
    flow = build_flow(spans)
    (summary,) = settled(client, 1)

    found = client.get(f"/api/flows/{flow.id}")

    assert [each["span_id"] for each in found["spans"]] == [span.span_id for span in flow.spans]
    assert [(each["destination"], each["wait"]["source"]) for each in found["edges"]] == [
        ("order.confirmed", "broker"),
        ("order.confirmed", "broker"),
        ("notification.sent", "broker"),
    ]
    assert (found["summary"], found["unread"]) == (summary, 0)
    assert client.get(f"/api/flows/{flow.id[:4].upper()}") == found


def test_a_break_is_shown_with_its_cure(archive: DiskStore, client: Client) -> None:
    lost = processed(None, attributes={"tracekit.messaging.context": "absent"})
    keep(archive, [lost])

    (found,) = client.get(f"/api/flows/{lost.trace_id}")["breaks"]

    assert (found["span"], found["reason"]) == (0, "headers_lost")
    assert found["cure"].startswith("Instrument the producer")


def test_a_flow_that_is_not_there_is_told_so(client: Client) -> None:
    assert "no flow is called abcd" in client.error("/api/flows/abcd", 404)
    for what in ("", "/logs", "/otlp"):
        assert "/api/flows lists" in client.error(f"/api/flows/{'0' * 32}{what}", 404)


ORDER: Final = "0000000000000000000000000000a001"
APART: Final = "0000000000000000000000000000b001"
MARKED: Final = {"tracekit.flow.id": ORDER}


def over_a_link() -> list[Span]:
    """An order, and what its message set off in a trace of its own."""
    entry = replace(request("POST /orders", 0, 20), trace_id=ORDER, attributes=MARKED)
    send = replace(sent("orders", 5, 10, parent=entry), trace_id=ORDER)
    send = replace(send, attributes={**send.attributes, **MARKED})
    apart = replace(
        processed(None, 50, 70, destination="orders"),
        trace_id=APART,
        links=(Link(ORDER, send.span_id, MARKED),),
    )
    return [entry, send, replace(apart, attributes={**apart.attributes, **MARKED})]


def test_the_id_of_any_of_its_traces_finds_a_flow(archive: DiskStore, client: Client) -> None:
    keep(archive, over_a_link())
    (apart,) = [span for span in over_a_link() if span.trace_id == APART]
    archive.add_logs([LogLine(apart.start_ns, "charged", trace_id=APART, span_id=apart.span_id)])

    assert client.get(f"/api/flows/{APART}") == client.get(f"/api/flows/{ORDER}")
    assert [line["body"] for line in client.get(f"/api/flows/{APART}/logs")["logs"]] == ["charged"]
    assert len(decode_spans(client.ask(f"/api/flows/{APART}/otlp")[2], "json").records) == 3


def test_a_trace_of_several_flows_does_not_say_which_one(archive: DiskStore, client: Client) -> None:
    apart = over_a_link()[-1]
    other = {**apart.attributes, "tracekit.flow.id": "c" * 32}
    keep(archive, [apart, replace(apart, span_id="c" * 16, attributes=other, links=())])

    said = client.error(f"/api/flows/{APART}", 409)
    assert said.startswith(f"{APART} is a trace of several flows: {ORDER}, {'c' * 32}")


def test_where_grafana_leads_to_the_flow_is_drawn(archive: DiskStore, client: Client) -> None:
    keep(archive, over_a_link())
    provisioned = (ROOT / "grafana" / "provisioning" / "datasources" / "datasources.yaml").read_text()
    (url,) = re.findall(r'url: "(.*)", urlDisplayLabel: Flow in tracekit', provisioned)
    path = url.removeprefix("${VIEWER_URL}").replace("$${__value.raw}", APART)

    for method in ("GET", "HEAD"):
        status, headers, body = client.ask(path, method=method)
        assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        drawn = render(build_flow(over_a_link(), ORDER), width=120) if method == "GET" else ""
        assert body.decode().startswith(drawn)
    assert "/flow/" in client.ask("/")[2].decode()
    assert "no trace of one" in client.error(f"/flow/{'0' * 32}", 404)


def test_the_page_of_a_flow_has_an_end(archive: DiskStore, client: Client) -> None:
    entry, *_ = over_a_link()
    calls = [replace(entry, span_id=f"{n:016x}", parent_id=entry.span_id, name=f"GET /{n}", kind=Kind.CLIENT)
             for n in range(1, MAX_PAGE_LINES + 100)]  # fmt: skip
    keep(archive, [entry, *calls])

    rows = client.ask(f"/flow/{ORDER}")[2].decode().splitlines()
    assert len(rows) <= MAX_PAGE_LINES + 3


def test_a_flow_that_a_damaged_segment_cost_is_told_to_be_lost_and_one_in_part_shows_the_rest(
    tmp_path: Path,
) -> None:
    entry = request("GET /lamp", 500, 501)
    orders = sent("orders", 10, 18)
    with DiskStore(tmp_path) as archive:
        keep(archive, [entry, orders])
    with DiskStore(tmp_path) as archive:
        keep(archive, [processed(orders, 1000, 1100)])
    damage(tmp_path)

    with DiskStore(tmp_path) as archive, CollectorServer(archive, pages=create_api(archive)) as server:
        client = Client(server.pages_port)
        for asked in (entry.trace_id, entry.trace_id[:8]):
            for what in ("", "/logs", "/otlp"):
                assert client.error(f"/api/flows/{asked}{what}", 410) == (
                    f"flow {entry.trace_id} came, and is lost: its spans were in a part of a segment that is "
                    "damaged; /api/status tells what was found damaged"
                )
        rest = client.get(f"/api/flows/{orders.trace_id}")
        listed = {flow["id"] for flow in client.get("/api/flows")["flows"]}
        (trouble,) = client.get("/api/status")["troubles"]

    assert ([each["name"] for each in rest["spans"]], rest["unread"]) == (["process orders"], 1)
    assert listed == {entry.trace_id, orders.trace_id}
    assert "00000001.seg" in trouble


def test_digits_with_which_several_flows_begin_name_them(archive: DiskStore, client: Client) -> None:
    ids = [f"abcd{number}" + "0" * 27 for number in (1, 2)]
    for each in ids:
        keep(archive, [replace(request(), trace_id=each)])

    said = client.error("/api/flows/abcd", 409)

    assert all(each in said for each in ids)
    assert client.get("/api/flows/abcd2")["summary"]["id"] == ids[1]


def test_the_log_lines_of_a_flow_are_shown(archive: DiskStore, client: Client) -> None:
    entry = request()
    keep(archive, [entry])
    archive.add_logs(
        [
            LogLine(at(5), "hello", 9, "INFO", {}, entry.trace_id, entry.span_id, Service("orders")),
            LogLine(at(6), "of another one", 9, "INFO", {}, "9" * 32, "9" * 16),
        ]
    )

    found = client.get(f"/api/flows/{entry.trace_id}/logs")

    assert [(each["body"], each["service"]) for each in found["logs"]] == [("hello", "orders")]


def test_a_flow_as_otlp_is_the_flow(archive: DiskStore, client: Client) -> None:
    spans = shop()
    keep(archive, spans)

    status, headers, body = client.ask(f"/api/flows/{spans[0].trace_id}/otlp")

    assert (status, headers["tracekit-omitted-spans"]) == (200, "0")
    assert build_flow(decode_spans(body, "json").records) == build_flow(
        decode_spans(encode_spans(spans)).records
    )


# -- the rest -----------------------------------------------------------------------------------------


def test_services_and_destinations_are_told_of_what_settles(archive: DiskStore, client: Client) -> None:
    keep(archive, shop())

    services = soon(lambda: client.get("/api/services"), lambda found: bool(found["services"]))
    destinations = client.get("/api/destinations")

    assert {each["service"]: each["requests"] for each in services["services"]}["payment"] == 1
    queues = {(each["destination"], each["consumer"]): each for each in destinations["destinations"]}
    assert queues["order.confirmed", "notification"]["producers"] == {"orders": 1}
    assert queues["order.confirmed", "notification"]["waits"]["count"] == 1


def test_of_metrics_the_latest_is_shown_and_of_one_its_history(archive: DiskStore, client: Client) -> None:
    for number in range(3):
        point = Point(at(number), number, {"a": 1})
        archive.add_metrics([Metric("queue.size", "gauge", (point,), service=Service("orders"))])
    archive.add_metrics([Metric("other", "sum", (Point(at(1), 1),), service=Service("billing"))])

    def found(path: str) -> list[tuple[str, str, list[int]]]:
        metrics = client.get(f"/api/metrics{path}")["metrics"]
        return [(each["name"], each["service"], [p["value"] for p in each["points"]]) for each in metrics]

    assert sorted(found("")) == [("other", "billing", [1]), ("queue.size", "orders", [2])]
    assert found("?name=queue.size") == [("queue.size", "orders", [0, 1, 2])]
    assert found("?service=billing") == [("other", "billing", [1])]
    assert found("?name=queue.size&service=billing") == []


def test_the_status_tells_what_is_held_and_what_was_refused(archive: DiskStore, client: Client) -> None:
    keep(archive, shop())
    archive.count_refused("logs", 3)
    settled(client, 1)

    found = client.get("/api/status")

    assert (found["flows"], found["logs"]["refused"], found["more"]) == (1, 3, {"forwarding": None})
    assert found["max_bytes"] > 0


# -- what is not answered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/flows?limit=0", "whole number from 1 to 500"),
        ("/api/flows?limit=501", "whole number from 1 to 500"),
        ("/api/flows?limit=many", "limit='many'"),
        ("/api/flows?limit=1&limit=2", "given twice"),
        ("/api/flows?querry=lamp", "'querry' is no parameter of /api/flows; there is query, limit, after"),
        ("/api/services?limit=3", "there is none"),
        ("/api/flows?query=complition%3E1s", "`completion` perhaps"),
        ("/api/flows?query=" + "x" * 2001, "2000 at most"),
        ("/api/flows?after=nonsense", "pass its `next`"),
        ("/api/flows?" + "&".join(f"a{i}=1" for i in range(30)), "more than 20 parameters"),
        ("/api/flows/abc", "32 hexadecimal digits"),
        ("/api/flows/xyzxyz", "32 hexadecimal digits"),
        ("/api/flows/abcdef%0A", "32 hexadecimal digits"),
        ("/api/flows/abcdef%0A/logs", "32 hexadecimal digits"),
        ("/api/flows/" + "a" * 33, "it may have 32"),
        ("/api/events?query=and", "all terms must hold"),
    ],
)
def test_what_is_not_understood_is_told_with_the_cure(client: Client, path: str, says: str) -> None:
    assert says in client.error(path, 400)


def test_who_opens_it_in_a_browser_reads_what_is_here(client: Client) -> None:
    status, headers, body = client.ask("/")

    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert headers["x-content-type-options"] == "nosniff"
    for said in (
        "tracekit flows ",
        "tracekit flow ID ",
        "tracekit tail ",
        "/api/flows ",
        "/api/openapi.json ",
    ):
        assert said in body.decode()


def test_what_is_not_there_points_to_what_is(client: Client) -> None:
    assert "/api/openapi.json" in client.error("/api/nothing", 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading_is_allowed(client: Client, method: str) -> None:
    status, headers, body = client.ask("/api/flows", method=method)

    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert "use GET" in json.loads(body)["error"]
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/api/flows", "/api/events", "/api/status"])
def test_head_answers_without_a_body(client: Client, path: str) -> None:
    status, _, body = client.ask(path, method="HEAD")

    assert (status, body) == (200, b"")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4320", "", "127.0.0.1.evil.example"])
def test_a_name_made_to_point_here_is_refused(client: Client, host: str) -> None:
    status, _, body = client.ask("/api/flows", headers={"host": host})

    assert status == 403
    assert "localhost" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "cors", 403),
        ("cross-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_a_page_of_another_site_makes_nothing_work_here(
    client: Client, site: str, mode: str, status: int
) -> None:
    found, _, _ = client.ask("/api/flows", headers={"sec-fetch-site": site, "sec-fetch-mode": mode})

    assert found == status


@pytest.mark.parametrize("path", ["/api/flows", "/api/flows/abcd", "/api/openapi.json", "/api/nothing"])
def test_no_answer_is_kept_run_or_guessed_at(client: Client, path: str) -> None:
    _, headers, _ = client.ask(path, headers={"origin": "http://evil.example"})

    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["content-type"] == "application/json"
    assert not [name for name in headers if name.startswith("access-control")]


def test_what_cannot_be_read_now_is_told_so(archive: DiskStore, client: Client) -> None:
    archive.close()

    assert "cannot be read" in client.error("/api/flows", 503)


def test_a_flow_whose_file_cannot_be_read_now_is_told_so(tmp_path: Path) -> None:
    entry = request()
    with DiskStore(tmp_path) as archive:
        keep(archive, [entry])
    (segment,) = (tmp_path / "segments").glob("*.seg")

    with DiskStore(tmp_path) as archive, CollectorServer(archive, pages=create_api(archive)) as server:
        segment.unlink()
        segment.symlink_to(segment)  # cannot be opened

        said = Client(server.pages_port).error(f"/api/flows/{entry.trace_id}", 503)

    assert said.startswith("what is kept cannot be read: ")


def test_too_many_questions_at_once_are_refused_and_hold_up_no_event(archive: DiskStore) -> None:
    go_on = threading.Event()

    def slow() -> dict[str, Json]:
        return {"in time": go_on.wait(SOON_S)}

    with (
        CollectorServer(archive, pages=create_api(archive, more=slow)) as server,
        ThreadPoolExecutor(MAX_UNDER_WAY + 5) as others,
    ):
        client = Client(server.pages_port)
        with watching(client, "/api/events") as stream:
            asked = [others.submit(client.ask, "/api/status") for _ in range(MAX_UNDER_WAY + 5)]
            refused, _ = wait(asked, SOON_S, FIRST_COMPLETED)
            keep(archive, shop())
            _, flow = stream.event("flow")
            go_on.set()
            statuses = sorted(each.result()[0] for each in asked)

    assert flow["name"] == "POST /orders"
    assert statuses == [200] * MAX_UNDER_WAY + [503] * 5
    status, headers, body = refused.pop().result()
    assert (status, headers["retry-after"]) == (503, "1")
    assert "ask again" in json.loads(body)["error"]


class SlowStore(DiskStore):
    """An archive in which building a flow takes until it is told to go on."""

    def __init__(self, folder: Path) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        super().__init__(folder)

    def build(self, flow_id: str) -> Built | None:
        self.entered.set()
        self.go_on.wait(SOON_S)
        return super().build(flow_id)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowStore]:
    with SlowStore(tmp_path / "slow") as archive:
        yield archive
        archive.go_on.set()


@pytest.mark.parametrize("path", ["/api/status", "/api/flows", "/api/services", "/api/metrics"])
def test_cheap_questions_do_not_wait_behind_dear_ones(slow: SlowStore, path: str) -> None:
    with (
        CollectorServer(slow, pages=create_api(slow)) as server,
        ThreadPoolExecutor(10) as others,
    ):
        client = Client(server.pages_port)
        flows = [others.submit(client.ask, f"/api/flows/{'1' * 32}") for _ in range(10)]
        assert slow.entered.wait(SOON_S)
        status, _, _ = client.ask(path)
        are_done = [flow.done() for flow in flows]
        slow.go_on.set()

        assert (status, are_done) == (200, [False] * 10)
        assert {flow.result()[0] for flow in flows} == {404}


def test_a_server_that_stops_waits_for_no_question(slow: SlowStore) -> None:
    server = CollectorServer(slow, pages=create_api(slow))
    with server, contextlib.closing(socket.create_connection(("127.0.0.1", server.pages_port))) as asks:
        asks.sendall(b"GET /api/flows/%s HTTP/1.1\r\nhost: localhost\r\n\r\n" % (b"1" * 32))
        assert slow.entered.wait(SOON_S)
        began = time.monotonic()
        server.stop()

        assert time.monotonic() - began < 5
        assert not slow.go_on.is_set()


def test_a_question_whose_asker_went_keeps_no_place(slow: SlowStore) -> None:
    with CollectorServer(slow, pages=create_api(slow)) as server:
        client = Client(server.pages_port)
        for _ in range(2 * MAX_UNDER_WAY):
            with socket.create_connection(("127.0.0.1", server.pages_port)) as asks:
                asks.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                asks.sendall(b"GET /api/flows/%s HTTP/1.1\r\nhost: localhost\r\n\r\n" % (b"1" * 32))
        slow.go_on.set()

        assert soon(lambda: client.ask(f"/api/flows/{'1' * 32}")[0], lambda status: status == 404) == 404


# -- events -------------------------------------------------------------------------------------------


class Stream:
    """One who watches, over a socket of its own."""

    def __init__(self, client: Client, path: str = "/api/events", *, headers: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", client.port), timeout=SOON_S)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.head = b""
        while (line := self._file.readline()) not in (b"\r\n", b""):
            self.head += line
        self._rest = b""

    def event(self, name: str) -> tuple[str, Any]:
        """The next event with this name: its id and its data."""
        while True:
            found, number, data = "", "", ""
            while line := self._line():
                field, _, value = line.partition(": ")
                if field == "event":
                    found = value
                elif field == "id":
                    number = value
                elif field == "data":
                    data = value
            if found == name:
                return number, json.loads(data)

    def _line(self) -> str:
        while b"\n" not in self._rest:
            size = int(self._file.readline(), 16)
            assert size, "the stream has ended"
            self._rest += self._file.read(size)
            self._file.readline()
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def ends(self) -> bool:
        """Whether nothing more comes."""
        with contextlib.suppress(ConnectionError):
            self._file.read()
        return True

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def watching(client: Client, path: str = "/api/events", *, headers: str = "") -> Iterator[Stream]:
    stream = Stream(client, path, headers=headers)
    try:
        yield stream
    finally:
        stream.close()


def test_who_watches_is_told_of_flows_and_of_the_status(archive: DiskStore, client: Client) -> None:
    with watching(client) as stream:
        assert b"content-type: text/event-stream" in stream.head
        assert stream.event("status")[1]["flows"] == 0
        keep(archive, shop())

        _, flow = stream.event("flow")

    assert (flow["name"], flow["completion_ns"]) == ("POST /orders", 2630 * MS)
    assert flow["start_ns"] == str(BEGINNING)


def test_who_watches_with_a_query_is_told_of_what_meets_it(archive: DiskStore, client: Client) -> None:
    with watching(client, "/api/events?query=lamp") as stream:
        stream.event("status")
        keep(archive, shop())
        keep(archive, [request("GET /lamp", 500, 501)])

        assert stream.event("flow")[1]["name"] == "GET /lamp"


def test_who_comes_again_is_told_what_it_missed(archive: DiskStore, client: Client) -> None:
    with watching(client) as stream:
        stream.event("status")
        keep(archive, renamed(shop(), 1))
        number, _ = stream.event("flow")
        keep(archive, renamed(shop(), 2))
        later, flow = stream.event("flow")

    with watching(client, headers=f"Last-Event-ID: {number}\r\n") as again:
        assert again.event("flow") == (later, flow)
    with watching(client, headers="Last-Event-ID: 17\r\n") as again:
        assert again.event("lost")[1] == {"lost": None}


def test_two_hundred_watch_and_one_of_them_does_not_read(archive: DiskStore, client: Client) -> None:
    with contextlib.ExitStack() as all_of_them:
        streams = [all_of_them.enter_context(watching(client)) for _ in range(MAX_WATCHERS)]
        for stream in streams[1:]:
            stream.event("status")

        keep(archive, shop())

        assert {stream.event("flow")[1]["name"] for stream in streams[1:]} == {"POST /orders"}
        assert f"{MAX_WATCHERS} watch already" in client.error("/api/events", 503)


def test_different_queries_are_so_many_at_most(client: Client) -> None:
    with contextlib.ExitStack() as all_of_them:
        for number in range(MAX_QUERIES):
            stream = all_of_them.enter_context(watching(client, f"/api/events?query=q{number}"))
            stream.event("status")

        assert "different queries" in client.error("/api/events?query=more", 503)
        with watching(client, "/api/events?query=q1") as stream:
            assert stream.event("status")


def test_who_went_is_forgotten(client: Client) -> None:
    with watching(client) as stream:
        stream.event("status")
        assert client.get("/api/status")["watchers"] == 1

    found = soon(lambda: client.get("/api/status"), lambda found: not found["watchers"])
    assert found["watchers"] == 0


@pytest.mark.parametrize(
    "paths",
    [["/api/events"], ["/api/events", "/api/flows"], ["/api/flows", "/api/events"]],
    ids=["alone", "first", "last"],
)
def test_a_stream_ends_where_its_reader_closes_its_side_and_what_it_asked_else_is_answered(
    client: Client, paths: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=SOON_S) as asked:
        asked.sendall(
            b"".join(b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % path.encode() for path in paths)
        )
        asked.shutdown(socket.SHUT_WR)
        answered = asked.makefile("rb").read()

    assert answered.count(b"HTTP/1.1 200 OK") == len(paths)
    assert client.get("/api/status")["watchers"] == 0
    assert [record.getMessage() for record in caplog.records] == []


def test_a_stream_with_a_question_behind_it_is_forgotten_where_its_reader_goes(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=SOON_S) as asked:
        asked.sendall(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2)
        soon(lambda: client.get("/api/status"), lambda found: bool(found["watchers"]))
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, no end

    found = soon(lambda: client.get("/api/status"), lambda found: not found["watchers"])
    assert found["watchers"] == 0


def test_a_server_that_stops_ends_the_streams_before_questions_too(
    archive: DiskStore, caplog: pytest.LogCaptureFixture
) -> None:
    with CollectorServer(archive, pages=create_api(archive)) as server:
        asked = socket.create_connection(("127.0.0.1", server.pages_port), timeout=SOON_S)
        asked.sendall(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2)
        assert asked.recv(1)

    asked.close()
    assert [record.getMessage() for record in caplog.records] == []


def test_a_server_that_stops_ends_its_streams_and_complains_of_nothing(
    archive: DiskStore, caplog: pytest.LogCaptureFixture
) -> None:
    with CollectorServer(archive, pages=create_api(archive)) as server:
        stream = Stream(Client(server.pages_port))
        stream.event("status")

    assert stream.ends()
    stream.close()
    assert [record.getMessage() for record in caplog.records] == []
