"""What the collector takes in, keeps and finds again, beside its aims and beside Jaeger.

A million spans come over HTTP, then flows are asked for through the API, then the collector is started anew
on what it kept. The server has one core, everything else another. Floors that are missed fail.
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from benchmarks import orders, servers
from benchmarks.orders import has_failed, is_refused, is_slow
from benchmarks.sending import CONNECTIONS, send
from benchmarks.servers import Asking

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.orders import Load
    from benchmarks.servers import Kept, Server

LAST: Final = 100
_TIMES: Final = 30
_LOOK_UPS: Final = 300
_PEER_TIMES: Final = 5
_SETTLES_S: Final = 30
_MB: Final = 1_000_000

QUERIES: Final[dict[str, tuple[str, Callable[[int], bool]]]] = {
    "all": ("", lambda _: True),
    "a service": ("service = payment", lambda _: True),
    "errors": ("errors > 0", lambda n: has_failed(n) or is_refused(n)),
    "long ones": ("completion > 1s", is_slow),
    "a queue": ("queue = stock", lambda _: True),
    "a word": ("notif", lambda _: True),
    "few": ("queue = refusals", is_refused),
    "none": ("queue = nowhere", lambda _: False),
    "three terms": ("service = orders errors > 0 completion > 1s", lambda n: has_failed(n) and is_slow(n)),
}
"""By name: what is asked for, and which orders meet it."""


class WrongError(RuntimeError):
    """What was measured did not give what it must."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure's name, and what it should be; with no `floor` it is only shown."""

    name: str
    unit: str
    aim: float | None = None
    floor: float | None = None
    more_is_better: bool = False

    def misses(self, value: float | None) -> bool:
        if self.floor is None or value is None:
            return self.floor is not None
        return value < self.floor if self.more_is_better else value > self.floor


ROWS: Final = (
    Row("taken in", "spans/s", 175_000, 100_000, more_is_better=True),
    Row("taken in by CPU time", "spans/s"),
    Row("answered, median", "ms"),
    Row("answered, 99 of 100", "ms"),
    Row("told to come again", "answers"),
    Row("analysed after", "s"),
    Row("not analysed by then", "flows"),
    Row("resident at the end", "MB", 150, 150),
    Row("resident at most", "MB"),
    Row("on disk", "B/span", 80, 80),
    Row("on disk, segments", "B/span"),
    Row("on disk, index", "B/span"),
    *(Row(f"last {LAST}, {name}", "ms", 20, 20) for name in QUERIES),
    *(Row(f"last {LAST}, {name}, 95 of 100", "ms") for name in QUERIES),
    Row("one flow", "ms", 5, 5),
    Row("one flow, 95 of 100", "ms"),
    Row("starts again in", "s"),
    Row("resident after that", "MB", 150, 150),
)

_UNITS: Final = {
    "spans/s": "{:,.0f}",
    "answers": "{:,.0f}",
    "flows": "{:,.0f}",
    "MB": "{:,.0f}",
    "B/span": "{:.0f}",
}


def measure(spans: int, *, with_peers: bool = True, profile: Path | None = None) -> int:
    """Measure and print it all; 1 where a floor is missed."""
    pinned = servers.cores()
    if pinned is None:
        print("ingest: no second core to be had: server and load share what there is", file=sys.stderr)
    else:
        os.sched_setaffinity(0, {pinned[1]})
    core = pinned and pinned[0]
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="tracekit-bench-") as name:
        folder = Path(name)
        _say(f"writing {spans:,} spans")
        load = orders.write(folder / "load", spans)
        figures["tracekit"] = _tracekit(load, _made(folder / "tracekit"), core, profile)
        program = servers.jaeger()
        if program and with_peers:
            for kept in ("memory", "badger"):
                figures[f"Jaeger, {kept}"] = _jaeger(program, kept, load, _made(folder / kept), core)
    _say("")
    print(
        f"{load.spans:,} spans of {load.bytes / load.spans:.0f} bytes, "
        f"{load.flows:,} flows of {orders.SPANS}; "
        f"requests of {orders.BATCH} spans over HTTP, {CONNECTIONS} at a time; "
        f"the server on {'one core' if pinned else 'no core of its own'}"
    )
    _print(figures)
    if with_peers and not program:
        print(f"Jaeger is not on PATH, and no test has made it: it is not compared. {servers.JAEGER_CURE}")
    missed = [row.name for row in ROWS if row.misses(figures["tracekit"].get(row.name))]
    if missed:
        print(f"floors missed: {'; '.join(missed)}")
    return 1 if missed else 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{'':<60}\r{text}", end="", file=sys.stderr, flush=True)


def _tracekit(load: Load, folder: Path, core: int | None, profile: Path | None) -> dict[str, float]:
    with servers.tracekit_server(folder, core, profile) as server:
        _say("tracekit takes them in")
        figures = _taken_in(load, server)
        with closing(Asking(server.api)) as api:
            _ask(api, load, figures)
        figures |= _resident(server)
    figures |= _on_disk(folder, load)
    _say("tracekit starts again")
    began = time.perf_counter()
    with servers.tracekit_server(folder, core) as server:
        with closing(Asking(server.api)) as api:
            api.get("/api/status")
            figures["starts again in"] = _since(began)
            api.get(f"/api/flows?limit={LAST}")
        figures["resident after that"] = server.resident / _MB
    return figures


def _ask(api: Asking, load: Load, figures: dict[str, float]) -> None:
    began = time.perf_counter()
    while (left := json.loads(api.get("/api/status")[1])["unanalysed"]) and _since(began) < _SETTLES_S:
        time.sleep(0.1)
    figures |= {"analysed after": _since(began), "not analysed by then": left}
    for name, (query, meets) in QUERIES.items():
        _say(f"tracekit finds {name}")
        expected = [load.flow_id(n) for n in islice(filter(meets, reversed(range(load.flows))), LAST)]
        try:
            _note(figures, f"last {LAST}, {name}", [_last(api, query, expected) for _ in range(_TIMES)])
        except WrongError as error:
            print(error)
    _say("tracekit looks flows up")
    _note(figures, "one flow", [_one(api, flow_id) for flow_id in _drawn(load)])


def _since(began: float) -> float:
    return time.perf_counter() - began


def _drawn(load: Load) -> list[str]:
    """Ids of flows, the same for everybody."""
    drawn = random.Random(5)
    return [load.flow_id(drawn.randrange(load.flows)) for _ in range(_LOOK_UPS)]


def _taken_in(load: Load, server: Server) -> dict[str, float]:
    before = server.cpu_s
    sent = send(load, server.otlp)
    answers = sorted(sent.answers_s)
    return {
        "taken in": load.spans / sent.seconds,
        "taken in by CPU time": load.spans / (server.cpu_s - before),
        "answered, median": statistics.median(answers) * 1000,
        "answered, 99 of 100": answers[len(answers) * 99 // 100] * 1000,
        "told to come again": sent.busy,
    }


def _last(api: Asking, query: str, expected: list[str]) -> float:
    """Seconds that these flows take, over as many pages as they come on."""
    took, found, after = 0.0, list[str](), None
    while True:
        asked = {"query": query, "limit": LAST - len(found), **({"after": after} if after else {})}
        seconds, said = api.get(f"/api/flows?{urlencode(asked)}")
        page = json.loads(said)
        took, after = took + seconds, page["next"]
        found += [flow["id"] for flow in page["flows"]]
        if len(found) >= LAST or after is None:
            break
    if found != expected:
        right = len(set(found) & set(expected))
        raise WrongError(f"{query!r} gave {len(found)} flows, {right} of the {len(expected)} that meet it")
    return took


def _one(api: Asking, flow_id: str) -> float:
    seconds, said = api.get(f"/api/flows/{flow_id}")
    spans = len(json.loads(said)["spans"])
    if spans != orders.SPANS:
        raise WrongError(f"flow {flow_id} has {spans} spans, not {orders.SPANS}")
    return seconds


def _note(figures: dict[str, float], name: str, seconds: list[float]) -> None:
    figures[name] = statistics.median(seconds) * 1000
    figures[f"{name}, 95 of 100"] = sorted(seconds)[len(seconds) * 95 // 100] * 1000


def _resident(server: Server) -> dict[str, float]:
    return {
        "resident at the end": server.resident / _MB,
        "resident at most": server.most_resident / _MB,
    }


def _on_disk(folder: Path, load: Load) -> dict[str, float]:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    index = sum(size for path, size in sizes.items() if path.name.startswith("index"))
    whole = sum(sizes.values())
    return {
        "on disk": whole / load.spans,
        "on disk, segments": (whole - index) / load.spans,
        "on disk, index": index / load.spans,
    }


def _jaeger(program: str, kept: Kept, load: Load, folder: Path, core: int | None) -> dict[str, float]:
    with (
        servers.jaeger_server(program, kept, folder, core, 2 * load.flows) as server,
        closing(Asking(server.api)) as api,
    ):
        _say(f"Jaeger on {kept} takes them in")
        figures = _taken_in(load, server)
        _say(f"Jaeger on {kept} finds")
        for name, more in {"a service": {}, "errors": {"query.attributes": '{"error":"true"}'}}.items():
            path = f"/api/v3/traces?{urlencode({**_jaeger_query(load), **more})}"
            _note(figures, f"last {LAST}, {name}", [_traces(api, path) for _ in range(_PEER_TIMES)])
        _note(figures, "one flow", [api.get(f"/api/v3/traces/{each}")[0] for each in _drawn(load)])
        figures |= _resident(server)
    if kept == "badger":
        figures["on disk"] = _on_disk(folder, load)["on disk"]
        began = time.perf_counter()
        with (
            servers.jaeger_server(program, kept, folder, core, 2 * load.flows) as server,
            closing(Asking(server.api)) as api,
        ):
            api.get(f"/api/v3/traces/{load.flow_id(0)}")
            figures["starts again in"] = _since(began)
            figures["resident after that"] = server.resident / _MB
    return figures


def _jaeger_query(load: Load) -> dict[str, object]:
    return {
        "query.service_name": "orders",
        "query.start_time_min": _rfc3339(load.began_ns),
        "query.start_time_max": _rfc3339(load.began_ns + 3_600_000_000_000),
        "query.num_traces": LAST,
    }


def _traces(api: Asking, path: str) -> float:
    seconds, said = api.get(path)
    found = len(set(re.findall(rb'"traceId":"(\w+)"', said)))
    if found < LAST:
        raise RuntimeError(f"{path} found {found} traces, not {LAST}")
    return seconds


def _rfc3339(moment_ns: int) -> str:
    return datetime.fromtimestamp(moment_ns / 1e9, UTC).isoformat()


def _print(figures: dict[str, dict[str, float]]) -> None:
    """The table. Behind a peer's figure: ours divided by it."""
    names = list(figures)
    ours = figures["tracekit"]
    print("".join([f"{'':<44}", *(f"{name:>20}" for name in names), f"{'aim':>10}{'floor':>10}"]))
    for row in ROWS:
        cells = [_cell(row, figures[name].get(row.name)) for name in names]
        for place, name in enumerate(names[1:], 1):
            if figures[name].get(row.name) and row.name in ours:
                cells[place] += f" ({ours[row.name] / figures[name][row.name]:.2f})"
        if any(cells):
            wanted = f"{_cell(row, row.aim):>10}{_cell(row, row.floor):>10}"
            print(f"  {f'{row.name} ({row.unit})':<42}" + "".join(f"{cell:>20}" for cell in cells) + wanted)
    if names[1:]:
        print("In brackets: what tracekit has, divided by what it has.")


def _cell(row: Row, value: float | None) -> str:
    return "" if value is None else _UNITS.get(row.unit, "{:.1f}").format(value)
