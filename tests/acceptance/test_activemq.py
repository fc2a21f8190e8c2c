"""ActiveMQ by STOMP: what is on a frame, what a listener's message leaves, and where a refused one goes."""

from __future__ import annotations

import copy
import logging
import queue
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

import pytest
import stomp
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import suppress_instrumentation

import tracekit
from tests.acceptance.kafka_rig import (
    CLIENT,
    CONSUMER,
    HASH,
    PRODUCER,
    SPAN,
    TRACE,
    TRACEPARENT,
    links_of,
    named,
    parent_of,
    points,
    the,
    untimed,
    where,
)
from tests.contract.rigs.stomp import PATIENCE_S, StompRig
from tracekit.model import Link, Status
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.integration.servers.activemq import ActiveMQ
    from tracekit.model import Span
    from tracekit.testing import Captured

pytestmark = pytest.mark.server
tracer = trace.get_tracer("tests")

DEAD: Final = "/queue/ActiveMQ.DLQ"
VERSIONS: Final = [stomp.Connection10, stomp.Connection11, stomp.Connection12]


class Collector(stomp.ConnectionListener):  # type: ignore[misc]  # the client ships no types
    """A listener that hands frames to the test's thread, or to a handler in its own."""

    def __init__(self, connection: Any, handle: Callable[[Any, Any], None] | None = None) -> None:
        self._connection = connection
        self._handle = handle
        self.frames: queue.Queue[Any] = queue.Queue()
        self.errors: list[Any] = []
        self.ended = threading.Event()

    def on_message(self, frame: Any) -> None:
        if self._handle is not None:
            self._handle(self._connection, frame)
        self.frames.put(frame)

    def on_error(self, frame: Any) -> None:
        self.errors.append(frame.headers)

    def on_receiver_loop_completed(self, _: Any) -> None:
        self.ended.set()


class Destination:
    """A queue of the test's own, and the connections that it has there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.rig = StompRig(port)
        self.name = self.rig.destination
        self._closing = ExitStack()

    def connected(
        self, handle: Callable[[Any, Any], None] | None = None, kind: Any = stomp.Connection12
    ) -> tuple[Any, Collector]:
        """A connection, and who listens there."""
        connection = kind([("127.0.0.1", self.port)])
        listener = Collector(connection, handle)
        connection.set_listener("tests", listener)
        connection.connect(wait=True)
        self._closing.callback(_end, connection, listener)
        return connection, listener

    def listening(
        self,
        handle: Callable[[Any, Any], None] | None = None,
        destination: str = "",
        ack: str = "client-individual",
        kind: Any = stomp.Connection12,
    ) -> tuple[Any, Collector]:
        """A connection that is given the messages of the queue, one after another."""
        connection, listener = self.connected(handle, kind)
        connection.subscribe(destination or self.name, id="1", ack=ack, headers={"activemq.prefetchSize": 1})
        return connection, listener

    def put(self, body: str = "an order", **headers: Any) -> None:
        """Have a message come from a service that is not traced."""
        with suppress_instrumentation():
            self.rig.send(body.encode(), headers)

    def frame(self, destination: str = "") -> Any:
        """The one message that is there, read by somebody who is not traced."""
        (frame,) = self.frames(1, destination)
        return frame

    def frames(self, number: int, destination: str = "") -> list[Any]:
        """The messages that are there."""
        with suppress_instrumentation():
            connection, listener = self.connected()
        with untraced(connection):
            connection.subscribe(destination or self.name, id="1", ack="auto")
            frames = [listener.frames.get(timeout=PATIENCE_S) for _ in range(number)]
            _end(connection, listener)
        return frames

    def labels(self, operation: str, verb: str) -> dict[str, object]:
        return {
            "messaging.system": "activemq",
            "messaging.operation.name": verb,
            "messaging.operation.type": operation,
            "messaging.destination.name": self.name,
            "server.address": "127.0.0.1",
            "server.port": self.port,
        }

    def processed(self, frame: Any, flow: str, **more: object) -> dict[str, object]:
        return {
            **self.labels("process", "process"),
            "messaging.message.id": frame.headers["message-id"],
            "tracekit.flow.id": flow,
            "tracekit.messaging.delivery.attempt": 1,
            "tracekit.messaging.published_at": int(frame.headers["timestamp"]) * 1_000_000,
            "tracekit.messaging.published_at.source": "broker",
            "tracekit.pathway.hash": HASH,
            **{name.replace("__", "."): value for name, value in more.items()},
        }

    def close(self) -> None:
        self._closing.close()
        self.rig.close()


def _end(connection: Any, listener: Collector) -> None:
    if connection.is_connected():
        connection.disconnect("bye")
    assert listener.ended.wait(PATIENCE_S)


class untraced:  # noqa: N801 - reads as a phrase
    """Frames of this connection are nobody's messages."""

    def __init__(self, connection: Any) -> None:
        self._transport = connection.transport

    def __enter__(self) -> None:
        notify = type(self._transport).notify
        bare = getattr(notify, "__wrapped__", notify)
        self._transport.notify = bare.__get__(self._transport)

    def __exit__(self, *_: object) -> None:
        del self._transport.notify


@pytest.fixture
def destination(activemq_server: ActiveMQ) -> Iterator[Destination]:
    with closing(Destination(activemq_server.port)) as destination:
        yield destination


def context_on(frame: Any) -> tuple[str, str]:
    _, trace_id, span_id, _ = frame.headers["traceparent"].split("-")
    return trace_id, span_id


def handled(destination: Destination, handle: Callable[[Any], None] = lambda _: None) -> Any:
    """The next message, once a listener has handled it and its span has ended."""
    frames: list[Any] = []

    def both(frame: Any) -> None:
        frames.append(frame)
        handle(frame)

    destination.rig.consume(both)
    return frames[0]


def processed(flows: Captured, destination: Destination, number: int = 1) -> list[Span]:
    """The spans of processing, once there are so many."""
    name = f"process {destination.name}"
    flows.wait_for(lambda: len(named(flows, name)) >= number, says=f"{number} spans `{name}`")
    return named(flows, name)


# -- what is sent -------------------------------------------------------------------------------------


def test_a_send_is_named_as_the_conventions_have_it(destination: Destination, flows: Captured) -> None:
    destination.rig.send(b"an order")

    span = the(flows, f"send {destination.name}")
    assert (span.kind, span.status) == (PRODUCER, Status.UNSET)
    assert span.attributes == {**destination.labels("send", "send"), "tracekit.flow.id": span.trace_id}


def test_case_7_the_callers_headers_are_unchanged(destination: Destination, flows: Captured) -> None:
    given = {"shop": "north", "number": 5, "nothing": None, "twice": ("one", "two")}
    before = copy.deepcopy(given)

    destination.rig.send(b"an order", given)

    assert given == before


def test_case_8_headers_used_twice_carry_a_context_of_their_own_each(
    destination: Destination, flows: Captured
) -> None:
    given = {"shop": "north"}

    destination.rig.send(b"one", given)
    destination.rig.send(b"two", given)

    sent = [where(span) for span in named(flows, f"send {destination.name}")]
    assert [context_on(frame) for frame in destination.frames(2)] == sent


@pytest.mark.parametrize("kind", VERSIONS)
@pytest.mark.parametrize("form", ["none", "by position", "by name", "as keywords", "as both"])
def test_case_9_context_goes_in_whatever_way_the_headers_are_given(
    destination: Destination, kind: Any, form: str, flows: Captured
) -> None:
    connection, _ = destination.connected(kind=kind)
    if form == "none":
        connection.send(destination.name, "an order")
    elif form == "by position":
        connection.send(destination.name, "an order", "text/plain", {"shop": "north"})
    elif form == "by name":
        connection.send(body="an order", destination=destination.name, headers={"shop": "north"})
    elif form == "as keywords":
        connection.send(destination.name, "an order", shop="north")
    else:
        connection.send(destination.name, "an order", headers={"shop": "south"}, shop="north")

    frame = destination.frame()
    assert frame.headers.get("shop") == (None if form == "none" else "north")
    assert context_on(frame) == where(the(flows, f"send {destination.name}"))
    assert frame.headers["tracekit-flow"].split(";")[1] == the(flows, f"send {destination.name}").trace_id


@pytest.mark.parametrize("by_keyword", [True, False])
def test_case_10_a_relayed_message_keeps_its_context(
    destination: Destination, by_keyword: bool, flows: Captured
) -> None:
    connection, _ = destination.connected()
    with tracer.start_as_current_span("relay job"), tracekit.relay():
        if by_keyword:
            connection.send(destination.name, "an order", traceparent=TRACEPARENT)
        else:
            connection.send(destination.name, "an order", headers={"traceparent": TRACEPARENT})

    frame = destination.frame()
    assert frame.headers["traceparent"] == TRACEPARENT
    assert "tracekit-flow" not in frame.headers
    span = the(flows, f"send {destination.name}")
    assert (span.kind, links_of(span)) == (CLIENT, [(TRACE, SPAN)])


@pytest.mark.parametrize("by_keyword", [True, False])
def test_case_11_headers_handed_on_have_one_context_that_of_their_send(
    destination: Destination, by_keyword: bool, flows: Captured
) -> None:
    onward = f"{destination.name}-onward"
    destination.put(traceparent=TRACEPARENT)
    connection, _ = destination.connected()

    def forward(frame: Any) -> None:
        own = {name: frame.headers[name] for name in ("traceparent", "priority")}
        if by_keyword:
            connection.send(onward, frame.body, **own)
        else:
            connection.send(onward, frame.body, headers=own)

    handled(destination, forward)

    span = the(flows, f"send {onward}")
    assert span.trace_id == TRACE
    assert context_on(destination.frame(onward)) == where(span)


def test_what_the_client_refuses_is_an_error_of_its_span(destination: Destination, flows: Captured) -> None:
    connection, _ = destination.connected()

    with pytest.raises(TypeError, match="has no len"):
        connection.send(destination.name, 42)
    with pytest.raises(AssertionError, match="'destination' is required"):
        connection.send(None, "an order")

    (span,) = flows.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "TypeError")


def test_section_8_case_18_baggage_near_the_limit_is_left_out_so_that_the_connection_stays(
    destination: Destination, flows: Captured
) -> None:
    connection, listener = destination.connected()
    context = otel.get_current()
    for number in range(3):
        context = baggage.set_baggage(f"part{number}", "x" * 2_600, context)
    fits = otel.attach(context)
    destination.rig.send(b"fits")
    otel.detach(fits)

    assert len(destination.frame().headers["baggage"]) > 7_800
    assert flows.dropped == {}
    # Ours is no longer than 8 KiB: what is over the limit of a line is another propagator's, or escaped.
    with oversized_baggage("x" * 10_235):
        connection.send(destination.name, "is left out", receipt="r")

    frame = destination.frame()
    assert context_on(frame) == where(named(flows, f"send {destination.name}")[-1])
    assert "baggage" not in frame.headers
    assert (connection.is_connected(), listener.errors) == (True, [])
    assert flows.dropped == {"size": 1}
    span = named(flows, f"send {destination.name}")[-1]
    assert span.attributes["tracekit.reason"] == "size"
    assert "tracekit.messaging.context" not in span.attributes


class oversized_baggage:  # noqa: N801 - reads as a phrase
    """A propagator that writes a header of this text, as one of the application's may."""

    def __init__(self, text: str, name: str = "baggage") -> None:
        self._text, self._name = text, name
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        from tracekit.messaging import creation

        headers_of = creation.headers_of
        self._patch.setattr(
            creation, "headers_of", lambda *args: {**headers_of(*args), self._name: self._text}
        )

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@pytest.mark.parametrize("text", ["a" * 5_000 + ":" * 2_700, "a" * 5_000 + "\\" * 2_700])
def test_section_8_case_18_what_is_escaped_counts_twice(
    destination: Destination, text: str, flows: Captured
) -> None:
    connection, listener = destination.connected()
    with oversized_baggage(text):
        connection.send(destination.name, "an order")

    assert "baggage" not in destination.frame().headers
    assert (connection.is_connected(), listener.errors) == (True, [])
    assert flows.dropped == {"size": 1}


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_tracestate_arrives_as_it_was_or_not_at_all(
    destination: Destination, kind: Any, flows: Captured
) -> None:
    state = "a=b:c\\nd\\e,f=1"
    connection, _ = destination.connected(kind=kind)
    with oversized_baggage(state, "tracestate"):
        connection.send(destination.name, "an order")

    frame = destination.frame()
    if kind is stomp.Connection10:  # it does not escape, and the broker does: the text would be another
        assert "tracestate" not in frame.headers
        assert flows.dropped == {"size": 1}
    else:
        assert frame.headers["tracestate"] == state
    assert context_on(frame) == where(the(flows, f"send {destination.name}"))


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_tracestate_with_colons_arrives(destination: Destination, kind: Any, flows: Captured) -> None:
    connection, _ = destination.connected(kind=kind)
    with oversized_baggage("a=b:c", "tracestate"):
        connection.send(destination.name, "an order")

    assert destination.frame().headers["tracestate"] == "a=b:c"


def test_a_message_full_of_headers_is_sent_without_ours(destination: Destination, flows: Captured) -> None:
    connection, listener = destination.connected()

    connection.send(destination.name, "an order", headers={f"h{number}": "v" for number in range(996)})

    frame = destination.frame()
    assert context_on(frame) == where(the(flows, f"send {destination.name}"))
    assert "tracekit-flow" not in frame.headers  # the last place is for what is needed most
    assert (connection.is_connected(), listener.errors) == (True, [])
    assert flows.dropped == {"too_many_attributes": 1}


# -- what is processed --------------------------------------------------------------------------------


def test_case_12_a_message_is_the_child_of_its_send(destination: Destination, flows: Captured) -> None:
    destination.rig.send(b"an order", {"correlation-id": "c1"})
    seen: list[Any] = []
    frame = handled(destination, lambda _: seen.append(trace.get_current_span().get_span_context().span_id))

    sent, (span,) = the(flows, f"send {destination.name}"), processed(flows, destination)
    assert (span.kind, span.status) == (CONSUMER, Status.UNSET)
    assert (parent_of(span), links_of(span)) == (where(sent), [where(sent)])
    assert untimed(span) == destination.processed(
        frame, sent.trace_id, messaging__message__conversation_id="c1"
    )
    assert [trace.format_span_id(span_id) for span_id in seen] == [span.span_id]
    flows.flow().assert_complete()


@pytest.mark.parametrize("rule", ["auto", "message", "link"])
def test_case_13_inside_an_ambient_span_the_rule_says_whose_child_it_is(
    destination: Destination, rule: Any, flows: Captured
) -> None:
    destination.put(traceparent=TRACEPARENT)
    frame = destination.frame()

    with tracer.start_as_current_span("job"), tracekit.process(frame, parent=rule):
        pass

    (span,), job, context = processed(flows, destination), where(the(flows, "job")), (TRACE, SPAN)
    assert (parent_of(span), links_of(span)) == {
        "auto": (job, [context]),
        "message": (context, [context, job]),
        "link": (None, [context]),
    }[rule]


def test_case_14_a_message_without_context_is_a_root(destination: Destination, flows: Captured) -> None:
    destination.put()
    frame = handled(destination)

    (span,) = processed(flows, destination)
    assert (span.parent_id, span.links) == (None, ())
    assert untimed(span) == destination.processed(frame, span.trace_id, tracekit__messaging__context="absent")


def test_case_15_the_baggage_of_a_message_is_there_while_it_is_processed(
    destination: Destination, flows: Captured
) -> None:
    destination.put(traceparent=TRACEPARENT, baggage="tenant=north")
    destination.put()
    seen: list[dict[str, object]] = []
    for _ in range(2):
        handled(destination, lambda _: seen.append(dict(baggage.get_all())))

    assert seen == [{"tenant": "north"}, {}]


def test_case_16_what_the_handler_raises_is_an_error_and_reaches_the_client_as_it_is(
    destination: Destination, flows: Captured
) -> None:
    destination.put(traceparent=TRACEPARENT)
    error = ValueError("no such order")

    def fail(frame: Any) -> None:
        raise error

    with pytest.raises(ValueError, match="no such order") as raised:
        handled(destination, fail)

    assert raised.value is error
    (span,) = processed(flows, destination)
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ValueError")
    ((labels, _, count),) = points(flows, "messaging.process.duration")
    assert (labels["error.type"], count) == ("ValueError", 1)


@pytest.mark.shield
@pytest.mark.parametrize("broken", ["incoming", "Process", "leave"])
def test_what_fails_in_tracekit_never_ends_the_receiver(
    destination: Destination, broken: str, monkeypatch: pytest.MonkeyPatch, flows: Captured
) -> None:
    from tracekit.messaging import engine
    from tracekit.messaging.processing import Process
    from tracekit.transports.stomp import Stomp

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug of ours")

    if broken == "incoming":
        monkeypatch.setattr(Stomp, "incoming", fail)
    elif broken == "Process":
        monkeypatch.setattr(engine, "Process", fail)
    else:
        monkeypatch.setattr(Process, "end", fail)
    for _ in range(2):
        destination.put()
    connection, listener = destination.listening(
        lambda connection, frame: connection.ack(frame.headers["ack"])
    )

    for _ in range(2):
        listener.frames.get(timeout=PATIENCE_S)
    assert connection.is_connected()
    _end(connection, listener)
    assert flows.dropped["internal"] >= 2


def test_several_listeners_share_the_span_of_their_message(destination: Destination, flows: Captured) -> None:
    destination.put(traceparent=TRACEPARENT)
    spans: list[Any] = []
    connection, listener = destination.connected(lambda *_: spans.append(trace.get_current_span()))
    other = Collector(connection, lambda *_: spans.append(trace.get_current_span()))
    connection.set_listener("another", other)
    connection.subscribe(destination.name, id="1", ack="auto")
    listener.frames.get(timeout=PATIENCE_S)

    assert len(processed(flows, destination)) == 1
    assert spans[0] is spans[1]


def test_processing_a_message_inside_its_handler_is_that_processing(
    destination: Destination, flows: Captured
) -> None:
    destination.put(traceparent=TRACEPARENT)

    def handle(frame: Any) -> None:
        turn = trace.get_current_span()
        with tracekit.process(frame):
            assert trace.get_current_span() is turn

    handled(destination, handle)

    assert len(processed(flows, destination)) == 1


def test_a_message_that_a_worker_processes_is_the_messages_child_there_too(
    destination: Destination, flows: Captured
) -> None:
    destination.put(traceparent=TRACEPARENT)
    connection, listener = destination.listening()
    frame = listener.frames.get(timeout=PATIENCE_S)

    with tracekit.process(frame):
        connection.ack(frame.headers["ack"])

    first, second = processed(flows, destination, 2)
    assert [parent_of(each) for each in (first, second)] == [(TRACE, SPAN)] * 2
    ack = the(flows, f"ack {destination.name}")
    assert (ack.kind, parent_of(ack)) == (CLIENT, where(max(first, second, key=lambda span: span.start_ns)))


def test_case_20_frames_are_a_batch(destination: Destination, flows: Captured) -> None:
    for body in (b"one", b"two"):
        destination.rig.send(body)
    frames = destination.frames(2)

    with tracekit.process_batch(frames):
        pass

    (span,) = processed(flows, destination)
    assert (span.parent_id, span.attributes["messaging.batch.message_count"]) == (None, 2)
    assert span.links == tuple(
        Link(
            *context_on(frame),
            {
                "messaging.message.id": frame.headers["message-id"],
                "tracekit.flow.id": context_on(frame)[0],
                "tracekit.messaging.published_at": int(frame.headers["timestamp"]) * 1_000_000,
                "tracekit.messaging.published_at.source": "broker",
            },
        )
        for frame in frames
    )


HOSTILE: Final[dict[str, Mapping[str, Any]]] = {
    "a number": {"traceparent": 42, "tracekit-flow": 0},
    "nothing": {"traceparent": None, "baggage": None},
    "bytes": {"traceparent": b"\xff\xfe", "baggage": b"\xff"},
    "empty": {"traceparent": "", "tracekit-flow": "", "baggage": ""},
    "garbage": {"traceparent": "00-no-01", "tracekit-flow": ";;", "baggage": "%%%=;"},
    "breaks": {"traceparent": "00\r\nx:y\\", "baggage": "\n\n"},
    "a surrogate": {"traceparent": "\udcff", "baggage": "a=\udcff"},
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("traced", [True, False], ids=["by a sender of ours", "by anybody"])
def test_case_28_a_hostile_header_costs_the_context_and_nothing_else(
    destination: Destination,
    hostile: str,
    traced: bool,
    flows: Captured,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = dict(HOSTILE[hostile])
    before = copy.deepcopy(given)

    with caplog.at_level(logging.DEBUG, "tracekit"):
        if traced:
            destination.rig.send(b"an order", given)
        else:
            destination.put(**given)
        frame = handled(destination)

    assert given == before
    assert frame.body == b"an order"
    (span,) = processed(flows, destination)
    if traced:  # nobody could read it, so ours took its place
        assert parent_of(span) == where(the(flows, f"send {destination.name}"))
    else:
        assert span.parent_id is None
    assert len([line for line in caplog.records if line.name == "tracekit"]) <= 3  # one of each kind
    assert "internal" not in flows.dropped


def test_case_33_a_connection_made_before_configure_is_traced(destination: Destination) -> None:
    connection, listener = destination.listening(ack="auto")
    with capture() as seen:
        connection.send(destination.name, "an order")
        frame = listener.frames.get(timeout=PATIENCE_S)
        (span,) = processed(seen, destination)
        assert context_on(frame) == where(the(seen, f"send {destination.name}")) == parent_of(span)
    connection.send(destination.name, "an order")
    assert "traceparent" not in listener.frames.get(timeout=PATIENCE_S).headers


def test_case_46_of_two_contexts_on_a_frame_the_client_hands_over_the_first(
    destination: Destination, flows: Captured
) -> None:
    """As STOMP says: "the first header entry should be used". The broker keeps no other."""
    destination.put(traceparent=(TRACEPARENT, f"00-{'2' * 32}-{'2' * 16}-01"))

    handled(destination)

    assert parent_of(processed(flows, destination)[0]) == (TRACE, SPAN)


# -- delivery -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VERSIONS)
def test_an_acknowledgement_is_a_settle_of_its_message(
    destination: Destination, kind: Any, flows: Captured
) -> None:
    destination.put(traceparent=TRACEPARENT)

    def acknowledge(connection: Any, frame: Any) -> None:
        if kind is stomp.Connection12:
            connection.ack(frame.headers["ack"])
        elif kind is stomp.Connection11:
            connection.ack(frame.headers["message-id"], frame.headers["subscription"])
        else:
            connection.ack(frame.headers["message-id"])

    _, listener = destination.listening(acknowledge, kind=kind, ack="client")
    listener.frames.get(timeout=PATIENCE_S)

    (span,) = processed(flows, destination)
    ack = the(flows, f"ack {destination.name}")
    assert (ack.kind, parent_of(ack)) == (CLIENT, where(span))
    assert ack.attributes == {**destination.labels("settle", "ack"), "tracekit.flow.id": TRACE}


def test_case_44_what_is_delivered_again_and_given_up_stays_in_one_flow(
    destination: Destination, flows: Captured
) -> None:
    with tracer.start_as_current_span("checkout"):
        destination.rig.send(b"an order")
    original = where(the(flows, f"send {destination.name}"))

    for _ in range(2):  # nobody acknowledges it before the connection ends
        connection, listener = destination.listening()
        assert context_on(listener.frames.get(timeout=PATIENCE_S)) == original
        _end(connection, listener)
    connection, listener = destination.listening(
        lambda connection, frame: connection.nack(frame.headers["ack"])
    )
    assert context_on(listener.frames.get(timeout=PATIENCE_S)) == original
    _, dead = destination.listening(destination=DEAD, ack="auto")
    frame = dead.frames.get(timeout=PATIENCE_S)

    assert context_on(frame) == original
    assert frame.headers["original-destination"] == destination.name
    tries = processed(flows, destination, 3)
    assert [
        (
            each.attributes.get("tracekit.messaging.delivery.attempt"),
            each.attributes.get("tracekit.messaging.redelivered"),
        )
        for each in tries
    ] == [(1, None), (None, True), (None, True)]
    assert [links_of(each) for each in tries] == [[original]] * 3
    nack = the(flows, f"nack {destination.name}")
    assert parent_of(nack) == where(tries[2])
    flows.wait_for(lambda: bool(named(flows, f"process {DEAD}")), says="the dead letter's span")
    assert links_of(the(flows, f"process {DEAD}")) == [original]
    flow = flows.flow()
    assert {span.name for span in flow.spans} >= {"checkout", f"process {DEAD}", nack.name}


def test_a_refused_message_that_is_not_persistent_vanishes_at_the_broker(
    destination: Destination, flows: Captured
) -> None:
    """The broker keeps no dead letter of it: the nack is the last that is seen."""
    sender, _ = destination.connected()
    sender.send(destination.name, "an order")
    _, listener = destination.listening(lambda connection, frame: connection.nack(frame.headers["ack"]))
    listener.frames.get(timeout=PATIENCE_S)
    destination.rig.send(b"persistent")
    listener.frames.get(timeout=PATIENCE_S)

    buried = destination.frame(DEAD)
    assert buried.body == "persistent"
    assert len(named(flows, f"nack {destination.name}")) == 2


def test_a_transaction_that_was_aborted_leaves_its_message_to_be_delivered_again(
    destination: Destination, flows: Captured
) -> None:
    destination.put(traceparent=TRACEPARENT)
    connection, listener = destination.listening()
    frame = listener.frames.get(timeout=PATIENCE_S)
    connection.begin("t1")
    with tracekit.process(frame):
        connection.ack(frame.headers["ack"], transaction="t1")
    connection.abort("t1")
    _end(connection, listener)

    again = handled(destination)
    assert again.headers["redelivered"] == "true"
    assert processed(flows, destination, 3)[-1].attributes["tracekit.messaging.redelivered"] is True


def test_a_timestamp_of_another_protocols_sender_is_the_clients(flows: Captured) -> None:
    headers = {
        "destination": "/queue/orders",
        "message-id": "ID:host-40001-1795978495476-1:1:1:1:1",
        "timestamp": "1795978496008",
    }
    with tracekit.process(stomp.utils.Frame("MESSAGE", headers, "an order")):
        pass

    (span,) = flows.spans
    assert span.attributes["tracekit.messaging.published_at"] == 1795978496008_000_000
    assert span.attributes["tracekit.messaging.published_at.source"] == "client"


@pytest.mark.parametrize("headers", [{"browser": "end"}, {"browser": "end", "destination": "/queue/orders"}])
def test_the_end_of_a_browsed_queue_is_no_message(headers: dict[str, str], flows: Captured) -> None:
    with tracekit.process(stomp.utils.Frame("MESSAGE", headers, "")):
        pass
    with tracekit.process(stomp.utils.Frame("ERROR", {"destination": "/queue/orders"}, "")):
        pass

    assert flows.spans == ()
