"""The flow header: which flow a request or message belongs to, and the way that led to it.

`tracekit-flow: 1;<flow id>;<pathway hash>;<origin, Unix ms>;<edge, Unix ms>;<hop>;<origin's service>`,
at most 120 bytes of text. Source: ours (ARCHITECTURE); the hash follows Datadog's pathway hash (FNV-1
over the node and the parent's hash), so that a route has one value however many messages take it.
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

HEADER: Final = "tracekit-flow"
LIMIT: Final = 120
"""Bytes of text at most."""

NO_FLOW: Final = "0" * 32
"""The flow id of what serves several flows: a hub, and what it sends for all of them."""

_VERSION: Final = "1"
_MS: Final = 1_000_000
_FORM: Final = re.compile(
    r"1;([0-9a-f]{32});([0-9a-f]{16});([0-9]{1,15});([0-9]{1,15});([0-9]{1,15});([^;]*)(?:;|\Z)", re.ASCII
)
_MASK: Final = (1 << 64) - 1
_SINCE_MS: Final = 1_420_070_400_000  # 2015: before there was OpenTelemetry
_UNTIL_MS: Final = 4_102_444_800_000  # 2100: behind it are us and ns; in ns, it still fits 64 bits
_MAX_HOP: Final = 100_000


class Pathway(NamedTuple):
    """Where a piece of work stands in its flow. A tuple, since every message makes several.

    `flow_id` is empty while the flow begins here and its entry span has no id yet, and NO_FLOW for
    work that serves several flows. `origin_ns` is when the flow began, `edge_ns` when this message
    or request was sent (0: not sent yet), both Unix ns and exact to the millisecond once they
    travelled. `hop` counts the edges behind us.
    """

    flow_id: str
    hash: int = 0
    origin_ns: int = 0
    edge_ns: int = 0
    hop: int = 0
    origin: str = ""

    @property
    def is_hub(self) -> bool:
        return self.flow_id == NO_FLOW

    def advanced(self, service: str, step: str) -> Pathway:
        """The pathway after one more step of the route, e.g. `send kafka orders`."""
        route = _advance(self.hash, service, step)
        return Pathway(self.flow_id, route, self.origin_ns, self.edge_ns, self.hop, self.origin)

    def leaving(self, service: str, step: str, now_ns: int) -> Pathway:
        """The pathway as it is written on what this service sends now, one step further."""
        return Pathway(
            self.flow_id,
            _advance(self.hash, service, step),
            self.origin_ns or now_ns,
            now_ns,
            min(self.hop + 1, _MAX_HOP),
            self.origin or service,
        )


def write(pathway: Pathway) -> str:
    """The header's value. The service's name is cut where it would pass LIMIT."""
    head = (
        f"{_VERSION};{pathway.flow_id};{pathway.hash:016x};{pathway.origin_ns // _MS};"
        f"{pathway.edge_ns // _MS};{pathway.hop};"
    )
    return head + _quoted(pathway.origin, LIMIT - len(head))


def parse(text: str) -> Pathway | None:
    """The pathway that a header's value tells, or None where it is malformed or implausible.

    Further fields are ignored, so that a later version can add some.
    """
    match = _FORM.match(text) if len(text) <= 4 * LIMIT else None
    if match is None:
        return None
    flow_id, route, began, sent, hops, service = match.groups()
    origin, edge, hop = int(began), int(sent), int(hops)
    if not (_SINCE_MS <= origin <= _UNTIL_MS and _SINCE_MS <= edge <= _UNTIL_MS and hop <= _MAX_HOP):
        return None
    return Pathway(flow_id, int(route, 16), origin * _MS, edge * _MS, hop, _unquoted(service[:LIMIT]))


@functools.lru_cache(maxsize=1024)
def _quoted(name: str, room: int) -> str:
    quoted = quote(name, safe="", errors="replace")[:room]
    cut = quoted.rfind("%", -2)  # never end in half an escape
    return quoted if cut < 0 else quoted[:cut]


@functools.lru_cache(maxsize=1024)
def _unquoted(name: str) -> str:
    return unquote(name, errors="replace")


@functools.lru_cache(maxsize=4096)
def _advance(parent: int, service: str, step: str) -> int:
    node = _fnv1(f"{service}\n{step}".encode(errors="replace"))
    return _fnv1(node.to_bytes(8, "little") + parent.to_bytes(8, "little"))


def _fnv1(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value * 0x100000001B3 & _MASK) ^ byte
    return value
