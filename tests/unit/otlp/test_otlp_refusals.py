"""What a request loses: a bad record itself, a bad request all of it; never more."""

from __future__ import annotations

import contextlib
import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tracekit.model import Link, LogLine, Span
from tracekit.otlp import (
    Decoded,
    Encoding,
    OtlpError,
    decode_logs,
    decode_metrics,
    decode_spans,
    encode_answer,
    encode_spans,
    encode_status,
)
from tracekit.otlp.envelope import MAX_PARTS, MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = Span("1" * 32, "2" * 16, "send orders", 1, 2)
DECODERS: tuple[Callable[[bytes, Encoding], Decoded[Any]], ...] = (decode_spans, decode_logs, decode_metrics)


def request(**changes: Any) -> ExportTraceServiceRequest:
    """GOOD, and before it a span like it but for these fields."""
    message = ExportTraceServiceRequest.FromString(encode_spans([GOOD, GOOD]))
    bad = message.resource_spans[0].scope_spans[0].spans[0]
    for name, value in changes.items():
        setattr(bad, name, value)
    return message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trace_id": b"abc"}, "a trace_id must be 16 bytes, not all zero"),
        ({"trace_id": b""}, "a trace_id must be 16 bytes, not all zero"),
        ({"trace_id": bytes(16)}, "a trace_id must be 16 bytes, not all zero"),
        ({"span_id": b"abc"}, "a span_id must be 8 bytes, not all zero"),
        ({"span_id": bytes(8)}, "a span_id must be 8 bytes, not all zero"),
        ({"parent_span_id": b"abc"}, "a parent_span_id must be empty or 8 bytes"),
        ({"name": "x" * MAX_RECORD_BYTES}, f"a record is larger than {MAX_RECORD_BYTES} bytes"),
    ],
)
def test_a_bad_span_costs_only_itself(changes: dict[str, Any], reason: str) -> None:
    decoded = decode_spans(request(**changes).SerializeToString())

    assert decoded == Decoded((GOOD,), rejected=1, reason=reason)


@pytest.mark.parametrize(
    "change",
    [
        {"traceId": "abc"},
        {"traceId": "0" * 32},
        {"traceId": 7},
        {"traceId": "zz" * 16},
        {"traceId": "11 " * 11},
        {"spanId": ["2"]},
        {"parentSpanId": "nothing hexadecimal"},
        {"name": 5},
        {"name": "\ud800"},
        {"\ud800": 1},
        {"startTimeUnixNano": "yesterday"},
        {"startTimeUnixNano": 2**64},
        {"attributes": 7},
        {"links": [7]},
        {"links": 7},
        {"attributes": [{"key": "n", "value": {"intValue": str(2**63)}}]},
    ],
)
def test_a_bad_span_in_json_costs_only_itself(change: dict[str, Any]) -> None:
    document = json.loads(encode_spans([GOOD, GOOD], "json"))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0].update(change)

    decoded = decode_spans(json.dumps(document).encode(), "json")

    assert (decoded.records, decoded.rejected) == ((GOOD,), 1)


def test_an_unreadable_span_costs_only_itself() -> None:
    body = request().SerializeToString()
    at = body.index(b"send orders")  # the first of the two

    decoded = decode_spans(body[:at] + b"\xff" + body[at + 1 :])

    assert decoded == Decoded((GOOD,), rejected=1, reason="a record cannot be read")


def test_a_link_to_nothing_is_left_out_with_a_warning() -> None:
    to_nothing = replace(GOOD, links=(Link("0" * 32, "0" * 16), Link("3" * 32, "4" * 16)))

    decoded = decode_spans(encode_spans([to_nothing]))

    kept = replace(GOOD, links=(Link("3" * 32, "4" * 16),))
    assert decoded == Decoded((kept,), rejected=0, reason="a link without valid ids was left out")


def test_a_parent_of_zeros_is_none() -> None:
    assert decode_spans(request(parent_span_id=bytes(8)).SerializeToString()).records == (GOOD, GOOD)


def test_numbers_of_kind_and_status_that_nobody_knows_are_unspecified() -> None:
    message = request(kind=99)
    message.resource_spans[0].scope_spans[0].spans[0].status.code = 99  # type: ignore[assignment]  # on purpose

    span = decode_spans(message.SerializeToString()).records[0]

    assert (span.kind.value, span.status.value) == (0, 0)


def test_a_log_line_with_ids_of_a_wrong_length_was_written_outside_a_span() -> None:
    message = ExportLogsServiceRequest()
    record = (
        message.resource_logs.add()
        .scope_logs.add()
        .log_records.add(time_unix_nano=1, trace_id=b"abc", span_id=b"12345678")
    )
    record.body.string_value = "paid"

    assert decode_logs(message.SerializeToString()) == Decoded((LogLine(1, "paid"),))


def test_points_of_kinds_that_are_not_kept_are_counted() -> None:
    message = ExportMetricsServiceRequest()
    metrics = message.resource_metrics.add().scope_metrics.add().metrics
    metrics.add(name="one").exponential_histogram.data_points.add()
    metrics.add(name="two").summary.data_points.add()
    metrics.add(name="three").histogram.data_points.add(bucket_counts=[1], explicit_bounds=[1.0])

    decoded = decode_metrics(message.SerializeToString())

    assert (decoded.rejected, decoded.reason) == (3, "exponential histograms are not kept")


def nested(levels: int) -> AnyValue:
    value = outermost = AnyValue()
    for _ in range(levels):
        value = value.array_value.values.add()
    return outermost


def test_what_nests_forty_deep_is_read() -> None:
    message = request()
    message.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="deep", value=nested(40))

    assert decode_spans(message.SerializeToString()).rejected == 0


@pytest.mark.parametrize("levels", [60, 200])
def test_a_span_that_nests_too_deep_is_refused(levels: int) -> None:
    value = b""
    for _ in range(levels):  # innermost first, as the generated classes refuse to write it
        value = field(5, field(1, value))
    deep = field(1, field(2, field(2, field(9, field(2, value)))))

    assert decode_spans(deep).rejected == 1


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    size, left = b"", len(content)
    while left > 127:
        size, left = size + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + size + bytes([left]) + content


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x0a\x05ab", id="cut off"),
        pytest.param(b"\x0a\xff", id="a length that does not end"),
        pytest.param(b"\x0b\x14", id="a group that ends as another one"),
        pytest.param(b"\x0b\x08\x01", id="a group that does not end"),
        pytest.param(b"\x0b" * 200 + b"\x0c" * 200, id="groups in groups"),
        pytest.param(bytes(4), id="zeros"),
        pytest.param(b"\x0a\x02\x0a\x05", id="a resource cut off"),
        pytest.param(b"\x0a\x03\x0a\x01\xff", id="an unreadable resource"),
        pytest.param(b"\x09abc", id="a number cut off"),
        pytest.param(gzip.compress(b""), id="gzip"),
        pytest.param(field(1, field(2, b"\x12\x00" * (MAX_PARTS + 1))), id="too many spans"),
        pytest.param(b"\x0a\x00" * (MAX_PARTS + 1), id="too many resources"),
    ],
)
def test_an_unreadable_request_is_one_error(body: bytes) -> None:
    with pytest.raises(OtlpError):
        decode_spans(body)


def with_parts(spans: list[bytes]) -> bytes:
    ids = field(1, b"1" * 16) + field(2, b"2" * 8)
    return field(1, field(2, b"".join(field(2, ids + span) for span in spans)))


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        pytest.param(decode_spans, with_parts([b"\x4a\x00" * 300_000] * 2), id="attributes"),
        pytest.param(decode_spans, with_parts([b"\x5a\x00" * 300_000] * 2), id="events"),
        pytest.param(decode_spans, with_parts([b"\x6a\x00" * 300_000] * 2), id="links"),
        pytest.param(
            decode_spans,
            with_parts([field(9, field(2, field(5, b"\x0a\x00" * 300_000)))] * 2),
            id="items of lists",
        ),
        pytest.param(
            decode_metrics, field(1, field(2, field(2, field(5, b"\x0a\x00" * 300_000)) * 2)), id="points"
        ),
        pytest.param(decode_spans, field(1, field(1, b"\x0a\x00" * 3_000_000)), id="a large resource"),
        pytest.param(decode_spans, field(1, field(2, field(1, b"\x1a\x00" * 3_000_000))), id="a large scope"),
    ],
)
def test_a_request_of_too_many_small_parts_is_refused(
    decode: Callable[[bytes], Decoded[Any]], body: bytes
) -> None:
    with pytest.raises(OtlpError, match=r"more than 500000|larger than"):
        decode(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"x"', id="a text"),
        pytest.param(b'{"resourceSpans": 7}', id="a number of resources"),
        pytest.param(b'{"resourceSpans": [7]}', id="a number for a resource"),
        pytest.param(
            b'{"resourceSpans": [{"resource": {"attributes": 7}, "scopeSpans": []}]}', id="bad resource"
        ),
        pytest.param(b"[" * 100_000, id="nesting"),
        pytest.param(b'{"a":' * 3_000 + b"1" + b"}" * 3_000, id="nesting of objects"),
        pytest.param(b"[{}" + b",{}" * 600_000 + b"]", id="too many objects"),
        pytest.param(b'{"resourceSpans": ' + b"9" * 10_000 + b"}", id="a long number"),
        pytest.param(b"[" * 500_001 + b'"' + b'\\"' * 60_000, id="a text without an end"),
        pytest.param(b"[" * 500_001 + b'"' * 4_000_000, id="many texts"),
    ],
)
def test_an_unreadable_json_request_is_one_error(body: bytes) -> None:
    with pytest.raises(OtlpError):
        decode_spans(body, "json")


def test_brackets_in_texts_are_no_parts() -> None:
    name = '[{"\\' * 200_000
    body = encode_spans([replace(GOOD, name=name)], "json")

    (found,) = decode_spans(body, "json").records

    assert found.name == name
    with pytest.raises(OtlpError):
        decode_spans(body[:-1] + b', "more": [{}' + b",{}" * 600_000 + b"]}", "json")


@pytest.mark.parametrize("decode", DECODERS)
@given(body=st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_random_bytes_never_raise_anything_else(
    decode: Callable[[bytes, Encoding], Decoded[Any]], body: bytes
) -> None:
    for encoding in ("protobuf", "json"):
        with contextlib.suppress(OtlpError):
            decode(body, encoding)


@given(body=st.binary(max_size=40), at=st.integers(0, 400), length=st.integers(0, 40))
@settings(deadline=None, max_examples=200)
def test_a_request_with_bytes_replaced_never_raises_anything_else(body: bytes, at: int, length: int) -> None:
    good = encode_spans(
        [replace(GOOD, attributes={"n": (1, {"a": b"x"})}, links=(Link("1" * 32, "2" * 16),))]
    )
    for decode in DECODERS:
        with contextlib.suppress(OtlpError):
            decode(good[:at] + body + good[at + length :], "protobuf")


NAMES = st.sampled_from(
    [
        *("resourceSpans", "resourceLogs", "resourceMetrics", "scopeSpans", "scopeLogs", "scopeMetrics"),
        *("spans", "logRecords", "metrics", "resource", "scope", "attributes", "key", "value", "values"),
        *("stringValue", "intValue", "doubleValue", "bytesValue", "arrayValue", "kvlistValue", "body"),
        *("traceId", "spanId", "parentSpanId", "name", "kind", "status", "code", "links", "events"),
        *("startTimeUnixNano", "timeUnixNano", "gauge", "sum", "histogram", "dataPoints", "asInt"),
        *("asDouble", "bucketCounts", "explicitBounds", "flags"),
    ]
)
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["NaN", "-Infinity", "\ud800", "1" * 32, "1e400"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(document=documents, signal=st.sampled_from(["Spans", "Logs", "Metrics"]))
@settings(deadline=None, max_examples=100)
def test_a_random_json_record_never_raises_anything_else(document: object, signal: str) -> None:
    records = {"Spans": "spans", "Logs": "logRecords", "Metrics": "metrics"}[signal]
    for inside in (
        {f"resource{signal}": [{f"scope{signal}": [{records: [document]}]}]},
        {f"resource{signal}": [{"resource": document, f"scope{signal}": [{"scope": document}]}]},
        document,
    ):
        for decode in DECODERS:
            with contextlib.suppress(OtlpError):
                decode(json.dumps(inside).encode(), "json")


def test_an_answer_to_a_good_request_is_empty() -> None:
    assert encode_answer("traces", Decoded((GOOD,)), "protobuf") == b""
    assert json.loads(encode_answer("logs", Decoded(()), "json")) == {}


def test_an_answer_says_what_was_refused() -> None:
    answer = encode_answer("traces", Decoded((GOOD,), 2, "no id"), "json")

    assert json.loads(answer) == {"partialSuccess": {"rejectedSpans": "2", "errorMessage": "no id"}}


def test_an_error_is_a_status() -> None:
    assert json.loads(encode_status(3, "no id", "json")) == {"code": 3, "message": "no id"}


def test_a_group_is_passed_over_as_any_field_that_is_not_known() -> None:
    group = b"\x0b\x08\x01\x12\x02ab\x13\x14\x1d\x00\x00\x00\x00\x0c"

    assert decode_spans(group) == Decoded(())
