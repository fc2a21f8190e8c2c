"""Kafka among the rest of a service: requests, calls, the application's own sampler, other threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace

import tracekit
from tests.acceptance.http_rig import ask, serving
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    DEADLINE_S,
    PRODUCER,
    SERVER,
    SPAN,
    TRACE,
    context_headers,
    parent_of,
    where,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.kafka_rig import Topic
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")


def loop(topic: Topic, handle: Callable[[Any], object]) -> None:
    for message in topic.consumer():
        handle(message)
        break


def process(topic: Topic, handle: Callable[[Any], object]) -> None:
    record = topic.record()
    with tracekit.process(record):
        handle(record)


@pytest.mark.flows(service="shop")
@pytest.mark.parametrize("consume", [loop, process])
@pytest.mark.parametrize("route", ["sync", "async"])
def test_case_01_a_request_its_message_and_the_call_it_leads_to_are_one_flow(
    topic: Topic, route: str, consume: Callable[[Topic, Callable[[Any], object]], None], flows: Captured
) -> None:
    app = FastAPI()

    def in_a_thread() -> None:
        topic.producer.send(topic.name, b"an order").get(DEADLINE_S)

    async def in_the_loop() -> None:
        topic.producer.send(topic.name, b"an order")

    app.post("/orders")(in_a_thread if route == "sync" else in_the_loop)

    @app.get("/stock/{number}")
    async def stock(number: int) -> int:
        return number

    with serving(app) as url:
        assert ask(f"{url}/orders", method="POST")[0] == 200
        consume(topic, lambda _: httpx.get(f"{url}/stock/7").raise_for_status())

    send, processed = f"send {topic.name}", f"process {topic.name}"
    flow = flows.wait_for_flow("POST /orders", send, processed, "GET", "GET /stock/{number}")
    assert flow.edges == sorted(
        [
            ("shop", "POST /orders", "call", "shop", send),
            ("shop", send, "message", "shop", processed),
            ("shop", processed, "call", "shop", "GET"),
            ("shop", "GET", "call", "shop", "GET /stock/{number}"),
        ]
    )
    spans = [flow.span(name) for name in ("POST /orders", send, processed, "GET", "GET /stock/{number}")]
    assert [span.kind for span in spans] == [SERVER, PRODUCER, CONSUMER, CLIENT, SERVER]
    assert [parent_of(span) for span in spans] == [None, *(where(span) for span in spans[:-1])]
    assert {span.trace_id for span in spans} == {flow.id}
    assert {span.attributes["tracekit.flow.id"] for span in spans} == {flow.id}
    assert flow.queue_wait(topic.name) > 0
    flow.assert_complete()
    assert len(flows.flows) == 1


SAMPLED = """
    import json, os, sys

    from kafka import KafkaConsumer, KafkaProducer
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

    class Watching(Sampler):
        def should_sample(self, context, trace_id, name, kind, attributes, links, state=None):
            print(json.dumps({
                "name": name,
                "kind": kind.name,
                "attributes": {
                    name: value
                    for name, value in attributes.items()
                    if name.startswith(("messaging.", "server."))
                },
                "links": [f"{link.context.trace_id:032x}" for link in links or ()],
            }))
            return ALWAYS_ON.should_sample(context, trace_id, name, kind, attributes, links, state)

        def get_description(self):
            return "watching"

    trace.set_tracer_provider(TracerProvider(sampler=Watching()))

    import tracekit

    topic, address = sys.argv[1:]
    settings = {"bootstrap_servers": address, "api_version": (2, 3)}
    with tracekit.configure("orders", quiet=True, receive_spans=True):
        consumer = KafkaConsumer(topic, auto_offset_reset="earliest", consumer_timeout_ms=10_000, **settings)
        consumer.partitions_for_topic(topic)
        record = next(consumer)
        with tracekit.process(record), tracekit.process_batch([record]):
            pass
        consumer.close()
        producer = KafkaProducer(**settings)
        producer.send(topic, b"an answer").get(10)
        producer.close()
"""


def test_case_51_a_sampler_sees_what_it_may_decide_by(topic: Topic) -> None:
    topic.put(headers=context_headers())
    nowhere = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}

    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SAMPLED), topic.name, topic.kafka.broker.address],
        env={**os.environ, **nowhere},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout

    def labels(operation: str, verb: str, **more: object) -> dict[str, object]:
        return {**topic.labels(operation, verb), **more}

    client = {"messaging.client.id": "kafka-python-3.0.12"}
    one = {"messaging.destination.partition.id": "0", "messaging.kafka.offset": 0}
    several = {"messaging.destination.partition.id": "0", "messaging.batch.message_count": 1}
    sent = labels("send", "send", **{"messaging.client.id": "kafka-python-producer-1"})
    assert [json.loads(line) for line in said.splitlines()] == [
        {
            "name": f"poll {topic.name}",
            "kind": "CLIENT",
            "attributes": {**labels("receive", "poll"), **client, **several},
            "links": [TRACE],
        },
        {
            "name": f"process {topic.name}",
            "kind": "CONSUMER",
            "attributes": {**labels("process", "process"), **client, **one},
            "links": [TRACE],
        },
        {
            "name": f"process {topic.name}",
            "kind": "CONSUMER",
            "attributes": {**labels("process", "process"), **client, **several},
            "links": [TRACE],
        },
        {"name": f"send {topic.name}", "kind": "PRODUCER", "attributes": sent, "links": []},
    ]


def test_handlers_in_threads_of_their_own_stay_in_the_flows_of_their_messages(
    topic: Topic, flows: Captured
) -> None:
    topic.put(headers=context_headers())
    topic.put(headers=context_headers(f"00-{'2' * 32}-{SPAN}-01"))
    records = topic.polled(2)
    together = threading.Barrier(2, timeout=DEADLINE_S)

    def handle(record: Any) -> None:
        with tracekit.process(record):
            together.wait()
            with tracer.start_as_current_span("work"):
                together.wait()

    threads = [threading.Thread(target=handle, args=[record]) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    work = [span for span in flows.spans if span.name == "work"]
    processed = [span for span in flows.spans if span.name != "work"]
    assert sorted(span.trace_id for span in work) == sorted([TRACE, "2" * 32])
    assert {parent_of(span) for span in work} == {where(span) for span in processed}


def test_undone_the_client_s_functions_are_those_it_had(topic: Topic) -> None:
    import kafka
    from kafka.producer.future import FutureRecordMetadata

    from tracekit.testing import capture

    def functions() -> list[object]:
        return [
            vars(owner).get(name)
            for owner, names in (
                (kafka.KafkaProducer, ["send"]),
                (kafka.KafkaConsumer, ["__iter__", "__next__", "poll", "commit", "commit_async"]),
                (FutureRecordMetadata, ["add_callback", "add_errback"]),
            )
            for name in names
        ]

    before = functions()
    with capture() as seen:
        assert functions() != before
        topic.send()
    topic.send()

    assert functions() == before
    assert len(seen.spans) == 1
    _, last = topic.on_the_wire(2)
    assert last.headers == []
