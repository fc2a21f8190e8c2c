"""Baggage: what is read and written, and the limits that hold for all of its headers together."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry import baggage
from opentelemetry.context import Context

from tracekit import guard
from tracekit.tracing.baggage import BaggagePropagator

if TYPE_CHECKING:
    from collections.abc import Mapping

propagator = BaggagePropagator()


def arrived(*headers: object) -> dict[str, object]:
    return dict(baggage.get_all(propagator.extract({"baggage": list(headers)})))


def sent(entries: Mapping[str, object]) -> dict[str, str]:
    context = Context()
    for key, value in entries.items():
        context = baggage.set_baggage(key, value, context)
    headers: dict[str, str] = {}
    propagator.inject(headers, context)
    return headers


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a=1", {"a": "1"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" a \t=\t 1 , b = 2 ", {"a": "1", "b": "2"}),
        ("a=1;ttl=60;secret,b=2;x", {"a": "1", "b": "2"}),
        ("a=", {"a": ""}),
        ("a=x=y==", {"a": "x=y=="}),
        ("a=caf%C3%A9%20noir", {"a": "café noir"}),
        ("a=1%2C2%3B3", {"a": "1,2;3"}),
        ("a=10%C2%A0%E2%82%AC", {"a": "10\xa0€"}),
        ("a=1+2", {"a": "1+2"}),
        ("a=%FF", {"a": "�"}),
        ("a=%zz", {"a": "%zz"}),
        ("a=1,,b=2,", {"a": "1", "b": "2"}),
        ("a=1,a=2", {"a": "2"}),
        ("", {}),
    ],
)
def test_legal_baggage_is_read(header: str, expected: dict[str, str]) -> None:
    assert arrived(header) == expected
    assert guard.dropped() == {}


@pytest.mark.parametrize(
    "bad",
    [
        "b",
        "=2",
        "b c=2",
        "b=2 3",
        'b="2"',
        "b=é",
        "b=\ud800",
        "b=\x00",
        "b=a\\b",
        "b=%0d%0aSet-Cookie",
        "é=2",
    ],
)
def test_a_bad_entry_is_left_out_alone_and_counted(bad: str) -> None:
    assert arrived(f"a=1,{bad},c=3") == {"a": "1", "c": "3"}
    assert guard.dropped() == {"invalid_baggage": 1}


def test_case_2_a_lone_surrogate_or_latin_1_costs_only_its_entry() -> None:
    assert arrived("a=1,b=\udce9", b"c=3,d=\xe9,e=5") == {"a": "1", "c": "3", "e": "5"}
    assert guard.dropped() == {"invalid_baggage": 2}


def test_all_headers_are_read() -> None:
    assert arrived("a=1", "b=2", b"c=3") == {"a": "1", "b": "2", "c": "3"}


def test_a_header_that_is_no_text_costs_only_itself() -> None:
    assert arrived("a=1", None, 7, "b=2") == {"a": "1", "b": "2"}
    assert guard.dropped() == {"invalid_baggage": 2}


def test_case_5_the_limit_holds_for_all_headers_together(caplog: pytest.LogCaptureFixture) -> None:
    headers = [f"secret{number:03}={'v' * 90}" for number in range(200)]
    assert {len(header) for header in headers} == {100}

    with caplog.at_level(logging.DEBUG):
        found = arrived(*headers)

    assert list(found) == [f"secret{number:03}" for number in range(81)]  # 81 · 101 bytes ≤ 8 KiB
    assert guard.dropped() == {"invalid_baggage": 1}
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    assert "vvv" not in caplog.text


def test_case_5_is_over_within_a_millisecond() -> None:
    headers = [f"key{number:03}={'v' * 93}" for number in range(200)]
    arrived(*headers)  # the log line comes once

    def seconds() -> float:
        start = time.perf_counter()
        arrived(*headers)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(20)) < 0.001


def test_one_long_header_keeps_the_whole_entries_that_fit() -> None:
    found = arrived(f"a=1,b=2,c={'v' * 8192},d=4")

    assert found == {"a": "1", "b": "2"}
    assert guard.dropped() == {"invalid_baggage": 1}


def test_no_more_than_180_entries_are_read() -> None:
    found = arrived(",".join(f"k{number}=1" for number in range(300)))

    assert len(found) == 180
    assert guard.dropped() == {"invalid_baggage": 1}


def test_what_was_there_stays() -> None:
    context = propagator.extract({"baggage": "b=2"}, baggage.set_baggage("a", "1", Context()))

    assert baggage.get_all(context) == {"a": "1", "b": "2"}


def test_nothing_is_written_without_entries() -> None:
    assert sent({}) == {}


@pytest.mark.parametrize(
    ("entries", "header"),
    [
        ({"a": "1", "b": 2}, "a=1,b=2"),
        ({"a": "café noir, bitte; 100%"}, "a=caf%C3%A9%20noir%2C%20bitte%3B%20100%25"),
        ({"a b": "1"}, "a%20b=1"),
        ({"a": "x\r\nSet-Cookie: y"}, "a=x%0D%0ASet-Cookie:%20y"),
    ],
)
def test_entries_are_written_as_a_header_may_hold_them(entries: dict[str, object], header: str) -> None:
    assert sent(entries) == {"baggage": header}
    assert guard.dropped() == {}


def test_what_cannot_be_written_is_left_out_alone_and_counted() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    assert sent({"a": "1", "b": "\ud800", "": "x", "c": Odd(), "d": "4"}) == {"baggage": "a=1,d=4"}
    assert guard.dropped() == {"invalid_baggage": 3}


def test_the_limits_hold_for_what_is_written() -> None:
    many = sent({f"k{number}": "1" for number in range(300)})["baggage"]
    long = sent({"big": "v" * 8200, "small": "1", "other": "v" * 8000, "more": "v" * 300})["baggage"]

    assert many.count(",") == 179
    assert [entry.partition("=")[0] for entry in long.split(",")] == ["small", "other"]
    assert len(long) <= 8192
    assert guard.dropped() == {"invalid_baggage": 122}
