"""Building: the flows that went quiet, a few at a time, so that their rows say what only the whole tells.

A flow that grows later is built again; so is one to which a trace leads that grew. Building takes no more
than a part of the time, and none while much comes.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Final

from tracekit.collector.reading import cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tracekit.collector.archive import Built, Watcher
    from tracekit.collector.index import Index
    from tracekit.collector.reading import Reader

_SETTLED_S: Final = 1.5
"""A flow is built when nothing came for so long."""
_TICK_S: Final = 0.25
_MAX_WAITING: Final = 20_000
_AT_ONCE: Final = 50
_SHARE: Final = 0.25
"""Flows are built in at most this part of the time; while requests come, that much less of theirs."""
_BUSY_SPANS: Final = 5_000
"""While more spans than these come within a tick, nothing is built."""
_ROUND_S: Final = 1.0
"""Flows are noted as built after so long, and one flow more."""
_LOOK_S: Final = 2.0
"""So often the index is asked for flows that were not built yet."""
_LED: Final = 0.0
"""When a flow is due that was led to from another one."""

_logger = logging.getLogger("tracekit")


class Builder:
    """Builds on a thread of its own, from `start` until the store is `stopping`, and tells who watches.

    `trouble` is told what keeps rows from being written, `say` what somebody should know.
    """

    def __init__(
        self,
        reader: Reader,
        index: Index,
        *,
        trouble: Callable[[Exception], None],
        say: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        self._reader = reader
        self._index = index
        self._trouble = trouble
        self._say = say
        self._stopping = stopping
        self._lock = threading.Lock()  # of what waits, and who watches
        self._waiting: OrderedDict[bytes, float] = OrderedDict()
        self._watchers: tuple[Watcher, ...] = ()
        self._came = 0
        self._thread = threading.Thread(target=self._run, name="tracekit-collector-flows", daemon=True)

    def start(self) -> None:
        self._waiting.update(dict.fromkeys(self._index.led(_MAX_WAITING), _LED))
        self._thread.start()

    def join(self) -> None:
        """Wait until it is done, once the store is stopping."""
        self._thread.join()

    def came(self, spans: int) -> None:
        """So many spans came. One thread at a time may say it."""
        self._came += spans

    def wait(self, touched: Iterable[tuple[bytes, float]]) -> None:
        """These grew, each last at a moment of the monotonic clock: they are built once they are quiet.

        Of too many the latest are forgotten; the index knows that they were not built.
        """
        with self._lock:
            for id_, touched_s in touched:
                self._waiting[id_] = touched_s + _SETTLED_S
                self._waiting.move_to_end(id_)
            while len(self._waiting) > _MAX_WAITING:
                self._waiting.popitem(last=False)

    def watch(self, watcher: Watcher) -> None:
        with self._lock:
            self._watchers += (watcher,)

    def unwatch(self, watcher: Watcher) -> None:
        with self._lock:
            self._watchers = tuple(each for each in self._watchers if each is not watcher)

    def tell(self, built: Sequence[Built]) -> None:
        """Tell all who watch."""
        for watcher in self._watchers:
            try:
                watcher(built)
            except Exception:
                _logger.warning("a watcher of flows fails", exc_info=True)

    def _run(self) -> None:
        pause_s, looked_at = _TICK_S, 0.0
        while not self._stopping.wait(pause_s):
            pause_s = _TICK_S
            came, self._came = self._came, 0
            if came > _BUSY_SPANS:
                continue
            began_s = time.monotonic()
            due = self._due(began_s)
            try:
                if not due and began_s - looked_at >= _LOOK_S:
                    due = dict.fromkeys(self._index.unanalysed(_AT_ONCE), _LED)
                    looked_at = 0.0 if due else began_s
                if due:
                    self._build(due)
            except (OSError, sqlite3.Error) as error:
                self._trouble(error)
            if due:
                pause_s = (time.monotonic() - began_s) * (1 / _SHARE - 1)

    def _due(self, now_s: float) -> dict[bytes, float]:
        with self._lock:
            # From both ends in turn: what takes long must not keep all that came after it.
            first = islice(self._waiting.items(), _AT_ONCE // 2)
            last = (each for each in reversed(self._waiting.items()) if each[1] <= now_s)
            pairs = zip_longest(first, islice(last, _AT_ONCE // 2))
            due = {each[0]: each[1] for pair in pairs for each in pair if each and each[1] <= now_s}
            for id_ in due:
                del self._waiting[id_]
        return due

    def _build(self, due: Mapping[bytes, float]) -> None:
        until_s = time.monotonic() + _ROUND_S
        ids = iter(due)
        round_ = _Round()
        for id_ in ids:
            self._try(id_, round_)
            if self._stopping.is_set():
                return  # what was read then may be a part
            if time.monotonic() > until_s:
                break
        with self._lock:
            for id_ in reversed([*ids]):
                self._waiting[id_] = due[id_]
                self._waiting.move_to_end(id_, last=False)
        led: set[bytes] = set()
        for id_ in (*round_.none, *round_.lost):
            if due[id_] != _LED:  # else two that lead to each other would never end
                led |= self._reader.led_on(id_)
        led -= round_.last.keys()  # built in this round, with what led there
        with self._index.writing():
            # What grew while it was built stays as it is: it waits for being built again.
            old = {id_ for id_, last in round_.last.items() if self._index.last_places(id_)[0] > last}
            self._index.note_built(each for each in round_.built if bytes.fromhex(each.summary.id) not in old)
            self._index.note_no_flow(id_ for id_ in round_.none if id_ not in old)
            self._index.note_tried(id_ for id_ in (*round_.lost, *round_.tried) if id_ not in old)
            self._index.note_led(led, round_.last)
        with self._lock:
            for other in led:
                self._waiting.setdefault(other, _LED)
        if told := [*round_.built, *round_.damaged]:
            self.tell(told)

    def _try(self, id_: bytes, round_: _Round) -> None:
        try:
            found, missing, round_.last[id_] = self._reader.build(id_.hex())
        except Exception:
            _logger.warning("flow %s cannot be built", id_.hex(), exc_info=True)
            self._say(f"flow {id_.hex()} cannot be built; the log says why")
            round_.tried.append(id_)
            return
        if cause(missing) is not None:
            return  # it is looked at again
        if found is None:
            (round_.lost if missing else round_.none).append(id_)
        elif missing and self._index.summary(id_) is not None:
            round_.damaged.append(found)
            round_.tried.append(id_)
        else:
            round_.built.append(found)


@dataclass(slots=True)
class _Round:
    """What became of the ids that were due."""

    last: dict[bytes, int] = field(default_factory=dict)
    """The last place that was known of each, when it was built."""
    built: list[Built] = field(default_factory=list)
    damaged: list[Built] = field(default_factory=list)
    none: list[bytes] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    """Of these nothing is left that can be read."""
    tried: list[bytes] = field(default_factory=list)
