"""The query API of a running `tracekit serve` as a source of flows."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing, suppress
from dataclasses import fields
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlencode

from tracekit.collector.archive import Page, Summary
from tracekit.collector.exchange import Deadline
from tracekit.flow import Flow, Knowledge, build_flow
from tracekit.model import LogLine, Service
from tracekit.sources.source import Notice
from tracekit.sources.web import BROKEN, READ_S, NotReachedError, SourceError, Web

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from tracekit.collector.exchange import Answer
    from tracekit.sources.web import Json

API_PORT: Final = 4320
DEFAULT_SERVER: Final = f"http://127.0.0.1:{API_PORT}"

_MAX_EVENT_BYTES: Final = 1024 * 1024
_FRAMING: Final = 64 * 1024
_SILENCE_S: Final = 60.0
"""So long a line of a stream of events may take: its server gives signs of life."""
_IS_EVENT_ID: Final = re.compile("[0-9]{1,18}").fullmatch
_AGAIN_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Pauses before a stream is opened again; the last one from then on."""


class ApiSource:
    """The query API at a URL.

    Bounds, beside those of `Web`: 1 MiB of a live event.
    """

    def __init__(self, url: str = DEFAULT_SERVER, *, silence_s: float = READ_S, us: str = "tracekit") -> None:
        """`silence_s` is how long an answer may be silent, `us` how tracekit is called.

        Raises SourceError for what is no URL.
        """
        self._web = Web(
            url,
            default=DEFAULT_SERVER,
            what="`tracekit serve` of this version",
            start=f"{us} serve",
            option="--server",
            silence_s=silence_s,
        )
        self.url = self._web.url

    def find(self, query: str, *, limit: int = 100, after: str | None = None) -> Page:
        asked = {"query": query, "limit": str(limit)} | ({} if after is None else {"after": after})
        found = self.get(f"/api/flows?{urlencode(asked)}")
        rows, further = found.get("flows"), found.get("next")
        if not isinstance(rows, list) or not isinstance(further, str | None):
            raise self._web.strange()
        return Page(tuple(self._web.read_by(_summary, row) for row in rows), further)

    def flow(self, flow_id: str) -> Flow:
        from tracekit.otlp import OtlpError, decode_spans  # brings protobuf with it

        known: Summary = self._web.read_by(lambda found: _summary(found["summary"]), self.document(flow_id))
        try:
            spans = decode_spans(
                self._web.read(f"/api/flows/{quote(known.id, safe='')}/otlp"), "json"
            ).records
        except OtlpError as error:
            raise self._web.strange() from error
        if not spans:
            raise SourceError(f"nothing is left of flow {known.id}: it was dropped meanwhile")
        return build_flow(spans, known.id, known=Knowledge(is_quiet=known.is_settled))

    def logs(self, flow_id: str) -> Sequence[LogLine]:
        lines = self.get(f"/api/flows/{quote(flow_id, safe='')}/logs").get("logs")
        if not isinstance(lines, list):
            raise self._web.strange()
        return [self._web.read_by(_line, line) for line in lines]

    def document(self, flow_id: str, *, with_logs: bool = False) -> Json:
        path = f"/api/flows/{quote(flow_id, safe='')}"
        found = self.get(path)
        return {**found, "logs": self.get(f"{path}/logs").get("logs")} if with_logs else found

    def endpoint(self) -> str | None:
        return self._said("otlp_http")

    def jaeger(self) -> str | None:
        return self._said("jaeger")

    def _said(self, name: str) -> str | None:
        """What the server's status says by this name beside its archive."""
        more = self.get("/api/status").get("more")
        found = more.get(name) if isinstance(more, dict) else None
        return found if isinstance(found, str) else None

    def follow(self, query: str) -> Iterator[Summary | Notice]:
        path = f"/api/events?{urlencode({'query': query})}"
        stream = self._web.open(path)
        latest = ""
        while True:
            with closing(stream):
                latest = (yield from self._told(stream)) or latest
            yield Notice(f"the connection to {self.url} was lost; trying again")
            # The server knows by it what was told before.
            stream = self._open_again(path, {"last-event-id": latest} if latest else {})
            yield Notice("connected again")

    def get(self, path: str) -> Json:
        """The answer to a path, which must be a JSON object."""
        return self._web.json(path)

    def _told(self, stream: Answer) -> Generator[Summary | Notice, None, str]:
        """What a stream of events says, until it ends or breaks off; gives the id of its last event."""
        events, latest = _events(stream), ""
        while True:
            try:
                latest, name, data = next(events)
            except (*BROKEN, StopIteration):
                return latest
            if name == "flow":
                yield self._web.read_by(_summary, _parsed(data))
            elif name == "lost":
                yield self._web.read_by(_lost, _parsed(data))

    def _open_again(self, path: str, headers: Mapping[str, str]) -> Answer:
        for pause_s in chain(_AGAIN_S, repeat(_AGAIN_S[-1])):
            time.sleep(pause_s)
            with suppress(NotReachedError):
                return self._web.open(path, headers)
        raise AssertionError("there is always a next try")


def _events(stream: Answer) -> Iterator[tuple[str, str, str]]:
    """Last id, name and data of each Server-Sent Event. Source: the HTML standard, "Server-sent events"."""
    latest, name, data, room = "", "message", list[str](), _MAX_EVENT_BYTES
    while True:
        stream.allow(Deadline.within(_SILENCE_S), 2 * _MAX_EVENT_BYTES + _FRAMING)
        line = stream.readline(_MAX_EVENT_BYTES)
        if not line:
            return
        room -= len(line)
        if not line.endswith(b"\n") or room < 0:
            raise OSError("an event that has no end")
        field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id" and _IS_EVENT_ID(value):
            latest = value
        elif field == "data":
            data.append(value)
        elif not field and not value:
            if data:
                yield latest, name, "\n".join(data)
            name, data, room = "message", [], _MAX_EVENT_BYTES


def _parsed(data: str) -> object:
    with suppress(ValueError, RecursionError):
        return cast("object", json.loads(data))
    return None


def _summary(found: Any) -> Summary:
    """A flow's line. What it lacks has its default, what we do not know is passed over."""
    known = [field for field in fields(Summary) if field.name in found]
    return Summary(**{field.name: _FIELDS[str(field.type)](found[field.name]) for field in known})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _whole(value: Any) -> int:
    """A number of 64 bits, or the text of one: moments are too long for JavaScript's numbers."""
    number = int(value)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError("no moment and no count is so large")
    return number


_FIELDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "str": _text,
    "bool": bool,
    "int": _whole,
    "int | None": lambda value: None if value is None else _whole(value),
    "tuple[str, ...]": lambda values: tuple(_text(value) for value in values),
}


def _line(found: Any) -> LogLine:
    return LogLine(
        time_ns=_whole(found["time_ns"]),
        body=found["body"],
        severity=_whole(found["severity"]),
        severity_text=_text(found["severity_text"]),
        attributes=dict(found["attributes"]),
        trace_id=_text(found["trace_id"]),
        span_id=_text(found["span_id"]),
        service=Service(_text(found["service"])),
        event_name=_text(found["event_name"]),
    )


def _lost(found: Any) -> Notice:
    """Of how many nobody knows, where it is None: the server was started anew, or it was too long ago."""
    if found["lost"] is None:
        return Notice("what settled meanwhile was not told; `tracekit flows` has it")
    return Notice(f"{_whole(found['lost'])} flows were not told: too many at once; `tracekit flows` has them")
