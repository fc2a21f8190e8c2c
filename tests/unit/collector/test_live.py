"""Live events: made once, told to all, and bounded for who does not read."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace

from tracekit.collector.archive import Built, Summary
from tracekit.collector.live import (
    HEARTBEAT,
    MATCH_S,
    MAX_BEHIND,
    MAX_FLOWS,
    MAX_KEPT,
    MAX_KEPT_BYTES,
    MAX_PENDING,
    Live,
    Watcher,
    lost_event,
)
from tracekit.flow import build_flow
from tracekit.flow.search import parse
from tracekit.testing.spans import request

FLOW = build_flow([request()])


async def status() -> bytes:
    return HEARTBEAT


def flows(first: int, after: int, name: str = "POST /orders") -> list[Built]:
    """So many flows, each with its number for an id."""
    return [
        Built(Summary(f"{number:032x}", name, "orders", 1, 2, 3), replace(FLOW, id=f"{number:032x}"))
        for number in range(first, after)
    ]


def told(text: bytes) -> list[int]:
    """The numbers of the flows in it."""
    return [int(found, 16) for found in re.findall(rb'event: flow\ndata: {"id":"([0-9a-f]{32})"', text)]


def lost(text: bytes) -> int:
    """How many it says were lost."""
    return sum(json.loads(found)["lost"] for found in re.findall(rb"event: lost\ndata: (.*)", text))


async def until(watcher: Watcher, flows: int) -> bytes:
    """What it is told, until so many flows were told or lost."""
    text = b""
    while len(told(text)) + lost(text) < flows:
        text += await asyncio.wait_for(watcher.unread(), 30)
    return text


def test_all_who_watch_are_told_of_each_flow_once() -> None:
    async def told_to() -> list[list[int]]:
        live = Live(status)
        watchers = [live.enter(()) for _ in range(3)]
        live(flows(0, 5))
        live(flows(3, 7))
        return [told(await until(watcher, 7)) for watcher in watchers]

    assert asyncio.run(told_to()) == [list(range(7))] * 3


def test_of_too_many_at_once_the_first_are_told_and_the_others_counted() -> None:
    async def seen() -> bytes:
        live = Live(status)
        watcher = live.enter(())
        live(flows(0, MAX_PENDING + 100))
        return await until(watcher, MAX_PENDING + 100)

    text = asyncio.run(seen())

    assert (told(text), lost(text)) == (list(range(MAX_FLOWS)), MAX_PENDING + 100 - MAX_FLOWS)


def test_who_does_not_read_holds_nobody_up_and_is_told_how_many_it_lost() -> None:
    fat = "x" * 1000
    ticks = 2 * MAX_BEHIND // (MAX_FLOWS * len(fat))

    async def seen() -> tuple[bytes, bytes]:
        live = Live(status)
        quick, slow = live.enter(()), live.enter(())
        read = b""
        for tick in range(ticks):
            live(flows(MAX_FLOWS * tick, MAX_FLOWS * (tick + 1), fat))
            read += await until(quick, MAX_FLOWS)
        behind = await slow.unread()
        live(flows(10**6, 10**6 + 1))
        return read, behind + await slow.unread()

    read, behind = asyncio.run(seen())

    everything = MAX_FLOWS * ticks
    assert told(read) == list(range(everything))
    assert len(behind) < 2 * MAX_BEHIND
    assert 0 < lost(behind) < everything
    assert len(told(behind)) + lost(behind) == everything + 1


def test_matching_holds_nobody_up_and_ends_in_time() -> None:
    large = build_flow([replace(request(), attributes={"items": tuple(range(200_000))})])
    query = parse('"items" = -1')

    async def seen() -> tuple[bytes, float, float]:
        live = Live(status)
        live.enter(query)
        watcher = live.enter(())
        loop = asyncio.get_running_loop()
        live([replace(each, flow=replace(large, id=each.flow.id)) for each in flows(0, MAX_FLOWS)])
        began_s, longest_s = loop.time(), 0.0
        asked = asyncio.create_task(until(watcher, MAX_FLOWS))
        while not asked.done():
            at_s = loop.time()
            await asyncio.sleep(0.01)
            longest_s = max(longest_s, loop.time() - at_s)
        return await asked, loop.time() - began_s, longest_s

    text, took_s, longest_s = asyncio.run(seen())

    assert lost(text) > 0  # one by one they are more than there is time for
    assert took_s < 3 * MATCH_S
    assert longest_s < took_s / 3


def test_events_are_batched() -> None:
    async def pieces() -> int:
        live = Live(status)
        watcher = live.enter(())
        await watcher.unread()
        for number in range(MAX_FLOWS):
            live(flows(number, number + 1))
            await asyncio.sleep(0)
        found, text = 0, b""
        while len(told(text)) < MAX_FLOWS:
            text += await asyncio.wait_for(watcher.unread(), 30)
            found += 1
        return found

    assert asyncio.run(pieces()) <= 3  # the first at once, the others at the end of their tick


def test_who_comes_again_after_too_much_is_told_how_many_are_gone() -> None:
    async def seen() -> bytes:
        live = Live(status)
        watcher = live.enter(())
        live(flows(0, 1))
        first = int(re.findall(rb"id: (\d+)", await until(watcher, 1))[0])
        number = 1
        while number < MAX_KEPT + 51:
            live(flows(number, number + MAX_FLOWS))
            await until(watcher, MAX_FLOWS)
            number += MAX_FLOWS
        live.leave(watcher)
        return await live.enter((), first).unread()

    text = asyncio.run(seen())

    assert lost(text) + len(told(text)) == len(range(1, MAX_KEPT + 51, MAX_FLOWS)) * MAX_FLOWS
    assert len(told(text)) == MAX_KEPT


def test_of_large_events_fewer_are_kept_for_who_comes_again() -> None:
    fat = "x" * 1000
    services = ("x" * 1000,) * 30

    async def seen() -> bytes:
        live = Live(status)
        watcher = live.enter(())
        live(flows(0, 1, fat))
        first = int(re.findall(rb"id: (\d+)", await until(watcher, 1))[0])
        for number in range(1, 101, 10):
            live(
                [
                    replace(b, summary=replace(b.summary, services=services))
                    for b in flows(number, number + 10)
                ]
            )
            await until(watcher, 10)
        return live._feeds[()].since(first)

    text = asyncio.run(seen())

    assert 0 < len(told(text)) < 100
    assert len(told(text)) + lost(text) == 100
    assert len(text) < 2 * MAX_KEPT_BYTES


def test_while_nobody_watches_nothing_is_kept() -> None:
    live = Live(status)

    live(flows(0, 100))

    assert live.watchers == 0
    assert not live._pending


def test_another_event_loop_starts_anew() -> None:
    live = Live(status)

    async def watch() -> list[int]:
        watcher = live.enter(())
        live(flows(0, 1))
        return told(await until(watcher, 1))

    assert [asyncio.run(watch()), asyncio.run(watch())] == [[0], [0]]


def test_nobody_knows_how_many_were_lost_before_a_restart() -> None:
    async def seen() -> bytes:
        return await Live(status).enter((), 17).unread()

    assert lost_event(None) in asyncio.run(seen())
