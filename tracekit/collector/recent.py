"""Recent: payloads by place, those that were written or read last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_ENTRY_BYTES: Final = 200  # a place, a bytes object and their entry


class Recent:
    """At most `max_bytes`, the one that was least asked for lately out first. Not thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._payloads: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, place: int) -> bytes | None:
        payload = self._payloads.get(place)
        if payload is not None:
            self._payloads.move_to_end(place)
        return payload

    def put(self, place: int, payload: bytes) -> None:
        self._remove(place)
        self._payloads[place] = payload
        self._bytes += len(payload) + _ENTRY_BYTES
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._payloads)))

    def drop_until(self, end: int) -> None:
        for place in [place for place in self._payloads if place < end]:
            self._remove(place)

    def _remove(self, place: int) -> None:
        if (payload := self._payloads.pop(place, None)) is not None:
            self._bytes -= len(payload) + _ENTRY_BYTES
