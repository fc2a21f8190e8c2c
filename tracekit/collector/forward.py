"""Forwarder: sends what this collector accepted on to another one, the same bytes.

Nobody waits for it. Bounds: `max_bytes` of requests wait, the one under way included; what comes then is
dropped. One is tried again for `MAX_AGE_S`, after pauses that double up to half a minute, or that the other
side asks for, a minute at most; those behind it wait. How it is sent, `export` says.

Each request says whom it has passed (`via`). One that comes back is answered and not kept a second time, nor
sent on: so a circle of collectors ends where it began.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tracekit.collector.export import NO_HTTP, Again, Grpc, Http, Refused, Request, target_of
from tracekit.collector.seldom import Seldom
from tracekit.collector.via import MAX_HOPS, Via
from tracekit.flow.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.collector.export import Client, Way
    from tracekit.otlp import Encoding, Signal

_Outcome: TypeAlias = Literal["forwarded", "refused", "internal", "given_up", "stopped"]

MAX_BYTES: Final = 32 * 1024 * 1024
MAX_AGE_S: Final = 300.0
TIMEOUT_S: Final = 10.0
FLUSH_S: Final = 5.0

_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 30.0
_MAX_RETRY_AFTER_S: Final = 60.0
_DROPPED: Final = ("queue_full", "given_up", "stopped", "internal", "too_many_hops")
_CURES: Final = (
    ((NO_HTTP,), "If it speaks gRPC: --forward-protocol grpc"),
    (("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"), "Look at OTEL_EXPORTER_OTLP_HEADERS"),
    (("404", "405", "UNIMPLEMENTED"), "Is it an OTLP receiver, and --forward without the signal's path?"),
    (("429", "503", "RESOURCE_EXHAUSTED"), "It cannot keep up: look at its log"),
    (
        ("no end", "timed out", "more came", "DEADLINE_EXCEEDED"),
        "It is too slow, or no OTLP receiver: look at its log, or name another with --forward",
    ),
    (("refused", "not known", "UNAVAILABLE"), "Start a collector there, or name another with --forward"),
)
"""What the other side, or the network, says, and what to do."""
_CURE: Final = "Name a collector with --forward that does not forward to this one"
_CIRCLE: Final = f"what was sent on came back, and is not sent on again. {_CURE}"
_DIRECT: Final = Via()


class Forwarder:
    """Forwards between `start` and `stop`, on a thread of its own.

    `endpoint` is as in OTEL_EXPORTER_OTLP_ENDPOINT: `http://collector:4318` for http/protobuf, where the
    signal's path is added, `http://collector:4317` for grpc; https likewise. `headers` are sent with each
    request. Raises ValueError for an endpoint or a header that cannot be.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: Way = "http/protobuf",
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_BYTES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.endpoint = endpoint
        self.protocol = protocol
        self._name = f"tracekit-{secrets.token_hex(8)}"
        self._target = target_of(endpoint, protocol, headers or {}, timeout_s)
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._queue: deque[Request] = deque()
        self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._trouble: Again | Refused | None = None
        self._seldom = Seldom(f"forwarding to {endpoint} fails")
        self._circle = Seldom(f"forwarding to {endpoint} goes in a circle")
        self._stop_by: float | None = None
        self._thread: threading.Thread | None = None

    def loss(self) -> str:
        """How much was not forwarded, and will not be, in a sentence; empty where all was, or may yet be."""
        with self._changed:
            lost = sum(self._counts[outcome] for outcome in ("refused", *_DROPPED))
        if not lost:
            return ""
        was = "was" if lost == 1 else "were"
        return f"{counted(lost, 'request')} {was} not forwarded to {self.endpoint}; it is all kept here"

    def troubles(self) -> Sequence[str]:
        """What goes wrong, in sentences for people."""
        trouble, loss = self._trouble, self.loss()
        failing = trouble and f"forwarding to {self.endpoint} fails: {trouble}. {self._meaning(trouble)}"
        circle = self._counts["returned"] and f"forwarding to {self.endpoint} goes in a circle: {_CIRCLE}"
        return tuple(said for said in (failing, circle, loss) if said)

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that it sends to."""
        return self._target.host, self._target.port

    def start(self) -> None:
        """Begin to send what waits, and what comes."""
        self._stop_by = None
        self._thread = threading.Thread(target=self._run, name="tracekit-collector-forward", daemon=True)
        self._thread.start()

    def stop(self, flush_s: float = FLUSH_S) -> None:
        """Send what waits, until the first failure and for so long at most; the rest is dropped."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._stop_by = time.monotonic() + flush_s
            self._changed.notify_all()
        thread.join(flush_s)
        with self._changed:
            self._counts["stopped"] += len(self._queue)
            self._queue.clear()
            self._bytes = 0

    def is_back(self, via: Via) -> bool:
        """Whether a request comes back that was sent on from here; it is counted, and told."""
        if not via.has(self._name):
            return False
        with self._changed:
            self._counts["returned"] += 1
        self._circle.say(_CIRCLE)
        return True

    def add(self, signal: Signal, body: bytes, encoding: Encoding, via: Via = _DIRECT) -> None:
        """Queue a request; never waits."""
        passed = via.further(self._name)
        if passed is None:
            self._circle.say(f"a request has passed {MAX_HOPS} others, and is not sent on. {_CURE}")
        with self._changed:
            if passed is None:
                self._counts["too_many_hops"] += 1
                return
            if self._bytes + len(body) > self._max_bytes:
                self._counts["queue_full"] += 1
                return
            self._queue.append(Request(signal, body, encoding, passed, time.monotonic() + MAX_AGE_S))
            self._bytes += len(body)
            self._changed.notify_all()

    def status(self) -> Mapping[str, object]:
        """What became of requests. `refused` by the other side, as were so many records of those it took.

        `returned` are those that came back, and were not sent on again.
        """
        with self._changed:
            return {
                "endpoint": self.endpoint,
                "protocol": self.protocol,
                "forwarded": self._counts["forwarded"],
                "refused": self._counts["refused"],
                "refused_records": self._counts["records"],
                "returned": self._counts["returned"],
                "dropped": {reason: self._counts[reason] for reason in _DROPPED if self._counts[reason]},
                "waiting": len(self._queue),
                "waiting_bytes": self._bytes,
                "trouble": str(self._trouble or ""),
            }

    def _run(self) -> None:
        client = Grpc(self._target) if self.protocol == "grpc" else Http(self._target)
        try:
            while (request := self._next()) is not None:
                self._finish(request, self._sent(client, request))
        finally:
            client.close()

    def _next(self) -> Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stop_by is not None)
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                return None
            return self._queue[0] if self._queue else None

    def _finish(self, request: Request, outcome: _Outcome) -> None:
        with self._changed:
            if self._queue and self._queue[0] is request:  # else `stop` has given it up
                self._queue.popleft()
                self._bytes -= len(request.body)
                self._counts[outcome] += 1

    def _sent(self, client: Client, request: Request) -> _Outcome:
        """Send it, again and again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                self._counts["records"] += client.send(request)
            except Refused as error:
                self._say(error)
                return "refused"
            except Again as error:
                self._say(error)
                wait_s = error.after_s
            except Exception as error:  # noqa: BLE001 - it costs this request, not those that follow
                self._seldom.say("a request could not be sent", error)
                return "internal"
            else:
                self._trouble = None
                return "forwarded"
            if wait_s is None:
                wait_s = pause_s * random.uniform(0.75, 1.25)  # noqa: S311
            wait_s = min(max(wait_s, _FIRST_PAUSE_S), _MAX_RETRY_AFTER_S)
            if time.monotonic() + wait_s > request.until:
                return "given_up"
            with self._changed:
                if self._changed.wait_for(lambda: self._stop_by is not None, wait_s):
                    self._stop_by = time.monotonic()  # the others would fare no better
                    return "stopped"
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _say(self, trouble: Again | Refused) -> None:
        self._trouble = trouble
        self._seldom.say(f"{trouble}. {self._meaning(trouble)}")

    def _meaning(self, trouble: Again | Refused) -> str:
        """What follows from it, and what to do."""
        cure = next(
            (cure for signs, cure in _CURES if any(sign in str(trouble) for sign in signs)), "Look at its log"
        )
        if isinstance(trouble, Refused):
            return f"What is refused is kept here, and not sent on. {cure}"
        return (
            f"All is kept here, and tried again for {MAX_AGE_S / 60:.0f} minutes; what waits beyond "
            f"{self._max_bytes >> 20} MiB is not sent on. {cure}"
        )
