"""Archive: a store that can be searched, as the query API and the viewer see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tracekit.collector.store import Store
from tracekit.flow import facts
from tracekit.flow.search import destinations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracekit.collector.history import MetricHistory
    from tracekit.flow import Flow
    from tracekit.flow.search import Query
    from tracekit.model import LogLine


@dataclass(frozen=True, slots=True)
class Summary:
    """A flow in one line. Times in ns.

    Under a load at which flows cannot be built as fast as they come, a summary says what ingest alone
    knows, and `is_analysed` is False: then `spans` counts reports, and `waited_ns`, `retries`,
    `duplicates`, `destinations` and `breaks` are empty. Asking for the flow itself builds it.
    `is_settled`: nothing came for a while, and no span is open.
    """

    id: str
    name: str
    service: str
    start_ns: int
    response_ns: int | None
    completion_ns: int
    waited_ns: int = 0
    status: int | None = None
    spans: int = 0
    errors: int = 0
    open_spans: int = 0
    retries: int = 0
    duplicates: int = 0
    services: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    is_settled: bool = False
    is_analysed: bool = False


def summary_of(flow: Flow) -> Summary:
    """A built flow in a line."""
    return Summary(
        id=flow.id,
        name=flow.name,
        service=flow.entry.service.name,
        start_ns=flow.start_ns,
        response_ns=flow.response_ns,
        completion_ns=flow.completion_ns,
        waited_ns=flow.waited_ns,
        status=facts.http_status(flow.entry),
        spans=len(flow.spans),
        errors=len(flow.errors),
        open_spans=len(flow.open_spans),
        retries=flow.retries,
        duplicates=flow.duplicates,
        services=flow.services,
        destinations=destinations(flow),
        breaks=tuple(dict.fromkeys(each.reason for each in flow.breaks)),
        is_settled=not flow.open_spans,
        is_analysed=True,
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Some flows, the latest first.

    `next` is where to go on, None at the end. A page may be short, even empty, though there is more: a
    search looks at so many flows at a time.
    """

    flows: tuple[Summary, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What the archive holds: flows, bytes on disk and their cap, the oldest moment, and what went wrong.

    `troubles` are sentences for people: a damaged segment, a full disk. `unanalysed` counts the flows that
    were not built yet.
    """

    flows: int
    bytes: int
    max_bytes: int
    oldest_ns: int | None
    unanalysed: int
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """A flow that was built, and its line.

    `unread` counts the requests that mention it and cannot be read, for their segment is damaged or its disk
    fails: the flow has nothing of them, while its line says what was known of the whole.
    """

    summary: Summary
    flow: Flow
    unread: int = 0


class LostError(LookupError):
    """A flow that came, and of which nothing is left to show: its segment is damaged."""


class Watcher(Protocol):
    """Who is told of flows. Called from any thread, and must return at once."""

    def __call__(self, built: Sequence[Built], /) -> None: ...


class Archive(Store, Protocol):
    """A store that keeps flows for long, and finds them again. Any method may be called from any thread."""

    @property
    def metric_history(self) -> MetricHistory:
        """The metrics, in memory; `metrics` gives the latest of it."""
        ...

    def find(self, query: Query, *, limit: int = 100, after: str | None = None) -> Page:
        """Flows that meet the query, by their start, the latest first; `after` is an earlier page's `next`.

        Raises ValueError for an `after` that no page gave.
        """
        ...

    def ids(self, prefix: str) -> Sequence[str]:
        """Ids of flows that begin so (hex digits), ten at most."""
        ...

    def build(self, flow_id: str) -> Built | None:
        """The flow as it is now; None where nothing of it is known. Of too many spans the first are taken.

        Raises LostError where all of it is lost, OSError where it cannot be read now.
        """
        ...

    def flow_logs(self, flow_id: str) -> Sequence[LogLine]:
        """The log lines written in a flow's traces, by time; of too many the first."""
        ...

    def watch(self, watcher: Watcher) -> None:
        """Tell the watcher of flows that were built: when they settle, and when they grow after that."""
        ...

    def unwatch(self, watcher: Watcher) -> None: ...

    def held(self) -> Held: ...
