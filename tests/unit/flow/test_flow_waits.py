"""Since when a message waited, until when, and who says so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest

from tracekit.flow import Wait, WaitSource, build_flow, build_flows
from tracekit.testing.spans import at, batch, link, processed, sent

if TYPE_CHECKING:
    from tracekit.model import Attributes, Link, Span


@pytest.mark.parametrize("source", sorted(set(get_args(WaitSource)) - {"span"}))
def test_a_wait_begins_when_the_message_was_published_and_says_who_knows(source: WaitSource) -> None:
    send = sent(start=10, end=18)

    flow = build_flow([send, processed(send, 100, published=15, source=source)])

    assert flow.waits == (Wait(at(15), at(100), source),)
    assert flow.waited_ns == at(100) - at(15)


def test_without_a_time_of_publishing_the_end_of_the_send_span_counts() -> None:
    send = sent(start=10, end=18)

    assert build_flow([send, processed(send, 100)]).waits == (Wait(at(18), at(100), "span"),)


def test_a_negative_wait_is_0_and_its_skew_is_kept() -> None:
    send = sent(start=10, end=18)

    flow = build_flow([send, processed(send, 100, published=140)])

    assert flow.waits == (Wait(at(100), at(100), "broker", skew_ns=at(140) - at(100)),)


def test_a_consumer_faster_than_the_brokers_answer_is_no_skew() -> None:
    send = sent(start=10, end=18)

    assert build_flow([send, processed(send, 14)]).waits == (Wait(at(14), at(14), "span"),)


def test_in_a_batch_each_link_tells_the_time_of_its_message() -> None:
    first, second = sent(start=1, end=2), sent(start=3, end=4)
    links = [published(first, 1.5), published(second, 3.5)]
    hub = replace(batch([first, second], 50), links=tuple(links))

    flows = build_flows([first, second, hub])

    assert [flow.waits for flow in flows] == [
        (Wait(at(1.5), at(50), "broker"),),
        (Wait(at(3.5), at(50), "broker"),),
    ]


def published(message: Span, when: float) -> Link:
    times: Attributes = {
        "tracekit.messaging.published_at": at(when),
        "tracekit.messaging.published_at.source": "broker",
    }
    return link(message, {"tracekit.flow.id": message.trace_id, **times})


def test_a_batch_without_times_waits_from_the_end_of_each_send_span() -> None:
    sends = [sent(start=1, end=2), sent(start=3, end=4)]

    assert build_flow([*sends, batch(sends, 50)], sends[1].trace_id).waits == (Wait(at(4), at(50), "span"),)


def test_while_the_send_span_is_open_nothing_tells_the_wait() -> None:
    send = sent(end=None)

    assert build_flow([send, processed(send)]).waits == ()
