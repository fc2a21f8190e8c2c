"""Hostile carriers: whatever a getter gives or raises, nothing is raised, and what is sent is clean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter

from tracekit import context as ours
from tracekit import guard
from tracekit.pathway import LIMIT, Pathway, parse
from tracekit.tracing.propagator import composite

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
FIELDS = ("traceparent", "tracestate", "baggage", "tracekit-flow")
CLEAN = re.compile(r"[\x20-\x7e]*")

propagator = composite("orders")
texts = st.text(st.characters(codec=None), max_size=200) | st.sampled_from([PARENT, "a=1", "a=1,b=%0d"])
values = texts | st.binary(max_size=80) | st.none() | st.integers() | st.floats() | st.booleans()


class Gives(Getter[Any]):
    """A getter that gives the same for every header."""

    def __init__(self, given: object) -> None:
        self._given = given

    def get(self, carrier: Any, key: str) -> Any:
        if isinstance(self._given, BaseException):
            raise self._given
        return self._given

    def keys(self, carrier: Any) -> list[str]:
        return list(FIELDS)


def sent(context: Context) -> dict[str, str]:
    headers: dict[str, str] = {}
    propagator.inject(headers, context)
    return headers


@pytest.mark.parametrize(
    "found",
    [b"abc", PARENT.encode(), 7, None, [None, None], [7], [[PARENT]], {PARENT: 1}, [b"\xff\xfe"], ...],
    ids=repr,
)
def test_case_1_what_is_no_traceparent_begins_a_new_trace_and_is_counted_once(found: object) -> None:
    context = propagator.extract({"traceparent": found})

    span = trace.get_current_span(context).get_span_context()
    if found is None or found == {PARENT: 1}:  # absent; and a mapping lists its keys
        assert guard.dropped() == {}
        return
    assert not span.is_valid
    assert guard.dropped() == {"invalid_context": 1}


def test_bytes_that_a_getter_gives_are_read_as_text() -> None:
    context = propagator.extract({}, getter=Gives([PARENT.encode()]))

    assert trace.get_current_span(context).get_span_context().is_valid


@pytest.mark.parametrize(
    "error",
    [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), KeyError("x"), RuntimeError("boom")],
    ids=repr,
)
def test_a_getter_that_raises_is_counted(error: Exception) -> None:
    assert ours.pathway_of(propagator.extract({}, getter=Gives(error))) is not None
    assert guard.dropped() == {"invalid_context": 1, "invalid_baggage": 1, "invalid_flow_header": 1}


def test_a_getter_without_an_end_comes_to_one() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "a=1"

    context = propagator.extract({}, getter=Gives(endless()))

    assert not trace.get_current_span(context).get_span_context().is_valid


def test_what_ends_the_program_is_not_held_up() -> None:
    with pytest.raises(KeyboardInterrupt):
        propagator.extract({}, getter=Gives(KeyboardInterrupt()))


@pytest.mark.shield
def test_a_setter_that_raises_is_counted() -> None:
    class Refuses(Setter[dict[str, str]]):
        def set(self, carrier: dict[str, str], key: str, value: str) -> None:
            raise TypeError(key)

    propagator.inject({}, propagator.extract({"traceparent": PARENT, "baggage": "a=1"}), Refuses())

    assert guard.dropped() == {"internal": 3}


@given(st.dictionaries(st.sampled_from(FIELDS), values | st.lists(values, max_size=5), max_size=4))
@example({"traceparent": [PARENT], "tracestate": ["a=\ud800"], "baggage": ["a=\ud800", "b=%ff%0a"]})
def test_no_carrier_raises_and_what_is_sent_on_is_clean(carrier: dict[str, object]) -> None:
    headers = sent(propagator.extract(carrier))

    assert all(CLEAN.fullmatch(value) for value in headers.values())


@given(values | st.lists(values) | st.dictionaries(texts, values))
def test_no_getter_raises(found: object) -> None:
    headers = sent(propagator.extract({}, getter=Gives(found)))

    assert all(CLEAN.fullmatch(value) for value in headers.values())


@given(st.dictionaries(st.text(st.characters(codec=None)), values, max_size=8))
def test_what_an_application_puts_into_baggage_is_sent_clean_and_arrives(entries: dict[str, object]) -> None:
    context = Context()
    for key, value in entries.items():
        context = baggage.set_baggage(key, value, context)

    headers = sent(context)

    assert all(CLEAN.fullmatch(value) and len(value) <= 8192 for value in headers.values())
    arrived = baggage.get_all(propagator.extract(headers))
    assert all(arrived[key] == str(entries[key]) for key in arrived)


@given(
    st.builds(
        Pathway,
        flow_id=st.integers(min_value=1, max_value=2**128 - 1).map("{:032x}".format),
        hash=st.integers(min_value=0, max_value=2**64 - 1),
        origin_ns=st.integers(min_value=1_420_070_400 * 10**9, max_value=4_102_444_800 * 10**9),
        hop=st.integers(min_value=0, max_value=99_999),
        origin=st.text(min_size=1, max_size=300),
    )
)
def test_every_pathway_is_sent_within_its_limit_and_read_again(pathway: Pathway) -> None:
    header = sent(ours.with_pathway(pathway, Context()))["tracekit-flow"]

    assert CLEAN.fullmatch(header)
    assert len(header) <= LIMIT
    read = parse(header)
    assert read is not None
    assert (read.flow_id, read.hop) == (pathway.flow_id, pathway.hop + 1)
