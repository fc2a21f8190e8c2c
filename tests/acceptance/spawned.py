"""What a spawned process runs: its context comes in a plain dict, by its arguments."""

from opentelemetry import trace

import tracekit


def work(endpoint: str, carrier: dict[str, str]) -> None:
    with (
        tracekit.configure("spawned", endpoint=endpoint, quiet=True),
        tracekit.extract(carrier),
        trace.get_tracer("program").start_as_current_span("spawned work"),
    ):
        pass
