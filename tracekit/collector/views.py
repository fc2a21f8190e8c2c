"""Views: flows and their log lines as JSON. Pure.

Lengths of time (`…_ns`) are numbers; moments (`start_ns`, `end_ns`, `time_ns`) are decimal strings, as in
OTLP JSON: JavaScript has no whole numbers so large. So are attributes beyond 2**53.

Bounds, beside those of what others wrote (`cut`): a flow shows at most `MAX_SPANS` spans, as many edges and
path segments, and `MAX_BREAKS` breaks; its log are at most `MAX_LINES` lines. What was left out is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracekit.collector.cut import Cut, shown
from tracekit.flow.labels import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.collector.archive import Built, Page, Summary
    from tracekit.collector.cut import Json, Object
    from tracekit.flow import Flow, Path, Wait
    from tracekit.model import LogLine, Span

MAX_SPANS: Final = 1_000
MAX_LINES: Final = 1_000
MAX_BREAKS: Final = 100


def page(found: Page) -> Object:
    """Some flows, and where to go on."""
    return {"flows": [summary(flow) for flow in found.flows], "next": found.next}


def summary(flow: Summary) -> Object:
    """One flow in a line, by the names that `archive.Summary` has; `omitted` names are not shown."""
    cut = Cut()
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

    def view(place: int, span: Span, cut: Cut) -> Object:
        return {"parent": flow.tree.parents[place], "label": cut.text(named[place]), **_span(span, cut)}

    spans = shown(flow.spans, MAX_SPANS, view)
    edges, breaks = _edges(flow), _breaks(flow)
    return {
        "summary": summary(built.summary),
        "unread": built.unread,
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
    some = shown(lines, MAX_LINES, lambda _, line, cut: _line(line, cut))
    return {"logs": some, "omitted": len(lines) - len(some)}


def _span(span: Span, cut: Cut) -> Object:
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


def _line(line: LogLine, cut: Cut) -> Object:
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
    return Cut().text(text)
