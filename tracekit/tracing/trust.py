"""Trust: which routes context is taken from, and which hosts it is given to.

Trust is `internal` both ways unless said otherwise. From an untrusted route neither trace nor flow
nor baggage is taken: a new trace begins and links to the caller's. An untrusted host gets at most a
`traceparent`. Of two patterns that fit, the longer one counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from opentelemetry import context as otel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

Level: TypeAlias = Literal["internal", "none"]

_ROUTE: Final = re.compile(r"/[^*]*((?<=/)\*)?")
_HOST: Final = re.compile(r"(\*|(\*\.)?[a-z0-9_]([a-z0-9_.\-]*[a-z0-9_])?|\[[0-9a-f:.]+\])")
_GIVES_LITTLE: Final = otel.create_key("tracekit-gives-little")


@dataclass(frozen=True, slots=True)
class Trust:
    """Patterns with their level, the longest first.

    A route is a path (`/webhooks/stripe`), or a path and all below it (`/webhooks/*`). A host is a
    name (`api.partner.example`), all names below one (`*.example`), or any (`*`).
    """

    routes: tuple[tuple[str, Level], ...] = ()
    hosts: tuple[tuple[str, Level], ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Trust:
        """The trust that `configure(trust={"/webhooks/*": "none", "api.partner.example": "none"})` says.

        Keys are patterns (`is_pattern`), and values levels: `tracekit._settings` has seen to that.
        """
        rules = sorted(cast("Mapping[str, Level]", settings).items(), key=_longest)
        return cls(
            tuple(rule for rule in rules if rule[0].startswith("/")),
            tuple((host.lower(), level) for host, level in rules if not host.startswith("/")),
        )

    def takes(self, path: str) -> bool:
        """Whether context is taken from a request to this path."""
        for pattern, level in self.routes:
            below = pattern.removesuffix("*")
            if path == below.rstrip("/") or path == pattern or (below != pattern and path.startswith(below)):
                return level == "internal"
        return True

    def gives(self, host: str) -> bool:
        """Whether context, beyond `traceparent`, is given to this host."""
        if not self.hosts:
            return True
        name = host.lower().rstrip(".")
        for pattern, level in self.hosts:
            if name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern.strip("[]"):
                return level == "internal"
        return True


TRUST_ALL: Final = Trust()


def is_pattern(what: object) -> bool:
    """Whether it can be meant as a route or as a host."""
    return isinstance(what, str) and bool(_ROUTE.fullmatch(what) or _HOST.fullmatch(what.lower()))


def giving_little(context: Context | None = None) -> Context:
    """The context from which nothing but a `traceparent` is given."""
    return otel.set_value(_GIVES_LITTLE, True, context)


def gives_little(context: Context | None = None) -> bool:
    """Whether nothing but a `traceparent` may be given from this context."""
    return otel.get_value(_GIVES_LITTLE, context) is True


def _longest(rule: tuple[str, Level]) -> tuple[int, str]:
    # An exact pattern goes before the one with a star that is as long.
    return (-len(rule[0].replace("*", "")) * 2 - ("*" not in rule[0]), rule[0])
