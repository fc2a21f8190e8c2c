"""Watches the flows of placed orders: one is done when all that it must have is there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracekit.flow import Knowledge, build_flow
from tracekit.model import Kind
from tracekit_demo.expected import missing, strays, surplus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracekit.collector.store import Store
    from tracekit.flow import Flow
    from tracekit.model import Span
    from tracekit_demo.scenarios import Scenario

QUIET_S: Final = 0.5
"""So long nothing may come before flows count as settled; services export every 0.2 s."""
_LOOK_S: Final = 0.1

PATIENCE_S: Final = 15.0


@dataclass(slots=True)
class Watched:
    """An order that was placed, and what is known of its flow."""

    number: int
    scenario: Scenario
    flow_id: str
    status: int
    placed_at_s: float
    flow: Flow | None = None

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with it, in words; empty if the flow is what it must be."""
        scenario = self.scenario
        found = []
        if self.status != scenario.answer:
            found.append(f"the answer was {self.status}, not {scenario.answer}")
        if self.flow is None:
            return (*found, "no span arrived")
        found += [f"missing: {edge}" for edge in missing(self.flow, scenario)]
        found += [f"not expected: {edge}" for edge in surplus(self.flow, scenario)]
        found += [f"on no edge: {name}" for name in strays(self.flow)]
        found += [f"failed: {_named(span)}" for span in self.flow.errors if not self._may_fail(span)]
        if scenario.ending == "crashed" and not self.flow.errors:
            found.append("nothing failed")
        found += [
            f"nobody knows how long it waited: {edge.destination} for {edge.consumer}"
            for edge in self.flow.edges
            if edge.wait is None
        ]
        found += [f"still open: {_named(span)}" for span in self.flow.open_spans]
        found += [
            f"break at {_named(each.at)}: {each.reason}. {each.evidence} {each.cure}"
            for each in self.flow.breaks
        ]
        return tuple(found)

    def _may_fail(self, span: Span) -> bool:
        """By convention a client that was refused has failed, and a service that refuses has not."""
        refused = self.scenario.ending in {"declined", "malformed"} and span.kind is Kind.CLIENT
        return refused or self.scenario.ending == "crashed"


def _named(span: Span) -> str:
    return f"{span.service.name} {span.name}"


class Watch:
    """The orders whose flows are not done yet. For one thread."""

    def __init__(self, store: Store, *, patience_s: float = PATIENCE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._watched: list[Watched] = []

    def add(self, number: int, scenario: Scenario, flow_id: str, status: int) -> None:
        """Watch the flow of this order."""
        self._watched.append(Watched(number, scenario, flow_id, status, time.monotonic()))

    def next_done(self, timeout_s: float) -> Watched | None:
        """The next order whose flow is done, or for which patience has ended; None if none is in time."""
        until = time.monotonic() + timeout_s
        while True:
            version = self._store.changes.version
            for watched in self._watched:
                self._look_at(watched)
                is_late = time.monotonic() - watched.placed_at_s >= self._patience_s
                if is_late or not watched.faults:
                    self._watched.remove(watched)
                    return watched
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._store.changes.wait(lambda: self._store.changes.version != version, min(left, _LOOK_S))  # noqa: B023

    def settle(self, done: Iterable[Watched]) -> None:
        """Wait until nothing more comes, for as long as patience lasts, and look at these once more.

        What comes late may be what must not be there.
        """
        until = time.monotonic() + self._patience_s
        while time.monotonic() < until:
            version = self._store.changes.version
            if not self._store.changes.wait(lambda: self._store.changes.version != version, QUIET_S):  # noqa: B023
                break
        for watched in done:
            self._look_at(watched)

    def _look_at(self, watched: Watched) -> None:
        spans = self._store.flow(watched.flow_id)
        if spans:
            watched.flow = build_flow(spans, watched.flow_id, known=Knowledge(is_quiet=True))
