"""Jaeger: flows read from the query API of a Jaeger that keeps the spans (API v3).

Jaeger knows traces, and the attributes of spans. A flow is there the trace of its entry, and every trace
with a span that carries the flow's id. Most of its storages find a span by an attribute within one service
only, so each service is asked in turn.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from tracekit import semconv
from tracekit.collector.archive import Built, Page, summary_of
from tracekit.collector.reach import flow_spans
from tracekit.flow import Knowledge, build_flow, build_flows, facts
from tracekit.flow.search import TextTerm, matches, parse
from tracekit.sources.web import NotFoundError, SourceError, Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tracekit.collector.archive import Summary
    from tracekit.flow import Flow
    from tracekit.flow.search import Query
    from tracekit.model import LogLine, Span
    from tracekit.sources.source import Notice
    from tracekit.sources.web import Json

DEFAULT_JAEGER: Final = "http://127.0.0.1:16686"

_LOOKBACK_NS: Final = 24 * 3600 * 1_000_000_000
"""So far back a list goes, and a search for a flow whose own trace says nothing of when it was."""
_BEFORE_NS: Final = 3600 * 1_000_000_000
"""How long before its entry a flow's other traces may have begun, by clocks that disagree."""
_TRACES: Final = 200
"""So many traces of a service are asked for at once; Jaeger gives the latest."""
_SETTLES_NS: Final = 3_000_000_000
"""Spans come at their exporters' pace: a flow is done when nothing of it ended for so long."""
_POLL_S: Final = 2.0
_MAX_TOLD: Final = 10_000
_ID_DIGITS: Final = 32


class Jaeger:
    """Flows that a Jaeger has the spans of. Each method may raise SourceError.

    Bounds: of a service the latest 200 traces at a time, of the last 24 hours; those of `Web`.
    """

    def __init__(
        self, url: str = DEFAULT_JAEGER, *, option: str = "--server", now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """`option` is the one by which somebody said where it is. Raises SourceError for what is no URL."""
        self._web = Web(
            url,
            default=DEFAULT_JAEGER,
            what="Jaeger with its query API",
            start="a Jaeger, of version 2",
            option=option,
        )
        self.url = self._web.url
        self._now_ns = now_ns

    def services(self) -> Sequence[str]:
        """The services that it has spans of."""
        try:
            found = self._web.json("/api/v3/services").get("services", [])  # an empty list it leaves out
        except NotFoundError as error:
            raise self._web.strange() from error
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self._web.strange()
        return sorted(found)

    def build(self, flow_id: str) -> Built | None:
        """The flow as it is now; None where nothing of it is known."""
        flow = self.flow(flow_id)
        return None if flow is None else Built(summary_of(flow), flow)

    def flow(self, flow_id: str) -> Flow | None:
        """The flow with this whole id; None where nothing of it is known."""
        spans = flow_spans(_Reached(self, flow_id), flow_id)
        try:
            return build_flow(spans, flow_id, known=Knowledge(is_quiet=self._is_quiet(spans)))
        except ValueError:
            return None

    def ids(self, begin: str) -> Sequence[str]:
        """Whole ids of the latest flows that begin so: it cannot be asked for the beginning of an id."""
        flows = self._latest(self.services(), self._now_ns())
        return sorted({flow.id for flow in flows if flow.id.startswith(begin)})

    def find(self, query: Query, limit: int, after: str | None) -> Page:
        """Flows that meet the query, the latest first. Raises ValueError for an `after` that no page gave."""
        until, last_id = _cursor(after) if after is not None else (self._now_ns(), "")
        named = [term.value for term in query if isinstance(term, TextTerm) and _names_service(term)]
        flows = self._latest(named[:1] or self.services(), until)
        older = [flow for flow in flows if after is None or (flow.start_ns, flow.id) < (until, last_id)]
        older.sort(key=lambda flow: (flow.start_ns, flow.id), reverse=True)
        meeting = [flow for flow in older if matches(query, flow)]
        page = tuple(summary_of(flow) for flow in meeting[:limit])
        if len(meeting) > limit:
            return Page(page, _after(meeting[limit - 1]))
        # Where as many came as were asked for, there may be more before them.
        return Page(page, _after(older[-1]) if len(older) >= _TRACES else None)

    def settled(self, query: Query, known: OrderedDict[str, int]) -> Iterator[Built]:
        """Flows that are done, or grew after that, since the last call; `known` is what that one left."""
        for flow in sorted(self._latest(self.services(), self._now_ns()), key=lambda each: each.end_ns):
            size = len(flow.spans)
            if known.get(flow.id) == size or not self._is_quiet(flow.spans):
                continue
            known[flow.id] = size
            known.move_to_end(flow.id)
            if matches(query, flow):
                yield Built(summary_of(flow), flow)
        while len(known) > _MAX_TOLD:
            known.popitem(last=False)

    # -- what Jaeger is asked ------------------------------------------------------------------------

    def trace(self, trace_id: str) -> Sequence[Span]:
        """The spans of a trace; none where it has no such trace."""
        return self._spans(f"/api/v3/traces/{quote(trace_id, safe='')}?raw_traces=true")

    def carrying(self, flow_id: str, since_ns: int) -> Sequence[Span]:
        """The spans of all traces in which one carries this flow's id."""
        found: dict[str, list[Span]] = {}
        for service in self.services():
            told: dict[str, list[Span]] = {}
            for span in self._of(service, since_ns, self._now_ns(), {semconv.FLOW_ID: flow_id}):
                told.setdefault(span.trace_id, []).append(span)
            if all(any(facts.flow_id(span) == flow_id for span in spans) for spans in told.values()):
                found |= told
                continue
            # Jaeger 2.13 passes over this condition, and answers with the latest traces. The API of its own
            # page knows it.
            for trace_id in self._by_tag(service, flow_id, since_ns):
                if trace_id not in found:
                    found[trace_id] = [*self.trace(trace_id)]
        return [*chain.from_iterable(found.values())]

    def _latest(self, services: Iterable[str], until_ns: int) -> tuple[Flow, ...]:
        since_ns = until_ns - _LOOKBACK_NS
        spans = chain.from_iterable(self._of(service, since_ns, until_ns) for service in services)
        once = {(span.trace_id, span.span_id, span.service.name): span for span in spans}
        return build_flows(once.values())

    def _of(
        self, service: str, since_ns: int, until_ns: int, attributes: Mapping[str, str] | None = None
    ) -> Sequence[Span]:
        """The spans of the latest traces in which a service has a part."""
        asked = {
            "query.service_name": service,
            "query.start_time_min": _moment(since_ns),
            "query.start_time_max": _moment(until_ns),
            "query.num_traces": str(_TRACES),
            # As they came: else Jaeger moves spans to where clocks might agree, and gives some another id.
            "query.raw_traces": "true",
            **({"query.attributes": json.dumps(attributes)} if attributes else {}),
        }
        return self._spans(f"/api/v3/traces?{urlencode(asked)}")

    def _by_tag(self, service: str, flow_id: str, since_ns: int) -> Sequence[str]:
        asked = {
            "service": service,
            "tags": json.dumps({semconv.FLOW_ID: flow_id}),
            "start": str(since_ns // 1000),
            "end": str(self._now_ns() // 1000),
            "limit": str(_TRACES),
        }
        found = self._web.json(f"/api/traces?{urlencode(asked)}").get("data")
        return self._web.read_by(  # type: ignore[no-any-return]  # what was read is a list of texts
            lambda traces: [str(trace["traceID"]).zfill(_ID_DIGITS) for trace in traces or ()], found
        )

    def _spans(self, path: str) -> Sequence[Span]:
        """The spans of an answer: one object or several, each with OTLP's JSON as its `result`."""
        from tracekit.otlp import OtlpError, decode_spans  # brings protobuf with it

        found: list[Span] = []
        try:
            for part in self._web.objects(path):
                body = json.dumps(part.get("result"))
                found += decode_spans(body.encode(), "json").records
        except NotFoundError:
            return ()
        except OtlpError as error:
            raise self._web.strange() from error
        return found

    def _is_quiet(self, spans: Iterable[Span]) -> bool:
        ends = [span.end_ns or span.start_ns for span in spans]
        return not ends or self._now_ns() - max(ends) > _SETTLES_NS


class JaegerSource:
    """A Jaeger as a source. It has no log lines."""

    def __init__(self, url: str = DEFAULT_JAEGER) -> None:
        """Raises SourceError for what is no URL."""
        self._jaeger = Jaeger(url)
        self.url = self._jaeger.url

    def find(self, query: str, *, limit: int = 100, after: str | None = None) -> Page:
        try:
            return self._jaeger.find(parse(query, now_ns=time.time_ns()), limit, after)
        except ValueError as error:  # SearchError, and a wrong `after`
            raise SourceError(str(error)) from error

    def flow(self, flow_id: str) -> Flow:
        found = self._jaeger.flow(self._whole(flow_id))
        if found is None:
            raise NotFoundError(f"{self.url} has no flow {flow_id}")
        return found

    def logs(self, flow_id: str) -> Sequence[LogLine]:
        return ()

    def document(self, flow_id: str, *, with_logs: bool = False) -> Json:
        from tracekit.collector import views

        built = self._jaeger.build(self._whole(flow_id))
        if built is None:
            raise NotFoundError(f"{self.url} has no flow {flow_id}")
        return {**views.flow(built), **({"logs": []} if with_logs else {})}

    def endpoint(self) -> str | None:
        return None

    def follow(self, query: str) -> Iterator[Summary | Notice]:
        try:
            terms = parse(query, now_ns=time.time_ns())
        except ValueError as error:
            raise SourceError(str(error)) from error
        known: OrderedDict[str, int] = OrderedDict()
        for _ in self._jaeger.settled(terms, known):
            pass  # what is there already was done before
        while True:
            time.sleep(_POLL_S)
            for built in self._jaeger.settled(terms, known):
                yield built.summary

    def _whole(self, flow_id: str) -> str:
        begin = flow_id.lower()
        if len(begin) == _ID_DIGITS:
            return begin
        found = self._jaeger.ids(begin)
        if len(found) > 1:
            raise SourceError(f"several flows begin with {begin}: {', '.join(found[:10])}; give more digits")
        if not found:
            raise NotFoundError(
                f"none of the latest flows in {self.url} begins with {begin}; Jaeger finds older ones by "
                "their whole id"
            )
        return found[0]


class _Reached:
    """What `reach` needs: the spans that Jaeger has of one flow, each answer kept."""

    def __init__(self, jaeger: Jaeger, flow_id: str) -> None:
        self._jaeger = jaeger
        self._loaded: dict[str, Sequence[Span]] = {}
        self._flow_id = flow_id
        self.carrying = lru_cache(maxsize=None)(self._carrying)

    def trace(self, trace_id: str) -> Sequence[Span]:
        if trace_id not in self._loaded:
            self._loaded[trace_id] = self._jaeger.trace(trace_id)
        return self._loaded[trace_id]

    def linking(self, trace_id: str) -> Sequence[Span]:
        """Among what was loaded: a link cannot be asked for, but who follows one carries the flow's id."""
        return [
            span
            for spans in self._loaded.values()
            for span in spans
            if any(link.trace_id == trace_id for link in span.links)
        ]

    def _carrying(self, flow_id: str) -> Sequence[Span]:
        own = self.trace(flow_id)
        since_ns = min(span.start_ns for span in own) - _BEFORE_NS if own else time.time_ns() - _LOOKBACK_NS
        found = self._jaeger.carrying(flow_id, since_ns)
        for span in found:
            if span.trace_id not in self._loaded:
                self._loaded[span.trace_id] = [each for each in found if each.trace_id == span.trace_id]
        return [span for span in found if facts.flow_id(span) == flow_id]


def _names_service(term: TextTerm) -> bool:
    return term.field == "service" and term.comparison == "="


def _moment(ns: int) -> str:
    """As RFC 3339 writes it."""
    return datetime.fromtimestamp(max(ns, 0) // 1000 / 1_000_000, UTC).isoformat()


def _after(flow: Flow) -> str:
    return f"{flow.start_ns}-{flow.id}"


def _cursor(after: str) -> tuple[int, str]:
    start, _, id_ = after.partition("-")
    return int(start), id_
