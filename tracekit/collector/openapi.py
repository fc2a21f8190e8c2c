"""The query API as a table: its routes, their parameters, and what they answer. Pure.

The table is what the server checks requests by, and what its OpenAPI 3.1 description is written from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from tracekit.collector import live
from tracekit.collector.cut import MAX_TEXT
from tracekit.collector.schemas import MAX_LIMIT, SCHEMAS, see
from tracekit.flow import search

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.collector.schemas import Schema

DEFAULT_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a request; one in a query may be left out."""

    name: str
    place: Literal["path", "query"]
    schema: Schema
    description: str
    default: str | int = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One route, always a GET. `answer` is the schema of a 200, `refusals` are what else it may say."""

    name: str
    path: str
    summary: str
    answer: Schema
    parameters: tuple[Parameter, ...] = ()
    refusals: tuple[int, ...] = ()
    media_type: str = "application/json"


class ParameterError(ValueError):
    """A parameter that the table does not allow; the text says which, and what is allowed."""


def read(
    operation: Operation, path: Mapping[str, str], query: Sequence[tuple[str, str]]
) -> dict[str, str | int]:
    """Every parameter of the operation, those left out with their defaults. Raises ParameterError."""
    known = {parameter.name: parameter for parameter in operation.parameters}
    given = dict(path)
    for name, text in query:
        if name not in known or known[name].place != "query":
            there_is = (
                ", ".join(each.name for each in operation.parameters if each.place == "query") or "none"
            )
            raise ParameterError(f"{name[:40]!r} is no parameter of {operation.path}; there is {there_is}")
        if name in given:
            raise ParameterError(f"{name} is given twice; give it once")
        given[name] = text
    return {
        name: _checked(parameter, given[name]) if name in given else parameter.default
        for name, parameter in known.items()
    }


def _checked(parameter: Parameter, text: str) -> str | int:
    schema = parameter.schema
    if schema["type"] == "integer":
        least, most = cast("int", schema["minimum"]), cast("int", schema["maximum"])
        if not re.fullmatch("[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ParameterError(
                f"{parameter.name}={text[:40]!r}: it must be a whole number from {least} to {most}"
            )
        return int(text)
    longest = cast("int", schema["maxLength"])
    if len(text) > longest:
        raise ParameterError(f"{parameter.name} has {len(text)} characters; it may have {longest} at most")
    if "pattern" in schema and not re.fullmatch(cast("str", schema["pattern"]), text):
        raise ParameterError(f"{parameter.name}={text[:40]!r}: it must be {parameter.description}")
    return text


_SHORT_TEXT: Final[Schema] = {"type": "string", "maxLength": 255}
_QUERY: Final = Parameter(
    "query",
    "query",
    {"type": "string", "maxLength": search.MAX_LENGTH, "format": "tracekit-query"},
    "What to look for: terms that must all hold, such as `completion > 1s queue = orders error lamp`. "
    f"Fields: {', '.join((*get_args(search.NumberField), *get_args(search.TextField)))}; any attribute by "
    "its key; a word is looked for in names, services, destinations and breaks.",
)
_LIMIT: Final = Parameter(
    "limit",
    "query",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "How many flows at most.",
    DEFAULT_LIMIT,
)
_AFTER: Final = Parameter(
    "after",
    "query",
    {"type": "string", "maxLength": 200, "format": "tracekit-cursor"},
    "An earlier page's `next`.",
)
_FLOW_ID: Final = Parameter(
    "flow_id",
    "path",
    {"type": "string", "pattern": "^[0-9a-fA-F]{4,32}$", "maxLength": 32},
    "a flow's id, 32 hexadecimal digits; its first four or more do where no other begins so; and so does the "
    "id of any of its traces",
)

_METRIC: Final = Parameter("name", "query", _SHORT_TEXT, "Only the metric with this name, and its history.")
_SERVICE: Final = Parameter("service", "query", _SHORT_TEXT, "Only those of this service.")

OPERATIONS: Final = (
    Operation(
        "flows",
        "/api/flows",
        "Flows that meet a query, the latest first.",
        see("Flows"),
        (_QUERY, _LIMIT, _AFTER),
        (400,),
    ),
    Operation(
        "flow",
        "/api/flows/{flow_id}",
        "One flow: its spans, messages, breaks and critical paths.",
        see("Flow"),
        (_FLOW_ID,),
        (400, 404, 409, 410),
    ),
    Operation(
        "flow_logs",
        "/api/flows/{flow_id}/logs",
        "The log lines of one flow.",
        see("Logs"),
        (_FLOW_ID,),
        (400, 404, 409, 410),
    ),
    Operation(
        "flow_otlp",
        "/api/flows/{flow_id}/otlp",
        "The spans of one flow as an OTLP trace request in JSON. The header "
        "`tracekit-omitted-spans` says how many are missing where there are too many.",
        {"type": "object"},
        (_FLOW_ID,),
        (400, 404, 409, 410),
    ),
    Operation("services", "/api/services", "What each service did of late.", see("Services"), (), (400,)),
    Operation(
        "destinations",
        "/api/destinations",
        "What went through each destination of late.",
        see("Destinations"),
        (),
        (400,),
    ),
    Operation(
        "metrics",
        "/api/metrics",
        "Metrics with their latest points; of one that is named, the last ones before it too.",
        see("Metrics"),
        (_METRIC, _SERVICE),
        (400,),
    ),
    Operation(
        "status", "/api/status", "What the collector holds, dropped and refused.", see("Status"), (), (400,)
    ),
    Operation(
        "events",
        "/api/events",
        "Server-Sent Events: `flow` (a Summary) when a flow that meets the query settles, or grows "
        f"after that, at most {live.MAX_FLOWS} in {live.TICK_S} s; `status` (a Status); `lost` (a Lost) "
        "where there were more, or you read too slowly. `Last-Event-ID` gives the events since, of the last "
        f"{live.MAX_KEPT}. At most {live.MAX_WATCHERS} may watch, with {live.MAX_QUERIES} different queries.",
        {"type": "string"},
        (_QUERY,),
        (400, 503),
        "text/event-stream",
    ),
    Operation("openapi", "/api/openapi.json", "This description.", {"type": "object"}, (), (400,)),
)

FLOW_PAGE: Final = Operation(
    "flow_page",
    "/flow/{flow_id}",
    "One flow as text, for who comes by a link.",
    {"type": "string"},
    (_FLOW_ID,),
    (400, 404, 409, 410),
    "text/plain",
)
"""A page for people, of no part in the API."""

_REFUSALS: Final = {
    400: "a parameter, or the query, is not understood",
    404: "there is no such flow",
    409: "several flows begin so, or the trace is one of several flows",
    410: "there was such a flow, and its segment is damaged: nothing of it is left to show",
    503: "too much is asked at once, or the data cannot be read now; ask again later",
}


def document(version: str) -> dict[str, object]:
    """The OpenAPI 3.1 description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tracekit query API",
            "version": version,
            "description": "Flows that a tracekit collector keeps. Lengths of time are numbers of ns, "
            "moments are text. Every answer is bounded, and says what it left out; a text ends in `… (N "
            f"characters)` where it had more than {MAX_TEXT}. GET only.",
        },
        "paths": {operation.path: {"get": _described(operation)} for operation in OPERATIONS},
        "components": {"schemas": SCHEMAS},
    }


def _described(operation: Operation) -> dict[str, object]:
    error = {"application/json": {"schema": see("Error")}}
    answers: dict[str, object] = {
        "200": {"description": "OK", "content": {operation.media_type: {"schema": operation.answer}}}
    }
    for status in sorted({*operation.refusals, 503}):
        answers[str(status)] = {"description": _REFUSALS[status], "content": error}
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.place == "path",
                "description": parameter.description,
                "schema": parameter.schema,
            }
            for parameter in operation.parameters
        ],
        "responses": answers,
    }
