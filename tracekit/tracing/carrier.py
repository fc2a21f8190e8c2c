"""Carriers: what a header holds, read so that no getter and no value can hurt."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from opentelemetry.propagators.textmap import Getter

CarrierT = TypeVar("CarrierT")

_MOST: Final = 1024
"""Values of one header looked at: more than servers let through, and an end to endless getters."""


def values_of(carrier: CarrierT, name: str, getter: Getter[CarrierT]) -> list[str | None]:
    """The header's values as text, in order; empty where it is absent.

    None stands for what is no text (a number, None), and for a getter that raised. Bytes become
    text one to one, so that what is not ASCII fails later, at the entry where it stands.
    """
    try:
        found: object = getter.get(carrier, name)
        if found is None:
            return []
        if isinstance(found, (str, bytes)):
            return [_text(found)]
        if not isinstance(found, Iterable):
            return [None]
        return [value if type(value) is str else _text(value) for value in islice(found, _MOST)]
    except Exception:  # noqa: BLE001 - somebody else's getter; the caller counts the None
        return [None]


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None
