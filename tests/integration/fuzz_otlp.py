"""Fuzzes the decoder by coverage: python -m tests.integration.fuzz_otlp CORPUS [libFuzzer's options].

An input's first byte says which signal and which encoding the others are. Whatever they are: records and
refusals, or OtlpError; an answer that says so; what was accepted can be written; what the scanner
accepts the decoder accepts whole, and both see the same.
"""

from __future__ import annotations

import contextlib
import sys
from itertools import groupby
from typing import TYPE_CHECKING

import atheris  # type: ignore[import-untyped]  # it ships no types

with atheris.instrument_imports(include=["tracekit.otlp"]):
    from tracekit.otlp import (
        OtlpError,
        decode_logs,
        decode_metrics,
        decode_spans,
        encode_answer,
        encode_logs,
        encode_metrics,
        encode_spans,
        scan,
        to_protobuf,
    )

from tests.integration.otlp_samples import KINDS  # after the above, for it imports them too

if TYPE_CHECKING:
    from collections.abc import Iterable


def check(data: bytes) -> None:
    """Raises where a promise is broken."""
    if not data:
        return
    signal, encoding = KINDS[data[0] % len(KINDS)]
    body = data[1:]
    if encoding == "json":
        with contextlib.suppress(OtlpError):
            to_protobuf(signal, body)
    strands = scan.Scanner().scan_spans(body) if (signal, encoding) == ("traces", "protobuf") else None
    try:
        if signal == "traces":
            spans = decode_spans(body, encoding)
            encode_spans(spans.records)
            decoded: object = spans
            answer = encode_answer(signal, spans, encoding)
            if strands is not None:
                assert (spans.rejected, spans.reason) == (0, ""), "the scanner accepts what is refused"
                seen, due = sums(strands), sums(scan.strands_of(spans.records))
                if [one[:2] for one in seen] == [one[:2] for one in due]:
                    # Else a span has the flow id twice, and another one none: the scanner counts them.
                    assert seen == due, "the scanner sees otherwise"
        elif signal == "logs":
            lines = decode_logs(body, encoding)
            encode_logs(lines.records)
            decoded, answer = lines, encode_answer(signal, lines, encoding)
        else:
            metrics = decode_metrics(body, encoding)
            encode_metrics(metrics.records)
            decoded, answer = metrics, encode_answer(signal, metrics, encoding)
    except OtlpError:
        if strands is not None:
            raise  # the scanner accepts what the decoder does not
        return
    assert isinstance(answer, bytes), decoded


def sums(strands: Iterable[scan.Strand]) -> list[tuple[object, ...]]:
    """What consecutive strands say together, of each trace and flow."""
    found: list[tuple[object, ...]] = []
    for key, group in groupby(strands, lambda one: (one.trace_id, one.flow_id, one.service)):
        ones = list(group)
        found.append(
            (
                *key,
                min(one.start_ns for one in ones),
                max(one.end_ns for one in ones),
                sum(one.spans for one in ones),
                sum(one.errors for one in ones),
                sum(one.open for one in ones),
                next((one.entry for one in ones if one.entry), None),
                {said for one in ones for said in one.mentioned},
                {said for one in ones for said in one.destinations},
            )
        )
    return found


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
