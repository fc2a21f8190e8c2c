"""Views: flows, log lines and what else the collector knows, as JSON-ready dicts. Pure.

Lengths of time (`…_ns`) are numbers; moments (`start_ns`, `end_ns`, `time_ns`, `oldest_ns`) are decimal
strings, as in OTLP JSON: JavaScript has no whole numbers so large. So are attributes beyond 2**53.

Bounds: a text has at most `MAX_TEXT` characters, and says how many it had; a list or a map in a value
`MAX_ITEMS` items, four deep; one span or line about `MAX_RECORD` characters; all spans of a flow, or
all its lines, about `MAX_TOTAL`. A flow shows at most `MAX_SPANS` spans, as many edges and path segments, and
`MAX_BREAKS` breaks. What was left out is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from tracekit.flow.labels import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracekit.collector.archive import Built, Page, Summary
    from tracekit.flow import Flow, Path, Wait
    from tracekit.model import Attributes, LogLine, Span, Value

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Object: TypeAlias = dict[str, Json]

MAX_SPANS: Final = 1_000
MAX_LINES: Final = 1_000
MAX_BREAKS: Final = 100
MAX_TEXT: Final = 1_024
MAX_ITEMS: Final = 32
MAX_ATTRIBUTES: Final = 128
MAX_RECORD: Final = 32 * 1024
MAX_TOTAL: Final = 2 * 1024 * 1024
_DEEPEST: Final = 4
_SAFE: Final = 2**53
"""JavaScript's numbers are whole up to here."""

R = TypeVar("R")


def page(found: Page) -> Object:
    """Some flows, and where to go on."""
    return {"flows": [summary(flow) for flow in found.flows], "next": found.next}


def summary(flow: Summary) -> Object:
    """One flow in a line, by the names that `archive.Summary` has; `omitted` names are not shown."""
    cut = _Cut()
    found: Object = {
        "id": flow.id,
        "name": cut.text(flow.name),
        "service": cut.text(flow.service),
        "start_ns": str(flow.start_ns),
        "response_ns": flow.response_ns,
        "completion_ns": flow.completion_ns,
        "waited_ns": flow.waited_ns,
        "status": flow.status,
        "spans": flow.spans,
        "errors": flow.errors,
        "open_spans": flow.open_spans,
        "retries": flow.retries,
        "duplicates": flow.duplicates,
        "services": cut.texts(flow.services),
        "destinations": cut.texts(flow.destinations),
        "breaks": cut.texts(flow.breaks),
        "is_settled": flow.is_settled,
        "is_analysed": flow.is_analysed,
    }
    found["omitted"] = cut.omitted
    return found


def flow(built: Built) -> Object:
    """All of one flow; a span or an edge is named by its place in the flow, also where it is not shown."""
    flow = built.flow
    named = labels(flow.tree)

    def view(place: int, span: Span, cut: _Cut) -> Object:
        return {"parent": flow.tree.parents[place], "label": cut.text(named[place]), **_span(span, cut)}

    spans = _shown(flow.spans, MAX_SPANS, view)
    edges, breaks = _edges(flow), _breaks(flow)
    return {
        "summary": summary(built.summary),
        "end_ns": str(flow.end_ns),
        "spans": spans,
        "edges": edges,
        "breaks": breaks,
        "blocking_path": _path(flow, flow.blocking_path),
        "completion_path": _path(flow, flow.completion_path),
        "omitted": {
            "spans": len(flow.spans) - len(spans),
            "edges": len(flow.edges) - len(edges),
            "breaks": len(flow.breaks) - len(breaks),
            "blocking_path": max(0, len(flow.blocking_path) - MAX_SPANS),
            "completion_path": max(0, len(flow.completion_path) - MAX_SPANS),
        },
    }


def logs(lines: Sequence[LogLine]) -> Object:
    """Log lines, and how many there were besides."""
    shown = _shown(lines, MAX_LINES, lambda _, line, cut: _line(line, cut))
    return {"logs": shown, "omitted": len(lines) - len(shown)}


def _shown(records: Sequence[R], most: int, view: Callable[[int, R, _Cut], Object]) -> list[Json]:
    """The first of these records, so many at most, and about `MAX_TOTAL` characters together."""
    shown: list[Json] = []
    room = MAX_TOTAL
    for place, record in enumerate(records[:most]):
        cut = _Cut()
        shown.append(view(place, record, cut))
        room -= MAX_RECORD - cut.room
        if room < 0:
            break
    return shown


def _span(span: Span, cut: _Cut) -> Object:
    found: Object = {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": cut.text(span.name),
        "service": cut.text(span.service.name),
        "instance": cut.text(span.service.instance),
        "scope": cut.text(span.scope),
        "kind": span.kind.name.lower(),
        "status": span.status.name.lower(),
        "status_message": cut.text(span.status_message),
        "start_ns": str(span.start_ns),
        "end_ns": None if span.end_ns is None else str(span.end_ns),
        "duration_ns": None if span.end_ns is None else max(0, span.end_ns - span.start_ns),
        "attributes": cut.attributes(span.attributes),
        "links": [
            {
                "trace_id": link.trace_id,
                "span_id": link.span_id,
                "attributes": cut.attributes(link.attributes),
            }
            for link in cut.items(span.links)
        ],
        "events": [
            {
                "name": cut.text(event.name),
                "time_ns": str(event.time_ns),
                "attributes": cut.attributes(event.attributes),
            }
            for event in cut.items(span.events)
        ],
    }
    found["omitted"] = cut.omitted
    return found


def _line(line: LogLine, cut: _Cut) -> Object:
    found: Object = {
        "time_ns": str(line.time_ns),
        "severity": line.severity,
        "severity_text": cut.text(line.severity_text),
        "service": cut.text(line.service.name),
        "trace_id": line.trace_id,
        "span_id": line.span_id,
        "event_name": cut.text(line.event_name),
        "body": cut.value(line.body),
        "attributes": cut.attributes(line.attributes),
    }
    found["omitted"] = cut.omitted
    return found


def _edges(flow: Flow) -> list[Json]:
    at = _places(flow.spans)
    return [
        {
            "creation": None if edge.creation is None else at[id(edge.creation)],
            "consuming": at[id(edge.consuming)],
            "system": _short(edge.system),
            "destination": _short(edge.destination),
            "group": None if edge.group is None else _short(edge.group),
            "consumer": _short(edge.consumer),
            "relation": edge.relation,
            "wait": _wait(edge.wait),
            "partition": None if edge.partition is None else _short(edge.partition),
            "offset": None if edge.offset is None else str(edge.offset),
            "message_id": None if edge.message_id is None else _short(edge.message_id),
        }
        for edge in flow.edges[:MAX_SPANS]
    ]


def _wait(wait: Wait | None) -> Json:
    if wait is None:
        return None
    return {
        "start_ns": str(wait.start_ns),
        "end_ns": str(wait.end_ns),
        "duration_ns": wait.duration_ns,
        "source": wait.source,
        "skew_ns": wait.skew_ns,
    }


def _breaks(flow: Flow) -> list[Json]:
    at = _places(flow.spans)
    return [
        {
            "span": at[id(each.at)],
            "reason": each.reason,
            "evidence": _short(each.evidence),
            "cure": each.cure,
        }
        for each in flow.breaks[:MAX_BREAKS]
    ]


def _path(flow: Flow, path: Path) -> list[Json]:
    at, edge_at = _places(flow.spans), _places(flow.edges)
    return [
        {
            "kind": segment.kind,
            "span": at[id(segment.span)],
            "edge": None if segment.edge is None else edge_at[id(segment.edge)],
            "start_ns": str(segment.start_ns),
            "duration_ns": segment.duration_ns,
        }
        for segment in path[:MAX_SPANS]
    ]


def _places(records: Sequence[object]) -> Mapping[int, int]:
    """The place of each of these very objects."""
    return {id(record): place for place, record in enumerate(records)}


def _short(text: str) -> str:
    return _Cut().text(text)


class _Cut:
    """Makes the values of one record small; `omitted` counts what it left out of lists and maps."""

    def __init__(self) -> None:
        self.room = MAX_RECORD
        self.omitted = 0

    def text(self, text: str) -> str:
        """The text; its beginning and its length, where it is too long."""
        most = min(MAX_TEXT, max(self.room, 64))
        self.room -= min(len(text), most) + 8
        return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"

    def texts(self, texts: Sequence[str]) -> list[Json]:
        return [self.text(text) for text in self.items(texts)]

    def items(self, items: Sequence[R]) -> Sequence[R]:
        """The first of them, none where there is no room left."""
        shown = items[: MAX_ITEMS if self.room > 0 else 0]
        self.omitted += len(items) - len(shown)
        return shown

    def attributes(self, attributes: Attributes, most: int = MAX_ATTRIBUTES, deep: int = 0) -> Object:
        found: Object = {}
        for key, value in attributes.items():
            if len(found) == most or self.room <= 0:
                break
            found[self.text(key)] = self.value(value, deep)
        self.omitted += len(attributes) - len(found)
        return found

    def value(self, value: Value, deep: int = 0) -> Json:
        if isinstance(value, str):
            return self.text(value)
        self.room -= 8
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if abs(value) <= _SAFE else str(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, bytes):
            return self.text(value.hex())
        if deep == _DEEPEST:
            self.omitted += 1
            return "…"
        if isinstance(value, Mapping):
            return self.attributes(value, MAX_ITEMS, deep + 1)
        return [self.value(item, deep + 1) for item in self.items(value)]
