"""Line: calls that bring a message each: who has a turn to send it, and who waits for one.

Nobody says beforehand how large a message is, nor how much of it is there. So a turn is counted with what its
connection brought last; of a connection that has brought nothing yet, with what is usual, and, where it takes
longer than `PATIENCE_S`, as a small one, for then it comes slowly or not at all.

Bounds: `MAX_UNDER_WAY` calls, and turns for `MAX_HELD_BYTES` as counted so, thus 32 at most that are not
whole. The turns go around among the connections. Where all are taken and others wait, an eighth of them at
most is taken away every `PATIENCE_S`: from who has had his for longer than that, who never brought a whole
message first. A connection that lost one has twice as long at its next, up to `_MOST_PATIENCE` times.

Connections that bring large messages and never did before may hold more: of new ones 16 at first, and 32
once small messages are usual, of `MAX_REQUEST_BYTES` each; thus 640 MiB where somebody means harm. Measured:
770 MB of the whole process, by 60 connections that stop before the end of 20 MiB.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

from tracekit.collector.intake import MAX_WAIT_S

MAX_UNDER_WAY: Final = 108
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
PATIENCE_S: Final = 0.5
_SMALL: Final = MAX_HELD_BYTES // 32
_USUAL: Final = 2 * _SMALL  # before any came
_MOST_PATIENCE: Final = 8
_SENDERS: Final = 2000  # remembered


class Call:
    """One call, from its headers to its answer."""

    def __init__(self, connection: bytes) -> None:
        self.connection = connection
        self.since_s = 0.0  # it waits for its turn, or has it
        self.size: int | None = None  # of its message; None: that is not whole


CallT = TypeVar("CallT", bound=Call)


class _Sender(Generic[CallT]):
    """A connection, and what is known of it."""

    def __init__(self) -> None:
        self.waiting: deque[CallT] = deque()
        self.turns = 0  # that it has now
        self.last_turn = 0
        self.size: int | None = None  # of its last message; None: it never brought a whole one
        self.patience = 1


class Line(Generic[CallT]):
    """The calls of one server. Time is passed in, in seconds of any clock that only goes on."""

    def __init__(self) -> None:
        self._senders: OrderedDict[bytes, _Sender[CallT]] = OrderedDict()
        self._by_call: dict[CallT, _Sender[CallT]] = {}
        self._waiting: dict[_Sender[CallT], None] = {}
        self._turns: dict[CallT, None] = {}
        self._usual = _USUAL
        self._turn = 0
        self._cut_at_s = 0.0

    def add(self, call: CallT, now_s: float) -> CallT | None:
        """It waits. Gives the call that has no room now, if any, which is there until it is removed."""
        sender = self._senders.setdefault(call.connection, _Sender())
        self._senders.move_to_end(call.connection)
        if len(self._senders) > _SENDERS:
            self._senders.popitem(last=False)
        call.since_s = now_s
        self._by_call[call] = sender
        self._waiting[sender] = None
        sender.waiting.append(call)
        if len(self._by_call) <= MAX_UNDER_WAY:
            return None
        return max(self._waiting, key=lambda each: len(each.waiting)).waiting[-1]

    def next(self, now_s: float) -> CallT | None:
        """The call whose turn begins now; None where nobody waits, or all turns are taken."""
        if not self._waiting:
            return None
        sender = min(self._waiting, key=lambda each: (each.turns, each.last_turn))
        held = sum(self._counted(call, now_s) for call in self._turns)
        if self._turns and held + self._expected(sender) > MAX_HELD_BYTES:
            return None
        call = sender.waiting.popleft()
        if not sender.waiting:
            del self._waiting[sender]
        self._turn += 1
        sender.last_turn = self._turn
        sender.turns += 1
        self._turns[call] = None
        call.since_s = now_s
        return call

    def come_whole(self, call: CallT, size: int) -> None:
        """Its message is there."""
        sender = self._by_call[call]
        call.size = sender.size = size
        sender.patience = 1
        self._usual = max(size, self._usual * 7 // 8)

    def remove(self, call: CallT) -> None:
        """It is over; nothing, where it was so before."""
        sender = self._by_call.pop(call, None)
        if sender is None:
            return
        if call in self._turns:
            del self._turns[call]
            sender.turns -= 1
        else:
            sender.waiting.remove(call)
            if not sender.waiting:
                del self._waiting[sender]

    def waited_too_long(self, now_s: float) -> list[CallT]:
        """Those who have had no turn for so long that they should be told to come again."""
        waiting = (call for sender in self._waiting for call in sender.waiting)
        return [call for call in waiting if now_s - call.since_s > MAX_WAIT_S]

    def slower_than(self, within_s: float, now_s: float) -> list[CallT]:
        """Those whose message is not whole after so long a turn."""
        return [call for call in self._turns if call.size is None and now_s - call.since_s > within_s]

    def cut(self, now_s: float) -> list[CallT]:
        """Those who lose their turn now to others, after `next` gave nobody one."""
        wanted = sum(len(sender.waiting) for sender in self._waiting)
        if not wanted or now_s - self._cut_at_s < PATIENCE_S:
            return []
        coming = [call for call in self._turns if call.size is None]
        slow = [call for call in coming if self._overdue(call, now_s) > 1]
        slow.sort(key=lambda call: self._preferred(call, now_s))
        cut = slow[: min(wanted, max(1, len(coming) // 8))]
        for call in cut:
            sender = self._by_call[call]
            sender.patience = min(2 * sender.patience, _MOST_PATIENCE)
        if cut:
            self._cut_at_s = now_s
        return cut

    def _preferred(self, call: CallT, now_s: float) -> tuple[bool, int, float]:
        sender = self._by_call[call]
        return sender.size is not None, -sender.turns, -self._overdue(call, now_s)

    def _overdue(self, call: CallT, now_s: float) -> float:
        return (now_s - call.since_s) / (PATIENCE_S * self._by_call[call].patience)

    def _counted(self, call: CallT, now_s: float) -> int:
        if call.size is not None:
            return call.size
        sender = self._by_call[call]
        if sender.size is None and now_s - call.since_s > PATIENCE_S:
            return _SMALL
        return self._expected(sender)

    def _expected(self, sender: _Sender[CallT]) -> int:
        return max(_SMALL, self._usual if sender.size is None else sender.size)
