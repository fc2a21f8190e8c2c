"""Scanning a request says of its spans what decoding says, or leaves it to the decoder."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracekit.model import Event, Kind, Link, Service, Span, Status
from tracekit.otlp import OtlpError, decode_spans, encode_spans
from tracekit.otlp.scan import Scanner, Strand, strands_of
from tracekit.otlp.select import select_spans

if TYPE_CHECKING:
    from collections.abc import Iterable

FLOW_ID = "tracekit.flow.id"
NS = 1_790_000_000_000_000_000

hex_digits = "0123456789abcdef"


def ids(size: int) -> st.SearchStrategy[str]:
    few = st.sampled_from([digit * size for digit in "123"])
    return few | st.text(hex_digits, min_size=size, max_size=size).map(lambda id_: "1" + id_[1:])


texts = st.text(st.sampled_from("aé\x02\x18\x1a j\n\x10\x12"), max_size=20)
values = (
    texts
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
)
keys = st.sampled_from(["messaging.destination.name", "http.status_code", "a", "retries", "x" * 16]) | texts
attributes = st.dictionaries(keys, values, max_size=5).flatmap(
    lambda made: st.sampled_from([made, {**made, FLOW_ID: "1" * 32}, {FLOW_ID: "2" * 32, **made}])
)
links = st.builds(Link, ids(32), ids(16), attributes)
services = st.sampled_from([Service("orders"), Service("billing", attributes={"k": "v"})])
spans = st.builds(
    Span,
    trace_id=ids(32),
    span_id=ids(16),
    name=texts,
    start_ns=st.integers(0, 2**64 - 1),
    end_ns=st.none() | st.integers(1, 2**64 - 1),
    parent_id=st.none() | ids(16),
    parent_is_remote=st.none() | st.booleans(),
    kind=st.sampled_from(Kind),
    status=st.sampled_from(Status),
    status_message=st.just("") | texts,
    attributes=attributes,
    links=st.lists(links, max_size=2).map(tuple),
    events=st.lists(st.builds(Event, texts, st.integers(0, 2**64 - 1), attributes), max_size=2).map(tuple),
    service=services,
    trace_state=st.just("") | st.just("a=b"),
)


def said(strands: Iterable[Strand]) -> dict[tuple[bytes, bytes | None, Service], list[object]]:
    """What strands say of each trace, flow and service, however the spans were put together."""
    found: dict[tuple[bytes, bytes | None, Service], list[Strand]] = defaultdict(list)
    for each in strands:
        found[each.trace_id, each.flow_id, each.service].append(each)
    return {
        key: [
            min(each.start_ns for each in strands),
            max(each.end_ns for each in strands),
            sum(each.spans for each in strands),
            sum(each.errors for each in strands),
            sum(each.open for each in strands),
            next((each.entry for each in strands if each.entry), None),
            {id_ for each in strands for id_ in each.mentioned} - set(key[:2]),
            {name for each in strands for name in each.destinations},
        ]
        for key, strands in found.items()
    }


@given(st.lists(spans, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_scan_agrees_with_the_decoder(sent: list[Span]) -> None:
    body = encode_spans(sent)
    scanned = Scanner().scan_spans(body)

    decoded = decode_spans(body)

    assert not decoded.rejected
    if scanned is not None:
        assert said(scanned) == said(strands_of(decoded.records))


PLAIN = Span(
    trace_id="a" * 32,
    span_id="b" * 16,
    name="send orders",
    start_ns=NS,
    end_ns=NS + 5,
    parent_id="c" * 16,
    parent_is_remote=False,
    kind=Kind.PRODUCER,
    attributes={FLOW_ID: "d" * 32, "messaging.destination.name": "orders", "retries": 2},
    service=Service("orders"),
)


@pytest.mark.parametrize(
    "span",
    [
        PLAIN,
        replace(PLAIN, parent_id=None, kind=Kind.SERVER),
        replace(PLAIN, status=Status.ERROR),
        replace(PLAIN, status=Status.ERROR, status_message="it broke", parent_is_remote=None),
        replace(PLAIN, attributes={"retries": 2}, parent_is_remote=None),
        replace(PLAIN, links=(Link("e" * 32, "f" * 16, {FLOW_ID: "d" * 32, "note": "x" * 100}),)),
        replace(PLAIN, attributes={"body": "j" * 4000}),
    ],
)
def test_what_sdks_write_is_scanned(span: Span) -> None:
    scanned = Scanner().scan_spans(encode_spans([span, span]))

    assert scanned is not None
    assert said(scanned) == said(strands_of([span, span]))


def request(*sent: Span) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(encode_spans(sent))


def test_what_the_decoder_refuses_is_not_scanned() -> None:
    for field, value in (
        ("trace_id", bytes(16)),
        ("trace_id", b"abc"),
        ("span_id", bytes(8)),
        ("span_id", b""),
    ):
        damaged = request(PLAIN)
        setattr(damaged.resource_spans[0].scope_spans[0].spans[0], field, value)

        assert Scanner().scan_spans(damaged.SerializeToString()) is None


def test_text_that_is_no_utf_8_is_not_scanned() -> None:
    body = encode_spans([PLAIN])

    assert Scanner().scan_spans(body) is not None
    assert Scanner().scan_spans(body.replace(b"send orders", b"send order\xff")) is None


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_are_read_alike_or_left_to_the_decoder(data: st.DataObject) -> None:
    body = bytearray(encode_spans([PLAIN, replace(PLAIN, links=(Link("e" * 32, "f" * 16),))]))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    scanned = Scanner().scan_spans(bytes(body))

    if scanned is not None:
        decoded = decode_spans(bytes(body))
        assert not decoded.rejected
        assert sum(each.spans for each in scanned) == len(decoded.records)


def test_selected_are_the_spans_that_mention_an_id() -> None:
    other = replace(PLAIN, trace_id="1" * 32, attributes={})
    linked = replace(other, trace_id="2" * 32, links=(Link("a" * 32, "b" * 16),))
    carrying = replace(other, trace_id="3" * 32, attributes={FLOW_ID: "a" * 32})
    sent = [other, replace(PLAIN, service=Service("billing")), linked, carrying]

    assert select_spans(encode_spans(sent), "a" * 32) == sent[1:]
    assert select_spans(encode_spans(sent), "9" * 32) == []
    assert select_spans(encode_spans(sent), "3" * 32) == [carrying]


def test_a_request_that_was_not_checked_is_an_error() -> None:
    with pytest.raises(OtlpError):
        select_spans(encode_spans([PLAIN])[:-20] + b"\xaa" * 20, "a" * 32)


def varint(size: int) -> bytes:
    assert 0x7F < size < 0x4000
    return bytes([size & 0x7F | 0x80, size >> 7])


def test_spans_are_selected_whatever_the_order_of_what_is_around_them() -> None:
    plain = encode_spans([PLAIN])
    part = ExportTraceServiceRequest.FromString(plain).resource_spans[0]
    resource = b"\x0a" + bytes([part.resource.ByteSize()]) + part.resource.SerializeToString()
    scope = part.scope_spans[0].SerializeToString()
    swapped = b"\x12" + varint(len(scope)) + scope + resource
    body = b"\x0a" + varint(len(swapped)) + swapped

    assert decode_spans(body).records == (PLAIN,)
    assert Scanner().scan_spans(body) is not None
    assert select_spans(body, PLAIN.trace_id) == [PLAIN]


def test_a_large_request_is_scanned_in_pieces() -> None:
    many = [replace(PLAIN, span_id=f"{at + 1:016x}", attributes={"n": "x" * 100}) for at in range(4000)]
    body = encode_spans([*many, replace(PLAIN, service=Service("billing"))])

    scanned = Scanner().scan_spans(body)

    assert len(body) > 600_000
    assert scanned is not None
    assert said(scanned) == said(strands_of(decode_spans(body).records))
