"""Sources: where flows are read from. There is one: the query API of a running `tracekit serve`."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from itertools import chain, repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from tracekit.collector.archive import Page, Summary
from tracekit.flow import Flow, Knowledge, build_flow
from tracekit.model import LogLine, Service

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

API_PORT: Final = 4320
DEFAULT_SERVER: Final = f"http://127.0.0.1:{API_PORT}"

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_EVENT_BYTES: Final = 1024 * 1024
_ANSWER_S: Final = 30.0
_READ_S: Final = 10.0
_SILENCE_S: Final = 60.0
"""So long a stream of events may be silent, its signs of life included."""
_AGAIN_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Pauses before a stream is opened again; the last one from then on."""
_CHUNK: Final = 256 * 1024
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""Names of this machine."""
_BROKEN: Final = (OSError, http.client.HTTPException)
_GARBAGE: Final = (LookupError, TypeError, ValueError, OverflowError, RecursionError)

Json: TypeAlias = Mapping[str, object]


class SourceError(RuntimeError):
    """What was asked for cannot be had; the text says why, and what to do."""


class NotReachedError(SourceError):
    """Nobody answers there, or not to the end."""


class NotFoundError(SourceError):
    """There is no such flow."""


class LostError(NotFoundError):
    """There was one, and nothing of it is left to show: where it was kept is damaged."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What those who follow should know beside the flows, such as a gap."""

    text: str


class Source(Protocol):
    """Reads flows. Each method may raise SourceError."""

    def find(self, query: str, *, limit: int = 100, after: str | None = None) -> Page:
        """Flows that meet the query's text, the latest first; `after` is an earlier page's `next`."""
        ...

    def flow(self, flow_id: str) -> Flow:
        """The flow with this id; its first digits, four at least, do where no other begins so."""
        ...

    def logs(self, flow_id: str) -> Sequence[LogLine]:
        """The log lines of a flow, by time."""
        ...

    def document(self, flow_id: str, *, with_logs: bool = False) -> Json:
        """The flow as the query API writes it; its log lines, where wanted, under `logs`."""
        ...

    def endpoint(self) -> str | None:
        """Where to send flows over OTLP/HTTP, so that they can be read here; None where that is not known."""
        ...

    def follow(self, query: str) -> Iterator[Summary | Notice]:
        """Flows that meet the query's text as they settle, or grow after that. Only an error ends it."""
        ...


class ApiSource:
    """The query API at a URL. The proxies of the environment count, but not for this machine.

    Bounds: `MAX_ANSWER_BYTES` of an answer, which may take 30 s in all; 1 MiB of a live event.
    """

    def __init__(
        self, url: str = DEFAULT_SERVER, *, silence_s: float = _READ_S, us: str = "tracekit"
    ) -> None:
        """`silence_s` is how long an answer may be silent, `us` how tracekit is called.

        Raises SourceError for what is no URL.
        """
        host = _host(url)
        if not host:
            raise SourceError(f"{url!r} is no address of a server; it looks like {DEFAULT_SERVER}")
        self.url = url.rstrip("/")
        self._silence_s = silence_s
        self._us = us
        self._opener = build_opener(*([ProxyHandler({})] if host in LOOPBACK else []))

    def find(self, query: str, *, limit: int = 100, after: str | None = None) -> Page:
        asked = {"query": query, "limit": str(limit)} | ({} if after is None else {"after": after})
        found = self.get(f"/api/flows?{urlencode(asked)}")
        rows, further = found.get("flows"), found.get("next")
        if not isinstance(rows, list) or not isinstance(further, str | None):
            raise self._strange()
        return Page(tuple(self._read_by(_summary, row) for row in rows), further)

    def flow(self, flow_id: str) -> Flow:
        from tracekit.otlp import OtlpError, decode_spans  # brings protobuf with it

        known: Summary = self._read_by(lambda found: _summary(found["summary"]), self.document(flow_id))
        try:
            spans = decode_spans(self._read(f"/api/flows/{quote(known.id, safe='')}/otlp"), "json").records
        except OtlpError as error:
            raise self._strange() from error
        if not spans:
            raise SourceError(f"nothing is left of flow {known.id}: it was dropped meanwhile")
        return build_flow(spans, known.id, known=Knowledge(is_quiet=known.is_settled))

    def logs(self, flow_id: str) -> Sequence[LogLine]:
        lines = self.get(f"/api/flows/{quote(flow_id, safe='')}/logs").get("logs")
        if not isinstance(lines, list):
            raise self._strange()
        return [self._read_by(_line, line) for line in lines]

    def document(self, flow_id: str, *, with_logs: bool = False) -> Json:
        path = f"/api/flows/{quote(flow_id, safe='')}"
        found = self.get(path)
        return {**found, "logs": self.get(f"{path}/logs").get("logs")} if with_logs else found

    def endpoint(self) -> str | None:
        more = self.get("/api/status").get("more")
        found = more.get("otlp_http") if isinstance(more, dict) else None
        return found if isinstance(found, str) else None

    def follow(self, query: str) -> Iterator[Summary | Notice]:
        path = f"/api/events?{urlencode({'query': query})}"
        stream = self._open(path, _SILENCE_S)
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
        try:
            found = json.loads(self._read(path))
        except (ValueError, RecursionError) as error:
            raise self._strange() from error
        if not isinstance(found, dict):
            raise self._strange()
        return found

    def _told(self, stream: http.client.HTTPResponse) -> Generator[Summary | Notice, None, str]:
        """What a stream of events says, until it ends or breaks off; gives the id of its last event."""
        events, latest = _events(stream), ""
        while True:
            try:
                latest, name, data = next(events)
            except (*_BROKEN, StopIteration):
                return latest
            if name == "flow":
                yield self._read_by(_summary, _parsed(data))
            elif name == "lost":
                yield self._read_by(_lost, _parsed(data))

    def _open_again(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        for pause_s in chain(_AGAIN_S, repeat(_AGAIN_S[-1])):
            time.sleep(pause_s)
            with suppress(NotReachedError):
                return self._open(path, _SILENCE_S, headers)
        raise AssertionError("there is always a next try")

    def _read(self, path: str) -> bytes:
        until = time.monotonic() + _ANSWER_S
        body = bytearray()
        with closing(self._open(path, self._silence_s)) as answer:
            try:
                while piece := answer.read1(_CHUNK):
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise SourceError(
                            f"{self.url}{path} answers more than {MAX_ANSWER_BYTES >> 20} MiB; ask for less"
                        )
                    if time.monotonic() > until:
                        raise TimeoutError(f"no end within {_ANSWER_S:.0f} s")
                if answer.length:  # http.client says it only where all is read at once
                    raise http.client.IncompleteRead(bytes(body), answer.length)
            except _BROKEN as error:
                raise NotReachedError(
                    f"{self.url} broke off in the middle of an answer: {_said(error)}"
                ) from error
        return bytes(body)

    def _open(
        self, path: str, timeout_s: float, headers: Mapping[str, str] = MappingProxyType({})
    ) -> http.client.HTTPResponse:
        request = Request(self.url + path, headers={**headers})  # noqa: S310 - it is http or https
        try:
            return cast("http.client.HTTPResponse", self._opener.open(request, timeout=timeout_s))
        except HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except OSError as error:  # http.client's, where it hangs up, too
            raise self._unreached(error) from error
        except http.client.HTTPException as error:
            raise self._strange(" (no HTTP, or none that can be read)") from error

    def _unreached(self, error: OSError) -> NotReachedError:
        reason = error.reason if isinstance(error, URLError) else error
        return NotReachedError(
            f"nobody answers at {self.url} ({_said(reason)}). Start it: {self._us} serve; "
            "or say where it is: --server URL"
        )

    def _refusal(self, error: HTTPError) -> SourceError:
        """The server's own words, where it is one of ours."""
        try:
            said = json.loads(error.read(_CHUNK))["error"]
        except (*_BROKEN, *_GARBAGE):
            return self._strange(f" ({error.code} {error.reason})")
        if error.code == http.HTTPStatus.NOT_FOUND:
            return NotFoundError(str(said))
        if error.code == http.HTTPStatus.GONE:
            return LostError(str(said))
        return (NotReachedError if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR else SourceError)(
            str(said)
        )

    def _strange(self, what: str = "") -> SourceError:
        return SourceError(
            f"what answers at {self.url} is no `tracekit serve` of this version{what}; "
            "say where that is: --server URL"
        )

    def _read_by(self, reader: Callable[[Any], Any], found: object) -> Any:
        try:
            return reader(found)
        except _GARBAGE as error:
            raise self._strange() from error


def _host(url: str) -> str | None:
    """The host of a URL of HTTP; None where it is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        return None


def _events(stream: http.client.HTTPResponse) -> Iterator[tuple[str, str, str]]:
    """Last id, name and data of each Server-Sent Event. Source: the HTML standard, "Server-sent events"."""
    latest, name, data = "", "message", []
    while line := stream.readline(_MAX_EVENT_BYTES):
        if not line.endswith(b"\n"):
            raise OSError("an event that has no end")
        field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            latest = value
        elif field == "data":
            data.append(value)
        elif not field and not value:
            if data:
                yield latest, name, "\n".join(data)
            name, data = "message", []


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
    """A number, or the text of one: moments are too long for JavaScript's numbers."""
    return int(value)


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


def _said(reason: object) -> str:
    """What the system says of a failure, without its number."""
    return str(reason.strerror or reason) if isinstance(reason, OSError) else str(reason)
