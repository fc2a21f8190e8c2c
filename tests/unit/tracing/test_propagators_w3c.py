"""`traceparent` and `tracestate`: the verdicts of the W3C harness (level 2), and its sender's side."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tracekit import guard
from tracekit.tracing.w3c import State, TraceContextPropagator

if TYPE_CHECKING:
    from collections.abc import Sequence

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"

propagator = TraceContextPropagator()
tracer = TracerProvider().get_tracer("tests")


def arrived(traceparent: Sequence[str], tracestate: Sequence[str] = ()) -> SpanContext:
    carrier = {"traceparent": list(traceparent), "tracestate": list(tracestate)}
    return trace.get_current_span(propagator.extract(carrier)).get_span_context()


def sent_on(traceparent: Sequence[str], tracestate: Sequence[str] = ()) -> dict[str, str]:
    """What a service that received these sends on from a span of its own."""
    carrier = {"traceparent": list(traceparent), "tracestate": list(tracestate)}
    span = tracer.start_span("served", propagator.extract(carrier))
    headers: dict[str, str] = {}
    propagator.inject(headers, trace.set_span_in_context(span))
    return headers


@pytest.mark.parametrize(
    "value",
    [
        PARENT,
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-ff",
        f"cc-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-what-comes-later",
        f"cc-{TRACE}-{SPAN}-01-",
        f" {PARENT}",
        f"\t{PARENT}",
        f"{PARENT} ",
        f"{PARENT}\t",
        f"\t {PARENT} \t",
    ],
)
def test_a_legal_traceparent_is_continued(value: str) -> None:
    assert sent_on([value])["traceparent"].split("-")[1] == TRACE
    assert guard.dropped() == {}


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"00-{TRACE}-{SPAN}-01.",
        f"00-{TRACE}-{SPAN}-01-what-comes-later",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.what-comes-later",
        f"cc-{TRACE}-{SPAN}-01what",
        f"ff-{TRACE}-{SPAN}-01",
        f".0-{TRACE}-{SPAN}-01",
        f"0.-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f"0000-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-.{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}3-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-.{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN[:-1]}.-01",
        f"00-{TRACE}-{SPAN}7-01",
        f"00-{TRACE}-{SPAN[:-1]}-01",
        f"00-{TRACE}-{SPAN}-.0",
        f"00-{TRACE}-{SPAN}-0.",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"{PARENT}\n",
        f"{PARENT},{PARENT}",
        f"００-{TRACE}-{SPAN}-01",
        "\ud800",
    ],
)
def test_an_illegal_traceparent_begins_a_new_trace_without_the_state(value: str) -> None:
    headers = sent_on([value], ["foo=1"])

    assert headers["traceparent"].split("-")[1] != TRACE
    assert "tracestate" not in headers
    assert guard.dropped() == {"invalid_context": 1}


def test_case_3_two_traceparents_begin_a_new_trace_without_the_state() -> None:
    headers = sent_on([PARENT, f"00-{TRACE[::-1]}-{SPAN}-01"], ["foo=1"])

    assert headers["traceparent"].split("-")[1] not in (TRACE, TRACE[::-1])
    assert "tracestate" not in headers
    assert guard.dropped() == {"invalid_context": 1}


def test_a_state_without_a_parent_is_left_out() -> None:
    assert "tracestate" not in sent_on([], ["foo=1"])


def test_flags_that_nobody_defined_are_written_as_zero() -> None:
    span = NonRecordingSpan(arrived([f"00-{TRACE}-{SPAN}-ff"]))
    headers: dict[str, str] = {}

    propagator.inject(headers, trace.set_span_in_context(span))

    assert headers == {"traceparent": f"00-{TRACE}-{SPAN}-03"}


LEGAL_KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
LEGAL_VALUE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")
MANY = [f"key{number}={number}" for number in range(33)]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        ([""], ""),
        (["foo=1", ""], "foo=1"),
        (["", "foo=1"], "foo=1"),
        (["foo=1,,bar=2,"], "foo=1,bar=2"),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["\t foo=1 \t"], "foo=1"),
        ([f"{LEGAL_KEY}={LEGAL_VALUE}"], f"{LEGAL_KEY}={LEGAL_VALUE}"),
        ([f"{LEGAL_KEY}@vendor={LEGAL_VALUE}"], f"{LEGAL_KEY}@vendor={LEGAL_VALUE}"),
        (["foo= 1"], "foo= 1"),
        (["1a=1"], "1a=1"),
        ([",".join(MANY[:16]), ",".join(MANY[16:32])], ",".join(MANY[:32])),
        ([f"{'z' * 256}=1"], f"{'z' * 256}=1"),
        ([f"{'t' * 241}@{'v' * 14}=1"], f"{'t' * 241}@{'v' * 14}=1"),
        # Legal since level 2: @ is a character of the key like others.
        (["foo@=1,bar=2"], "foo@=1,bar=2"),
        (["foo@@bar=1"], "foo@@bar=1"),
        (["a@b@c=1"], "a@b@c=1"),
        ([f"t@{'v' * 15}=1"], f"t@{'v' * 15}=1"),
        ([f"foo={'v' * 256}"], f"foo={'v' * 256}"),
        # A key that came twice: inherited, one of them may go.
        (["foo=1,foo=1"], "foo=1"),
        (["foo=1,foo=2"], "foo=1"),
        (["foo=1", "bar=3", "foo=2"], "foo=1,bar=3"),
    ],
)
def test_case_4_a_legal_state_is_sent_on(headers: list[str], expected: str) -> None:
    sent = sent_on([PARENT], headers)

    assert sent["traceparent"].split("-")[1] == TRACE
    assert sent.get("tracestate", "") == expected
    assert guard.dropped() == {}


@pytest.mark.parametrize(
    "headers",
    [
        ["foo =1"],
        ["FOO=1"],
        ["foo.bar=1"],
        ["@foo=1,bar=2"],
        ["foo"],
        ["=1"],
        ["foo=bar=baz"],
        ["foo=,bar=3"],
        ["foo=é"],
        ["foo=\x00"],
        ["foo=1", f"{'z' * 257}=1"],
        [f"foo={'v' * 257}"],
        [",".join(MANY)],
        [",".join(MANY[:20]), ",".join(MANY[20:])],
        ["foo=1," + " " * 100_000],
    ],
)
def test_case_4_an_illegal_state_is_left_out_and_the_parent_kept(headers: list[str]) -> None:
    sent = sent_on([PARENT], headers)

    assert sent["traceparent"].split("-")[1] == TRACE
    assert "tracestate" not in sent
    assert guard.dropped() == {"invalid_context": 1}


def test_a_state_changes_as_the_conventions_of_tracestate_ask() -> None:
    state = State([("foo", "1"), ("a@b@c", "2")])

    assert list(state.add("new", "3").items()) == [("new", "3"), ("foo", "1"), ("a@b@c", "2")]
    assert state.add("foo", "3") is state
    assert list(state.update("a@b@c", "4").items()) == [("a@b@c", "4"), ("foo", "1")]
    assert state.update("NO", "4") is state
    assert dict(state.delete("foo")) == {"a@b@c": "2"}
    assert State([(f"key{n}", "1") for n in range(32)]).add("one-more", "1").get("one-more") is None


def test_a_state_is_read_like_a_mapping_and_copied() -> None:
    state = State([("foo", "1"), ("bar", "2")])

    assert ("foo" in state, len(state), list(state), state["bar"]) == (True, 2, ["foo", "bar"], "2")
    assert (list(state.keys()), list(state.values())) == (["foo", "bar"], ["1", "2"])
    assert pickle.loads(pickle.dumps(state)).to_header() == "foo=1,bar=2"
    assert State.from_header(["foo=1", "bar=2"]).to_header() == "foo=1,bar=2"
    assert len(State.from_header(["FOO=1"])) == len(State.get_default()) == 0


def test_the_state_stands_on_the_span_as_it_came() -> None:
    context = propagator.extract({"traceparent": PARENT, "tracestate": "a@b@c=1,foo@=2"})

    span = tracer.start_span("served", context)

    assert span.get_span_context().trace_state.to_header() == "a@b@c=1,foo@=2"
    assert span.get_span_context().trace_flags & TraceFlags.SAMPLED


def test_nothing_is_written_outside_of_a_span() -> None:
    headers: dict[str, str] = {}

    propagator.inject(headers, propagator.extract({}))

    assert headers == {}


def test_a_context_to_which_nothing_came_keeps_its_span() -> None:
    here = trace.set_span_in_context(tracer.start_span("here"))

    assert propagator.extract({}, here) == here
    assert propagator.extract({"traceparent": "nonsense"}, here) == here
