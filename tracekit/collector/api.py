"""Api: the query API over HTTP, as an ASGI application. What it offers, `openapi` has as a table.

A router, not the class `Starlette`: other people's instrumentation puts a traced one in its place.

For reading only: GET and HEAD. No CORS, so no page of another origin reads an answer; where its browser says
that a page of another site asks, there is none. The Host header is checked, against names that are made to
point at loopback; and what an answer holds is never run, whatever it looks like.

An archive may read from disk, so it is asked in threads. Cheap questions (how it is, the latest flows) have
turns of their own, lest they wait behind searches and large flows. Bounds, for both kinds: `MAX_UNDER_WAY`
questions at a time, more get a 503; `MAX_AT_ONCE` of them are being answered, lest they take all turns from
what comes in. Nobody waits for an answer that nobody waits for: not the end of the server either. Each answer
is as large as the table says, OTLP JSON `MAX_OTLP_SPANS` spans and about `MAX_OTLP_BYTES`, the page of a flow
`MAX_PAGE_LINES` lines. For watchers see `live`.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.routing import Route, Router

from tracekit.collector import overviews, size, views
from tracekit.collector.app import LOOPBACK
from tracekit.collector.archive import LostError
from tracekit.collector.listener import SENDS_NO_MORE
from tracekit.collector.live import HEARTBEAT, Live, TooManyError, Watcher, encoded, status_event
from tracekit.collector.openapi import FLOW_PAGE, OPERATIONS, ParameterError, document, read
from tracekit.collector.reach import flows_of, several_flows
from tracekit.collector.traffic import Traffic
from tracekit.collector.turns import FullError, Turns
from tracekit.flow import render
from tracekit.flow.search import SearchError, parse
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from tracekit.collector.archive import Archive, Built
    from tracekit.collector.cut import Json, Object
    from tracekit.collector.openapi import Operation
    from tracekit.flow.search import Query

MAX_UNDER_WAY: Final = 64
MAX_AT_ONCE: Final = 2
MAX_OTLP_SPANS: Final = 10_000
MAX_OTLP_BYTES: Final = 32 * 1024 * 1024
MAX_PAGE_LINES: Final = 2_000
_PAGE_WIDTH: Final = 120
_MAX_PARAMETERS: Final = 20
_MAX_PAGE_TRACES: Final = 20
_DEAR: Final = frozenset({"flow", "flow_logs", "flow_otlp", "flow_page"})  # and a search
_WHOLE_ID: Final = 32
_EVENTS: Final = "text/event-stream"
_PORT: Final = re.compile(r":\d+$")


_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_WELCOME: Final = """\
tracekit collects here, and answers for the flows that it keeps. There is no page to look at yet.

In a terminal:  tracekit flows       the latest, or those that meet a query
                tracekit flow ID     one as a tree
                tracekit tail        each as it is done
In a browser:   /flow/ID             the same tree; the id of any of its traces does
As JSON:        /api/flows           /api/openapi.json describes all there is
"""
_Given: TypeAlias = "Mapping[str, str | int]"
_BROKEN: Final = (OSError, sqlite3.Error)
_LOST: Final = (
    "flow {} came, and is lost: its spans were in a part of a segment that is damaged; "
    "/api/status tells what was found damaged"
)


def create_api(
    archive: Archive,
    hosts: Collection[str] | None = LOOPBACK,
    *,
    now_ns: Callable[[], int] = time.time_ns,
    more: Callable[[], Mapping[str, Json]] = dict,
    troubles: Callable[[], Sequence[str]] = tuple,
    jaeger: str = "",
) -> ASGIApp:
    """The application; it watches the archive from now on.

    `hosts` are the names by which it may be called; None: by any. `more` is what the status says beside
    the archive, `troubles` what goes wrong beside it; both are called in a thread. `jaeger` is where a
    person sees the traces in Jaeger, "" for nowhere.
    """
    api = _Api(archive, now_ns, more, troubles, jaeger.rstrip("/"))
    routes = [
        Route(operation.path, api.endpoint(operation), methods=["GET"])
        for operation in (*OPERATIONS, FLOW_PAGE)
    ]
    router = Router(
        [Route("/", Response(_WELCOME, media_type="text/plain", headers=_HEADERS)), *routes],
        redirect_slashes=False,
        default=_refusal(404, "there is nothing here; /api/openapi.json has all there is"),
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = router
        if scope["type"] == "http":
            if hosts is not None and _PORT.sub("", _header(scope, b"host").lower()) not in hosts:
                answer = _refusal(403, f"call this collector as one of {', '.join(sorted(hosts))}")
            elif (
                _header(scope, b"sec-fetch-site") == "cross-site"
                and _header(scope, b"sec-fetch-mode") != "navigate"
            ):
                answer = _refusal(403, "pages of other sites are not answered")
            elif scope["method"] not in ("GET", "HEAD"):
                answer = _refusal(405, "this API is for reading: use GET", allow="GET, HEAD")
        await answer(scope, receive, send)

    return app


def _header(scope: Scope, name: bytes) -> str:
    """All values that it was given."""
    return b",".join(value for known, value in scope["headers"] if known == name).decode("latin-1")


class _RefusalError(Exception):
    """A question that has no answer: the status, and a sentence that says why and what to do."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Api:
    def __init__(
        self,
        archive: Archive,
        now_ns: Callable[[], int],
        more: Callable[[], Mapping[str, Json]],
        troubles: Callable[[], Sequence[str]],
        jaeger: str,
    ) -> None:
        self._archive = archive
        self._jaeger = jaeger
        self._now_ns = now_ns
        self._more = more
        self._troubles = troubles
        self._version = version("tracekit")
        self._traffic = Traffic(now_ns)
        self._live = Live(self._status_event)
        self._cheap: Turns[Response] = Turns(MAX_AT_ONCE, MAX_UNDER_WAY)
        self._dear: Turns[Response] = Turns(MAX_AT_ONCE, MAX_UNDER_WAY)
        self._answers: Mapping[str, Callable[[_Given], Response]] = {
            "flows": self._flows,
            "flow": self._flow,
            "flow_logs": self._flow_logs,
            "flow_otlp": self._flow_otlp,
            "flow_page": self._flow_page,
            "services": lambda _: _json(overviews.services(self._traffic.seen())),
            "destinations": lambda _: _json(overviews.destinations(self._traffic.seen())),
            "metrics": self._metrics,
            "status": lambda _: _json(self._status()),
            "openapi": lambda _: _json(document(self._version)),
        }
        archive.watch(self._traffic)
        archive.watch(self._live)

    def endpoint(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """What answers a request for this operation."""

        async def endpoint(request: Request) -> Response:
            try:
                given = read(operation, request.path_params, _query_of(request))
                if operation.name == "events":
                    return self._events(request, given)
                return await self._asked(request, operation, given)
            except (ParameterError, SearchError) as error:
                return _refusal(400, str(error))
            except LostError as error:
                return _refusal(410, _LOST.format(error))
            except _RefusalError as error:
                return _refusal(error.status, str(error))
            except _BROKEN as error:
                return _refusal(503, f"what is kept cannot be read: {error}; /api/status may tell more")

        return endpoint

    async def _asked(self, request: Request, operation: Operation, given: _Given) -> Response:
        """The answer, found in a thread."""
        is_late = False

        def answer() -> Response:
            if is_late and request.scope.get("state", {}).get(SENDS_NO_MORE):
                raise _RefusalError(503, "it took a while, and nobody seemed to wait any more; ask again")
            return self._answers[operation.name](given)

        is_dear = operation.name in _DEAR or bool(given.get("query"))
        try:
            asked = (self._dear if is_dear else self._cheap).ask(answer)
        except FullError:
            raise _RefusalError(503, f"{MAX_UNDER_WAY} questions are under way already; ask again") from None
        is_late = not asked.running()
        found = asyncio.wrap_future(asked)
        gone = asyncio.create_task(_gone(request.receive))
        try:
            await asyncio.wait((found, gone), return_when=asyncio.FIRST_COMPLETED)
            return found.result() if found.done() else Response(status_code=400)  # that nobody reads
        finally:
            found.cancel()
            gone.cancel()

    def _query(self, given: _Given) -> Query:
        return parse(str(given["query"]), now_ns=self._now_ns())

    def _flows(self, given: _Given) -> Response:
        query, after = self._query(given), str(given["after"]) or None
        try:
            page = self._archive.find(query, limit=int(given["limit"]), after=after)
        except ValueError:
            raise _RefusalError(400, "no page gave this `after`: pass its `next`, or leave it out") from None
        return _json(views.page(page))

    def _flow(self, given: _Given) -> Response:
        return _json(views.flow(self._built(given)))

    def _flow_logs(self, given: _Given) -> Response:
        flow_id = self._flow_id(given)
        lines = self._archive.flow_logs(flow_id)
        if not lines and self._archive.build(flow_id) is None:
            lines = self._archive.flow_logs(self._of_trace(flow_id))
        return _json(views.logs(lines))

    def _flow_page(self, given: _Given) -> Response:
        """The flow as `tracekit flow` draws it, for who comes by a link: until there is a viewer."""
        built = self._built(given)
        rows = render(built.flow, width=_PAGE_WIDTH).split("\n")
        if left_out := len(rows) - MAX_PAGE_LINES:
            rows[MAX_PAGE_LINES:] = [f"… {left_out} lines more"] if left_out > 0 else []
        if built.unread:
            rows.append(f"\n✕ incomplete: {built.unread} requests with spans of it cannot be read")
        rows.append(f"\n/api/flows/{built.flow.id} has it as JSON, and its log lines at …/logs")
        if self._jaeger:
            traces = dict.fromkeys(span.trace_id for span in built.flow.spans)
            rows += [f"{self._jaeger}/trace/{each}" for each in islice(traces, _MAX_PAGE_TRACES)]
        return _text("\n".join(rows) + "\n")

    def _flow_otlp(self, given: _Given) -> Response:
        spans, taken = self._built(given).flow.spans, 0
        room = MAX_OTLP_BYTES
        for span in spans[:MAX_OTLP_SPANS]:
            room -= size.of_span(span)
            if room < 0 and taken:
                break
            taken += 1
        answer = Response(
            encode_spans(spans[:taken], "json"), media_type="application/json", headers=_HEADERS
        )
        answer.headers["tracekit-omitted-spans"] = str(len(spans) - taken)
        return answer

    def _built(self, given: _Given) -> Built:
        flow_id = self._flow_id(given)
        built = self._archive.build(flow_id) or self._archive.build(self._of_trace(flow_id))
        if built is None:
            raise _no_such_flow(flow_id)
        return built

    def _of_trace(self, trace_id: str) -> str:
        """The id of the flow that a trace is of. Raises _RefusalError where it is of none, or of several."""
        found = flows_of(self._archive.trace(trace_id))
        if len(found) > 1:
            raise _RefusalError(409, several_flows(trace_id, found))
        if not found:
            raise _no_such_flow(trace_id)
        return found[0]

    def _flow_id(self, given: _Given) -> str:
        """The whole id. Raises _RefusalError where there is none that begins so, or several."""
        begin = str(given["flow_id"]).lower()
        if len(begin) == _WHOLE_ID:
            return begin
        found = self._archive.ids(begin)
        if len(found) > 1:
            raise _RefusalError(
                409, f"several flows begin with {begin}: {', '.join(found)}; give more of its digits"
            )
        if not found:
            raise _no_such_flow(begin)
        return found[0]

    def _metrics(self, given: _Given) -> Response:
        name, service = str(given["name"]), str(given["service"])
        known = self._archive.metric_history
        found = known.history(name) if name else known.latest()
        return _json(overviews.metrics(each for each in found if service in ("", each.service.name)))

    def _status(self) -> Object:
        held = self._archive.held()
        return overviews.status(
            version=self._version,
            held=replace(held, troubles=(*held.troubles, *self._troubles())),
            counts=self._archive.counts(),
            watchers=self._live.watchers,
            more=self._more(),
        )

    async def _status_event(self) -> bytes:
        try:
            return status_event(await asyncio.to_thread(self._status))
        except _BROKEN:
            return HEARTBEAT  # who asks for the status is told why

    def _events(self, request: Request, given: _Given) -> Response:
        if request.method == "HEAD":
            return Response(media_type=_EVENTS, headers=_HEADERS)
        last = request.headers.get("last-event-id", "")
        since = int(last) if re.fullmatch("[0-9]{1,18}", last) else None
        try:
            return _Stream(self._live, self._live.enter(self._query(given), since))
        except TooManyError as error:
            raise _RefusalError(503, str(error)) from None


class _Stream(Response):
    """What a watcher is told, until it goes, or closes its side: a browser does not before it goes."""

    media_type = _EVENTS

    def __init__(self, live: Live, watcher: Watcher) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._live = live
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_sends_no_more(receive, scope.get("state", {})))
        gone.add_done_callback(lambda _: self._watcher.close())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not self._watcher.is_closed:
                text = await self._watcher.unread()
                await send({"type": "http.response.body", "body": text, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            self._live.leave(self._watcher)
            gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _sends_no_more(receive: Receive, state: Mapping[str, object]) -> None:
    while (await receive())["type"] != "http.disconnect" and not state.get(SENDS_NO_MORE):
        pass


def _query_of(request: Request) -> list[tuple[str, str]]:
    try:
        return parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise ParameterError(f"more than {_MAX_PARAMETERS} parameters") from None


def _no_such_flow(begin: str) -> _RefusalError:
    return _RefusalError(
        404,
        f"no flow is called {begin}, and no trace of one: it never came, or was dropped to make room; "
        "/api/flows lists those kept",
    )


def _json(found: Mapping[str, object], status: int = 200) -> Response:
    return Response(encoded(found), status, media_type="application/json", headers=_HEADERS)


def _text(text: str) -> Response:
    return Response(text, media_type="text/plain", headers=_HEADERS)


def _refusal(status: int, sentence: str, **headers: str) -> Response:
    answer = _json({"error": sentence}, status)
    if status == 503:
        answer.headers["retry-after"] = "1"
    answer.headers.update(headers)
    return answer
