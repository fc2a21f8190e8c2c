"""One contender in a process of its own: sets its tracing up, does the work, prints its CPU time.

    python -m benchmarks.contender {http,kafka} {none,contrib,tracekit} COUNT OTLP-ENDPOINT BROKER TOPIC

CPU time is that of all threads, the export included, in microseconds for each unit of work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP: Final = 200


def contrib(endpoint: str) -> Callable[[], object]:
    """OpenTelemetry's SDK and its own instrumentations, as their documentation sets them up."""
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.kafka import KafkaInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"  # the same names as ours
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    trace.set_tracer_provider(provider)
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint}/v1/metrics"))])
    metrics.set_meter_provider(meters)
    FastAPIInstrumentor().instrument()
    KafkaInstrumentor().instrument()
    return lambda: (provider.force_flush(), meters.force_flush())


def ours(endpoint: str) -> Callable[[], object]:
    """tracekit, as its README sets it up."""
    import tracekit

    return tracekit.configure("bench", endpoint=endpoint, quiet=True).flush


def nothing(_: str) -> Callable[[], object]:
    """The work alone."""
    return lambda: None


SET_UP: Final[dict[str, Callable[[str], Callable[[], object]]]] = {
    "none": nothing,
    "contrib": contrib,
    "tracekit": ours,
}


def http(count: int, flush: Callable[[], object], _broker: str, _topic: str) -> float:
    """A FastAPI request, in process: the server's side alone."""
    import fastapi

    app = fastapi.FastAPI()

    @app.get("/orders/{order}")
    async def read(order: str) -> dict[str, str]:
        return {"order": order}

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/orders/4711",
        "raw_path": b"/orders/4711",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    async def requests(number: int) -> None:
        for _ in range(number):
            await app(dict(scope), receive, send)  # type: ignore[arg-type]  # the narrow ASGI types

    async def measured() -> float:
        await requests(WARM_UP)
        flush()
        began = time.process_time()
        await requests(count)
        await asyncio.to_thread(flush)
        return time.process_time() - began

    return asyncio.run(measured())


def kafka(count: int, flush: Callable[[], object], broker: str, topic: str) -> float:
    """A Kafka message: produced, consumed, processed in a plain loop."""
    import kafka

    settings: dict[str, Any] = {"bootstrap_servers": broker, "api_version": (2, 3)}
    producer = kafka.KafkaProducer(**settings)
    consumer = kafka.KafkaConsumer(
        topic, **settings, group_id=topic, auto_offset_reset="earliest", consumer_timeout_ms=20_000
    )
    consumer.partitions_for_topic(topic)
    body = b'{"order": "4711", "amount": 42}'

    def messages(number: int) -> None:
        for _ in range(number):
            producer.send(topic, body)
        producer.flush()
        seen = 0
        for message in consumer:
            assert message.value == body
            seen += 1
            if seen == number:
                break
        assert seen == number

    messages(WARM_UP)
    flush()
    began = time.process_time()
    messages(count)
    flush()
    took = time.process_time() - began
    producer.close()
    consumer.close()
    return took


def main() -> None:
    work, name, count, endpoint, broker, topic = sys.argv[1:]
    logging.disable(logging.WARNING)
    flush = SET_UP[name](endpoint)
    run = {"http": http, "kafka": kafka}[work]
    seconds = run(int(count), flush, broker, topic)
    print(json.dumps({"us": seconds / int(count) * 1e6}))


if __name__ == "__main__":
    main()
