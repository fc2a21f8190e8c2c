"""Intake: OTLP requests into a store, one at a time. What HTTP and gRPC have in common.

One at a time: two would share one interpreter, be done no sooner, and take twice the memory. On a thread of
its own: a store writes to a disk, which may be slow, full or gone, and only that thread may wait for it.

Bounds: how many bytes wait for their turn, `app` and `rpc` limit. Who waits for longer than `max_wait_s` is
told to come again, and so is everybody new where the request under way takes longer than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, TypeAlias

from tracekit.collector.seldom import Seldom
from tracekit.collector.via import Via
from tracekit.otlp import (
    INTERNAL,
    INVALID_ARGUMENT,
    UNAVAILABLE,
    Decoded,
    OtlpError,
    decode_logs,
    decode_metrics,
    decode_spans,
    encode_answer,
    to_protobuf,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracekit.collector.forward import Forwarder
    from tracekit.collector.store import Store
    from tracekit.otlp import Encoding, Signal

MAX_REQUEST_BYTES: Final = 20 * 1024 * 1024
"""The largest request, on the wire and inflated. Source: the OTLP specification, "OTLP/HTTP Request"."""
MAX_WAIT_S: Final = 5.0
"""Half of what exporters allow an export by default: then they send again what we do not have."""
RETRY_AFTER_S: Final = 2

_GRACE_S: Final = 1.0
_DIRECT: Final = Via()


class Refusal(Exception):  # noqa: N818 (it is an answer)
    """A request that is not taken in, with the status to say so; of `records` records, or as a whole.

    With `retry_after_s` it may be sent again after so long, without it must not.
    """

    def __init__(
        self, http_status: int, code: int, reason: str, *, retry_after_s: int | None = None, records: int = 1
    ) -> None:
        super().__init__(reason)
        self.http_status = http_status
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.records = records


def busy(reason: str) -> Refusal:
    """A refusal of what may be sent again. Source: the OTLP specification, "OTLP/HTTP Throttling"."""
    return Refusal(503, UNAVAILABLE, f"{reason}; send it again", retry_after_s=RETRY_AFTER_S)


_Outcome: TypeAlias = bytes | Refusal


@dataclass(frozen=True, slots=True)
class _Job:
    signal: Signal
    body: bytes
    encoding: Encoding
    via: Via
    outcome: Future[_Outcome]


class Intake:
    """Takes requests into a store, and hands what it took on, from when it is made until `close`."""

    def __init__(
        self, store: Store, forwarder: Forwarder | None = None, *, max_wait_s: float = MAX_WAIT_S
    ) -> None:
        self._store = store
        self._max_wait_s = max_wait_s
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._under_way: tuple[_Job, float] | None = None
        self._is_closed = False
        self._refused: Counter[str] = Counter()
        self._uncounted: Counter[Signal] = Counter()
        self._forwarder = forwarder
        self._failing = Seldom("the collector's store fails, and senders are told")
        self._thread = threading.Thread(target=self._run, name="tracekit-collector-intake", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> Mapping[str, int]:
        """How many requests were refused, by the HTTP status that says why, over gRPC too."""
        with self._lock:
            return dict(self._refused)

    def take_in(self, signal: Signal, body: bytes, encoding: Encoding, via: Via = _DIRECT) -> bytes:
        """Block until the store has what the request holds; the body of the answer. Raises Refusal."""
        outcome = self._submit(signal, body, encoding, via)
        try:
            return _answer(outcome.result(self._max_wait_s))
        except TimeoutError:
            if outcome.cancel():
                raise self._busy(signal, "others are being taken in for too long") from None
            return _answer(outcome.result())

    async def take_in_async(
        self, signal: Signal, body: bytes, encoding: Encoding, via: Via = _DIRECT
    ) -> bytes:
        """The same for a task: its event loop goes on meanwhile."""
        outcome = self._submit(signal, body, encoding, via)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._max_wait_s, outcome.cancel)  # one that is under way goes on
        try:
            return _answer(await asyncio.wrap_future(outcome, loop=loop))
        except asyncio.CancelledError:
            if timer.when() > loop.time():
                raise
            raise self._busy(signal, "others are being taken in for too long") from None
        finally:
            timer.cancel()

    def refuse(self, signal: Signal | None, refusal: Refusal) -> None:
        """Count a request that was refused. At once: the store is told on the intake's thread."""
        with self._lock:
            self._refused[str(refusal.http_status)] += 1
            if signal is None:
                return
            is_first = not self._uncounted
            self._uncounted[signal] += refusal.records
        if is_first:
            self._jobs.put(None)

    def close(self) -> None:
        """Finish what waits, for a second at most; the rest, and what comes later, is refused."""
        with self._lock:
            self._is_closed = True
        self._jobs.put(None)
        self._thread.join(_GRACE_S)
        if self._thread.is_alive():
            while not self._jobs.empty():
                if job := self._jobs.get():
                    job.outcome.cancel()
            self._jobs.put(None)
            if under_way := self._under_way:
                _settle(under_way[0].outcome, busy("the collector stops"))

    def _busy(self, signal: Signal, reason: str) -> Refusal:
        refusal = busy(reason)
        self.refuse(signal, refusal)
        return refusal

    def _submit(
        self, signal: Signal, body: bytes, encoding: Encoding, via: Via = _DIRECT
    ) -> Future[_Outcome]:
        if self._forwarder is not None and self._forwarder.is_back(via):  # it is kept already
            back: Future[_Outcome] = Future()
            back.set_result(encode_answer(signal, Decoded(()), encoding))
            return back
        under_way = self._under_way
        if under_way and time.monotonic() - under_way[1] > self._max_wait_s:
            raise self._busy(signal, "another request is being taken in for too long")
        outcome: Future[_Outcome] = Future()
        with self._lock:
            if self._is_closed:
                raise busy("the collector stops")
            self._jobs.put(_Job(signal, body, encoding, via, outcome))
        return outcome

    def _run(self) -> None:
        while not (self._is_closed and self._jobs.empty()):
            self._do(self._jobs.get())

    def _do(self, job: _Job | None) -> None:
        if job and job.outcome.set_running_or_notify_cancel():
            self._under_way = job, time.monotonic()
            outcome = self._outcome(job)
            if isinstance(outcome, Refusal):
                self.refuse(job.signal, outcome)
            self._count()  # before the answer: who asks then finds it
            _settle(job.outcome, outcome)
            self._under_way = None
        self._count()

    def _outcome(self, job: _Job) -> _Outcome:
        try:
            decoded = _added(self._store, job.signal, job.body, job.encoding)
        except OtlpError as error:
            return Refusal(400, INVALID_ARGUMENT, str(error))
        except OSError as error:
            self._failing.say(error)
            return busy(f"the collector cannot keep it now ({error.strerror or type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - a store's bug is answered, and others are served
            self._failing.say(type(error).__name__, error)
            return Refusal(500, INTERNAL, "the collector failed at this request; its log says how")
        if decoded.rejected and not decoded.records:
            return Refusal(400, INVALID_ARGUMENT, decoded.reason, records=decoded.rejected)
        if decoded.rejected:
            with self._lock:
                self._uncounted[job.signal] += decoded.rejected
        if self._forwarder is not None:
            self._forwarder.add(job.signal, job.body, job.encoding, job.via)
        return encode_answer(job.signal, decoded, job.encoding)

    def _count(self) -> None:
        if self._uncounted:
            with self._lock:
                uncounted, self._uncounted = self._uncounted, Counter()
            for signal, number in uncounted.items():
                try:
                    self._store.count_refused(signal, number)
                except Exception as error:  # noqa: BLE001 - as above
                    self._failing.say(type(error).__name__, error)


def _answer(outcome: _Outcome) -> bytes:
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


def _settle(future: Future[_Outcome], outcome: _Outcome) -> None:
    with contextlib.suppress(InvalidStateError):  # `close` and the thread may both come to it
        future.set_result(outcome)


def _added(store: Store, signal: Signal, body: bytes, encoding: Encoding) -> Decoded[object]:
    if signal == "traces":
        # What cannot be had so as a whole is decoded, which says what is wrong with which span.
        with contextlib.suppress(OtlpError):
            if store.add_encoded_spans(body if encoding == "protobuf" else to_protobuf(signal, body)):
                return Decoded(())
        spans = decode_spans(body, encoding)
        store.add_spans(spans.records)
        return spans
    if signal == "logs":
        lines = decode_logs(body, encoding)
        store.add_logs(lines.records)
        return lines
    metrics = decode_metrics(body, encoding)
    store.add_metrics(metrics.records)
    return metrics
