"""Google Pub/Sub: what a publisher, a callback and a pull leave, on Pub/Sub's own fake server."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel

import tracekit
from tests.contract.rigs.pubsub import PubSubRig
from tracekit.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracekit.model import Span
    from tracekit.testing import Captured

pytestmark = pytest.mark.server
tracer = trace.get_tracer("tests")
THEIRS = f"00-{'1' * 32}-{'2' * 16}-01"
PATIENCE_S = 20


@pytest.fixture
def rig(pubsub_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSubRig]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server)
    with closing(PubSubRig()) as rig:
        yield rig


def the(flows: Captured, name: str) -> Span:
    flows.wait_for(lambda: any(span.name == name for span in flows.spans), says=f"a span `{name}`")
    (found,) = [span for span in flows.spans if span.name == name]
    return found


def pushed(rig: PubSubRig, handle: Callable[[Any], None], times: int = 1) -> None:
    """Have so many messages handled by a callback."""
    done = threading.Semaphore(0)

    def handled(message: Any) -> None:
        try:
            handle(message)
        finally:
            done.release()

    pulling = rig.subscriber.subscribe(rig.subscription, handled, await_callbacks_on_shutdown=True)
    for _ in range(times):
        assert done.acquire(timeout=PATIENCE_S)
    pulling.cancel()
    pulling.result(PATIENCE_S)


def acknowledged(rig: PubSubRig, times: int = 1) -> list[dict[str, str]]:
    """The attributes of so many messages, which a callback takes."""
    found: list[dict[str, str]] = []

    def handle(message: Any) -> None:
        found.append(dict(message.attributes))
        message.ack()

    pushed(rig, handle, times)
    return found


def test_a_send_ends_with_the_broker_s_answer_and_has_its_id(rig: PubSubRig, flows: Captured) -> None:
    id_ = rig.publisher.publish(rig.topic, b"one").result(PATIENCE_S)
    sent = the(flows, f"send {rig.destination}")

    assert sent.kind is Kind.PRODUCER
    assert sent.attributes["messaging.message.id"] == id_
    assert sent.attributes["messaging.system"] == "gcp_pubsub"


def test_case_05_an_answer_that_is_an_error_is_the_send_s(rig: PubSubRig, flows: Captured) -> None:
    from google.api_core.exceptions import NotFound

    with pytest.raises(NotFound):
        rig.publisher.publish(f"{rig.topic}-that-nobody-made", b"one").result(PATIENCE_S)
    sent = the(flows, f"send {rig.destination}-that-nobody-made")

    assert sent.attributes["error.type"] == "NotFound"


def test_case_12_a_callback_works_in_its_message_s_span(rig: PubSubRig, flows: Captured) -> None:
    with tracer.start_as_current_span("request"):
        rig.publisher.publish(rig.topic, b"one").result(PATIENCE_S)

    def handle(message: Any) -> None:
        with tracer.start_as_current_span("work"):
            message.ack()

    pushed(rig, handle)
    name = rig.destination
    flow = flows.wait_for_flow("request", f"send {name}", f"subscribe {name}", "work", f"ack {name}")

    processed, sent = flow.span(f"subscribe {name}"), flow.span(f"send {name}")
    assert processed.parent_id == sent.span_id
    assert [(link.trace_id, link.span_id) for link in processed.links] == [(sent.trace_id, sent.span_id)]
    assert processed.attributes["messaging.destination.subscription.name"] == name
    assert processed.attributes["messaging.message.id"] == sent.attributes["messaging.message.id"]
    assert processed.attributes["tracekit.messaging.published_at.source"] == "broker"
    assert flow.span(f"ack {name}").attributes["messaging.operation.type"] == "settle"
    # What the client's own threads tell the server of it is none of ours.
    assert [span.name for span in flows.spans if span.name.startswith("ack")] == [f"ack {name}"]


def test_a_message_that_was_refused_comes_again_in_the_same_flow(rig: PubSubRig, flows: Captured) -> None:
    with tracer.start_as_current_span("request"):
        rig.publisher.publish(rig.topic, b"one").result(PATIENCE_S)
    seen: list[str] = []

    def handle(message: Any) -> None:
        seen.append(message.message_id)
        if len(seen) == 1:
            message.nack()
        else:
            message.ack()

    pushed(rig, handle, 2)
    name = rig.destination
    flow = flows.wait_for_flow("request", f"send {name}", f"subscribe {name}", f"ack {name}")

    assert len(set(seen)) == 1
    assert [span.name for span in flow.spans if span.name.startswith(("subscribe", "nack", "ack"))] == [
        *(f"subscribe {name}", f"nack {name}", f"subscribe {name}", f"ack {name}")
    ]
    assert flow.duplicates == 1


def test_case_20_what_a_pull_gave_is_processed_as_a_batch_and_acknowledged(
    rig: PubSubRig, flows: Captured
) -> None:
    for number in range(3):
        with tracer.start_as_current_span(f"request {number}"):
            rig.publisher.publish(rig.topic, b"%d" % number).result(PATIENCE_S)
    found: list[Any] = []
    while len(found) < 3:
        request = {"subscription": rig.subscription, "max_messages": 3}
        found += rig.subscriber.pull(request=request, timeout=PATIENCE_S).received_messages
    with tracekit.process_batch(found) as batch:
        for received in found:
            with batch.message(received), tracer.start_as_current_span("work"):
                pass
    rig.subscriber.acknowledge(subscription=rig.subscription, ack_ids=[each.ack_id for each in found])

    flows.wait_for(lambda: any(s.name == f"ack {rig.destination}" for s in flows.spans), says="the ack")
    hub = next(s for s in flows.spans if s.attributes.get("messaging.batch.message_count") == 3)
    assert (hub.name, len(hub.links)) == (f"subscribe {rig.destination}", 3)
    for number in range(3):
        flows.wait_for_flow(
            f"request {number}", f"send {rig.destination}", f"subscribe {rig.destination}", "work"
        )
    assert [type(received).__name__ for received in found] == ["ReceivedMessage"] * 3


def test_a_callback_of_a_send_runs_in_the_context_of_its_caller(rig: PubSubRig, flows: Captured) -> None:
    seen: list[object] = []
    done = threading.Event()

    def told(future: Any) -> None:
        seen.append(trace.get_current_span())
        done.set()

    with tracer.start_as_current_span("request") as request:
        rig.publisher.publish(rig.topic, b"one").add_done_callback(told)

    assert done.wait(PATIENCE_S)
    assert seen == [request]
    the(flows, f"send {rig.destination}")


def test_what_the_client_s_own_tracing_sent_is_read(rig: PubSubRig, flows: Captured) -> None:
    rig.publisher.publish(rig.topic, b"one", googclient_traceparent=THEIRS).result(PATIENCE_S)
    (attributes,) = acknowledged(rig)
    processed = the(flows, f"subscribe {rig.destination}")

    # Ours is on it too: the application put the other one there, and no tracing of the client's.
    assert attributes["googclient_traceparent"] == THEIRS
    assert processed.parent_id == the(flows, f"send {rig.destination}").span_id


def test_where_the_client_traces_itself_there_is_one_context_on_a_message(
    rig: PubSubRig, flows: Captured
) -> None:
    from google.cloud import pubsub_v1

    options = pubsub_v1.types.PublisherOptions(enable_open_telemetry_tracing=True)
    publisher = pubsub_v1.PublisherClient(publisher_options=options)
    rig.clients.append(publisher)
    publisher.publish(rig.topic, b"one").result(PATIENCE_S)
    found = acknowledged(rig)
    processed = the(flows, f"subscribe {rig.destination}")

    (attributes,) = found
    assert [*attributes] == ["googclient_traceparent"]
    _, trace_id, span_id, _ = attributes["googclient_traceparent"].split("-")
    assert (processed.trace_id, processed.parent_id) == (trace_id, span_id)


def test_a_value_that_is_too_long_for_an_attribute_is_left_out_and_not_cut(
    rig: PubSubRig, flows: Captured
) -> None:
    token = otel.attach(baggage.set_baggage("story", "x" * 1_100))
    try:
        rig.publisher.publish(rig.topic, b"one").result(PATIENCE_S)
    finally:
        otel.detach(token)
    found = acknowledged(rig)

    assert sorted(found[0]) == ["tracekit-flow", "traceparent"]
    assert the(flows, f"send {rig.destination}").attributes["tracekit.reason"] == "size"
    assert flows.dropped == {"size": 1}


@pytest.mark.parametrize("room", [3, 1])
def test_of_a_hundred_attributes_the_application_s_come_first(
    rig: PubSubRig, flows: Captured, room: int
) -> None:
    own = {f"attribute-{number}": "x" for number in range(100 - room)}
    token = otel.attach(baggage.set_baggage("tenant", "acme"))
    try:
        rig.publisher.publish(rig.topic, b"one", **own).result(PATIENCE_S)
    finally:
        otel.detach(token)
    found = acknowledged(rig)

    ours = sorted(found[0].keys() - own.keys())
    assert ours == (["baggage", "tracekit-flow", "traceparent"] if room == 3 else ["traceparent"])
    assert flows.dropped == ({} if room == 3 else {"too_many_attributes": 2})


@pytest.mark.parametrize("value", ["", "nonsense", "00-0-0-0", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_case_28_a_context_that_nobody_can_read_is_none(rig: PubSubRig, flows: Captured, value: str) -> None:
    rig.publisher.publish(rig.topic, b"one", googclient_traceparent=value, traceparent=value).result(
        PATIENCE_S
    )
    # Where it was no context, ours took its place.
    found = acknowledged(rig)
    processed = the(flows, f"subscribe {rig.destination}")

    assert found[0]["traceparent"] != value
    assert processed.parent_id == the(flows, f"send {rig.destination}").span_id


def test_a_client_made_before_and_undone_after_is_as_it_was(
    pubsub_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server)
    with closing(PubSubRig()) as rig:
        publisher = rig.publisher
        from tracekit.testing import capture

        with capture("shop") as seen:
            publisher.publish(rig.topic, b"one").result(PATIENCE_S)
            the(seen, f"send {rig.destination}")
        publisher.publish(rig.topic, b"two").result(PATIENCE_S)
        found = acknowledged(rig, 2)

    assert sorted(map(sorted, found)) == [[], ["tracekit-flow", "traceparent"]]
