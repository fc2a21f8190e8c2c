"""Schemas: what the query API's answers look like, in JSON Schema as OpenAPI 3.1 has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, get_args

from tracekit.collector import cut, overviews, traffic, views
from tracekit.flow import BreakReason, WaitSource
from tracekit.model import Kind, Status, Temporality

Schema: TypeAlias = Mapping[str, object]

MAX_LIMIT: Final = 500
"""Flows in one answer."""

_TEXT: Final[Schema] = {"type": "string", "maxLength": cut.MAX_TEXT + 40}
_NAME: Final[Schema] = _TEXT
_HEX: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]*$", "maxLength": 32}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_WHOLE: Final[Schema] = {"type": "integer"}
_FLOAT: Final[Schema] = {"anyOf": [{"type": "number"}, _TEXT], "description": "as text: nan, inf"}
_RATE: Final[Schema] = {"type": "number", "minimum": 0, "description": "per second"}
_YES: Final[Schema] = {"type": "boolean"}
_NS: Final[Schema] = {"type": "integer", "minimum": 0, "description": "nanoseconds"}
_MOMENT: Final[Schema] = {
    "type": "string",
    "pattern": "^-?[0-9]{1,20}$",
    "description": "nanoseconds since 1970 in UTC, as text: too large for the numbers of JavaScript",
}
_ANY: Final[Schema] = {"type": "object", "description": "values of any kind by their keys"}
_PLACE: Final[Schema] = {**_COUNT, "description": "place in the flow's own order, from 0; perhaps not shown"}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema, most: int) -> Schema:
    return {"type": "array", "items": items, "maxItems": most}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _one_of(values: Sequence[str]) -> Schema:
    return {"type": "string", "enum": list(values)}


def _object(properties: Mapping[str, Schema], description: str = "") -> Schema:
    """An object with just these properties, all of them there."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {**schema, "description": description} if description else schema


def see(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_OMITTED: Final[Schema] = {**_COUNT, "description": "how many there are besides, left out for their number"}
_TEXTS: Final = _list(_TEXT, cut.MAX_ITEMS)
_DURATIONS: Final = _object(
    {
        "count": _COUNT,
        "p50_ns": _nullable(_NS),
        "p95_ns": _nullable(_NS),
        "max_ns": _nullable(_NS),
    },
    "from a histogram: each duration within 3 %; null where there was none",
)
_SIGNAL: Final = _object(
    {"kept": _COUNT, "dropped": _COUNT, "refused": _COUNT},
    "records held now, dropped to stay within a bound, refused before they came in",
)

_BUILT: Final = "counted once flows are built: under load that is later, see `unanalysed` of the status"

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Error": _object({"error": {"type": "string", "description": "what is wrong, and what to do about it"}}),
    "Summary": _object(
        {
            "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "name": _NAME,
            "service": _NAME,
            "start_ns": _MOMENT,
            "response_ns": _nullable(
                {**_WHOLE, "description": "ns that the caller waited; null: nobody waits"}
            ),
            "completion_ns": {**_NS, "description": "until its last span ended, so far"},
            "waited_ns": {**_NS, "description": "how long its end waited in queues, on the way there"},
            "status": _nullable(_WHOLE),
            "spans": _COUNT,
            "errors": _COUNT,
            "open_spans": _COUNT,
            "retries": _COUNT,
            "duplicates": _COUNT,
            "services": _TEXTS,
            "destinations": _TEXTS,
            "breaks": _TEXTS,
            "is_settled": {**_YES, "description": "nothing came for a while, and no span is open"},
            "is_analysed": {**_YES, "description": "false: only what ingest knew; ask for the flow itself"},
            "omitted": _OMITTED,
        },
        "a flow in one line",
    ),
    "Flows": _object(
        {
            "flows": _list(see("Summary"), MAX_LIMIT),
            "next": _nullable(
                {
                    "type": "string",
                    "description": "pass it as `after` to go on; null at the end. "
                    "A page may be short, even empty, though there is more",
                }
            ),
        },
    ),
    "Span": _object(
        {
            "parent": _nullable({**_PLACE, "description": "place of what caused it; null: nothing known"}),
            "label": _TEXT,
            "trace_id": _HEX,
            "span_id": _HEX,
            "parent_id": _nullable(_HEX),
            "name": _TEXT,
            "service": _NAME,
            "instance": _TEXT,
            "scope": _TEXT,
            "kind": _one_of([kind.name.lower() for kind in Kind]),
            "status": _one_of([status.name.lower() for status in Status]),
            "status_message": _TEXT,
            "start_ns": _MOMENT,
            "end_ns": _nullable({**_MOMENT, "description": "null: it has not ended"}),
            "duration_ns": _nullable(_NS),
            "attributes": _ANY,
            "links": _list(_object({"trace_id": _HEX, "span_id": _HEX, "attributes": _ANY}), cut.MAX_ITEMS),
            "events": _list(_object({"name": _TEXT, "time_ns": _MOMENT, "attributes": _ANY}), cut.MAX_ITEMS),
            "omitted": {**_COUNT, "description": "attributes, links, events and items left out"},
        },
    ),
    "Edge": _object(
        {
            "creation": _nullable({**_PLACE, "description": "the span that created it; null: never arrived"}),
            "consuming": _PLACE,
            "system": _TEXT,
            "destination": _TEXT,
            "group": _nullable(_TEXT),
            "consumer": {**_TEXT, "description": "the consumer group, else the service"},
            "relation": _one_of(["parent", "link", "parent and link"]),
            "wait": _nullable(
                _object(
                    {
                        "start_ns": _MOMENT,
                        "end_ns": _MOMENT,
                        "duration_ns": _NS,
                        "source": _one_of(get_args(WaitSource)),
                        "skew_ns": {**_NS, "description": "by how much it would have been negative"},
                    },
                    "time in the queue, and who says so",
                )
            ),
            "partition": _nullable(_TEXT),
            "offset": _nullable({"type": "string"}),
            "message_id": _nullable(_TEXT),
        },
        "a message, from its creation to one consumption of it",
    ),
    "Break": _object(
        {"span": _PLACE, "reason": _one_of(get_args(BreakReason)), "evidence": _TEXT, "cure": _TEXT},
        "where the flow should go on and does not",
    ),
    "Segment": _object(
        {
            "kind": _one_of(["work", "wait", "gap"]),
            "span": _PLACE,
            "edge": _nullable({**_PLACE, "description": "of a wait: the place of its message"}),
            "start_ns": _MOMENT,
            "duration_ns": _NS,
        },
        "a stretch of a critical path: work in the span, a wait before it, or a gap",
    ),
    "Flow": _object(
        {
            "summary": see("Summary"),
            "unread": {
                **_COUNT,
                "description": "requests that mention it and cannot be read, for their segment is damaged or "
                "its disk fails: what was in them is not shown, only the summary still counts it",
            },
            "end_ns": _MOMENT,
            "spans": _list(see("Span"), views.MAX_SPANS),
            "edges": _list(see("Edge"), views.MAX_SPANS),
            "breaks": _list(see("Break"), views.MAX_BREAKS),
            "blocking_path": _list(see("Segment"), views.MAX_SPANS),
            "completion_path": _list(see("Segment"), views.MAX_SPANS),
            "omitted": _object(
                dict.fromkeys(("spans", "edges", "breaks", "blocking_path", "completion_path"), _OMITTED)
            ),
        },
        f"spans in tree order, the entry first, about {cut.MAX_TOTAL >> 20} MiB of them",
    ),
    "Logs": _object(
        {
            "logs": _list(
                _object(
                    {
                        "time_ns": _MOMENT,
                        "severity": _WHOLE,
                        "severity_text": _TEXT,
                        "service": _NAME,
                        "trace_id": _HEX,
                        "span_id": _HEX,
                        "event_name": _TEXT,
                        "body": {"description": "text mostly; any value"},
                        "attributes": _ANY,
                        "omitted": {**_COUNT, "description": "attributes and items left out"},
                    }
                ),
                views.MAX_LINES,
            ),
            "omitted": _OMITTED,
        },
        "by time, the first",
    ),
    "Services": _object(
        {
            "window_ns": {**_NS, "description": "the time that this speaks of, up to now"},
            "services": _list(
                _object(
                    {
                        "service": _NAME,
                        "spans": _COUNT,
                        "spans_per_s": _RATE,
                        "errors": _COUNT,
                        "requests": _COUNT,
                        "requests_per_s": _RATE,
                        "messages": {**_COUNT, "description": "taken from queues"},
                        "messages_per_s": _RATE,
                        "durations": {**_DURATIONS, "description": "of its requests and messages"},
                    }
                ),
                overviews.MAX_ROWS,
            ),
            "omitted": _OMITTED,
            "uncounted": {**_COUNT, "description": "spans and messages beyond the bounds of the counters"},
        },
        f"the last {traffic.MINUTES} minutes, the busiest first; {_BUILT}",
    ),
    "Destinations": _object(
        {
            "window_ns": {**_NS, "description": "the time that this speaks of, up to now"},
            "destinations": _list(
                _object(
                    {
                        "system": _NAME,
                        "destination": _NAME,
                        "consumer": _nullable({**_NAME, "description": "null: nobody took anything"}),
                        "producers": {**_map(_COUNT), "description": "how often each service sent"},
                        "messages": {**_COUNT, "description": "taken by this consumer"},
                        "messages_per_s": _RATE,
                        "errors": {**_COUNT, "description": "messages that the consumer failed on"},
                        "waits": _DURATIONS,
                        "wait_sources": {**_map(_COUNT), "description": "who told the waits"},
                        "handling": {**_DURATIONS, "description": "the consumer's time"},
                    }
                ),
                overviews.MAX_ROWS,
            ),
            "omitted": _OMITTED,
            "uncounted": {**_COUNT, "description": "spans and messages beyond the bounds of the counters"},
        },
        f"the last {traffic.MINUTES} minutes, the busiest first; {_BUILT}",
    ),
    "Metrics": _object(
        {
            "metrics": _list(
                _object(
                    {
                        "name": _NAME,
                        "kind": _one_of(["gauge", "sum", "histogram"]),
                        "unit": _TEXT,
                        "description": _TEXT,
                        "service": _NAME,
                        "instance": _TEXT,
                        "temporality": _one_of([each.name.lower() for each in Temporality]),
                        "is_monotonic": _YES,
                        "attributes": _ANY,
                        "bounds": _list(_FLOAT, overviews.MAX_BUCKETS),
                        "points": _list(
                            _object(
                                {
                                    "time_ns": _MOMENT,
                                    "value": _nullable(_FLOAT),
                                    "count": _COUNT,
                                    "buckets": _list(_COUNT, overviews.MAX_BUCKETS),
                                }
                            ),
                            overviews.MAX_POINTS,
                        ),
                    },
                    "one metric of one service under one set of attributes: its last points by time",
                ),
                overviews.MAX_SERIES,
            ),
            "omitted": _OMITTED,
        }
    ),
    "Status": _object(
        {
            "version": {"type": "string"},
            "flows": _COUNT,
            "bytes": _COUNT,
            "max_bytes": _COUNT,
            "oldest_ns": _nullable(_MOMENT),
            "unanalysed": _COUNT,
            "troubles": _list(_TEXT, cut.MAX_ITEMS),
            "traces": _SIGNAL,
            "logs": _SIGNAL,
            "metrics": _SIGNAL,
            "watchers": _COUNT,
            "more": {**_ANY, "description": "what else runs here: forwarding, connections"},
        },
        "what the collector holds, dropped and refused, and what went wrong",
    ),
    "Lost": _object(
        {"lost": _nullable({**_COUNT, "description": "flows that were not told; null: not known"})}
    ),
}
