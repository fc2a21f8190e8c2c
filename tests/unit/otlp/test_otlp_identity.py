"""What was encoded is decoded as it was, in both encodings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.model import (
    Event,
    Kind,
    Link,
    LogLine,
    Metric,
    Point,
    Scalar,
    Service,
    Span,
    Status,
    Temporality,
    Value,
)
from tracekit.otlp import (
    Encoding,
    decode_logs,
    decode_metrics,
    decode_spans,
    encode_logs,
    encode_metrics,
    encode_spans,
)

ENCODINGS: tuple[Encoding, ...] = ("protobuf", "json")

texts = st.text(st.characters(codec="utf-8"), max_size=12)
int64s = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
scalars: st.SearchStrategy[Scalar] = st.one_of(texts, st.booleans(), int64s, floats, st.binary(max_size=8))
values: st.SearchStrategy[Value] = st.recursive(
    st.one_of(scalars, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=4,
)
attributes = st.dictionaries(texts, values, max_size=3)
times = st.integers(1, 2**64 - 1)


def ids(size: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=size).filter(any).map(bytes.hex)


@st.composite
def services(draw: st.DrawFn) -> Service:
    name, namespace, instance = draw(texts) or "shop", draw(texts), draw(texts)
    named = {
        "service.name": name,
        "service.namespace": namespace,
        "service.instance.id": instance,
    }
    said = {key: text for key, text in named.items() if text}
    return Service(name, namespace, instance, {**draw(attributes), **said})


spans = st.builds(
    Span,
    trace_id=ids(16),
    span_id=ids(8),
    name=texts,
    start_ns=st.integers(0, 2**64 - 1),
    end_ns=st.none() | times,
    parent_id=st.none() | ids(8),
    parent_is_remote=st.none() | st.booleans(),
    kind=st.sampled_from(Kind),
    status=st.sampled_from(Status),
    status_message=texts,
    attributes=attributes,
    links=st.lists(st.builds(Link, ids(16), ids(8), attributes), max_size=2).map(tuple),
    events=st.lists(st.builds(Event, texts, times, attributes), max_size=2).map(tuple),
    service=services(),
    scope=texts,
    trace_state=texts,
)
lines = st.builds(
    LogLine,
    time_ns=times,
    body=values,
    severity=st.integers(0, 24),
    severity_text=texts,
    attributes=attributes,
    trace_id=ids(16),
    span_id=st.just("") | ids(8),
    service=services(),
    event_name=texts,
)
numbers = st.builds(Point, times, st.none() | int64s | floats, attributes, times)


@st.composite
def histogram_points(draw: st.DrawFn) -> Point:
    bounds = tuple(draw(st.lists(floats, max_size=3)))
    counts = st.lists(st.integers(0, 2**64 - 1), min_size=len(bounds) + 1, max_size=len(bounds) + 1)
    buckets = tuple(draw(counts))
    return Point(
        draw(times), draw(st.none() | floats), draw(attributes), draw(times), len(buckets), bounds, buckets
    )


def points(of: st.SearchStrategy[Point]) -> st.SearchStrategy[tuple[Point, ...]]:
    return st.lists(of, min_size=1, max_size=2).map(tuple)


metrics = st.one_of(
    st.builds(
        Metric, texts, st.just("gauge"), points(numbers), texts, texts, service=services(), scope=texts
    ),
    st.builds(
        Metric,
        texts,
        st.just("sum"),
        points(numbers),
        texts,
        texts,
        st.sampled_from(Temporality),
        st.booleans(),
        services(),
        texts,
    ),
    st.builds(
        Metric,
        texts,
        st.just("histogram"),
        points(histogram_points()),
        texts,
        texts,
        st.sampled_from(Temporality),
        service=services(),
        scope=texts,
    ),
)


def whole(record: Span | LogLine | Metric) -> object:
    """The record with what services leave out of a comparison."""
    return record, dict(record.service.attributes)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(sent=st.lists(spans, max_size=3))
@settings(deadline=None, max_examples=40)
def test_spans_come_back_as_they_were_and_in_order(encoding: Encoding, sent: list[Span]) -> None:
    decoded = decode_spans(encode_spans(sent, encoding), encoding)

    assert [whole(span) for span in decoded.records] == [whole(span) for span in sent]
    assert (decoded.rejected, decoded.reason) == (0, "")


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(sent=st.lists(lines, max_size=3))
@settings(deadline=None, max_examples=25)
def test_log_lines_come_back_as_they_were_and_in_order(encoding: Encoding, sent: list[LogLine]) -> None:
    decoded = decode_logs(encode_logs(sent, encoding), encoding)

    assert [whole(line) for line in decoded.records] == [whole(line) for line in sent]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(sent=st.lists(metrics, max_size=3))
@settings(deadline=None, max_examples=25)
def test_metrics_come_back_as_they_were_and_in_order(encoding: Encoding, sent: list[Metric]) -> None:
    decoded = decode_metrics(encode_metrics(sent, encoding), encoding)

    assert [whole(metric) for metric in decoded.records] == [whole(metric) for metric in sent]


@pytest.mark.parametrize("name", [2**63, "\ud800"])
def test_what_otlp_cannot_hold_is_refused_loudly(name: Value) -> None:
    with pytest.raises(ValueError, match=r"range|surrogates"):
        encode_spans([Span("1" * 32, "2" * 16, "send orders", 1, 2, attributes={"n": name})])
