"""Traces of a Jaeger, packed, so that what was read once need not be read and decoded again."""

from __future__ import annotations

import json
import threading
import zlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tracekit import semconv
from tracekit.flow import facts
from tracekit.model import Link

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tracekit.model import Span

_ENTRY_BYTES: Final = 1_500
"""About what a trace takes beside its packed spans."""
_DROPPED: Final = 0.1
"""So much is dropped at once, lest each trace that comes sorts them all."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace as Jaeger has it: its spans as OTLP's JSON, compressed, and what it is looked up by.

    `begins` says when each flow begins in it whose id its spans carry, or its own where they carry none;
    `mentioned` are flows on its links, `linked` the traces that those lead to.
    """

    id: str
    packed: bytes
    spans: int
    start_ns: int
    end_ns: int
    begins: Mapping[str, int]
    mentioned: frozenset[str]
    linked: frozenset[str]

    def unpacked(self) -> Sequence[Span]:
        """Its spans. Raises OtlpError."""
        from tracekit.otlp import decode_spans  # brings protobuf with it

        return decode_spans(zlib.decompress(self.packed), "json").records

    @property
    def size(self) -> int:
        return len(self.packed) + _ENTRY_BYTES


def parted(result: Any) -> dict[str, list[Any]]:
    """OTLP's JSON, trace by trace: the resources of each. Raises as what is no such JSON does."""
    found: dict[str, list[Any]] = {}
    for resource in result.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            own: dict[str, list[Any]] = defaultdict(list)
            for span in scope.get("spans", ()):
                own[span["traceId"].lower()].append(span)
            for trace_id, spans in own.items():
                part = {
                    "resource": resource.get("resource", {}),
                    "scopeSpans": [{"scope": scope.get("scope", {}), "spans": spans}],
                }
                found.setdefault(trace_id, []).append(part)
    return found


def count(parts: Iterable[Any]) -> int:
    """The spans of a trace that was parted."""
    return sum(len(scope["spans"]) for part in parts for scope in part["scopeSpans"])


def last_start_ns(parts: Iterable[Any], service: str, until_ns: int) -> int:
    """When a span of the service last began in a trace that was parted, until then; 0 where none did."""
    starts = (
        int(span["startTimeUnixNano"])
        for part in parts
        if _service(part["resource"]) == service
        for scope in part["scopeSpans"]
        for span in scope["spans"]
    )
    return max((start_ns for start_ns in starts if start_ns <= until_ns), default=0)


def _service(resource: Any) -> str:
    named = (each for each in resource.get("attributes", ()) if each["key"] == semconv.SERVICE_NAME)
    return next((each["value"].get("stringValue", "") for each in named), "")


def packed(trace_id: str, parts: Sequence[Any]) -> Trace:
    """A trace that was parted. Raises as what is no such JSON does."""
    begins: dict[str, int] = {}
    entries: dict[str, int] = {}
    mentioned: set[str] = set()
    linked: set[str] = set()
    starts, ends = [], []
    for span in (span for part in parts for scope in part["scopeSpans"] for span in scope["spans"]):
        start_ns, end_ns = int(span["startTimeUnixNano"]), int(span.get("endTimeUnixNano", 0))
        starts.append(start_ns)
        ends.append(max(start_ns, end_ns))
        is_entry = not span.get("parentSpanId", "").strip("0")
        said = _flow_id(span)
        for link in span.get("links", ()):
            linked.add(str(link.get("traceId", "")))
            if flow_id := _flow_id(link):
                mentioned.add(flow_id)
        if said is None and not is_entry and begins:
            continue  # somebody else's span below one of ours
        of = said or trace_id
        begins[of] = min(begins.get(of, start_ns), start_ns)
        if is_entry and of == trace_id:
            entries[of] = min(entries.get(of, start_ns), start_ns)
    if not starts:
        raise ValueError("a trace without spans")
    return Trace(
        trace_id,
        zlib.compress(json.dumps({"resourceSpans": parts}).encode(), 1),
        len(starts),
        min(starts),
        max(ends),
        begins | entries,
        frozenset(mentioned),
        frozenset(linked - {trace_id, ""}),
    )


def _flow_id(of: Any) -> str | None:
    for each in of.get("attributes", ()):
        if each["key"] == semconv.FLOW_ID:
            # What an id is has one home, which reads links too.
            return facts.flow_id(Link("", "", {semconv.FLOW_ID: each["value"].get("stringValue", "")}))
    return None


class Traces:
    """Traces by their ids, by the flows that they are of, and by those that they link to. Thread-safe.

    Bounds: `max_bytes` in all, those that began first out first; `floor_ns` is when the last of those did.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._traces: dict[str, Trace] = {}
        self._of_flow: defaultdict[str, set[str]] = defaultdict(set)
        self._linking: defaultdict[str, set[str]] = defaultdict(set)
        self._bytes = 0
        self.floor_ns = 0

    def __len__(self) -> int:
        return len(self._traces)

    def has(self, trace_id: str, spans: int) -> bool:
        """Whether it is here with so many spans."""
        known = self._traces.get(trace_id)
        return known is not None and known.spans == spans

    def put(self, trace: Trace) -> None:
        with self._lock:
            self._remove(trace.id)
            self._traces[trace.id] = trace
            self._bytes += trace.size
            for flow_id in (*trace.begins, *trace.mentioned):
                self._of_flow[flow_id].add(trace.id)
            for other in trace.linked:
                self._linking[other].add(trace.id)
            if self._bytes > self._max_bytes:
                self._make_room()

    def get(self, trace_id: str) -> Trace | None:
        return self._traces.get(trace_id)

    def of_flow(self, flow_id: str) -> list[Trace]:
        """Those whose spans, or whose links, carry this flow's id."""
        with self._lock:
            return [self._traces[trace_id] for trace_id in sorted(self._of_flow.get(flow_id, ()))]

    def linking(self, trace_id: str) -> list[Trace]:
        """Those with a link to this one."""
        with self._lock:
            return [self._traces[other] for other in sorted(self._linking.get(trace_id, ()))]

    def flows(self) -> dict[str, int]:
        """The ids that may be those of flows, and when those begin; by their own trace, where it is here."""
        found: dict[str, int] = {}
        with self._lock:
            for trace in self._traces.values():
                for flow_id, start_ns in trace.begins.items():
                    own = self._traces.get(flow_id)
                    if own is not None:
                        found[flow_id] = own.begins.get(flow_id, own.start_ns)
                    else:
                        found[flow_id] = min(found.get(flow_id, start_ns), start_ns)
        return found

    def _make_room(self) -> None:
        for trace in sorted(self._traces.values(), key=lambda each: each.start_ns):
            if self._bytes <= self._max_bytes * (1 - _DROPPED):
                break
            self._remove(trace.id)
            self.floor_ns = max(self.floor_ns, trace.start_ns + 1)

    def _remove(self, trace_id: str) -> None:
        trace = self._traces.pop(trace_id, None)
        if trace is None:
            return
        self._bytes -= trace.size
        _forget(self._of_flow, (*trace.begins, *trace.mentioned), trace_id)
        _forget(self._linking, trace.linked, trace_id)


def _forget(index: dict[str, set[str]], keys: Collection[str], trace_id: str) -> None:
    for key in keys:
        if (ids := index.get(key)) is not None:
            ids.discard(trace_id)
            if not ids:
                del index[key]
