"""Latest: the latest traces of a Jaeger, read once, and then only what began since.

Jaeger finds traces within one service only, by when a span of the service began, so each service is asked in
turn. What is known is all that began since a moment, which goes back as far as somebody wants to look.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from tracekit.sources.jaeger_traces import Traces, count, last_start_ns, packed
from tracekit.sources.web import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from tracekit.sources.jaeger_api import JaegerApi

_S: Final = 1_000_000_000
LOOKBACK_NS: Final = 24 * 3600 * _S
"""So far back a list goes, and a search for a flow whose own trace says nothing of when it was."""
AHEAD_NS: Final = 60 * _S
"""So far ahead a service's clock may be."""
_MARGIN_NS: Final = 5 * _S
"""What began so long before the last reading is read again: spans come when they ended, and some later."""
_LATE: Final = ((60 * _S, 0.02), (600 * _S, 0.01))
"""So far back is read again now and then, in at most this part of the time."""
_MAX_BYTES: Final = 16 * 1024 * 1024
"""Of traces that are kept: about 4,000 orders of 30 spans."""
AT_ONCE: Final = 25
"""So many traces are asked for at once, lest their JSON takes much room."""
_OVERLAP: Final = 0.2
"""So many of them are asked for again with what began before them: Jaeger may have them in another order."""
_LEAST_NS: Final = 1_000_000
MOST_TRACES: Final = 200
"""So many traces of a service are read in one reading; of more, the latest."""


class Latest:
    """The traces in which something began since `since_ns` are `traces`. Any thread may call it.

    One reads at a time, and those who wait meanwhile share what it found, its failure too. Bounds: the last
    24 hours, and of these what `_MAX_BYTES` hold; of a service at most `MOST_TRACES` a reading. A span that
    comes long after it began is found by who calls `look_after`; after ten minutes, only with its flow.
    """

    def __init__(self, api: JaegerApi, now_ns: Callable[[], int]) -> None:
        self._api = api
        self._now_ns = now_ns
        self.traces = Traces(_MAX_BYTES)
        self.since_ns = 0
        self._until_ns = 0  # nothing was read yet
        self._reading = threading.Lock()
        self._step_ns = _MARGIN_NS
        self._read_at_s = 0.0
        self._late_at_s = [0.0] * len(_LATE)
        self._late_of: list[list[str]] = [[] for _ in _LATE]
        self._failure: SourceError | None = None

    def refresh(self) -> None:
        """Read what came since the last reading; who waited for another's, which began later, shares it."""
        asked_at_s = time.monotonic()
        with self._reading:
            if self._read_at_s >= asked_at_s:
                if self._failure is not None:
                    raise type(self._failure)(*self._failure.args)
                return
            self._read_at_s, self._failure = time.monotonic(), None
            try:
                self._read_new()
            except SourceError as error:
                self._failure = error
                raise

    def _read_new(self) -> None:
        now_ns = self._now_ns()
        whole_ns = self._read((self._until_ns or now_ns) - _MARGIN_NS, now_ns + AHEAD_NS)
        if not self._until_ns or whole_ns > self._until_ns:  # else it goes on from what was read before
            self.since_ns = whole_ns
        self._until_ns = now_ns
        self.since_ns = max(self.since_ns, self.traces.floor_ns)

    def look_after(self) -> None:
        """Read again what may have come late, a service at a time, where that is due. By one thread.

        Those who want the latest do not wait for it.
        """
        for at, (back_ns, share) in enumerate(_LATE):
            began_s = time.monotonic()
            if began_s < self._late_at_s[at]:
                continue
            if not self._late_of[at]:
                self._late_of[at] = [*self._api.services()]
            if self._late_of[at]:
                since_ns = max(self.since_ns, self._now_ns() - back_ns)
                self._read(since_ns, self._until_ns, [self._late_of[at].pop()])
            self._late_at_s[at] = began_s + (time.monotonic() - began_s) / share

    def reach_back(self, from_ns: int) -> bool:
        """Read further back than to here; False where nothing is further back, or there is no room."""
        with self._reading:
            if self.since_ns < from_ns:  # somebody else did
                return True
            least_ns = self._now_ns() - LOOKBACK_NS
            if self.traces.floor_ns or self.since_ns <= least_ns:
                return False
            since_ns = max(self.since_ns - self._step_ns, least_ns)
            before, asked_ns = len(self.traces), since_ns
            since_ns = self._read(since_ns, self.since_ns)
            if since_ns > asked_ns:
                self._step_ns = max(self.since_ns - since_ns, _LEAST_NS)
            elif len(self.traces) - before < AT_ONCE:
                self._step_ns *= 2
            self.since_ns = max(since_ns, self.traces.floor_ns)
            return True

    def _read(self, since_ns: int, until_ns: int, services: Sequence[str] | None = None) -> int:
        """Read the traces in which something of the services began within these times, the latest first.

        Since when it has them all: later than it was to, where there were too many of a service.
        """
        whole_ns = since_ns
        for service in self._api.services() if services is None else services:
            end_ns, left = until_ns, MOST_TRACES
            while left > 0:
                found = self._api.traces(service, since_ns, end_ns, AT_ONCE)
                self._keep(found)
                left -= len(found)
                if len(found) < AT_ONCE:
                    break
                end_ns = min(end_ns - _LEAST_NS, self._further(service, found, end_ns))
                if end_ns <= since_ns:
                    break
            else:
                whole_ns = max(whole_ns, end_ns)
        return whole_ns

    def _further(self, service: str, found: Mapping[str, Sequence[Any]], end_ns: int) -> int:
        """Before which moment to go on where these were the latest traces before `end_ns`."""
        starts = (
            self._api.web.read_by(lambda each: last_start_ns(each, service, end_ns), parts)
            for parts in found.values()
        )
        moments = sorted(start_ns for start_ns in starts if start_ns)
        return int(moments[int(len(moments) * _OVERLAP)]) if moments else end_ns

    def _keep(self, found: Mapping[str, Sequence[Any]]) -> None:
        for trace_id, parts in found.items():
            if not self.traces.has(trace_id, count(parts)):
                self.traces.put(self._api.web.read_by(lambda each: packed(trace_id, each), parts))  # noqa: B023
