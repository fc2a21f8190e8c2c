"""Trust: which routes context is taken from, and which hosts it is given to.

Trust is `internal` both ways unless said otherwise. From an untrusted route neither trace nor flow
nor baggage is taken: a new trace begins and links to the caller's. An untrusted host gets at most a
`traceparent`. Of two patterns that fit, the longer one counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from opentelemetry import context as otel

if TYPE_CHECKING:
    from opentelemetry.context import Context

Level: TypeAlias = Literal["internal", "none"]

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

        Raises ValueError with the setting, its value and the cure.
        """
        if not isinstance(settings, Mapping):
            raise ValueError(
                f"trust={settings!r} is no mapping: write trust={{'/webhooks/*': 'none'}}, with a route "
                "or a host as the key, and 'none' or 'internal' as the value"
            )
        routes: list[tuple[str, Level]] = []
        hosts: list[tuple[str, Level]] = []
        for pattern, value in settings.items():
            level = _level(pattern, value)
            if pattern.startswith("/"):
                if "*" in pattern.removesuffix("/*"):
                    raise ValueError(
                        f"trust={{{pattern!r}: …}}: in a route, * may only stand for all that is below, "
                        "as in '/webhooks/*'"
                    )
                routes.append((pattern, level))
            elif _HOST.fullmatch(pattern.lower()):
                hosts.append((pattern.lower(), level))
            else:
                raise ValueError(
                    f"trust={{{pattern!r}: …}} is neither a route nor a host: write a path such as "
                    "'/webhooks/*', or a host's name without scheme, port and path, such as "
                    "'api.partner.example' or '*.partner.example'"
                )
        return cls(tuple(sorted(routes, key=_longest)), tuple(sorted(hosts, key=_longest)))

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


def giving_little(context: Context | None = None) -> Context:
    """The context from which nothing but a `traceparent` is given."""
    return otel.set_value(_GIVES_LITTLE, True, context)


def gives_little(context: Context | None = None) -> bool:
    """Whether nothing but a `traceparent` may be given from this context."""
    return otel.get_value(_GIVES_LITTLE, context) is True


def _level(pattern: object, value: object) -> Level:
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"trust={{{pattern!r}: …}}: the key is a route or a host, as text")
    if value == "internal":
        return "internal"
    if value == "none":
        return "none"
    raise ValueError(f"trust={{{pattern!r}: {value!r}}}: the value is 'none' or 'internal'")


def _longest(rule: tuple[str, Level]) -> tuple[int, str]:
    # An exact pattern goes before the one with a star that is as long.
    return (-len(rule[0].replace("*", "")) * 2 - ("*" not in rule[0]), rule[0])
