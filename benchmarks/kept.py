"""What became of an estate's flows: what Jaeger has of each trace, beside what it is to have."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from benchmarks.flows import REASONS
from tests.integration.servers.process import fetched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.flows import Flow, Sender, Trace

_SLACK_NS: Final = 8_000_000_000
"""From the end of a span until a gateway has it, at most."""
_OF_32_BITS: Final = 42_949_673
"""One in a hundred of them: see `the rest` in collector-config/gateway.yaml."""
When: TypeAlias = Literal["in time", "late", "outage"]
WHENS: Final[tuple[When, ...]] = ("in time", "late", "outage")


@dataclass(frozen=True, slots=True)
class Outage:
    """When a gateway was killed, and back; and how long the gateways wait."""

    killed_ns: int
    back_ns: int
    wait_ns: int

    def touches(self, trace: Trace) -> bool:
        """Whether its spans may have been in the gateway that was killed."""
        first, last = trace.first_end_ns, max(span.end_ns or 0 for span in trace.spans)
        return first < self.killed_ns + _SLACK_NS and last > self.killed_ns - self.wait_ns - _SLACK_NS


def asked(query: str) -> Callable[[str], Counter[str]]:
    """What gives the spans that Jaeger has of a trace, and how often each."""

    def ask(trace_id: str) -> Counter[str]:
        status, said = fetched(f"{query}/api/v3/traces/{trace_id}")
        if status == 404:
            return Counter()
        if status != 200:
            raise RuntimeError(f"{urlsplit(query).netloc}: {status} {said[:200]!r}")
        parts: list[Any] = json.loads(said)["result"]["resourceSpans"]
        return Counter(
            span["spanId"] for part in parts for scope in part["scopeSpans"] for span in scope["spans"]
        )

    return ask


def report(
    flows: Sequence[Flow],
    found: Mapping[str, Counter[str]],
    sender: Sender,
    outage: Outage,
    spread: Sequence[float],
    *,
    percentage: int,
) -> int:
    """Print it; 1 where something is missing that came in time, and was in no gateway that was killed."""
    traces = {id_: trace for flow in flows for id_, trace in flow.traces.items()}
    waits = sorted(wait for flow in flows for wait in flow.waits_s)
    longer = sum(wait * 1e9 > outage.wait_ns for wait in waits)
    print(
        f"{len(flows):,} flows, {len(traces):,} traces, {sender.sent:,} spans; {sender.refusals} exports "
        f"were refused at first; the generator was {sender.most_behind_s:.1f} s behind at most"
    )
    print(
        f"{len(waits):,} waits: median {statistics.median(waits):.2f} s, 99 of 100 below "
        f"{waits[len(waits) * 99 // 100]:.1f} s, longest {waits[-1]:.1f} s; {longer} longer than the "
        "decision wait"
    )
    print(f"spans by gateway, before one was killed: {', '.join(f'{each:.1%}' for each in spread)}")
    missing = _reasons(traces, found, outage)
    missing += _rest(flows, found, outage, percentage)
    _partial(flows, found, outage)
    _lost(flows, found, outage, percentage)
    return 1 if missing else 0


def _reasons(traces: Mapping[str, Trace], found: Mapping[str, Counter[str]], outage: Outage) -> int:
    """The table of what is to be kept; how many are missing that came in time, apart from the outage."""
    print(f"\n{'kept, of those that are to be':<32}" + "".join(f"{when:>16}" for when in WHENS))
    missing = 0
    for reason in REASONS:
        kept: Counter[When] = Counter()
        every: Counter[When] = Counter()
        for id_, trace in traces.items():
            if (span := trace.reasons.get(reason)) is None:
                continue
            when = _when(trace, (span.end_ns or 0) - trace.first_end_ns, outage)
            every[when] += 1
            kept[when] += span.span_id in found[id_]
        missing += every["in time"] - kept["in time"]
        print(f"  {reason:<30}" + "".join(f"{f'{kept[when]} of {every[when]}':>16}" for when in WHENS))
    return missing


def _when(trace: Trace, after_ns: int, outage: Outage) -> When:
    if outage.touches(trace):
        return "outage"
    return "late" if after_ns > outage.wait_ns else "in time"


def _rest(flows: Iterable[Flow], found: Mapping[str, Counter[str]], outage: Outage, percentage: int) -> int:
    """Flows without a reason to be kept; how many of the share are not whole, apart from the outage."""
    whole: Counter[bool] = Counter()
    every: Counter[bool] = Counter()
    some: Counter[bool] = Counter()
    missing = 0
    for flow in flows:
        if any(trace.reasons for trace in flow.traces.values()):
            continue
        if any(outage.touches(trace) for trace in flow.traces.values()):
            continue
        drawn = _is_drawn(flow, percentage)
        states = [_state(trace, found[id_]) for id_, trace in flow.traces.items()]
        every[drawn] += 1
        whole[drawn] += all(state == "whole" for state in states)
        some[drawn] += any(state != "none" for state in states)
        missing += drawn and not all(state == "whole" for state in states)
    number = sum(every.values())
    print(
        f"the rest, apart from the outage: {sum(some.values())} of {number:,} flows are kept "
        f"({sum(some.values()) / number:.1%}), {sum(whole.values())} of them whole; {every[True]} are in the "
        f"share, of which {whole[True]} are whole"
    )
    return missing


def _is_drawn(flow: Flow, percentage: int) -> bool:
    return int(flow.id[24:], 16) < percentage * _OF_32_BITS


def _state(trace: Trace, found: Counter[str]) -> Literal["whole", "part", "none"]:
    wanted = {span.span_id for span in trace.spans}
    return "whole" if wanted <= {*found} else "part" if found else "none"


def _partial(flows: Iterable[Flow], found: Mapping[str, Counter[str]], outage: Outage) -> None:
    """Flows that are there in part, by why."""
    causes: Counter[str] = Counter()
    kept = 0
    for flow in flows:
        states = {id_: _state(trace, found[id_]) for id_, trace in flow.traces.items()}
        kept += {*states.values()} != {"none"}
        if {*states.values()} in ({"none"}, {"whole"}):
            continue
        parts = [trace for id_, trace in flow.traces.items() if states[id_] == "part"]
        if any(outage.touches(trace) for trace in flow.traces.values()):
            cause = "about the time when the gateway was killed"
        elif not parts:
            cause = "a reason in one of its linked traces, none in the others"
        elif all(_is_late(trace, outage) for trace in parts):
            cause = "the reason came after the decision"
        else:
            cause = "not known"
        causes[cause] += 1
    print(f"\n{kept:,} flows are kept, {sum(causes.values())} of them in part:")
    for cause, number in causes.most_common():
        print(f"  {number:>5}  {cause}")


def _lost(flows: Iterable[Flow], found: Mapping[str, Counter[str]], outage: Outage, percentage: int) -> None:
    """What is missing of traces that were to be kept, about the time of the outage."""
    every = lost = after = 0
    for flow in flows:
        for id_, trace in flow.traces.items():
            if not outage.touches(trace) or not (trace.reasons or _is_drawn(flow, percentage)):
                continue
            if _is_late(trace, outage) and not _is_drawn(flow, percentage):
                continue  # what came before its reason was dropped by decision
            missing = sum(span.span_id not in found[id_] for span in trace.spans)
            every += len(trace.spans)
            lost += missing
            after += missing if trace.first_end_ns > outage.killed_ns else 0
    seconds = (outage.back_ns - outage.killed_ns) / 1e9
    print(
        f"a gateway was away for {seconds:.0f} s: of {every:,} spans to be kept of traces about then, {lost} "
        f"are lost, {after} of them of traces that began after it was killed"
    )


def _is_late(trace: Trace, outage: Outage) -> bool:
    return any(
        (span.end_ns or 0) - trace.first_end_ns > outage.wait_ns - _SLACK_NS / 4
        for span in trace.reasons.values()
    )
