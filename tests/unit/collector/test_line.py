"""Who has a turn to send its message over gRPC, and who loses it."""

from __future__ import annotations

from tracekit.collector.line import MAX_HELD_BYTES, MAX_UNDER_WAY, Call, Line

MIB = 1024 * 1024


def turns(line: Line[Call], now_s: float) -> list[Call]:
    """All the turns that begin now."""
    begun = []
    while (call := line.next(now_s)) is not None:
        begun.append(call)
    return begun


def added(line: Line[Call], connection: bytes, number: int = 1, now_s: float = 0) -> list[Call]:
    calls = [Call(connection) for _ in range(number)]
    for call in calls:
        line.add(call, now_s)
    return calls


def known(line: Line[Call], connection: bytes, size: int) -> None:
    """A connection that brought a message of this size."""
    (call,) = added(line, connection)
    assert turns(line, 0) == [call]
    line.come_whole(call, size)
    line.remove(call)


def test_who_is_slow_leaves_room_for_others() -> None:
    line: Line[Call] = Line()
    for number in range(40):
        added(line, b"%d" % number)

    assert [len(turns(line, now_s)) for now_s in (0.0, 0.4, 0.6, 1.2)] == [16, 0, 8, 4]


def test_after_large_messages_fewer_are_received_at_once() -> None:
    line: Line[Call] = Line()
    known(line, b"large", 20 * MIB)
    added(line, b"large", 10)

    assert len(turns(line, 0)) == 3


def test_what_is_whole_and_not_taken_in_counts_with_its_size() -> None:
    line: Line[Call] = Line()
    calls = added(line, b"one", 20)
    turns(line, 0)
    for call in calls[:4]:
        line.come_whole(call, 15 * MIB)

    assert MAX_HELD_BYTES == 64 * MIB
    assert turns(line, 1) == []


def test_many_small_ones_wait_for_the_intake_together() -> None:
    line: Line[Call] = Line()
    known(line, b"one", 100)
    added(line, b"one", MAX_UNDER_WAY)
    had = 0
    while begun := turns(line, 0):
        had += len(begun)
        for call in begun:
            line.come_whole(call, 100)

    assert had == MAX_UNDER_WAY


def test_of_too_many_the_latest_one_goes_of_the_connection_that_has_most() -> None:
    line: Line[Call] = Line()
    calls = added(line, b"many", MAX_UNDER_WAY)

    assert line.add(Call(b"one"), 0) is calls[-1]


def test_turns_go_around_among_the_connections() -> None:
    line: Line[Call] = Line()
    for connection in (b"a", b"b"):
        known(line, connection, 20 * MIB)
    added(line, b"a", 5)
    added(line, b"b", 5)

    assert [call.connection for call in turns(line, 0)] == [b"a", b"b", b"a"]


def test_nobody_loses_a_turn_while_nobody_waits() -> None:
    line: Line[Call] = Line()
    added(line, b"a", 10)
    turns(line, 0)

    assert line.cut(100) == []


def test_of_the_turns_an_eighth_at_most_is_taken_away_at_a_time() -> None:
    line: Line[Call] = Line()
    for number in range(60):
        added(line, b"%d" % number)
    for now_s in (0, 0.6):
        turns(line, now_s)

    assert [len(line.cut(now_s)) for now_s in (1.2, 1.3, 1.6, 1.8)] == [3, 0, 0, 3]


def test_who_never_brought_a_message_loses_a_turn_first() -> None:
    line: Line[Call] = Line()
    known(line, b"honest", 3 * MIB)
    added(line, b"honest", 1)
    turns(line, 0)
    silent = added(line, b"silent", 40, now_s=1)
    turns(line, 1)
    turns(line, 2)

    assert {*line.cut(3)} < {*silent}


def test_who_lost_a_turn_has_twice_as_long_at_the_next() -> None:
    line: Line[Call] = Line()
    known(line, b"one", 64 * MIB)
    lost = []
    now_s = 0.0
    for _ in range(5):
        (call, _) = added(line, b"one", 2, now_s)
        turns(line, now_s)
        began_s = now_s
        while not (cut := line.cut(now_s)):
            now_s += 0.125
        lost.append(now_s - began_s)
        assert cut == [call]
        line.remove(call)
        for waiting in list(line.waited_too_long(now_s + 100)):
            line.remove(waiting)

    assert lost == [0.625, 1.125, 2.125, 4.125, 4.125]
