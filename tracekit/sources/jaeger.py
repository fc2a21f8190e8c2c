"""Jaeger: flows read from the query API of a Jaeger that keeps the spans.

Jaeger knows traces, and the attributes of spans. A flow is there the trace of its entry, and every trace
with a span that carries the flow's id. Its storages find traces within one service only, by time or by an
attribute, so each service is asked in turn.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeGuard

from tracekit import semconv
from tracekit.collector.archive import Built, Page, summary_of
from tracekit.collector.reach import flow_spans
from tracekit.flow import Knowledge, build_flow, facts
from tracekit.flow.search import AttributeTerm, NumberTerm, matches
from tracekit.sources.jaeger_api import DEFAULT_JAEGER, JaegerApi
from tracekit.sources.jaeger_latest import AHEAD_NS, AT_ONCE, LOOKBACK_NS, MOST_TRACES, Latest
from tracekit.sources.jaeger_traces import packed
from tracekit.sources.line import may_meet, tells
from tracekit.sources.web import NotFoundError

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from tracekit.collector.archive import Summary
    from tracekit.flow import Flow
    from tracekit.flow.search import Query, Term
    from tracekit.model import Span
    from tracekit.sources.jaeger_traces import Trace, Traces

_S: Final = 1_000_000_000
_BEFORE_NS: Final = 3600 * _S
"""How long before its entry a flow's other traces may have begun, by clocks that disagree."""
_SEARCH_S: Final = 2.0
"""A page of a search is so long in the making, and a reading more."""
_IDS_S: Final = 8.0
_SETTLES_NS: Final = 3 * _S
"""Spans come at their exporters' pace: a flow is done when nothing of it ended for so long."""
_LATEST_NS: Final = 10 * _S
"""What is missing then is not expected to come."""
_MAY_COME: Final = frozenset({"parent_absent", "link_target_absent"})
"""Breaks that are none where the missing span comes after all."""
_TOLD_FIRST: Final = 200
_MAX_TOLD: Final = 10_000


class Jaeger:
    """Flows that a Jaeger has the spans of. Each method may raise SourceError, and be called by any thread.

    Bounds: lists and searches have the last 24 hours, and of these what `_MAX_BYTES` hold, packed; of a
    service at most 200 traces a reading; those of `Web`. A flow's whole id finds older ones.
    """

    def __init__(
        self, url: str = DEFAULT_JAEGER, *, option: str = "--server", now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """`option` is the one by which somebody said where it is. Raises SourceError for what is no URL."""
        self._api = JaegerApi(url, option=option)
        self.url = self._api.web.url
        self._now_ns = now_ns
        self._latest = Latest(self._api, now_ns)
        self._traces = self._latest.traces
        self._told_since_ns = 0
        self._lines: dict[str, tuple[tuple[int, bool, bool], Summary | None]] = {}

    def build(self, flow_id: str) -> Built | None:
        """The flow as it is now; None where nothing of it is known."""
        flow = self.flow(flow_id)
        return None if flow is None else Built(summary_of(flow), flow)

    def flow(self, flow_id: str) -> Flow | None:
        """The flow with this whole id; None where nothing of it is known."""
        return self._built(_Asked(self, flow_id), flow_id)

    def ids(self, begin: str) -> Sequence[str]:
        """Whole ids of the latest flows that begin so: it cannot be asked for the beginning of an id."""
        self._latest.refresh()
        until_s = time.monotonic() + _IDS_S
        while True:
            since_ns = self._latest.since_ns
            found = [id_ for id_ in self._traces.flows() if id_.startswith(begin)]
            found = [id_ for id_ in found if self._line(id_) is not None]
            if found or time.monotonic() > until_s or not self._latest.reach_back(since_ns):
                return sorted(found)

    def find(self, query: Query, limit: int, after: str | None) -> Page:
        """Flows that meet the query, the latest first. Raises ValueError for an `after` that no page gave."""
        at = _cursor(after) if after is not None else (self._now_ns() + AHEAD_NS, "")
        began_ns = max((term.value for term in query if _is_since(term)), default=0)
        tagged = self._tagged(query, began_ns)
        if tagged is not None:
            return self._found_among(tagged, query, limit, at)
        found: list[Summary] = []
        self._latest.refresh()
        until_s = time.monotonic() + _SEARCH_S
        while True:
            since_ns = self._latest.since_ns
            for start_ns, flow_id in self._listed(max(since_ns, began_ns), at):
                at = start_ns, flow_id
                if (line := self._meeting(query, flow_id)) is not None:
                    found.append(line)
                if len(found) == limit or time.monotonic() > until_s:
                    return Page(tuple(found), _after(*at))
            at = min(at, (since_ns, ""))
            if since_ns <= began_ns or not self._latest.reach_back(since_ns):
                return Page(tuple(found))
            if time.monotonic() > until_s:
                return Page(tuple(found), _after(*at))

    def _tagged(self, query: Query, began_ns: int) -> Sequence[str] | None:
        """Flows of the traces that have an attribute as the query wants it, by Jaeger's own search.

        None where it has no answer: no such term, or too many traces; or none at all, for it minds case.
        """
        term = next(
            (each for each in query if isinstance(each, AttributeTerm) and each.comparison == "="), None
        )
        if term is None:
            return None
        now_ns = self._now_ns()
        since_ns = max(began_ns - _BEFORE_NS, now_ns - LOOKBACK_NS)
        ids: set[str] = set()
        for service in self._api.services():
            try:
                found = self._api.tagged(service, term.key, term.value, since_ns, now_ns + AHEAD_NS, AT_ONCE)
            except NotFoundError:
                return None
            ids.update(found)
            if len(ids) >= AT_ONCE:
                return None
        traces = [
            self._api.web.read_by(lambda each: packed(trace_id, each), parts)  # noqa: B023
            for trace_id in ids
            if (parts := self._api.trace(trace_id))
        ]
        return [*{flow_id for trace in traces for flow_id in (*trace.begins, *trace.mentioned)}] or None

    def _found_among(self, ids: Sequence[str], query: Query, limit: int, before: tuple[int, str]) -> Page:
        """Those of these flows that meet the query, the latest first."""
        flows = [flow for flow_id in ids if (flow := self.flow(flow_id)) is not None]
        flows = [flow for flow in flows if (flow.start_ns, flow.id) < before and matches(query, flow)]
        flows.sort(key=lambda flow: (flow.start_ns, flow.id), reverse=True)
        more = _after(flows[limit - 1].start_ns, flows[limit - 1].id) if len(flows) > limit else None
        return Page(tuple(summary_of(flow) for flow in flows[:limit]), more)

    def settled(self, query: Query, known: OrderedDict[str, int]) -> Iterator[Built]:
        """Flows that are done, or grew after that, since the last call; `known` is what that one left."""
        self._latest.refresh()
        if not known:
            self._reach_some()
            self._told_since_ns = self._latest.since_ns
        self._latest.look_after()
        for end_ns, flow_id, traces in self._by_end():
            size = sum(trace.spans for trace in traces)
            if known.get(flow_id) == size or not self._is_quiet(end_ns):
                continue
            known[flow_id] = size
            known.move_to_end(flow_id)
            flow = self._kept(flow_id)
            if flow is not None and matches(query, flow):
                yield Built(summary_of(flow), flow)
        while len(known) > _MAX_TOLD:
            known.popitem(last=False)

    # -- flows of what is kept -----------------------------------------------------------------------

    def _listed(self, since_ns: int, before: tuple[int, str]) -> Sequence[tuple[int, str]]:
        """When the flows begin that began since then and stand before this place, and their ids."""
        flows = [(start_ns, flow_id) for flow_id, start_ns in self._traces.flows().items()]
        return sorted((each for each in flows if since_ns <= each[0] and each < before), reverse=True)

    def _by_end(self) -> Sequence[tuple[int, str, Sequence[Trace]]]:
        """When the flows ended that are to be told, their ids and their traces."""
        flows = ((flow_id, self._traces.of_flow(flow_id)) for flow_id in self._traces.flows())
        ended = [(max((each.end_ns for each in traces), default=0), id_, traces) for id_, traces in flows]
        return sorted((each for each in ended if each[0] >= self._told_since_ns), key=lambda each: each[:2])

    def _reach_some(self) -> None:
        """Read back until there is something to tell, for an hour at most."""
        least_ns = self._now_ns() - _BEFORE_NS
        while len(self._traces) < _TOLD_FIRST and (since_ns := self._latest.since_ns) > least_ns:
            if not self._latest.reach_back(since_ns):
                break

    def _meeting(self, query: Query, flow_id: str) -> Summary | None:
        """The flow's line, if the flow meets the query."""
        line = self._line(flow_id)
        if line is None or not may_meet(query, line):
            return None
        if tells(query):
            return line
        flow = self._kept(flow_id)
        return line if flow is not None and matches(query, flow) else None

    def _line(self, flow_id: str) -> Summary | None:
        """A flow in a line, as what is kept has it; None for what is none."""
        traces = self._traces.of_flow(flow_id)
        end_ns = max((trace.end_ns for trace in traces), default=0)
        is_settled = self._is_quiet(end_ns)
        state = sum(trace.spans for trace in traces), is_settled, self._is_quiet(end_ns, _LATEST_NS)
        known = self._lines.get(flow_id)
        if known is not None and known[0] == state:
            return known[1]
        flow, line = self._kept(flow_id), None
        if flow is not None:
            line = replace(summary_of(flow), is_settled=is_settled and not flow.open_spans)
        if len(self._lines) > 2 * len(self._traces) + MOST_TRACES:
            self._lines.clear()
        self._lines[flow_id] = state, line
        return line

    def _kept(self, flow_id: str) -> Flow | None:
        """The flow of what is kept; where its beginning is not, of what Jaeger has.

        While more may come, what is not here is no break of it.
        """
        flow = self.flow(flow_id) if self._traces.get(flow_id) is None else None
        flow = flow or self._built(_Kept(self._traces), flow_id)
        if flow is None or self._is_quiet(flow.end_ns, _LATEST_NS):
            return flow
        return replace(flow, breaks=tuple(each for each in flow.breaks if each.reason not in _MAY_COME))

    def _built(self, index: _Kept | _Asked, flow_id: str) -> Flow | None:
        from tracekit.otlp import OtlpError

        try:
            spans = flow_spans(index, flow_id)
        except OtlpError as error:
            raise self._api.web.strange() from error
        end_ns = max((span.end_ns or span.start_ns for span in spans), default=0)
        known = Knowledge(is_quiet=self._is_quiet(end_ns, _LATEST_NS))
        try:
            return build_flow(spans, flow_id, known=known)
        except ValueError:
            return None

    def _is_quiet(self, end_ns: int, for_ns: int = _SETTLES_NS) -> bool:
        return self._now_ns() - end_ns > for_ns

    # -- one flow ------------------------------------------------------------------------------------

    def trace(self, trace_id: str) -> Sequence[Span]:
        """The spans of a trace; none where it has no such trace."""
        parts = self._api.trace(trace_id)
        return self._unpacked(trace_id, parts) if parts else ()

    def carrying(self, flow_id: str, since_ns: int) -> Mapping[str, Sequence[Span]]:
        """The spans of all traces in which one carries this flow's id, by trace."""
        until_ns = self._now_ns() + AHEAD_NS
        asked = semconv.FLOW_ID, flow_id, since_ns, until_ns, MOST_TRACES
        found: dict[str, Sequence[Span]] = {}
        ids = {trace.id for trace in self._traces.of_flow(flow_id)}
        for service in self._api.services():
            try:
                ids.update(self._api.tagged(service, *asked))
            except NotFoundError:  # it has no API of its own page; then that of version 3 filters
                wanted = {semconv.FLOW_ID: flow_id}
                for trace_id, parts in self._api.traces(
                    service, since_ns, until_ns, MOST_TRACES, wanted
                ).items():
                    spans = self._unpacked(trace_id, parts)
                    if any(facts.flow_id(span) == flow_id for span in spans):
                        found[trace_id] = spans
        return found | {trace_id: self.trace(trace_id) for trace_id in sorted(ids - found.keys())}

    def _unpacked(self, trace_id: str, parts: Sequence[Any]) -> Sequence[Span]:
        from tracekit.otlp import OtlpError

        trace = self._api.web.read_by(lambda each: packed(trace_id, each), parts)
        try:
            return trace.unpacked()  # type: ignore[no-any-return]  # it is what `packed` gives
        except OtlpError as error:
            raise self._api.web.strange() from error


class _Kept:
    """What `reach` needs, of the traces that are kept; each unpacked once."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._unpacked: dict[str, Sequence[Span]] = {}

    def trace(self, trace_id: str) -> Sequence[Span]:
        found = self._traces.get(trace_id)
        return () if found is None else self._spans(found)

    def linking(self, trace_id: str) -> Sequence[Span]:
        spans = chain.from_iterable(map(self._spans, self._traces.linking(trace_id)))
        return [span for span in spans if any(link.trace_id == trace_id for link in span.links)]

    def carrying(self, flow_id: str) -> Sequence[Span]:
        return [
            span
            for span in chain.from_iterable(map(self._spans, self._traces.of_flow(flow_id)))
            if flow_id == facts.flow_id(span) or any(flow_id == facts.flow_id(link) for link in span.links)
        ]

    def _spans(self, trace: Trace) -> Sequence[Span]:
        if trace.id not in self._unpacked:
            self._unpacked[trace.id] = trace.unpacked()
        return self._unpacked[trace.id]


class _Asked:
    """What `reach` needs: the spans that Jaeger has of one flow, each answer kept."""

    def __init__(self, jaeger: Jaeger, flow_id: str) -> None:
        self._jaeger = jaeger
        self._loaded: dict[str, Sequence[Span]] = {}
        self._flow_id = flow_id

    def trace(self, trace_id: str) -> Sequence[Span]:
        if trace_id not in self._loaded:
            self._loaded[trace_id] = self._jaeger.trace(trace_id)
        return self._loaded[trace_id]

    def linking(self, trace_id: str) -> Sequence[Span]:
        """Among what was loaded: a link cannot be asked for, but who follows one carries the flow's id."""
        spans = chain.from_iterable(self._loaded.values())
        return [span for span in spans if any(link.trace_id == trace_id for link in span.links)]

    def carrying(self, flow_id: str) -> Sequence[Span]:
        own = self.trace(flow_id)
        since_ns = min(span.start_ns for span in own) - _BEFORE_NS if own else time.time_ns() - LOOKBACK_NS
        found = self._jaeger.carrying(flow_id, since_ns)
        for trace_id, spans in found.items():
            self._loaded.setdefault(trace_id, spans)
        return [
            span
            for span in chain.from_iterable(self._loaded.values())
            if flow_id == facts.flow_id(span) or any(flow_id == facts.flow_id(link) for link in span.links)
        ]


def _is_since(term: Term) -> TypeGuard[NumberTerm]:
    return isinstance(term, NumberTerm) and term.field == "started" and term.comparison in (">", ">=", "=")


def _after(start_ns: int, flow_id: str) -> str:
    return f"{start_ns}-{flow_id}"


def _cursor(after: str) -> tuple[int, str]:
    start, _, id_ = after.partition("-")
    return int(start), id_
