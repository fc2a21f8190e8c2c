"""Traffic: what went through each service and each destination in the last fifteen minutes.

Made from flows as an archive builds them; one that is built again replaces what it gave before. What a
flow gives counts in the minute in which it ended, by the clock of who sent it; what ended before the
window is left out, and what would end in the future counts as now. A batch counts once, and its
handler's time too, however many flows it served.

Percentiles come from a histogram whose buckets grow by the sixteenth root of two, and have three digits: a
duration is told within 3 %.

Bounds: `MAX_FLOWS` flows are remembered for being replaced, with `MAX_GIVEN` counts that they gave, and of
as many batches that they were counted (what was forgotten and comes again counts twice); `MAX_SPANS` spans
and messages of one flow; `MAX_COUNTERS` counters a minute, of which a service or a destination takes some
seventy. What is beyond them `omitted` counts.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tracekit import semconv
from tracekit.flow import facts
from tracekit.model import Kind, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tracekit.collector.archive import Built
    from tracekit.flow import Flow, MessageEdge
    from tracekit.model import Span

MINUTE_NS: Final = 60 * 10**9
MINUTES: Final = 15
MAX_FLOWS: Final = 10_000
MAX_GIVEN: Final = 1_000_000
MAX_SPANS: Final = 10_000
MAX_COUNTERS: Final = 20_000
_MAX_NAME: Final = 200
_PER_DOUBLING: Final = 16


@dataclass(frozen=True, slots=True)
class Durations:
    """How many there were, and how long they took, in ns within 3 %; None where there was none."""

    count: int = 0
    p50_ns: int | None = None
    p95_ns: int | None = None
    max_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceTraffic:
    """What one service did: its spans, the requests and messages that it took, and how long these took."""

    service: str
    spans: int
    errors: int
    requests: int
    messages: int
    durations: Durations


@dataclass(frozen=True, slots=True)
class DestinationTraffic:
    """What went through one destination to one consumer; `consumer` is None where nobody took anything.

    `producers` are the destination's, whoever consumes: how often which service sent into it.
    `wait_sources` says who told the waits; messages whose wait nobody knows are missing there. `errors`
    are messages that the consumer failed on, `handling` its time.
    """

    system: str
    destination: str
    consumer: str | None
    producers: Mapping[str, int]
    messages: int
    errors: int
    waits: Durations
    wait_sources: Mapping[str, int]
    handling: Durations


@dataclass(frozen=True, slots=True)
class Seen:
    """All of it, in the last `window_ns`: fifteen minutes at most, less where the first came later."""

    window_ns: int
    services: tuple[ServiceTraffic, ...]
    destinations: tuple[DestinationTraffic, ...]
    omitted: int


_Of: TypeAlias = tuple[str, ...]
"""A service; a system and its destination; or these two and a consumer."""
_Kind: TypeAlias = Literal["span", "error", "request", "message", "duration", "wait", "source", "sender"]
_Key: TypeAlias = "tuple[_Of, _Kind, int | str]"
"""What is counted; last its bucket, its name, or nothing."""
_Gift: TypeAlias = tuple[int, _Key]
"""In which minute one is added to which counter."""
_Counters: TypeAlias = "Mapping[_Kind, Counter[int | str]]"


class Traffic:
    """Watches an archive (`archive.watch(traffic)`), and tells what it saw. Any thread may call it."""

    def __init__(
        self, now_ns: Callable[[], int], *, max_flows: int = MAX_FLOWS, max_counters: int = MAX_COUNTERS
    ) -> None:
        self._now_ns = now_ns
        self._max_flows = max_flows
        self._max_counters = max_counters
        self._lock = threading.Lock()
        self._minutes: dict[int, Counter[_Key]] = {}
        self._first_ns: int | None = None
        self._given: OrderedDict[str, tuple[_Gift, ...]] = OrderedDict()
        self._remembered = 0
        self._batches: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._interned: dict[_Gift, _Gift] = {}
        self._omitted = 0

    def __call__(self, built: Sequence[Built], /) -> None:
        with self._lock:
            now_ns = self._now_ns()
            self._forget(now_ns)
            for each in built:
                self._replace(each.flow, now_ns)

    def seen(self) -> Seen:
        """What there is now."""
        with self._lock:
            now_ns = self._now_ns()
            self._forget(now_ns)
            found: defaultdict[_Of, defaultdict[_Kind, Counter[int | str]]]
            found = defaultdict(lambda: defaultdict(Counter))
            for counters in self._minutes.values():
                for (of, kind, what), count in counters.items():
                    found[of][kind][what] += count
            begin_ns = max(self._first_ns or now_ns, _oldest(now_ns) * MINUTE_NS)
            omitted = self._omitted
        return Seen(
            window_ns=max(now_ns - begin_ns, 10**9),
            services=tuple(_service(*of, found[of]) for of in sorted(found) if len(of) == 1),
            destinations=tuple(_destinations(found)),
            omitted=omitted,
        )

    def _forget(self, now_ns: int) -> None:
        """What is too old; and what is in the future, since the clock was set back."""
        until = now_ns // MINUTE_NS + 1  # a clock is put right by a second now and then
        for minute in [minute for minute in self._minutes if not _oldest(now_ns) <= minute <= until]:
            del self._minutes[minute]

    def _replace(self, flow: Flow, now_ns: int) -> None:
        before = self._given.pop(flow.id, ())
        self._remembered -= len(before)
        for minute, key in before:
            if (counters := self._minutes.get(minute)) is not None:
                counters[key] -= 1
                if not counters[key]:
                    del counters[key]
        given = []
        self._omitted += max(0, len(flow.spans) - MAX_SPANS) + max(0, len(flow.edges) - MAX_SPANS)
        again = set()
        for span in flow.spans[:MAX_SPANS]:
            if not _is_shared(span):
                moment = span.start_ns if span.end_ns is None else span.end_ns
                given += [gift for key in _of_span(span) if (gift := self._add(moment, key, now_ns))]
            elif span.end_ns is None or self._is_known(span):
                again.add(id(span))
            else:
                for key in _of_span(span):
                    self._add(span.end_ns, key, now_ns)
        for edge in flow.edges[:MAX_SPANS]:
            moment = edge.wait.end_ns if edge.wait else edge.consuming.start_ns
            given += [gift for key in _of_edge(edge) if (gift := self._add(moment, key, now_ns))]
            if id(edge.consuming) not in again and (handling := _handling(edge)):
                gift = self._add(moment, handling, now_ns)
                if gift and not _is_shared(edge.consuming):
                    given.append(gift)
        self._given[flow.id] = tuple(given)
        self._remembered += len(given)
        while len(self._given) > self._max_flows or self._remembered > MAX_GIVEN:
            self._remembered -= len(self._given.popitem(last=False)[1])

    def _is_known(self, span: Span) -> bool:
        """Whether this span of several flows was counted already; from now on it was."""
        key = (span.trace_id, span.span_id)
        if key in self._batches:
            return True
        self._batches[key] = None
        if len(self._batches) > self._max_flows:
            self._batches.popitem(last=False)
        return False

    def _add(self, moment_ns: int, key: _Key, now_ns: int) -> _Gift | None:
        """Count one; None where it is too old, or one counter too many."""
        minute = min(moment_ns, now_ns) // MINUTE_NS
        if minute < _oldest(now_ns):
            return None
        counters = self._minutes.get(minute)
        if counters is None:
            counters = self._minutes[minute] = Counter()
        count = counters[key]
        if not count and len(counters) >= self._max_counters:
            self._omitted += 1
            return None
        counters[key] = count + 1
        if self._first_ns is None or moment_ns < self._first_ns:
            self._first_ns = min(moment_ns, now_ns)
        # Flows give the same things again and again: kept once, they take eight bytes each.
        if len(self._interned) > self._max_counters:
            self._interned.clear()
        return self._interned.setdefault((minute, key), (minute, key))


def _oldest(now_ns: int) -> int:
    return now_ns // MINUTE_NS - MINUTES + 1


def _is_shared(span: Span) -> bool:
    """Whether other flows have it too."""
    return facts.is_batch(span) or (len(span.links) > 1 and facts.flow_id(span) is None)


def _of_span(span: Span) -> Iterator[_Key]:
    of = (_name(span.service.name),)
    yield of, "span", ""
    if span.status is Status.ERROR:
        yield of, "error", ""
    operation = facts.operation(span)
    if span.kind is Kind.SERVER:
        yield of, "request", ""
    if span.end_ns is not None and (
        span.kind is Kind.SERVER or (facts.is_consuming(span) and operation != "receive")
    ):
        yield of, "duration", _bucket(span.end_ns - span.start_ns)
    # A message's creation is no sending yet; and a relay sends what another one created.
    if operation == "send" or (not operation and span.kind is Kind.PRODUCER):
        destination = facts.destination(span.attributes)
        system = facts.text(span.attributes, semconv.MESSAGING_SYSTEM)
        if destination:
            yield (_name(system or ""), _name(destination)), "sender", _name(span.service.name)


def _of_edge(edge: MessageEdge) -> Iterator[_Key]:
    yield (_name(edge.consuming.service.name),), "message", ""
    of = _queue(edge)
    yield of, "message", ""
    if edge.consuming.status is Status.ERROR:
        yield of, "error", ""
    if edge.wait is not None:
        yield of, "wait", _bucket(edge.wait.duration_ns)
        yield of, "source", edge.wait.source


def _handling(edge: MessageEdge) -> _Key | None:
    span = edge.consuming
    if span.end_ns is None or facts.operation(span) == "receive":
        return None
    return _queue(edge), "duration", _bucket(span.end_ns - span.start_ns)


def _queue(edge: MessageEdge) -> _Of:
    return _name(edge.system), _name(edge.destination), _name(edge.consumer)


def _name(name: str) -> str:
    return name[:_MAX_NAME]


def _bucket(ns: int) -> int:
    return round(_PER_DOUBLING * math.log2(max(ns, 1)))


def _durations(buckets: Counter[int | str]) -> Durations:
    """The histogram's answer: each bucket stands for its middle."""
    found = sorted((int(bucket), count) for bucket, count in buckets.items())
    if not found:
        return Durations()
    below = list(accumulate(count for _, count in found))

    def quantile(share: float) -> int:
        """The smallest that this share of them is not longer than."""
        wanted = max(1, math.ceil(share * below[-1]))
        bucket = next(bucket for (bucket, _), reached in zip(found, below, strict=True) if reached >= wanted)
        return int(float(f"{2 ** (bucket / _PER_DOUBLING):.3g}")) if bucket else 0

    return Durations(below[-1], quantile(0.5), quantile(0.95), quantile(1))


def _service(service: str, counted: _Counters) -> ServiceTraffic:
    return ServiceTraffic(
        service=service,
        spans=counted["span"].total(),
        errors=counted["error"].total(),
        requests=counted["request"].total(),
        messages=counted["message"].total(),
        durations=_durations(counted["duration"]),
    )


def _destinations(found: Mapping[_Of, _Counters]) -> Iterator[DestinationTraffic]:
    read = {of[:2] for of in found if len(of) == 3}
    for of in sorted(found):
        if len(of) == 3 or (len(of) == 2 and of not in read):
            counted, sent = found[of], found.get(of[:2], {})
            yield DestinationTraffic(
                system=of[0],
                destination=of[1],
                consumer=of[2] if len(of) == 3 else None,
                producers={str(name): count for name, count in sorted(sent.get("sender", Counter()).items())},
                messages=counted["message"].total(),
                errors=counted["error"].total(),
                waits=_durations(counted["wait"]),
                wait_sources={str(name): count for name, count in sorted(counted["source"].items())},
                handling=_durations(counted["duration"]),
            )
