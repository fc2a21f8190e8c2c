"""Intake: what becomes of requests where the store is slow, full or broken."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tracekit.collector.intake import Intake, Refusal
from tracekit.collector.memory import MemoryStore
from tracekit.collector.store import Counts
from tracekit.model import Span
from tracekit.otlp import encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPANS = (Span("1" * 32, "2" * 16, "send orders", 1, 2),)
GOOD = encode_spans(SPANS)


class Disk(MemoryStore):
    """A store above a disk that waits while `go_on` is not set, and fails while `error` is."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def add_spans(self, spans: Sequence[Span]) -> None:
        self.entered.set()
        assert self.go_on.wait(60)
        if self.error is not None:
            raise self.error
        super().add_spans(spans)


@contextmanager
def taking_in(store: Disk, max_wait_s: float = 30.0) -> Iterator[Intake]:
    intake = Intake(store, max_wait_s=max_wait_s)
    try:
        yield intake
    finally:
        store.go_on.set()
        intake.close()


def refusal(intake: Intake, body: bytes = GOOD) -> tuple[int, str, int | None]:
    with pytest.raises(Refusal) as refused:
        intake.take_in("traces", body, "protobuf")
    return refused.value.http_status, refused.value.reason, refused.value.retry_after_s


def test_a_full_disk_is_told_to_the_sender_who_may_come_again(caplog: pytest.LogCaptureFixture) -> None:
    store = Disk(OSError(errno.ENOSPC, "No space left on device", "/data/secret"))
    with taking_in(store) as intake:
        said = [refusal(intake) for _ in range(3)]
        store.error = None

        assert intake.take_in("traces", GOOD, "protobuf") == b""

    assert said == [(503, "the collector cannot keep it now (No space left on device); send it again", 2)] * 3
    assert (intake.refused, store.counts()["traces"]) == ({"503": 3}, Counts(kept=1, refused=3))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_bug_in_the_store_is_told_once_and_others_are_served(caplog: pytest.LogCaptureFixture) -> None:
    store = Disk(KeyError("bug"))
    with taking_in(store) as intake:
        said = [refusal(intake) for _ in range(2)]
        store.error = None
        intake.take_in("traces", GOOD, "protobuf")

    assert said == [(500, "the collector failed at this request; its log says how", None)] * 2
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert store.counts()["traces"] == Counts(kept=1, refused=2)


def test_who_waits_for_too_long_is_told_to_come_again_and_is_not_kept() -> None:
    store = Disk()
    store.go_on.clear()
    with taking_in(store, max_wait_s=0.2) as intake, ThreadPoolExecutor() as threads:
        first = threads.submit(intake.take_in, "traces", GOOD, "protobuf")
        assert store.entered.wait(30)

        assert refusal(intake) == (503, "others are being taken in for too long; send it again", 2)
        with pytest.raises(Refusal):
            asyncio.run(intake.take_in_async("traces", GOOD, "protobuf"))
        # By now the first one takes too long: nobody new waits.
        assert refusal(intake)[1] == "another request is being taken in for too long; send it again"
        store.go_on.set()
        assert first.result(30) == b""  # who is under way is waited for

    assert store.counts()["traces"] == Counts(kept=1, refused=3)


def test_a_task_that_waits_leaves_its_loop_alone() -> None:
    store = Disk()
    store.go_on.clear()

    async def send() -> bytes:
        waits = asyncio.create_task(intake.take_in_async("traces", GOOD, "protobuf"))
        await asyncio.sleep(0)
        assert not waits.done()
        store.go_on.set()
        return await waits

    with taking_in(store) as intake:
        assert asyncio.run(send()) == b""


def test_a_refusal_elsewhere_is_counted_though_the_store_does_not_answer() -> None:
    store = Disk()
    store.go_on.clear()
    with taking_in(store) as intake, ThreadPoolExecutor() as threads:
        threads.submit(intake.take_in, "traces", GOOD, "protobuf")
        assert store.entered.wait(30)
        for _ in range(3):
            intake.refuse("logs", Refusal(413, 8, "too large"))
        intake.refuse(None, Refusal(404, 12, "nothing here"))

        assert intake.refused == {"413": 3, "404": 1}
        store.go_on.set()

    assert store.counts()["logs"] == Counts(refused=3)


def test_what_comes_after_the_end_is_refused() -> None:
    with taking_in(Disk()) as intake:
        pass

    assert refusal(intake) == (503, "the collector stops; send it again", 2)


def test_at_the_end_what_waits_is_taken_in_first() -> None:
    store = Disk()
    store.go_on.clear()
    with taking_in(store) as intake:
        waiting = [intake._submit("traces", GOOD, "protobuf") for _ in range(4)]
        assert store.entered.wait(30)
        store.go_on.set()
        intake.close()

        assert [each.result(30) for each in waiting] == [b""] * 4


def test_spans_in_json_are_kept_as_protobuf_and_not_decoded() -> None:
    class Bytes(MemoryStore):
        bodies: tuple[bytes, ...] = ()

        def add_encoded_spans(self, body: bytes) -> bool:
            self.bodies += (body,)
            return True

    store = Bytes()
    intake = Intake(store)

    answer = intake.take_in("traces", encode_spans(SPANS, "json"), "json")
    intake.close()

    assert (answer, store.bodies, store.spans()) == (b"{}", (GOOD,), ())
