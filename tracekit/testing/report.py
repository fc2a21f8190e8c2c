"""Report: what a test saw, as text and as a file, for the one who must find out why it failed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracekit.flow import render
from tracekit.flow.text import counted
from tracekit.otlp import encode_logs, encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracekit.collector.store import Store
    from tracekit.flow import Flow

_MOST_DRAWN: Final = 10


def report(
    flows: Sequence[Flow], dropped: Mapping[str, int], store: Store, saved: Path | None, hint: str = ""
) -> str:
    """Every flow drawn, what was lost on the way, and where all of it was saved.

    `hint` tells what to look at where there is no flow.
    """
    drawn = [render(flow) for flow in flows[:_MOST_DRAWN]]
    drawn = drawn or ["\n".join(filter(None, ["no span arrived", hint]))]
    if len(flows) > _MOST_DRAWN:
        drawn.append(f"… and {counted(len(flows) - _MOST_DRAWN, 'flow')} more")
    notes = [*_lost(dropped, store)]
    if saved is not None:
        notes.append(f"saved: {saved}")
    return "\n\n".join([*drawn, *(["\n".join(notes)] if notes else [])])


def _lost(dropped: Mapping[str, int], store: Store) -> Iterator[str]:
    if dropped:
        yield "dropped: " + ", ".join(f"{reason} {number}" for reason, number in sorted(dropped.items()))
    for signal, counts in store.counts().items():
        if counts.dropped or counts.refused:
            yield f"{signal}: {counts.refused} refused, {counts.dropped} dropped by the receiver"


def save(store: Store, path: Path) -> Path | None:
    """Write all spans and log lines as OTLP JSON, one request a line. None where there are none.

    Source: OpenTelemetry specification, protocol/file-exporter.
    """
    spans, lines = store.spans(), store.logs()
    requests = [encode_spans(spans, "json")] if spans else []
    requests += [encode_logs(lines, "json")] if lines else []
    if not requests:
        return None
    path.write_bytes(b"".join(request + b"\n" for request in requests))
    return path


def temporary_file() -> Path:
    """A file that nobody else writes to."""
    descriptor, name = tempfile.mkstemp(prefix="tracekit-flows-", suffix=".jsonl")
    os.close(descriptor)
    return Path(name)
