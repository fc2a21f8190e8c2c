"""Watches the flows of placed orders: one is done when its edges are there and nothing more comes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracekit.flow import Knowledge, build_flow
from tracekit_demo.expected import missing, surplus

if TYPE_CHECKING:
    from tracekit.collector.store import Store
    from tracekit.flow import Flow
    from tracekit_demo.scenarios import Scenario

QUIET_S: Final = 0.5
"""So long nothing may come before a flow counts as done; services export every 0.2 s."""

PATIENCE_S: Final = 15.0


@dataclass(slots=True)
class Watched:
    """An order that was placed, and what is known of its flow."""

    scenario: Scenario
    flow_id: str
    status: int
    placed_at_s: float
    spans: int = 0
    changed_at_s: float = 0.0
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
        found += [f"still open: {span.service.name} {span.name}" for span in self.flow.open_spans]
        found += [
            f"break at {each.at.service.name} {each.at.name}: {each.reason}. {each.evidence} {each.cure}"
            for each in self.flow.breaks
        ]
        return tuple(found)


class Watch:
    """The orders whose flows are not done yet. For one thread."""

    def __init__(self, store: Store, *, patience_s: float = PATIENCE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._watched: list[Watched] = []

    def add(self, scenario: Scenario, flow_id: str, status: int) -> None:
        """Watch the flow of this order."""
        self._watched.append(Watched(scenario, flow_id, status, time.monotonic()))

    def next_done(self, timeout_s: float) -> Watched | None:
        """The next order whose flow is done, or for which patience has ended; None if none is in time."""
        until = time.monotonic() + timeout_s
        while True:
            version = self._store.changes.version
            for watched in self._watched:
                if self._is_done(watched):
                    self._watched.remove(watched)
                    return watched
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._store.changes.wait(lambda: self._store.changes.version != version, min(left, QUIET_S / 5))  # noqa: B023

    def _is_done(self, watched: Watched) -> bool:
        now = time.monotonic()
        spans = self._store.flow(watched.flow_id)
        if len(spans) != watched.spans:
            watched.spans, watched.changed_at_s = len(spans), now
            watched.flow = build_flow(spans, watched.flow_id)
        if now - watched.placed_at_s < self._patience_s and (
            now - watched.changed_at_s < QUIET_S or watched.faults
        ):
            return False
        if spans:
            watched.flow = build_flow(spans, watched.flow_id, known=Knowledge(is_quiet=True))
        return True
