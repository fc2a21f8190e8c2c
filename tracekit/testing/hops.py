"""Hops: what a test expects of a flow, and where the way stops that it expects. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from tracekit.flow import facts
from tracekit.flow.labels import labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tracekit.flow import Flow

ARROW = " → "


@dataclass(frozen=True, slots=True)
class Way:
    """How far a flow goes along a path: as many of its names as were found, one below the other."""

    path: tuple[str, ...]
    reached: int

    @property
    def is_whole(self) -> bool:
        """Nothing of the path is missing."""
        return self.reached == len(self.path)

    @property
    def gap(self) -> str:
        """In words, what is missing."""
        if self.reached == 0:
            return f"no `{self.path[0]}` is in it"
        before, missing = self.path[self.reached - 1], self.path[self.reached]
        return f"the path stopped after `{before}`: no `{missing}` followed"


def way(flow: Flow, path: Sequence[str]) -> Way:
    """How far the flow goes along this path. A span counts by its name, and by how it is drawn."""
    names = labels(flow.tree)
    below = _below(flow)
    reached = 0
    places: set[int] = set(range(len(flow.spans)))
    for name in path:
        places = {at for at in places if name in (flow.spans[at].name, names[at])}
        if not places:
            break
        reached += 1
        places = _reachable(places, below)
    return Way(tuple(path), reached)


def _below(flow: Flow) -> list[set[int]]:
    """For each span what hangs on it: as in the tree, and by every message edge besides."""
    at_span = {id(span): at for at, span in enumerate(flow.spans)}
    below = [set(children) for children in flow.tree.children]
    for edge in flow.edges:
        if edge.creation is not None:
            below[at_span[id(edge.creation)]].add(at_span[id(edge.consuming)])
    return below


def _reachable(places: Iterable[int], below: Sequence[set[int]]) -> set[int]:
    found: set[int] = set()
    stack = [*places]
    while stack:
        fresh = below[stack.pop()] - found
        found |= fresh
        stack.extend(fresh)
    return found


def consumers(flow: Flow) -> dict[str, list[str]]:
    """By destination, who consumed its messages in this flow: a name for each consumption."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for edge in flow.edges:
        found[edge.destination].append(edge.consumer)
    return dict(found)


def unconsumed(flow: Flow) -> list[str]:
    """Destinations to which this flow sent, and from which nothing was consumed."""
    read = consumers(flow)
    sent = (facts.destination(span.attributes) for span in flow.spans if facts.is_producing(span))
    return [name for name in dict.fromkeys(sent) if name and name not in read]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a flow must have to be the one that is waited for; nothing: any flow is."""

    path: tuple[str, ...] = ()
    consumed: Mapping[str, int] = field(default_factory=dict)
    """By destination, how many consumptions of its messages there must be at least."""

    def is_met(self, flow: Flow) -> bool:
        """Whether nothing is missing."""
        return way(flow, self.path).is_whole and not self._unmet(flow)

    def missing(self, flows: Sequence[Flow]) -> list[str]:
        """In words, what the flow that comes nearest lacks; nothing for no flow at all."""
        if not flows:
            return []
        nearest = max(flows, key=lambda flow: (way(flow, self.path).reached, len(flow.spans)))
        found = []
        went = way(nearest, self.path)
        if not went.is_whole:
            found.append(went.gap if went.reached else _never_began(went.path, flows))
            found += _did_you_mean(went.path[went.reached], flows)
            if went.reached:
                found += self._elsewhere(went, nearest, flows)
        found += self._unmet(nearest)
        found += map(_nothing_consumed, unconsumed(nearest))
        return list(dict.fromkeys(found))

    def _elsewhere(self, went: Way, nearest: Flow, flows: Sequence[Flow]) -> list[str]:
        """Where the hop that is missing did arrive, in a flow of its own."""
        missing = went.path[went.reached]
        return [
            f"`{missing}` is in flow {flow.id[:8]}, which begins with `{flow.name}`: its context was lost"
            for flow in flows
            if flow is not nearest and not way(flow, went.path[:1]).reached and way(flow, (missing,)).reached
        ][:1]

    def _unmet(self, flow: Flow) -> list[str]:
        read = consumers(flow)
        found = []
        for name, number in self.consumed.items():
            seen = read.get(name, [])
            if seen and len(seen) < number:
                found.append(f"{len(seen)} of {number} consumers of `{name}` seen: {', '.join(sorted(seen))}")
            elif len(seen) < number:
                found.append(_nothing_consumed(name))
        return found

    def __str__(self) -> str:
        said = f"`{ARROW.join(self.path)}`" if self.path else ""
        parts = [said] if said else []
        parts += [f"{number} consumed from `{name}`" for name, number in self.consumed.items()]
        return ", ".join(parts)


def _nothing_consumed(name: str) -> str:
    return f"nothing consumed from `{name}`"


def _did_you_mean(name: str, flows: Iterable[Flow]) -> list[str]:
    """Where no span has this name: the one that resembles it most."""
    names = {name for flow in flows for name in (*labels(flow.tree), *(span.name for span in flow.spans))}
    close = [] if name in names else get_close_matches(name, sorted(names), n=1, cutoff=0.75)
    return [f"did you mean `{each}`?" for each in close]


def _never_began(path: Sequence[str], flows: Sequence[Flow]) -> str:
    names = ", ".join(f"`{name}`" for name in list(dict.fromkeys(flow.name for flow in flows))[:5])
    return f"no `{path[0]}` arrived; what did begins with {names}"
