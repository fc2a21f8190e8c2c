"""CheckedFlow: a flow, with what a test asserts about it.

`__tracebackhide__` has pytest show the line of the test, not ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tracekit.flow import Break, Flow, render
from tracekit.flow.labels import labels
from tracekit.flow.text import counted
from tracekit.testing.hops import consumers, way
from tracekit.testing.leaks import leaks, without_secrets
from tracekit.testing.snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracekit.model import LogLine, Span

_S: Final = 1_000_000_000
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Edge(NamedTuple):
    """From one span to one that it called (or ran), or whose message it consumed."""

    parent_service: str
    parent: str
    kind: Literal["call", "message"]
    service: str
    name: str


class CheckedFlow:
    """One flow. Its times are seconds; `flow` is the flow itself, `logs` its log lines.

    There are `id`, `name`, `spans`, `services`, `breaks`, `edges`, `span()` and `named()`;
    `response_time`, `completion_time`, `queue_wait()`, `retries` and `duplicates`; `snapshot()`;
    `assert_path`, `assert_complete`, `assert_no_orphans`, `assert_linked`, `assert_within` and
    `assert_no_pii`. An assertion that fails shows the whole flow; so does `str`.
    """

    def __init__(self, flow: Flow, logs: Iterable[LogLine] = ()) -> None:
        self.flow = flow
        self.logs = tuple(logs)

    def __str__(self) -> str:
        return render(self.flow)

    def __repr__(self) -> str:
        return f"<flow {self.id[:8]}: {self.name}, {len(self.spans)} spans>"

    # -- what there is -------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The flow's id: the trace id of its entry."""
        return self.flow.id

    @property
    def name(self) -> str:
        """The entry's name."""
        return self.flow.name

    @property
    def spans(self) -> tuple[Span, ...]:
        """All of its spans, in the order of its tree."""
        return self.flow.spans

    @property
    def services(self) -> tuple[str, ...]:
        """The services it went through."""
        return self.flow.services

    @property
    def breaks(self) -> tuple[Break, ...]:
        """Where it should go on and does not."""
        return self.flow.breaks

    def named(self, name: str) -> tuple[Span, ...]:
        """The spans with this name, or drawn with it (`POST payment /charge`)."""
        drawn = labels(self.flow.tree)
        return tuple(
            span for span, label in zip(self.spans, drawn, strict=True) if name in (span.name, label)
        )

    def span(self, name: str, *, service: str | None = None) -> Span:
        """The one span with this name. Raises AssertionError where there is none, or several."""
        __tracebackhide__ = True
        found = [span for span in self.named(name) if service in (None, span.service.name)]
        if len(found) != 1:
            what = f"{name}" if service is None else f"{name} of {service}"
            raise self._failed(f"{len(found)} spans are `{what}`, not one")
        return found[0]

    @property
    def edges(self) -> list[Edge]:
        """Every edge, sorted: parent service, parent, `call` or `message`, service, name.

        assert flow.edges == [
            ("orders", "POST /orders", "call", "orders", "send orders"),
            ("orders", "send orders", "message", "billing", "process orders"),
        ]
        """
        messages = {
            (edge.creation.trace_id, edge.creation.span_id, id(edge.consuming)): _edge(
                edge.creation, "message", edge.consuming
            )
            for edge in self.flow.edges
            if edge.creation is not None
        }
        by_key = {(span.trace_id, span.span_id): span for span in self.spans}
        calls = [
            _edge(by_key[span.trace_id, span.parent_id], "call", span)
            for span in self.spans
            if span.parent_id is not None
            and (span.trace_id, span.parent_id) in by_key
            and (span.trace_id, span.parent_id, id(span)) not in messages
        ]
        return sorted([*messages.values(), *calls])

    @property
    def response_time(self) -> float | None:
        """Seconds that the caller of the entry waited; None where nobody waited."""
        return None if self.flow.response_ns is None else self.flow.response_ns / _S

    @property
    def completion_time(self) -> float:
        """Seconds from the start of the entry to the end of the last span."""
        return self.flow.completion_ns / _S

    def queue_wait(self, destination: str) -> float:
        """Seconds that a message waited at this destination; of several the longest.

        Raises AssertionError where none is known to have waited there.
        """
        __tracebackhide__ = True
        waits = [
            edge.wait.duration_ns
            for edge in self.flow.edges
            if edge.wait is not None and edge.destination == destination
        ]
        if not waits:
            known = ", ".join(f"`{name}`" for name in consumers(self.flow)) or "nothing"
            raise self._failed(f"no message waited at `{destination}`; consumed was from {known}")
        return max(waits) / _S

    @property
    def retries(self) -> int:
        """Further tries: calls sent again, and messages consumed again after a failure."""
        return self.flow.retries

    @property
    def duplicates(self) -> int:
        """Messages that a consumer had done with and got again."""
        return self.flow.duplicates

    def snapshot(self) -> str:
        """The tree as text without times and ids: the same for two runs that did the same.

        assert flow.snapshot() == \"\"\"\\
        POST /orders (orders)
          send orders (orders)
            ~ orders
              process orders (billing)\"\"\"
        """
        return snapshot(self.flow)

    # -- assertions ----------------------------------------------------------------------------------

    def assert_path(self, *names: str) -> None:
        """Each of these spans is below the one before, through calls and messages."""
        __tracebackhide__ = True
        went = way(self.flow, names)
        if not went.is_whole:
            raise self._failed(went.gap)

    def assert_complete(self) -> None:
        """Nothing of it is still open, and it has no break."""
        __tracebackhide__ = True
        wrong = [f"`{span.name}` ({span.service.name}) is still open" for span in self.flow.open_spans]
        wrong += [f"{each.reason} at `{each.at.name}`: {each.evidence}" for each in self.breaks]
        if wrong:
            raise self._failed("the flow is not complete: " + "; ".join(wrong))

    def assert_no_orphans(self) -> None:
        """Every span but the entry hangs on another one."""
        __tracebackhide__ = True
        tree = self.flow.tree
        orphans = [self.spans[at] for at in tree.roots[1:]]
        if orphans:
            names = ", ".join(f"`{span.name}` ({span.service.name})" for span in orphans)
            raise self._failed(f"{counted(len(orphans), 'span')} without a cause: {names}")

    def assert_linked(self, name: str, n: int) -> None:
        """The span with this name (a batch) has so many links."""
        __tracebackhide__ = True
        found = len(self.span(name).links)
        if found != n:
            raise self._failed(f"`{name}` has {counted(found, 'link')}, not {n}")

    def assert_within(
        self,
        *,
        response: str | float | None = None,
        completion: str | float | None = None,
        spans: int | None = None,
    ) -> None:
        """It took no longer, and no more spans, than this: seconds, or text such as `300ms`, `2s`."""
        __tracebackhide__ = True
        over = []
        if completion is not None and self.completion_time > seconds(completion):
            over.append(f"it completed in {self.completion_time:.3f} s, not within {completion}")
        if response is not None and (self.response_time or 0) > seconds(response):
            over.append(f"it answered in {self.response_time:.3f} s, not within {response}")
        if spans is not None and len(self.spans) > spans:
            over.append(f"it has {len(self.spans)} spans, not {spans} at most")
        if over:
            raise self._failed("over budget: " + "; ".join(over))

    def assert_no_pii(self, *patterns: str) -> None:
        """No name, attribute, event or log line holds a secret.

        Looked for is what `tracekit.redaction` hides (by key: passwords, tokens; by looks: cards, bearer
        tokens), and these regular expressions besides: `assert_no_pii(r"\\S+@\\S+")`.
        """
        __tracebackhide__ = True
        found = leaks(self.flow, self.logs, patterns)
        if found:
            said = f"{counted(len(found), 'secret')}: in " + "; in ".join(found)
            raise AssertionError(without_secrets(said, patterns))

    def _failed(self, what: str) -> AssertionError:
        return AssertionError(f"{what}\n\n{self}")


def seconds(given: str | float) -> float:
    """A length of time in seconds, from a number or from text such as `300ms`, `2s`, `1.5 m`."""
    if isinstance(given, int | float):
        return float(given)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m)\s*", given)
    if not found:
        raise ValueError(f"{given!r} is no length of time: write 300ms, 2s or 1.5m")
    return float(found[1]) * _UNITS[found[2]]


def _edge(parent: Span, kind: Literal["call", "message"], child: Span) -> Edge:
    return Edge(parent.service.name, parent.name, kind, child.service.name, child.name)
