"""W3C baggage: read within limits that hold for all of its headers together, written within the same.

A bad entry is left out alone. Properties after `;` are tolerated and not kept: OpenTelemetry's
baggage has no place for them. Source: W3C Baggage, section 3; CVE-2026-29181 (limits for each
header are no limits).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from tracekit.guard import count_drop, shielded
from tracekit.tracing.carrier import values_of
from tracekit.tracing.trust import gives_little

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BAGGAGE: Final = "baggage"

_LENGTH: Final = 8192
_PAIRS: Final = 180
_KEY: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_BREAKING: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KEY_SAFE: Final = "!#$&'*+-.^_`|~"
_VALUE_SAFE: Final = "!#$&'()*+-./:<=>?@[]^_`{|}~"


class BaggagePropagator(TextMapPropagator):
    """`baggage`: at most 8 KiB and 180 entries, over all of its headers."""

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """The context with the entries that arrived, beside those that it has."""
        if context is None:
            context = Context()
        values = values_of(carrier, BAGGAGE, getter)
        if not values:
            return context
        for name, value in entries_of(values).items():
            context = baggage.set_baggage(name, value, context)
        return context

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Write the entries, as far as the limits reach."""
        with shielded("the baggage of what is sent"):
            entries = baggage.get_all(context)
            if not entries or gives_little(context):
                return
            written = text_of(entries)
            if written:
                setter.set(carrier, BAGGAGE, written)

    @property
    def fields(self) -> set[str]:
        return {BAGGAGE}


def entries_of(values: Sequence[str | None]) -> dict[str, str]:
    """The entries that these headers have together, within the limits; bad ones are left out, counted."""
    found: dict[str, str] = {}
    bad = 0
    for entry in _within_limits(values):
        if not entry.strip(" \t"):
            continue
        pair = _pair(entry)
        if pair is None:
            bad += 1
        else:
            found[pair[0]] = pair[1]
    if bad:
        count_drop("invalid_baggage", "baggage entries", bad)
    return found


def text_of(entries: Mapping[str, object]) -> str:
    """The header's value for these entries, as far as the limits reach; what does not is counted."""
    written: list[str] = []
    room = _LENGTH + 1
    for key, value in entries.items():
        entry = _entry(key, value)
        if entry is not None and len(entry) < room and len(written) < _PAIRS:
            room -= len(entry) + 1
            written.append(entry)
    if len(written) < len(entries):
        count_drop("invalid_baggage", "baggage to be sent", len(entries) - len(written))
    return ",".join(written)


def _within_limits(values: Sequence[str | None]) -> list[str]:
    """The entries within the limits, split only after the length of all values was seen to."""
    texts = [value for value in values if value is not None]
    if len(texts) < len(values):
        count_drop("invalid_baggage", "a baggage header that is not text", len(values) - len(texts))
    kept: list[str] = []
    room = _LENGTH
    for text in texts:
        if len(text) > room:
            count_drop("invalid_baggage", "baggage past 8 KiB")
            kept.append(text[: room + 1].rpartition(",")[0])  # whole entries only
            break
        kept.append(text)
        room -= len(text) + 1
    entries = ",".join(kept).split(",", _PAIRS)
    if len(entries) > _PAIRS:
        count_drop("invalid_baggage", "baggage past 180 entries")
        entries.pop()
    return entries


def _pair(entry: str) -> tuple[str, str] | None:
    name, equals, rest = entry.partition("=")
    name = name.strip(" \t")
    value = rest.partition(";")[0].strip(" \t")
    if not equals or _KEY.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
        return None
    if "%" not in entry:
        return name, value
    name, value = unquote(name, errors="replace"), unquote(value, errors="replace")
    # A line break in disguise would be one again in the first log that shows it.
    return None if _BREAKING.search(name) or _BREAKING.search(value) else (name, value)


def _entry(key: str, value: object) -> str | None:
    """The entry as it is written, nothing but ASCII that may stand in a header; None if it cannot be."""
    try:
        name = quote(str(key), safe=_KEY_SAFE)
        return f"{name}={quote(str(value), safe=_VALUE_SAFE)}" if name else None
    except Exception:  # noqa: BLE001 - somebody's __str__, or half a surrogate pair: this entry alone
        return None
