"""RabbitMQ by pika: what is sent, handled, fetched and settled, and what comes again."""

from __future__ import annotations

import copy
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pika
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from pika.exceptions import AMQPError, UnroutableError

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    PRODUCER,
    SPAN,
    TRACE,
    TRACEPARENT,
    links_of,
    named,
    parent_of,
    points,
    the,
    where,
)
from tests.acceptance.rabbitmq_rig import EXCHANGE, Rabbit, untimed
from tests.integration.servers.rabbitmq import rabbitmq
from tracekit.model import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.servers.rabbitmq import RabbitMQ
    from tracekit.testing import Captured

pytestmark = pytest.mark.server
tracer = trace.get_tracer("tests")


@pytest.fixture
def rabbit(rabbitmq_broker: RabbitMQ) -> Iterator[Rabbit]:
    """A queue of the test's own; its channel is made before tracekit is configured."""
    with closing(Rabbit(rabbitmq_broker)) as clients:
        yield clients


def acked(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    """The least of handlers."""
    channel.basic_ack(method.delivery_tag)


def context_on(message: Any) -> tuple[str, str]:
    """Trace and span id of the message's creation context."""
    _, trace_id, span_id, _ = message[1].headers["traceparent"].split("-")
    return trace_id, span_id


# -- what is sent, and what it looks like --------------------------------------------------------------


def test_case_35_destinations_are_exchange_key_and_queue_and_an_ack_is_a_settling(
    rabbit: Rabbit, flows: Captured
) -> None:
    rabbit.publish()
    rabbit.handle(acked)

    sent = the(flows, f"publish {rabbit.sent_to}")
    span, ack = the(flows, f"process {rabbit.read_from}"), the(flows, f"ack {rabbit.read_from}")
    assert (sent.kind, span.kind, ack.kind) == (PRODUCER, CONSUMER, CLIENT)
    assert untimed(sent) == rabbit.sent(sent.trace_id)
    assert untimed(span) == rabbit.processed(
        sent.trace_id,
        tracekit_messaging_delivery_attempt=1,
        tracekit_messaging_published__at_source="header",
    )
    assert untimed(ack) == rabbit.labels(
        "settle",
        "ack",
        rabbit.read_from,
        messaging_rabbitmq_message_delivery__tag=1,
        tracekit_flow_id=sent.trace_id,
    )
    assert parent_of(ack) == where(span)
    flows.flow().assert_complete()


def test_case_35_on_the_default_exchange_the_key_is_the_destination(rabbit: Rabbit, flows: Captured) -> None:
    rabbit.channel.basic_publish("", rabbit.queue, b"an order")
    rabbit.handle(acked)

    assert {span.name for span in flows.spans} == {
        f"publish {rabbit.queue}",
        f"process {rabbit.queue}",
        f"ack {rabbit.queue}",
    }


def test_case_35_an_exchange_without_a_key_is_the_destination(rabbit: Rabbit, flows: Captured) -> None:
    rabbit.channel.basic_publish("amq.fanout", "", b"an order")
    rabbit.channel.basic_publish("", "", b"nobody's")

    assert [span.name for span in flows.spans] == ["publish amq.fanout", "publish amq.default"]


def test_names_that_the_broker_gives_are_no_destinations(rabbit: Rabbit, flows: Captured) -> None:
    queue = rabbit.channel.queue_declare("", exclusive=True).method.queue
    rabbit.channel.basic_publish("", queue, b"an answer", pika.BasicProperties(correlation_id="order-7"))
    rabbit.handle(acked, queue=queue)

    sent, span, _ = (the(flows, f"{verb} amq.default") for verb in ("publish", "process", "ack"))
    for each in (sent, span):
        assert each.attributes["messaging.message.conversation_id"] == "order-7"


def test_case_7_the_callers_properties_are_unchanged(rabbit: Rabbit, flows: Captured) -> None:
    bare, full = pika.BasicProperties(content_type="text/plain"), pika.BasicProperties(headers={"a": [1, {}]})
    before = copy.deepcopy((bare, full))

    for properties in (bare, full):
        rabbit.channel.basic_publish(EXCHANGE, rabbit.key, b"an order", properties)

    assert (bare, full) == before
    assert bare.headers is None
    one, two = rabbit.on_the_wire(2)
    assert (one[1].content_type, two[1].headers["a"]) == ("text/plain", [1, {}])
    assert {*one[1].headers} == {"traceparent", "tracekit-flow"}


def test_who_has_no_headers_and_gets_none_has_none(rabbit: Rabbit, flows: Captured) -> None:
    rabbit.put(content_type="text/plain")

    assert rabbit.get()[1].headers is None


def test_case_8_the_same_properties_in_two_sends_carry_each_its_own(rabbit: Rabbit, flows: Captured) -> None:
    properties = pika.BasicProperties(headers={})
    for _ in range(2):
        rabbit.channel.basic_publish(EXCHANGE, rabbit.key, b"an order", properties)

    sent = named(flows, f"publish {rabbit.sent_to}")
    assert [context_on(message) for message in rabbit.on_the_wire(2)] == [where(span) for span in sent]


def test_case_11_forwarded_headers_point_to_the_new_send(rabbit: Rabbit, flows: Captured) -> None:
    def forward(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        channel.basic_publish("", rabbit.queue, b"forwarded", properties)

    rabbit.publish()
    rabbit.handle(forward)

    forwarded = the(flows, f"publish {rabbit.queue}")
    assert context_on(*rabbit.on_the_wire()) == where(forwarded)
    assert parent_of(forwarded) == where(the(flows, f"process {rabbit.read_from}"))


@pytest.mark.parametrize(
    ("free", "left"),
    [(400, {"traceparent", "tracekit-flow"}), (240, {"traceparent", "tracekit-flow"}), (90, {"traceparent"})],
)
def test_what_does_not_fit_in_the_frame_is_left_out_the_least_needed_first(
    rabbit: Rabbit, flows: Captured, free: int, left: set[str]
) -> None:
    frame_max = rabbit.channel._impl.connection.params.frame_max
    token = otel.attach(baggage.set_baggage("tenant", "a" * 400))
    try:
        rabbit.publish(headers={"x": "x" * (frame_max - 33 - free)})
    finally:
        otel.detach(token)

    (message,) = rabbit.on_the_wire()
    assert set(message[1].headers) - {"x"} == left
    assert the(flows, f"publish {rabbit.sent_to}").attributes["tracekit.reason"] == "size"
    assert flows.dropped == {"size": 3 - len(left)}


def test_a_message_that_nobody_takes_is_a_failed_send(rabbit: Rabbit, flows: Captured) -> None:
    rabbit.channel.confirm_delivery()

    with pytest.raises(UnroutableError):
        rabbit.channel.basic_publish(EXCHANGE, "nobody", b"an order", mandatory=True)

    span = the(flows, f"publish {EXCHANGE}:nobody")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "UnroutableError")


def test_headers_that_the_client_refuses_it_refuses_itself(rabbit: Rabbit, flows: Captured) -> None:
    with pytest.raises(pika.exceptions.UnsupportedAMQPFieldException):
        rabbit.publish(headers={"weight": {1.5}})

    assert the(flows, f"publish {rabbit.sent_to}").status is Status.ERROR


# -- handlers ------------------------------------------------------------------------------------------


def test_case_12_a_handler_without_ambient_is_the_child_of_its_creation_context(
    rabbit: Rabbit, flows: Captured
) -> None:
    rabbit.put(headers={"traceparent": TRACEPARENT})
    rabbit.handle(acked)

    span = the(flows, f"process {rabbit.read_from}")
    assert (parent_of(span), links_of(span)) == ((TRACE, SPAN), [(TRACE, SPAN)])


def test_case_14_without_context_it_is_a_root(rabbit: Rabbit, flows: Captured) -> None:
    rabbit.put()
    rabbit.handle(acked)

    span = the(flows, f"process {rabbit.read_from}")
    assert (parent_of(span), span.links) == (None, ())
    assert span.attributes["tracekit.messaging.context"] == "absent"


def test_case_15_the_baggage_of_a_message_is_that_of_its_handler_alone(
    rabbit: Rabbit, flows: Captured
) -> None:
    seen: list[object] = []

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        seen.append(dict(baggage.get_all()))
        acked(channel, method, properties, body)

    rabbit.put(headers={"baggage": "tenant=acme"})
    rabbit.put()
    rabbit.handle(handler, 2)

    assert seen == [{"tenant": "acme"}, {}]
    assert baggage.get_all() == {}


def test_case_16_what_a_handler_raises_is_its_spans_error(rabbit: Rabbit, flows: Captured) -> None:
    error = LookupError("no such order")
    before = otel.get_current()

    def fail(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        acked(channel, method, properties, body)
        raise error

    rabbit.publish()
    with pytest.raises(LookupError) as raised:
        rabbit.handle(fail)

    assert raised.value is error
    assert otel.get_current() == before
    span = the(flows, f"process {rabbit.read_from}")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "LookupError")
    ((labels, _, count),) = points(flows, "messaging.process.duration")
    assert (labels["error.type"], count) == ("LookupError", 1)


@pytest.mark.parametrize(
    "value", [b"\xff\xfe", 17, None, "", "garbage", [None], {"a": 1}, b"00-", 2**40], ids=repr
)
@pytest.mark.parametrize("name", ["traceparent", "tracekit-flow", "baggage", "x-death", "x-delivery-count"])
def test_case_28_hostile_headers_reach_the_handler_and_hurt_nobody(
    rabbit: Rabbit, flows: Captured, name: str, value: object
) -> None:
    got: list[object] = []

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append((properties.headers, body))
        acked(channel, method, properties, body)

    rabbit.put(headers={name: value})
    rabbit.handle(handler)

    assert got == [({name: value}, b"an order")]
    span = the(flows, f"process {rabbit.read_from}")
    assert (parent_of(span), span.status) == (None, Status.UNSET)


def test_case_46_of_two_creation_contexts_the_last_counts(rabbit: Rabbit, flows: Captured) -> None:
    class Twice(dict[str, str]):
        def items(self) -> Any:
            return [("traceparent", f"00-{'1' * 32}-{'2' * 16}-01"), ("traceparent", TRACEPARENT)]

    rabbit.put(headers=Twice(traceparent=""))
    rabbit.handle(acked)

    assert parent_of(the(flows, f"process {rabbit.read_from}")) == (TRACE, SPAN)


def test_a_publish_in_a_handler_that_is_called_while_another_call_waits_is_traced(
    rabbit: Rabbit, flows: Captured
) -> None:
    """The loop over one queue calls the handlers of others, as all are on one connection."""
    other = rabbit.declare(f"{rabbit.queue}-other", f"{rabbit.key}.other")

    def forward(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        acked(channel, method, properties, body)
        channel.basic_publish("", rabbit.queue, b"forwarded")

    rabbit.channel.basic_consume(other, forward)
    rabbit.channel.basic_publish("", other, b"an order")
    for method, _, _ in rabbit.channel.consume(rabbit.queue):
        rabbit.channel.basic_ack(method.delivery_tag)
        break
    rabbit.channel.cancel()

    tree = {span.name: parent_of(span) for span in flows.spans}
    assert tree[f"publish {rabbit.queue}"] == where(the(flows, f"process {other}"))
    assert tree[f"process {rabbit.queue}"] == where(the(flows, f"publish {rabbit.queue}"))


# -- loops, and what is fetched --------------------------------------------------------------------------


def test_case_17_the_body_of_the_loop_is_in_its_messages_span(rabbit: Rabbit, flows: Captured) -> None:
    rabbit.put(b"one", {"traceparent": TRACEPARENT})
    rabbit.put(b"two")
    before, current = otel.get_current(), []

    for method, _, body in rabbit.channel.consume(rabbit.queue, inactivity_timeout=0.2):
        if method is None:
            break
        current.append(trace.get_current_span().get_span_context().span_id)
        rabbit.channel.basic_ack(method.delivery_tag)
        with tracer.start_as_current_span(body.decode()):
            pass
    rabbit.channel.cancel()

    one, two = named(flows, f"process {rabbit.read_from}")
    assert [f"{each:016x}" for each in current] == [one.span_id, two.span_id]
    assert parent_of(the(flows, "one")) == where(one)
    assert parent_of(one) == (TRACE, SPAN)
    assert one.end_ns is not None
    assert one.end_ns <= two.start_ns
    assert otel.get_current() == before


def test_case_19_a_loop_that_is_left_ends_its_turn(rabbit: Rabbit, flows: Captured) -> None:
    before = otel.get_current()

    def consume(error: Exception | None) -> None:
        for _ in rabbit.channel.consume(rabbit.queue, auto_ack=True):
            if error is not None:
                raise error
            break

    rabbit.put()
    consume(None)
    assert otel.get_current() == before
    rabbit.put()
    with pytest.raises(LookupError):
        consume(LookupError())
    assert otel.get_current() == before
    rabbit.channel.cancel()

    assert [span.end_ns is not None for span in named(flows, f"process {rabbit.read_from}")] == [True, True]


def test_case_19_entered_a_loop_knows_its_error(rabbit: Rabbit, flows: Captured) -> None:
    def consume() -> None:
        with tracekit.consuming(rabbit.channel.consume(rabbit.queue, auto_ack=True)) as messages:
            for _ in messages:
                raise LookupError

    rabbit.put()
    with pytest.raises(LookupError):
        consume()
    rabbit.channel.cancel()

    assert the(flows, f"process {rabbit.read_from}").attributes["error.type"] == "LookupError"


def test_case_49_a_loop_that_is_kept_is_never_a_parent(rabbit: Rabbit, flows: Captured) -> None:
    rabbit.put()
    rabbit.put()
    kept = rabbit.channel.consume(rabbit.queue, auto_ack=True)
    for _ in kept:
        break
    rabbit.channel.basic_get(rabbit.declare(f"{rabbit.queue}-other", "other"))
    assert trace.get_current_span().is_recording()  # another queue's message is no end of the turn
    for _ in rabbit.channel.consume(rabbit.queue, auto_ack=True):
        break
    del kept
    rabbit.channel.cancel()

    leaked, last = named(flows, f"process {rabbit.read_from}")
    assert leaked.attributes["tracekit.leaked"] is True
    assert (parent_of(last), "tracekit.leaked" in last.attributes) == (None, False)


def test_an_ack_from_elsewhere_names_what_it_acks(rabbit: Rabbit, flows: Captured) -> None:
    """As threads do, which hand it to the connection: `add_callback_threadsafe`."""
    tags: list[int] = []

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        tags.append(method.delivery_tag)

    rabbit.put()
    rabbit.handle(handler)
    rabbit.connection.add_callback_threadsafe(lambda: rabbit.channel.basic_ack(*tags))
    rabbit.connection.process_data_events(time_limit=0)  # has it scheduled
    rabbit.connection.process_data_events(time_limit=0)

    assert the(flows, f"ack {rabbit.read_from}").attributes["messaging.rabbitmq.message.delivery_tag"] == 1


@pytest.mark.parametrize("rule", ["auto", "message", "link"])
def test_case_13_what_was_got_is_processed_in_a_block_as_the_rule_says(
    rabbit: Rabbit, flows: Captured, rule: Any
) -> None:
    rabbit.put(headers={"traceparent": TRACEPARENT})
    method, properties, body = rabbit.get()

    with (
        tracer.start_as_current_span("job") as job,
        tracekit.process((method, properties, body), parent=rule),
    ):
        pass

    around = f"{job.get_span_context().trace_id:032x}", f"{job.get_span_context().span_id:016x}"
    span = the(flows, f"process {rabbit.read_from}")
    parent, links = {
        "auto": (around, [(TRACE, SPAN)]),
        "message": ((TRACE, SPAN), [(TRACE, SPAN), around]),
        "link": (None, [(TRACE, SPAN)]),
    }[rule]
    assert (parent_of(span), links_of(span)) == (parent, links)


def test_a_block_in_a_handler_or_a_loop_is_its_turn(rabbit: Rabbit, flows: Captured) -> None:
    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        with tracekit.process((method, properties, body)):
            acked(channel, method, properties, body)

    rabbit.put()
    rabbit.handle(handler)
    rabbit.put()
    for method, properties, body in rabbit.channel.consume(rabbit.queue):
        with tracekit.process((method, properties, body)):
            rabbit.channel.basic_ack(method.delivery_tag)
        break
    rabbit.channel.cancel()

    assert len(named(flows, f"process {rabbit.read_from}")) == 2


def test_case_23_an_empty_queue_is_nothing(rabbit: Rabbit, flows: Captured) -> None:
    assert rabbit.channel.basic_get(rabbit.queue) == (None, None, None)

    assert flows.spans == ()
    assert points(flows, "messaging.client.consumed.messages") == []


def test_case_18_the_callback_channel_is_traced_alike(rabbit: Rabbit, flows: Captured) -> None:
    def opened(channel: Any) -> None:
        channel.basic_consume(rabbit.queue, handler)
        channel.basic_publish(EXCHANGE, rabbit.key, b"an order")

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        acked(channel, method, properties, body)
        channel.connection.close()

    connection = pika.SelectConnection(
        pika.URLParameters(rabbit.broker.url),
        on_open_callback=lambda connection: connection.channel(on_open_callback=opened),
        on_close_callback=lambda connection, _: connection.ioloop.stop(),
    )
    with closing(connection.ioloop):
        connection.ioloop.start()

    names = [f"publish {rabbit.sent_to}", f"process {rabbit.read_from}", f"ack {rabbit.read_from}"]
    sent, span, ack = (the(flows, name) for name in names)
    assert (parent_of(span), parent_of(ack)) == (where(sent), where(span))
    assert untimed(sent) == rabbit.sent(sent.trace_id)


# -- what comes again ----------------------------------------------------------------------------------


def test_a_message_that_is_put_back_comes_again_as_redelivered(rabbit: Rabbit, flows: Captured) -> None:
    def refuse_once(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if method.redelivered:
            acked(channel, method, properties, body)
        else:
            channel.basic_nack(method.delivery_tag, requeue=True)

    rabbit.publish()
    rabbit.handle(refuse_once, 2)

    nack = the(flows, f"nack {rabbit.read_from}")
    assert nack.attributes["tracekit.messaging.requeue"] is True
    assert nack.attributes["messaging.operation.type"] == "settle"
    first, again = named(flows, f"process {rabbit.read_from}")
    assert first.attributes["tracekit.messaging.delivery.attempt"] == 1
    assert "tracekit.messaging.redelivered" not in first.attributes
    assert again.attributes["tracekit.messaging.redelivered"] is True
    assert links_of(first) == links_of(again) == [where(the(flows, f"publish {rabbit.sent_to}"))]


def test_a_quorum_queue_counts_the_attempts(rabbit: Rabbit, flows: Captured) -> None:
    queue = rabbit.declare(f"{rabbit.queue}-quorum", f"{rabbit.key}.quorum", x_queue_type="quorum")
    attempts: list[int] = []

    def refuse_twice(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        attempts.append(1)
        if len(attempts) == 3:
            acked(channel, method, properties, body)
        else:
            channel.basic_reject(method.delivery_tag, requeue=True)

    rabbit.channel.basic_publish(EXCHANGE, f"{rabbit.key}.quorum", b"an order")
    rabbit.handle(refuse_twice, 3, queue)

    spans = named(flows, f"process {EXCHANGE}:{rabbit.key}.quorum:{queue}")
    assert [span.attributes["tracekit.messaging.delivery.attempt"] for span in spans] == [1, 2, 3]
    assert len(named(flows, f"reject {EXCHANGE}:{rabbit.key}.quorum:{queue}")) == 2


def test_case_44_three_tries_then_a_dead_letter_that_links_where_it_was_made(
    rabbit: Rabbit, flows: Captured
) -> None:
    """Refused, a message waits in another queue and comes back; after three tries it is put aside."""
    work, retry, dead = (f"{rabbit.queue}-{name}" for name in ("work", "retry", "dead"))
    rabbit.declare(work, work, x_dead_letter_exchange=EXCHANGE, x_dead_letter_routing_key=retry)
    rabbit.declare(
        retry, retry, x_dead_letter_exchange=EXCHANGE, x_dead_letter_routing_key=work, x_message_ttl=50
    )
    rabbit.declare(dead, dead, x_message_ttl=60_000)
    headers: list[set[str]] = []

    def refuse(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        headers.append({name for name in properties.headers if name == "traceparent"})
        if len(headers) < 3:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            with tracekit.relay():
                channel.basic_publish(EXCHANGE, dead, body, properties)
            channel.basic_ack(method.delivery_tag)

    rabbit.channel.basic_publish(EXCHANGE, work, b"an order")
    rabbit.handle(refuse, 3, work)
    rabbit.handle(acked, queue=dead)

    sent = the(flows, f"publish {EXCHANGE}:{work}")
    tries = named(flows, f"process {EXCHANGE}:{work}")
    assert [span.attributes["tracekit.messaging.delivery.attempt"] for span in tries] == [1, 2, 3]
    assert [span.attributes.get("tracekit.messaging.dead_letter.reason") for span in tries] == [
        None,
        "expired",
        "expired",
    ]
    last = the(flows, f"process {EXCHANGE}:{dead}")
    assert [links_of(span) for span in (*tries, last)] == [[where(sent)]] * 4
    assert headers == [{"traceparent"}] * 3
    flow = flows.flow()
    flow.assert_complete()
    assert {span.attributes["tracekit.flow.id"] for span in (*tries, last)} == {sent.trace_id}


def test_case_44_the_brokers_own_dead_letter_says_why_it_is_one(rabbit: Rabbit, flows: Captured) -> None:
    work, dead = f"{rabbit.queue}-work", f"{rabbit.queue}-dead"
    rabbit.declare(work, work, x_dead_letter_exchange=EXCHANGE, x_dead_letter_routing_key=dead)
    rabbit.declare(dead, dead)

    def refuse(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_nack(method.delivery_tag, requeue=False)

    rabbit.channel.basic_publish(EXCHANGE, work, b"an order")
    rabbit.handle(refuse, queue=work)
    rabbit.handle(acked, queue=dead)

    span = the(flows, f"process {EXCHANGE}:{dead}")
    assert span.attributes["tracekit.messaging.dead_letter.reason"] == "rejected"
    assert span.attributes["tracekit.messaging.delivery.attempt"] == 1
    assert links_of(span) == [where(the(flows, f"publish {EXCHANGE}:{work}"))]
    assert the(flows, f"nack {EXCHANGE}:{work}").attributes["tracekit.messaging.requeue"] is False


# -- the broker fails ------------------------------------------------------------------------------------


@pytest.mark.real  # a broker of its own, which starts twice
def test_case_17_of_section_8_a_broker_that_dies_raises_the_clients_own_error(
    rabbit: Rabbit, flows: Captured, tmp_path: Path
) -> None:
    def consume(first: Rabbit) -> None:
        for method, _, _ in first.channel.consume(first.queue):
            first.channel.basic_ack(method.delivery_tag)
            first.channel.basic_get(first.queue)  # the ack has arrived
            first.broker.kill()

    with rabbitmq(tmp_path) as broker:
        first = Rabbit(broker)
        first.publish(b"one", delivery_mode=2)
        with pytest.raises(AMQPError):
            consume(first)
        assert trace.get_current_span().get_span_context().is_valid is False
        ports = broker.ports
    with rabbitmq(tmp_path, ports) as broker, closing(Rabbit(broker)) as again:
        again.publish(b"two")
        again.handle(acked)

    assert [span.end_ns is not None for span in flows.spans] == [True] * len(flows.spans)
    assert len(named(flows, f"process {first.read_from}")) == 1
    span = the(flows, f"process {again.read_from}")
    assert parent_of(span) == where(the(flows, f"publish {again.sent_to}"))
