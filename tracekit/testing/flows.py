"""Flows: what a test sees of the flows that it made, and how it waits for them.

Nothing sleeps. A wait looks whenever something arrived, until its condition is met; then it waits until
nothing new came for a short while, so that what should not have come would be seen too.
`__tracebackhide__` has pytest show the line of the test, not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from tracekit.flow import Knowledge, build_flows
from tracekit.flow.text import counted
from tracekit.testing import report
from tracekit.testing.checked import CheckedFlow
from tracekit.testing.hops import Expected
from tracekit.testing.measured import Measured, measured
from tracekit.testing.waiting import Steps, awaiting, blocking, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tracekit.collector.store import Store
    from tracekit.flow import Flow
    from tracekit.model import LogLine, Span

TIMEOUT_S: Final = 10.0
_MOST_NAMED: Final = 10


class NotSeenError(AssertionError):
    """What was waited for did not come in time; the text says what is missing, and what did come."""

    def __init__(self, text: str, flows: Flows) -> None:
        super().__init__(text)
        self.flows = flows


class Flows:
    """The flows in a store, now and as they arrive.

    `quiet_s`: for so long nothing new may come before a wait is over. `save_as` gives the file for what
    a report saves.
    """

    def __init__(self, store: Store, *, quiet_s: float) -> None:
        self.store = store
        self.quiet_s = quiet_s
        self.save_as: Callable[[], Path] = report.temporary_file

    # -- what there is -------------------------------------------------------------------------------

    @property
    def spans(self) -> tuple[Span, ...]:
        """All spans, by start."""
        return tuple(
            sorted(self.store.spans(), key=lambda span: (span.start_ns, span.trace_id, span.span_id))
        )

    @property
    def logs(self) -> tuple[LogLine, ...]:
        """All log lines, in order of arrival."""
        return tuple(self.store.logs())

    @property
    def metrics(self) -> Mapping[str, tuple[Measured, ...]]:
        """By name, what was measured under each set of attributes."""
        return measured(self.store.metrics())

    @property
    def flows(self) -> tuple[CheckedFlow, ...]:
        """All flows, by start."""
        return tuple(map(self._checked, self._built()))

    def flow(self, flow_id: str | None = None) -> CheckedFlow:
        """The flow with this id, or the only one. Raises AssertionError where there is none such."""
        found = [flow for flow in self.flows if flow_id in (None, flow.id)]
        if len(found) != 1:
            which = "the only one" if flow_id is None else flow_id
            raise AssertionError(f"{counted(len(found), 'flow')}, not {which}\n\n{self.report()}")
        return found[0]

    @property
    def dropped(self) -> Mapping[str, int]:
        """What tracekit left out, by reason."""
        return {}

    def report(self) -> str:
        """For a test that failed: every flow drawn, what was lost, and a file with all of it."""
        return report.report(self._built(), self.dropped, self.store, self.save(), self._hint())

    def save(self, path: Path | None = None) -> Path | None:
        """Write all spans and log lines as OTLP JSON; where to, None where there are none."""
        if path is None and not (self.store.spans() or self.store.logs()):
            return None
        return report.save(self.store, self.save_as() if path is None else path)

    def _hint(self) -> str:
        """What to look at where no span came."""
        return ""

    def _known(self, *, is_quiet: bool) -> Knowledge:
        """What is known beside the spans."""
        return Knowledge(is_quiet=is_quiet)

    def _built(self, *, is_quiet: bool = True) -> tuple[Flow, ...]:
        return build_flows(self.store.spans(), known=self._known(is_quiet=is_quiet))

    def _checked(self, flow: Flow) -> CheckedFlow:
        keys = {(span.trace_id, span.span_id) for span in flow.spans}
        lines = [line for line in self.store.logs() if (line.trace_id, line.span_id) in keys]
        return CheckedFlow(flow, lines)

    # -- waiting -------------------------------------------------------------------------------------

    def wait_for(
        self,
        condition: Callable[[], bool],
        *,
        timeout_s: float = TIMEOUT_S,
        quiet_s: float | None = None,
        says: str = "what was waited for",
    ) -> None:
        """Block until the condition is met, and nothing new comes. `says` names it in the report.

        Raises NotSeenError after `timeout_s` seconds.

            flows.wait_for(lambda: len(flows.spans) == 12, says="12 spans")
        """
        __tracebackhide__ = True
        blocking(self._until(condition, says, list, timeout_s, quiet_s), self.store.changes)

    def wait_for_flow(
        self,
        *path: str,
        consumed: Mapping[str, int] | None = None,
        timeout_s: float = TIMEOUT_S,
        quiet_s: float | None = None,
    ) -> CheckedFlow:
        """The first flow that goes along this path of span names; without a path, the first one.

        `consumed`: how often, at least, messages of a destination must have been consumed in it.

            flow = flows.wait_for_flow("POST /orders", "send orders", consumed={"orders": 3})
        """
        __tracebackhide__ = True
        expected = Expected(path, consumed or {})
        return blocking(self._expecting(1, expected, timeout_s, quiet_s), self.store.changes)[0]

    def wait_for_flows(
        self,
        n: int,
        *path: str,
        consumed: Mapping[str, int] | None = None,
        timeout_s: float = TIMEOUT_S,
        quiet_s: float | None = None,
    ) -> tuple[CheckedFlow, ...]:
        """The flows that go along this path, once there are so many. Raises AssertionError for more."""
        __tracebackhide__ = True
        expected = Expected(path, consumed or {})
        found = blocking(self._expecting(n, expected, timeout_s, quiet_s), self.store.changes)
        return _exactly(n, found, expected)

    async def wait_for_async(
        self,
        condition: Callable[[], bool],
        *,
        timeout_s: float = TIMEOUT_S,
        quiet_s: float | None = None,
        says: str = "what was waited for",
    ) -> None:
        """As `wait_for`, for a task: what runs in the same event loop goes on meanwhile."""
        __tracebackhide__ = True
        await awaiting(self._until(condition, says, list, timeout_s, quiet_s), self.store.changes)

    async def wait_for_flow_async(
        self,
        *path: str,
        consumed: Mapping[str, int] | None = None,
        timeout_s: float = TIMEOUT_S,
        quiet_s: float | None = None,
    ) -> CheckedFlow:
        """As `wait_for_flow`, for a task."""
        __tracebackhide__ = True
        expected = Expected(path, consumed or {})
        return (await awaiting(self._expecting(1, expected, timeout_s, quiet_s), self.store.changes))[0]

    async def wait_for_flows_async(
        self,
        n: int,
        *path: str,
        consumed: Mapping[str, int] | None = None,
        timeout_s: float = TIMEOUT_S,
        quiet_s: float | None = None,
    ) -> tuple[CheckedFlow, ...]:
        """As `wait_for_flows`, for a task."""
        __tracebackhide__ = True
        expected = Expected(path, consumed or {})
        found = await awaiting(self._expecting(n, expected, timeout_s, quiet_s), self.store.changes)
        return _exactly(n, found, expected)

    def _expecting(
        self, n: int, expected: Expected, timeout_s: float, quiet_s: float | None
    ) -> Steps[tuple[CheckedFlow, ...]]:
        """The steps of waiting for so many flows; gives them, and what there is more."""
        __tracebackhide__ = True

        seen = {-1: 0}  # by how many spans had come; metrics and log lines are no reason to look again

        def are_there() -> bool:
            arrived = self._arrived()
            if arrived not in seen:
                seen.clear()
                seen[arrived] = sum(map(expected.is_met, self._built(is_quiet=False)))
            return seen[arrived] >= n

        def missing() -> list[str]:
            flows = self._built()
            there = sum(map(expected.is_met, flows))
            said = [f"{there} of {counted(n, 'flow')} seen"] if there else []
            return said + expected.missing([flow for flow in flows if not expected.is_met(flow)])

        what = f"{counted(n, 'flow')} {expected}".strip()
        yield from self._until(are_there, what, missing, timeout_s, quiet_s)
        return tuple(flow for flow in self.flows if expected.is_met(flow.flow))

    def _until(
        self,
        is_met: Callable[[], bool],
        what: str,
        missing: Callable[[], list[str]],
        timeout_s: float,
        quiet_s: float | None,
    ) -> Steps[Literal["met"]]:
        """The steps of waiting for a condition. Raises NotSeenError, with what is missing."""
        __tracebackhide__ = True
        quiet_s = self.quiet_s if quiet_s is None else quiet_s
        outcome = yield from until(is_met, self._arrived, timeout_s, quiet_s)
        if outcome == "met":
            return outcome
        why = missing() if outcome == "late" else [f"it was there, but not quiet for {quiet_s:g} s"]
        lines = [f"{what}: not seen within {timeout_s:g} s", *(f"  - {each}" for each in why)]
        raise NotSeenError("\n".join([*lines, "", self.report()]), self)

    def _arrived(self) -> int:
        """How many spans ever came."""
        counts = self.store.counts()["traces"]
        return counts.kept + counts.dropped


def _exactly(n: int, found: tuple[CheckedFlow, ...], expected: Expected) -> tuple[CheckedFlow, ...]:
    __tracebackhide__ = True
    if len(found) > n:
        names = ", ".join(f"{flow.name} ({flow.id[:8]})" for flow in found[:_MOST_NAMED])
        raise AssertionError(f"{counted(len(found), 'flow')} {expected}, not {n}: {names}")
    return found
