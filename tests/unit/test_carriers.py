"""What `inject` and `extract` do with what carries nothing: they leave it alone, and count it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import context as otel

import tracekit
from tracekit import guard


class _Broken(dict[str, str]):
    def items(self) -> Any:
        raise RuntimeError("closed")


NO_CARRIERS = [
    (7, "int"),
    ("x", "str"),
    (b"xy", "bytes"),
    ({"ab"}, "set"),
    ([("a",)], "list"),
    (_Broken(), "_Broken"),
]


@pytest.mark.parametrize(("given", "kind"), NO_CARRIERS)
def test_what_is_no_carrier_is_given_back_by_inject_and_counted(
    given: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tracekit"):
        assert tracekit.inject(given) is given

    assert guard.dropped() == {"invalid_context": 1}
    (said,) = caplog.messages
    assert f"inject takes a mapping or pairs, not {kind}" in said
    assert caplog.records[0].exc_info is None


@pytest.mark.parametrize(("given", "kind"), NO_CARRIERS)
def test_what_is_no_carrier_is_ignored_by_extract_and_counted(
    given: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = otel.get_current()

    with caplog.at_level(logging.WARNING, "tracekit"), tracekit.extract(given) as context:
        assert context == before

    assert guard.dropped() == {"invalid_context": 1}
    (said,) = caplog.messages
    assert f"extract takes a mapping or pairs, not {kind}" in said
    assert caplog.records[0].exc_info is None


@pytest.mark.parametrize("given", [None, {}, [], (), [["tenant", "north"]]])
def test_what_is_a_carrier_is_not_counted(given: Any) -> None:
    carried: Any = tracekit.inject(given)
    with tracekit.extract(carried):
        assert guard.dropped() == {}

    assert dict(carried) in ({}, {"tenant": "north"}, {"tenant": b"north"})
