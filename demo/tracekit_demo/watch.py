"""Watches the flows of placed orders: one is done when all that it must have is there."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracekit.flow import Knowledge, build_flow, facts
from tracekit.flow.remarks import remarks
from tracekit.flow.render import WAIT, WORK
from tracekit.flow.search import AttributeTerm, NumberTerm
from tracekit.model import Kind
from tracekit_demo import findings
from tracekit_demo.expected import missing, strays, surplus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracekit.collector.archive import Archive
    from tracekit.flow import Flow
    from tracekit.model import Span
    from tracekit_demo.expected import Edge
    from tracekit_demo.scenarios import Scenario

QUIET_S: Final = 0.5
"""So long nothing may come before flows count as settled; services export every 0.2 s."""
_LOOK_S: Final = 0.1
_STUCK_S: Final = 1.0
"""So long nothing may come to a flow before what should follow in it is looked for elsewhere."""
_EARLIER: Final = 200
_REST: Final = 10

PATIENCE_S: Final = 15.0
WRONG: Final = "✕"
"""What a sentence is about, as the marks of long work and of long waits."""


@dataclass(slots=True)
class Watched:
    """An order that was placed, and what is known of its flow.

    `rest` are flows that hold what should have followed in this one. `causes` is what they say of what
    failed, `lost` of what was lost, as sentences; `is_explained` if that tells why edges are missing. `slow`
    is what took long, each with the mark of its bar: work, or a wait.
    """

    number: int
    scenario: Scenario
    flow_id: str
    status: int
    changed_at_s: float
    flow: Flow | None = None
    late_at_s: float = float("inf")
    rest: tuple[Flow, ...] = ()
    causes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    slow: tuple[tuple[str, str], ...] = ()
    is_explained: bool = False

    @property
    def defects(self) -> tuple[str, ...]:
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
        found += [f"failed: {_named(span)}" for span in self.flow.errors if not self.may_fail(span)]
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

    @property
    def in_queue(self) -> tuple[Edge, ...]:
        """The edges that are missing because their message is under way, and nobody has taken it yet."""
        if self.flow is None:
            return ()
        sent = {facts.destination(span.attributes) for span in self.flow.spans if facts.is_producing(span)}
        return tuple(edge for edge in missing(self.flow, self.scenario) if edge.by in sent)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What its flows say of what went wrong."""
        return (*self.causes, *self.lost, *(sentence for _, sentence in self.slow))

    def said(self, *, is_drawn: bool) -> tuple[tuple[str, str], ...]:
        """What is to be said of it, each with its mark: its remarks, and the defects they do not explain.

        `is_drawn`: without what stands under the trees of its flows.
        """
        wrong = [*self.causes, *(() if is_drawn else self.lost), *(() if self.is_explained else self.defects)]
        there = {each.text for each in remarks(self.flow)} if is_drawn and self.flow is not None else set()
        slow = [each for each in self.slow if each[1] not in there]
        return (*((WRONG, sentence) for sentence in wrong), *slow)

    def may_fail(self, span: Span) -> bool:
        """By convention a client that was refused has failed, and a service that refuses has not."""
        refused = self.scenario.ending in {"declined", "malformed"} and span.kind is Kind.CLIENT
        return refused or self.scenario.ending == "crashed"


def _named(span: Span) -> str:
    return f"{span.service.name} {span.name}"


class Watch:
    """The orders whose flows are not done yet. For one thread."""

    def __init__(self, archive: Archive, *, patience_s: float = PATIENCE_S) -> None:
        self._archive = archive
        self._patience_s = patience_s
        self._watched: list[Watched] = []
        self._earlier: deque[findings.Handled] = deque(maxlen=_EARLIER)

    def add(self, number: int, scenario: Scenario, flow_id: str, status: int) -> None:
        """Watch the flow of this order."""
        now = time.monotonic()
        late_at_s = now + self._patience_s
        self._watched.append(Watched(number, scenario, flow_id, status, now, late_at_s=late_at_s))

    def next_done(self, timeout_s: float) -> Watched | None:
        """The next order whose flow is done, or for which patience has ended; None if none is in time."""
        until = time.monotonic() + timeout_s
        while True:
            version = self._archive.changes.version
            for watched in self._watched:
                if self._is_done(watched):
                    self._watched.remove(watched)
                    if watched.flow is not None:
                        self._earlier += findings.handled(watched.flow, watched.number)
                    return watched
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._archive.changes.wait(lambda: self._archive.changes.version != version, min(left, _LOOK_S))  # noqa: B023

    def settle(self, done: Iterable[Watched]) -> None:
        """Wait until nothing more comes, for as long as patience lasts, and look at these once more.

        What comes late may be what must not be there.
        """
        until = time.monotonic() + self._patience_s
        while time.monotonic() < until:
            version = self._archive.changes.version
            if not self._archive.changes.wait(lambda: self._archive.changes.version != version, QUIET_S):  # noqa: B023
                break
        for watched in done:
            self.look_at(watched)

    def _is_done(self, watched: Watched) -> bool:
        self.look_at(watched)
        now = time.monotonic()
        if not watched.defects:
            return True
        if now >= watched.late_at_s:
            waiting = tuple(
                f"{edge.by} still waits for {edge.callee}, {self._patience_s:.0f} s after the order"
                for edge in watched.in_queue
            )
            watched.causes += waiting
            watched.is_explained = watched.is_explained or bool(waiting)
            return True
        if watched.rest or (now - watched.changed_at_s >= _STUCK_S and not watched.in_queue):
            self._look_elsewhere(watched)
        return watched.is_explained and now - watched.changed_at_s >= QUIET_S

    def look_at(self, watched: Watched) -> None:
        """Build the flow anew where spans came."""
        flow = self._built(watched.flow_id, watched.flow)
        if flow is not None and flow is not watched.flow:
            watched.flow = flow
            watched.changed_at_s = time.monotonic()
            self._remark(watched, flow)

    def _look_elsewhere(self, watched: Watched) -> None:
        """Find what should have followed in a flow, and did not, by the id of its order."""
        if watched.flow is None:
            return
        entry = watched.flow.entry
        known: dict[str, Flow | None] = {flow.id: flow for flow in watched.rest}
        if not known:
            same = AttributeTerm("order.id", "=", str(entry.attributes.get("order.id")))
            since = NumberTerm("started", ">=", entry.start_ns)
            found = self._archive.find((since, same), limit=_REST)
            known = {flow.id: None for flow in found.flows if flow.id != watched.flow_id}
        rest = [flow for each, before in known.items() if (flow := self._built(each, before)) is not None]
        if tuple(rest) != watched.rest:
            watched.rest = tuple(rest)
            watched.changed_at_s = time.monotonic()
            self._remark(watched, watched.flow)

    def _built(self, flow_id: str, before: Flow | None) -> Flow | None:
        """The flow as it is now: the very same as before, where nothing came."""
        # What shows a wait is no part of a flow, and may be there before all that is.
        spans = [span for span in self._archive.flow(flow_id) if not facts.is_wait(span)]
        if not spans or (before is not None and len(spans) == len(before.spans) and not before.open_spans):
            return before
        flow = build_flow(spans, flow_id, known=Knowledge(is_quiet=True))
        return before if flow == before else flow

    def _remark(self, watched: Watched, flow: Flow) -> None:
        meant = flow.errors if watched.scenario.ending == "crashed" else ()
        causes = tuple(findings.failures(flow, watched.may_fail, watched.status))
        watched.lost = tuple(findings.lost_context(watched.rest, missing(flow, watched.scenario)))
        crashes = findings.failures(flow, lambda span: span not in meant, watched.status)
        messages = tuple(findings.handled(flow, watched.number))
        earlier = [each for each in self._earlier if each.number < watched.number]
        watched.is_explained = bool(causes or watched.lost)
        watched.causes = (*causes, *crashes)
        grown = [*findings.grown_waits(messages, earlier)]
        known = {(message.destination, message.consumer) for message, _ in grown}
        watched.slow = (
            *((WAIT, sentence) for _, sentence in grown),
            *(
                (WAIT if each.edge else WORK, each.text)
                for each in remarks(flow)
                if each.edge is None or (each.edge.destination, each.edge.consumer) not in known
            ),
        )
