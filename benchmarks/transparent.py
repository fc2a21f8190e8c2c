"""Transparent: the plugin by which a client's own tests run under tracekit, with the results that they had.

    python -m pytest -p benchmarks.transparent …   in the folder of the client's sources, with tracekit
    python -m pytest -p no:tracekit …              the same without

It says at the end how many spans there were: where there are none, nothing was tried.

Seen, without and with: redis-py 8.1.0, its stream tests, 93 passed and 1 failed (an older server), both; 130
spans. kafka-python 3.0.12, its integration tests of producer and consumer on Apache Kafka 4.3.0: 31 passed
and 1 failed (the server's shortest session), against 26 and 6; 2246 spans. The five more assert
`serialized_header_size`, which is the size of what was sent, our headers among it.
"""

from __future__ import annotations

from typing import Final

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tracekit import _configure, _settings, guard
from tracekit.tracing.signals import Outputs

_spans: Final = InMemorySpanExporter()
_handle: Final = pytest.StashKey[_configure.Handle]()


def pytest_configure(config: pytest.Config) -> None:
    """Before the client's tests are imported."""
    outputs = Outputs([SimpleSpanProcessor(_spans)], [InMemoryMetricReader()], [])
    config.stash[_handle] = _configure.start(_settings.read(service="suite", quiet=True), outputs)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_handle].undo()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    finished = _spans.get_finished_spans()
    verbs = sorted({span.name.partition(" ")[0] for span in finished})
    terminalreporter.write_line(f"tracekit: {len(finished)} spans ({', '.join(verbs)})")
    terminalreporter.write_line(f"tracekit: left out or failed: {dict(guard.dropped())}")
