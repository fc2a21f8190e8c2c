"""What is read of JSON by a table is what `json_format` reads, or nothing."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.integration.otlp_samples import SPAN
from tracekit.otlp import encode_spans, json_mapping, to_protobuf
from tracekit.otlp.json_fields import fields_of

NUMBERS = st.integers() | st.integers(0, 5) | st.floats() | st.integers().map(str)
ODD = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "+1",
        "1_0",
        "1e3",
        " 1",
        "\u0663",
        "NaN",
        "Infinity",
        "\ud800",
        "a" * 16,
        "A" * 32,
        "é" * 16,
    ]
)
PLAIN = st.none() | st.booleans() | NUMBERS | ODD | st.text(max_size=3)


def objects(descriptor: Any, deep: int = 0) -> st.SearchStrategy[Any]:
    """Objects with this message's fields, mostly as they should be."""
    if deep > 5:
        return st.just({})
    fields: dict[str, st.SearchStrategy[Any]] = {"unknown": PLAIN, "[x.y]": PLAIN, "\ud800": PLAIN}
    for field in descriptor.fields:
        right = later(field, deep)
        fields[field.json_name] = fields[field.name] = right | right | right | PLAIN
    few = st.sets(st.sampled_from(sorted(fields)), max_size=4)
    return few.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in sorted(names)}))


def later(field: Any, deep: int) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: of_field(field, deep))


def of_field(field: Any, deep: int) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    if field.message_type is not None:
        one = objects(field.message_type, deep + 1)
    elif field.cpp_type == field.CPPTYPE_STRING:
        one = st.text("0123456789abcdef", max_size=4) | st.just("12" * 8)
    elif field.cpp_type == field.CPPTYPE_BOOL:
        one = st.booleans()
    else:
        one = NUMBERS
    return st.lists(one, max_size=3) if field.is_repeated else one


@pytest.mark.parametrize("message", [Span, LogRecord, Resource, Metric, AnyValue])
def test_an_object_is_read_as_json_format_reads_it_or_left_to_it(message: Any) -> None:
    read = fields_of(message.DESCRIPTOR)

    @settings(deadline=None, max_examples=300)
    @given(objects(message.DESCRIPTOR))
    def agrees(found: dict[str, Any]) -> None:
        kept = copy.deepcopy(found)
        try:
            taken = message(**read(found, 0))
        except (ValueError, TypeError):
            taken = None
        assert repr(found) == repr(kept)
        if taken is not None and not _has_exemplars(taken):
            slowly = json_format.ParseDict(json_mapping.with_ids(kept), message(), ignore_unknown_fields=True)
            assert taken.SerializeToString(deterministic=True) == slowly.SerializeToString(deterministic=True)

    agrees()


def _has_exemplars(message: Any) -> bool:
    """Whose ids `with_ids` leaves in hexadecimal."""
    return any(
        isinstance(value, Exemplar) or (hasattr(value, "ListFields") and _has_exemplars(value))
        for _, held in message.ListFields()
        for value in (held if hasattr(held, "add") else [held])
    )


def test_what_sdks_send_is_not_left_to_json_format(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [SPAN] * 3
    body = encode_spans(spans, "json")
    plain = json.loads(body)
    for span in plain["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        span["attributes"] = [each for each in span["attributes"] if "bytesValue" not in each["value"]]
    parsed: list[object] = []
    parse = json_format.ParseDict

    def told(js: Any, message: Any, **options: Any) -> Any:
        parsed.append(type(message))
        return parse(js, message, **options)

    monkeypatch.setattr(json_format, "ParseDict", told)

    to_protobuf("traces", json.dumps(plain).encode())

    assert Span not in parsed
    assert to_protobuf("traces", body) == encode_spans(spans)
