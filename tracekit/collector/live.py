"""Live: flows as Server-Sent Events, to all who watch, while they are built.

An event is made once for all who watch with the same query. Bounds: in each `TICK_S` seconds at most
`MAX_FLOWS` flows a query, out of `MAX_PENDING` that were built and those that are matched within `MATCH_S`;
`MAX_WATCHERS` watchers, with `MAX_QUERIES` different queries; `MAX_BEHIND` bytes that one may be behind: who
reads more slowly loses events. What is left out, a `lost` event tells. The last `MAX_KEPT` events of a query,
in `MAX_KEPT_BYTES`, are kept for who comes again, for `KEPT_S` seconds after the last of its watchers went.
While nobody watches, it costs nothing.

An archive may call it from any thread; all the rest belongs to one event loop, but for the matching, which
takes what it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tracekit.collector import views
from tracekit.flow.search import matches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from tracekit.collector.archive import Built
    from tracekit.collector.cut import Object
    from tracekit.flow.search import Query

TICK_S: Final = 0.1
MATCH_S: Final = 1.0
STATUS_S: Final = 5.0
KEPT_S: Final = 60.0
MAX_FLOWS: Final = 50
MAX_PENDING: Final = 500
MAX_WATCHERS: Final = 200
MAX_QUERIES: Final = 10
MAX_BEHIND: Final = 256 * 1024
MAX_KEPT: Final = 200
MAX_KEPT_BYTES: Final = 1024 * 1024

HEARTBEAT: Final = b": still here\n\n"


class TooManyError(Exception):
    """No room for one more watcher; the text says of what there are too many."""


class Watcher:
    """One who watches: what it has not read yet. It is closed by who reads from it."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.is_closed = False
        self._unread: list[bytes] = []
        self._behind = 0
        self._lost = 0
        self._ready = asyncio.Event()

    def tell(self, text: bytes, flows: int = 0) -> None:
        """Add this to what it is to read; where it is too far behind, count the flows in it instead."""
        if self._unread and self._behind + len(text) > MAX_BEHIND:
            self._lost += flows
            return
        if self._lost:
            text, self._lost = lost_event(self._lost) + text, 0
        self._unread.append(text)
        self._behind += len(text)
        self._ready.set()

    def close(self) -> None:
        self.is_closed = True
        self._ready.set()

    async def unread(self) -> bytes:
        """What it has not read yet, as soon as there is something; or nothing, once it is closed."""
        await self._ready.wait()
        self._ready.clear()
        text = b"".join(self._unread)
        self._unread.clear()
        self._behind = 0
        return text


@dataclass(eq=False, slots=True)
class _Feed:
    """What those see who watch with the same query. `number` is that of its latest event."""

    first: int
    number: int
    watchers: set[Watcher] = field(default_factory=set)
    kept: deque[tuple[int, bytes]] = field(default_factory=deque)
    kept_bytes: int = 0
    left_at_s: float = 0

    def add(self, data: bytes) -> bytes:
        """The event with this flow."""
        self.number += 1
        text = b"id: %d\nevent: flow\ndata: %s\n\n" % (self.number, data)
        self.kept.append((self.number, text))
        self.kept_bytes += len(text)
        while len(self.kept) > MAX_KEPT or self.kept_bytes > MAX_KEPT_BYTES:
            self.kept_bytes -= len(self.kept.popleft()[1])
        return text

    def since(self, number: int) -> bytes:
        """The events after this one, and how many of them are gone; of a number not ours nobody knows."""
        texts = [text for at, text in self.kept if at > number]
        if not self.first <= number <= self.number:
            return b"".join([lost_event(None), *texts])
        gone = self.number - number - len(texts)
        return b"".join([*([lost_event(gone)] if gone else []), *texts])


class Live:
    """Watches an archive (`archive.watch(live)`) for those who watch it. `status` gives a status event."""

    def __init__(self, status: Callable[[], Awaitable[bytes]]) -> None:
        self._status = status
        self._latest_status = b""
        self._feeds: dict[Query, _Feed] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulse: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._flushed_at_s = 0.0
        self._lock = threading.Lock()
        self._pending: dict[str, Built] = {}
        self._passed_over = 0
        self._is_woken = False

    @property
    def watchers(self) -> int:
        """How many watch."""
        return sum(len(feed.watchers) for feed in self._feeds.values())

    def __call__(self, built: Sequence[Built], /) -> None:
        loop = self._loop
        if not self._feeds or loop is None:
            return
        with self._lock:
            for each in built:
                if each.summary.id in self._pending or len(self._pending) < MAX_PENDING:
                    self._pending[each.summary.id] = each
                else:
                    self._passed_over += 1
            wakes, self._is_woken = not self._is_woken, True
        if wakes:
            with contextlib.suppress(RuntimeError):  # a loop that was closed has no watchers any more
                loop.call_soon_threadsafe(self._wake)

    def enter(self, query: Query, since: int | None = None) -> Watcher:
        """One more who watches, from the event after `since` where that is still known.

        Raises TooManyError.
        """
        self._be_in(asyncio.get_running_loop())
        if self.watchers >= MAX_WATCHERS:
            raise TooManyError(f"{MAX_WATCHERS} watch already; close one of them")
        feed = self._feeds.get(query) or self._new_feed(query)
        watcher = Watcher(query)
        feed.watchers.add(watcher)
        if since is not None:
            watcher.tell(feed.since(since))
        watcher.tell(self._latest_status or HEARTBEAT)
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.create_task(self._beat())
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Forget this watcher."""
        feed = self._feeds.get(watcher.query)
        if feed is not None:
            feed.watchers.discard(watcher)
            feed.left_at_s = time.monotonic()

    def _be_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start anew where this is another loop: those who watched in an earlier one are gone with it."""
        if loop is not self._loop:
            self._feeds.clear()
            self._loop, self._pulse, self._latest_status = loop, None, b""
            with self._lock:
                self._pending, self._passed_over, self._is_woken = {}, 0, False

    def _new_feed(self, query: Query) -> _Feed:
        if len(self._feeds) >= MAX_QUERIES:
            left = [known for known, feed in self._feeds.items() if not feed.watchers]
            if not left:
                raise TooManyError(f"{MAX_QUERIES} different queries are watched already; use one of them")
            del self._feeds[min(left, key=lambda known: self._feeds[known].left_at_s)]
        # Numbers go up over restarts too, so that an old one is known to be old.
        first = time.time_ns() // 1_000
        feed = self._feeds[query] = _Feed(first, first)
        return feed

    def _wake(self) -> None:
        self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        """Tell what was built, at the end of a tick, until nothing new is."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._flushed_at_s + TICK_S - loop.time())
            self._flushed_at_s = loop.time()
            with self._lock:
                pending, self._pending = [*self._pending.values()], {}
                passed_over, self._passed_over = self._passed_over, 0
                self._is_woken = bool(pending or passed_over)
            if not pending and not passed_over:
                return
            try:
                await self._tell_all(pending, passed_over)
            except BaseException:
                with self._lock:
                    self._is_woken = False  # else nobody would ever be told again
                raise

    async def _tell_all(self, pending: Sequence[Built], passed_over: int) -> None:
        queries = [*self._feeds]
        found, left = await asyncio.to_thread(_matching, queries, pending)
        data: dict[str, bytes] = {}
        for query in queries:
            if (feed := self._feeds.get(query)) is not None:
                self._tell(feed, found[query], left + passed_over, data)

    def _tell(self, feed: _Feed, found: Sequence[Built], lost: int, data: dict[str, bytes]) -> None:
        """Tell all who watch with this query; what is encoded already is in `data`."""
        texts = []
        for each in found[:MAX_FLOWS]:
            told = data.get(each.summary.id)
            if told is None:
                told = data[each.summary.id] = encoded(views.summary(each.summary))
            texts.append(feed.add(told))
        if lost_now := max(0, len(found) - MAX_FLOWS) + lost:
            texts.append(lost_event(lost_now))
        if texts:
            text = b"".join(texts)
            for watcher in feed.watchers:
                watcher.tell(text, len(found) + lost)

    async def _beat(self) -> None:
        """A status every few seconds; a sign of life, where that takes longer to find out."""
        asked: asyncio.Future[bytes] | None = None
        while self._drop_left():
            asked = asked or asyncio.ensure_future(self._status())
            await asyncio.wait({asked}, timeout=STATUS_S)
            text = HEARTBEAT
            if asked.done():
                text = self._latest_status = asked.result()
                asked = None
            for feed in self._feeds.values():
                for watcher in feed.watchers:
                    watcher.tell(text)
            await asyncio.sleep(STATUS_S)

    def _drop_left(self) -> bool:
        """Forget the feeds that all left long ago; whether there are others."""
        until_s = time.monotonic() - KEPT_S
        for query, feed in list(self._feeds.items()):
            if not feed.watchers and feed.left_at_s < until_s:
                del self._feeds[query]
        return bool(self._feeds)


def _matching(
    queries: Collection[Query], pending: Sequence[Built]
) -> tuple[Mapping[Query, Sequence[Built]], int]:
    """Which flows meet which query; and how many, the last ones, there was no time for."""
    until_s = time.monotonic() + MATCH_S
    found: dict[Query, list[Built]] = {query: [] for query in queries}
    for at, each in enumerate(pending):
        if time.monotonic() > until_s:
            return found, len(pending) - at
        for query, meeting in found.items():
            if matches(query, each.flow):
                meeting.append(each)
    return found, 0


def encoded(found: Mapping[str, object]) -> bytes:
    """As JSON, in one line."""
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def lost_event(flows: int | None) -> bytes:
    """That so many flows were not told; None: nobody knows how many."""
    return b"event: lost\ndata: %s\n\n" % encoded({"lost": flows})


def status_event(status: Object) -> bytes:
    return b"event: status\ndata: %s\n\n" % encoded(status)
