"""The source: what flows can be read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.collector.archive import Page, Summary
    from tracekit.flow import Flow
    from tracekit.model import LogLine
    from tracekit.sources.web import Json


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

    def jaeger(self) -> str | None:
        """The Jaeger that has the spans of its flows; None where it keeps them itself."""
        ...

    def follow(self, query: str) -> Iterator[Summary | Notice]:
        """Flows that meet the query's text as they settle, or grow after that. Only an error ends it."""
        ...
