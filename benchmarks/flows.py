"""Flows of a simulated estate: their spans, what is to be kept of them and why; and who sends them."""

from __future__ import annotations

import heapq
import http.client
import itertools
import math
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from tracekit import semconv
from tracekit.model import Kind, Link, Service, Span, Status
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

AGENTS: Final = 4
SERVICES: Final = tuple(Service(f"service-{number:03}", instance=f"{number:032x}") for number in range(100))
_ENTRIES: Final = 10
_QUEUES: Final = (1, 2, 3, 4, 5)
_HOW_OFTEN: Final = (40, 25, 15, 12, 8)
_MEDIAN_WAIT_S: Final = 0.3
_SPREAD: Final = 1.4  # of the logarithm: one wait in a hundred is longer than 8 s
_LONGEST_WAIT_S: Final = 30
_SLOW_ANSWERS: Final = 0.005
_LINKED: Final = 0.1
_BROKEN: Final = 0.005
_FAILED: Final = 0.02
_MS: Final = 1_000_000
_EXPORT_S: Final = 2.0
REASONS: Final = ("error", "dead letter", "slow answer", "slow completion", "break")


@dataclass(slots=True)
class Trace:
    """Its spans, and those for which it is to be kept, by reason."""

    spans: list[Span] = field(default_factory=list)
    reasons: dict[str, Span] = field(default_factory=dict)

    @property
    def first_end_ns(self) -> int:
        return min(span.end_ns or 0 for span in self.spans)


@dataclass(slots=True)
class Flow:
    """One flow, over one or more traces."""

    id: str
    traces: dict[str, Trace] = field(default_factory=dict)
    waits_s: list[float] = field(default_factory=list)


class Flows:
    """Makes them, the same ones for the same seed but for their times."""

    def __init__(self, *, slow_ms: int) -> None:
        self._random = random.Random(9)
        self._slow_ms = slow_ms
        self.made: list[Flow] = []
        self._spans: list[Span] = []

    def flow(self, at_ns: int) -> list[Span]:
        """The spans of one more, that begins now."""
        drawn = self._random
        trace_id = drawn.randbytes(16).hex()
        current = _Place(self, trace_id, trace_id, at_ns, None)
        entry = drawn.randrange(_ENTRIES)
        is_slow = drawn.random() < _SLOW_ANSWERS
        took = drawn.randrange(2500, 4000) if is_slow else drawn.randrange(20, 200)
        answered = current.span(
            "POST /orders", Kind.SERVER, entry, at_ns, at_ns + took * _MS, {"http.route": "/orders"}
        )
        if is_slow:
            current.keep("slow answer", answered)
        now, service = at_ns + 5 * _MS, entry
        parent: Span | None = answered
        hops = drawn.choices(_QUEUES, _HOW_OFTEN)[0]
        for hop in range(hops):
            group = drawn.randrange(_ENTRIES, len(SERVICES))
            queue = f"orders.{group}"
            sent = current.message("send", Kind.PRODUCER, service, queue, now, drawn.randrange(2, 10), parent)
            wait_s = min(drawn.lognormvariate(math.log(_MEDIAN_WAIT_S), _SPREAD), _LONGEST_WAIT_S)
            current.flow.waits_s.append(wait_s)
            taken = (sent.end_ns or 0) + int(wait_s * 1e9)
            more: dict[str, str | int | bool] = {semconv.MESSAGING_CONSUMER_GROUP_NAME: SERVICES[group].name}
            is_broken = drawn.random() < _BROKEN
            if is_broken:
                new = drawn.randbytes(16).hex()
                current = _Place(self, new, new, taken, None)
                parent = None
                more[semconv.CONTEXT_STATE] = "absent"
            else:
                current.message("wait", Kind.INTERNAL, group, queue, sent.end_ns or 0, taken, sent, wait=True)
                parent = sent
                if drawn.random() < _LINKED:
                    new = drawn.randbytes(16).hex()
                    current = _Place(self, new, current.flow.id, current.began_ns, current.flow)
                    parent = None
                more[semconv.PUBLISHED_AT] = sent.end_ns or 0
            takes = drawn.randrange(10, 300)
            has_failed = drawn.random() < _FAILED
            is_last = hop == hops - 1 or has_failed
            completion = (taken + takes * _MS - current.began_ns) // _MS
            if is_last:
                more[semconv.FLOW_COMPLETION_MS] = completion
            processed = current.message(
                "process", Kind.CONSUMER, group, queue, taken, takes, parent, sent, more, failed=has_failed
            )
            if is_broken:
                current.keep("break", processed)
            if is_last and completion >= self._slow_ms:
                current.keep("slow completion", processed)
            if has_failed:
                current.keep("error", processed)
                if drawn.random() < 0.5:
                    dead = current.message(
                        "send", Kind.PRODUCER, group, f"{queue}.dlq", taken + 5 * _MS, 3, processed
                    )
                    current.keep("dead letter", dead)
                break
            now, parent, service = taken + 5 * _MS, processed, group
        spans, self._spans = self._spans, []
        return spans

    def new_span_id(self) -> str:
        return self._random.randbytes(8).hex()

    def note(self, span: Span) -> None:
        self._spans.append(span)


class _Place:
    """Where a flow stands: the trace that its spans are written in."""

    def __init__(self, flows: Flows, trace_id: str, flow_id: str, began_ns: int, flow: Flow | None) -> None:
        self._flows = flows
        self._trace_id = trace_id
        self.began_ns = began_ns
        if flow is None:
            flow = Flow(flow_id)
            flows.made.append(flow)
        self.flow = flow
        self._trace = flow.traces.setdefault(trace_id, Trace())

    def keep(self, reason: str, span: Span) -> None:
        self._trace.reasons[reason] = span

    def message(
        self,
        operation: str,
        kind: Kind,
        service: int,
        queue: str,
        start_ns: int,
        took: int,
        parent: Span | None,
        linked: Span | None = None,
        more: dict[str, str | int | bool] | None = None,
        *,
        failed: bool = False,
        wait: bool = False,
    ) -> Span:
        """A span of messaging; `took` in ms, of a wait its end in ns."""
        attributes: dict[str, str | int | bool] = {
            semconv.MESSAGING_SYSTEM: "kafka",
            semconv.MESSAGING_DESTINATION_NAME: queue,
            **({semconv.WAIT: True} if wait else {semconv.MESSAGING_OPERATION_TYPE: operation}),
            semconv.MESSAGING_OPERATION_NAME: operation,
            semconv.MESSAGING_DESTINATION_PARTITION_ID: "3",
            semconv.MESSAGING_KAFKA_OFFSET: start_ns // _MS,
            semconv.PATHWAY_HASH: self._trace_id[:16],
            **(more or {}),
        }
        end_ns = took if wait else start_ns + took * _MS
        return self.span(
            f"{operation} {queue}", kind, service, start_ns, end_ns, attributes, parent, linked, failed=failed
        )

    def span(
        self,
        name: str,
        kind: Kind,
        service: int,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, str | int | bool],
        parent: Span | None = None,
        linked: Span | None = None,
        *,
        failed: bool = False,
    ) -> Span:
        span = Span(
            self._trace_id,
            self._flows.new_span_id(),
            name,
            start_ns,
            end_ns,
            parent_id=parent.span_id if parent else None,
            kind=kind,
            status=Status.ERROR if failed else Status.UNSET,
            attributes={semconv.FLOW_ID: self.flow.id, **attributes},
            links=(Link(linked.trace_id, linked.span_id),) if linked else (),
            service=SERVICES[service],
            scope="tracekit",
        )
        self._trace.spans.append(span)
        self._flows.note(span)
        return span


class Sender:
    """The exporters of all services: each sends what ended, every other second, to the agent of its node."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = [urlsplit(endpoint).netloc for endpoint in endpoints]
        self._open: list[tuple[int, int, Span]] = []
        self._order = itertools.count()
        self._ended: dict[str, list[Span]] = defaultdict(list)
        self._sent_at = time.monotonic()
        self.sent = 0
        self.refusals = 0
        self.most_behind_s = 0.0

    def __enter__(self) -> Self:
        self._connections = [http.client.HTTPConnection(each, timeout=60) for each in self._endpoints]
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    def add(self, spans: Sequence[Span]) -> None:
        """Have each of them sent once it has ended."""
        for span in spans:
            heapq.heappush(self._open, (span.end_ns or 0, next(self._order), span))

    def until(self, moment_s: float) -> None:
        """Send what ends, until that moment of the monotonic clock."""
        while True:
            now_ns = time.time_ns()
            while self._open and self._open[0][0] <= now_ns:
                span = heapq.heappop(self._open)[2]
                self._ended[span.service.name].append(span)
            if time.monotonic() > self._sent_at + _EXPORT_S:
                self._send()
            left = moment_s - time.monotonic()
            if left <= 0:
                self.most_behind_s = max(self.most_behind_s, -left)
                return
            time.sleep(min(left, 0.05))

    def finish(self) -> None:
        """Send the rest, as it ends."""
        while self._open:
            self.until(time.monotonic() + 0.2)
        self._send()

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        ended, self._ended = self._ended, defaultdict(list)
        for name, spans in ended.items():
            self._post(self._connections[int(name[-3:]) % len(self._connections)], encode_spans(spans))
            self.sent += len(spans)

    def _post(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        while True:
            connection.request("POST", "/v1/traces", body, {"content-type": "application/x-protobuf"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return
            self.refusals += 1
            time.sleep(0.2)
