"""JaegerSource: a Jaeger as a source of flows, for the commands."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from tracekit.collector.archive import Built, summary_of
from tracekit.collector.reach import flows_of, several_flows
from tracekit.flow.search import parse
from tracekit.sources.jaeger import Jaeger
from tracekit.sources.jaeger_api import DEFAULT_JAEGER, ID_DIGITS
from tracekit.sources.web import NotFoundError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.collector.archive import Page, Summary
    from tracekit.flow import Flow
    from tracekit.model import LogLine
    from tracekit.sources.source import Notice
    from tracekit.sources.web import Json

_POLL_S: Final = 2.0


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
        whole = self._whole(flow_id)
        found = self._jaeger.flow(whole)
        if found is None:
            found = self._of_trace(whole)
        return found

    def logs(self, flow_id: str) -> Sequence[LogLine]:
        return ()

    def document(self, flow_id: str, *, with_logs: bool = False) -> Json:
        from tracekit.collector import views

        flow = self.flow(flow_id)
        found = views.flow(Built(summary_of(flow), flow))
        return {**found, **({"logs": []} if with_logs else {})}

    def endpoint(self) -> str | None:
        return None

    def jaeger(self) -> str | None:
        return self.url

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

    def _of_trace(self, trace_id: str) -> Flow:
        """The flow that a trace is part of."""
        ids = flows_of(self._jaeger.trace(trace_id))
        if len(ids) > 1:
            raise SourceError(several_flows(trace_id, ids))
        found = self._jaeger.flow(ids[0]) if ids else None
        if found is None:
            raise NotFoundError(f"{self.url} has no flow {trace_id}, and no trace of one that is called so")
        return found

    def _whole(self, flow_id: str) -> str:
        begin = flow_id.lower()
        if len(begin) == ID_DIGITS:
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
