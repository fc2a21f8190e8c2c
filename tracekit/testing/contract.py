"""TransportContract: what every transport must pass, with real clients and a real broker.

A transport's test is a subclass with a fixture `rig`, and nothing more:

    class TestKafkaPython(TransportContract):
        @pytest.fixture
        def rig(self, kafka: Kafka) -> Rig:
            return KafkaPythonRig(kafka)

It is whole, though longer than a module should be, because a contract is read from top to bottom.
"""

from __future__ import annotations

import copy
import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeAlias

from opentelemetry import baggage, trace
from opentelemetry import context as otel

from tracekit import semconv
from tracekit.context import flow_id, headers_of
from tracekit.model import Kind
from tracekit.pathway import HEADER
from tracekit.testing.captured import Captured, capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from tracekit.messaging.transport import Transport
    from tracekit.model import Span

Pairs: TypeAlias = "list[tuple[str, bytes]]"

TRACEPARENT: Final = "traceparent"
THEIRS: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_OURS: Final = (TRACEPARENT, HEADER)
_LARGE: Final = 4 * 1024 * 1024
_tracer = trace.get_tracer("tracekit.testing")


class Rig(Protocol):
    """A client library at work on one destination of its own, as an application uses it.

    Every method makes the plainest call of the client that does what it says. Clients are made when
    they are first needed, so that instrumentation comes before them.
    """

    @property
    def transport(self) -> Transport:
        """What is tested."""
        ...

    @property
    def destination(self) -> str:
        """Nobody else sends there, and nothing was sent yet."""
        ...

    def send(self, body: bytes, headers: object = None) -> None:
        """Send one message, and return once the broker has it. `headers` goes to the client as it is."""
        ...

    def headers_of(self, pairs: Pairs) -> object:
        """These headers as an application gives them to the client."""
        ...

    def consume(self, handle: Callable[[object], None]) -> None:
        """Hand the next message to `handle` from within the client's own loop, or its callback.

        What `handle` raises comes out of it, as far as the client lets it. Returns once the message is
        done with, so that its span has ended.
        """
        ...

    def body(self, record: object) -> bytes:
        """The body of a message as it arrived."""
        ...

    def headers(self, record: object) -> Pairs:
        """The headers of a message as they arrived, repeated ones included."""
        ...

    def full(self) -> tuple[bytes, object] | None:
        """A message with no room for ours: its body, and its headers as `send` takes them.

        None where there is none, since client and broker take messages of any size.
        """
        ...

    def fail_to_send(self, error: Exception) -> None:
        """A send in which the client raises this very error, for example from a serializer."""
        ...


class TransportContract:
    """The contract, one claim a test. A subclass brings the fixture `rig`.

    `arrives_by` is the `messaging.system` of the transport that receives, where that is another than the
    one that sends: SNS delivers to SQS.
    """

    arrives_by: ClassVar[str] = ""

    def test_context_round_trips(self, rig: Rig) -> None:
        handled = _Handled()
        with capture("shop") as seen:
            with _entry(), _with_baggage("tenant", "acme"):
                rig.send(b"one")
            rig.consume(handled)
            flow = seen.wait_for_flow("entry", _send(rig), _process(rig))

        flow.assert_complete()
        flow.assert_no_orphans()
        assert rig.body(handled.record) == b"one"
        assert handled.flow_id == flow.id
        assert handled.baggage == {"tenant": "acme"}
        assert handled.span_id == flow.span(_process(rig)).span_id
        assert seen.dropped == {}

    def test_spans_have_the_names_kinds_and_operations_of_the_conventions(self, rig: Rig) -> None:
        with capture("shop") as seen:
            with _entry():
                rig.send(b"one")
            rig.consume(_Handled())
            flow = seen.wait_for_flow("entry", _send(rig), _process(rig))

        sent, processed = flow.span(_send(rig)), flow.span(_process(rig))
        assert (sent.kind, processed.kind) == (Kind.PRODUCER, Kind.CONSUMER)
        assert _operation(sent) == (rig.transport.system, "send", rig.destination)
        arrived_by = self.arrives_by or rig.transport.system
        assert _operation(processed) == (arrived_by, "process", rig.destination)
        assert [(link.trace_id, link.span_id) for link in processed.links] == [(sent.trace_id, sent.span_id)]

    def test_sends_and_processings_are_measured(self, rig: Rig) -> None:
        with capture("shop") as seen:
            rig.send(b"one")
            rig.consume(_Handled())
            seen.wait_for_flow(_send(rig), _process(rig))
            metrics = seen.metrics

        assert [point.value for point in metrics[semconv.SENT_MESSAGES]] == [1]
        for name in (semconv.PROCESS_DURATION, semconv.QUEUE_DURATION):
            (point,) = metrics[name]
            assert (point.count, point.unit) == (1, semconv.SECONDS)
            assert point.attributes[semconv.MESSAGING_DESTINATION_NAME] == rig.destination

    def test_the_callers_objects_are_unchanged(self, rig: Rig) -> None:
        given = rig.headers_of([("content-type", b"text/plain")])
        before = copy.deepcopy(given)
        handled = _Handled()
        with capture("shop"):
            with _entry():
                rig.send(b"one", given)
            rig.consume(handled)

        assert given == before
        assert ("content-type", b"text/plain") in rig.headers(handled.record)
        assert _values(rig, handled.record, TRACEPARENT)

    def test_a_creation_context_that_the_caller_set_is_kept(self, rig: Rig) -> None:
        handled = _Handled()
        with capture("shop") as seen:
            with _entry():
                rig.send(b"one", rig.headers_of([(TRACEPARENT, THEIRS.encode())]))
            rig.consume(handled)
            sent = _span(seen, _send(rig))

        assert _values(rig, handled.record, TRACEPARENT) == [THEIRS]
        assert sent.kind is Kind.CLIENT
        assert [(link.trace_id, link.span_id) for link in sent.links] == [_ids(THEIRS)]

    def test_that_of_the_message_in_process_is_replaced(self, rig: Rig) -> None:
        """Headers that are merely handed on, as many consumers do, would tie the next to the wrong span."""
        second = _Handled()

        def forward(record: object) -> None:
            rig.send(b"two", rig.headers_of(rig.headers(record)))

        with capture("shop") as seen:
            rig.send(b"one")
            rig.consume(forward)
            rig.consume(second)
            forwarded = [span for span in seen.spans if span.name == _send(rig)][-1]

        assert rig.body(second.record) == b"two"
        assert [_ids(value) for value in _values(rig, second.record, TRACEPARENT)] == [
            (forwarded.trace_id, forwarded.span_id)
        ]

    def test_one_that_we_wrote_is_replaced(self, rig: Rig) -> None:
        handled = _Handled()
        with capture("shop") as seen:
            with _entry():
                written = [(name, value.encode()) for name, value in headers_of().items()]
                rig.send(b"one", rig.headers_of(written))
            rig.consume(handled)
            sent = _span(seen, _send(rig))

        assert [_ids(value) for value in _values(rig, handled.record, TRACEPARENT)] == [
            (sent.trace_id, sent.span_id)
        ]

    def test_a_full_message_is_still_sent(self, rig: Rig) -> None:
        handled = _Handled()
        full = rig.full()
        body, given = full or (b"x" * _LARGE, None)
        with capture("shop") as seen:
            with _entry():
                rig.send(body, given)
            rig.consume(handled)
            sent = _span(seen, _send(rig))

        assert rig.body(handled.record) == body
        if full is None:
            assert {*_OURS} <= {name for name, _ in rig.headers(handled.record)}
            assert seen.dropped == {}
            return
        assert [name for name, _ in rig.headers(handled.record) if name in _OURS] == []
        assert sent.attributes[semconv.CONTEXT_STATE] == "skipped"
        assert set(seen.dropped) <= {"size", "oversized", "too_many_attributes"}
        assert seen.dropped

    def test_the_handlers_exception_arrives_as_the_same_object(self, rig: Rig) -> None:
        error = LookupError("no such order")

        def fail(record: object) -> None:
            raise error

        with capture("shop") as seen:
            rig.send(b"one")
            assert _raised(lambda: rig.consume(fail)) is error
            seen.wait_for_flow(_send(rig), _process(rig))

    def test_the_clients_exception_arrives_as_the_same_object(self, rig: Rig) -> None:
        error = ValueError("cannot be serialized")
        with capture("shop") as seen:
            assert _raised(lambda: rig.fail_to_send(error)) is error
            sent = _span(seen, _send(rig))

        assert sent.attributes[semconv.ERROR_TYPE] == "ValueError"

    def test_undo_restores_the_very_same_functions(self, rig: Rig) -> None:
        before = _functions(rig.transport)
        with capture("shop"):
            patched = _functions(rig.transport)
        after = _functions(rig.transport)

        assert all(patched[target] is not before[target] for target in before)
        assert all(after[target] is before[target] for target in before)

    def test_nothing_is_touched_while_nothing_is_configured(self, rig: Rig) -> None:
        handled = _Handled()
        rig.send(b"one", rig.headers_of([("content-type", b"text/plain")]))
        rig.consume(handled)

        assert rig.headers(handled.record) == [("content-type", b"text/plain")]


class _Handled:
    """A handler that remembers what it was given, and in which context."""

    def __init__(self) -> None:
        self.record: object = None
        self.flow_id: str | None = None
        self.span_id = ""
        self.baggage: Mapping[str, object] = {}

    def __call__(self, record: object) -> None:
        self.record = record
        self.flow_id = flow_id()
        self.span_id = trace.format_span_id(trace.get_current_span().get_span_context().span_id)
        self.baggage = dict(baggage.get_all())


def _entry() -> AbstractContextManager[object]:
    return _tracer.start_as_current_span("entry")


@contextmanager
def _with_baggage(name: str, value: str) -> Iterator[None]:
    token = otel.attach(baggage.set_baggage(name, value))
    try:
        yield
    finally:
        otel.detach(token)


def _raised(action: Callable[[], None]) -> BaseException | None:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        return error
    return None


def _span(seen: Captured, name: str) -> Span:
    seen.wait_for(lambda: any(span.name == name for span in seen.spans), says=f"a span `{name}`")
    return next(span for span in seen.spans if span.name == name)


def _send(rig: Rig) -> str:
    """The name of the span in which a message is sent, by the broker's verb."""
    sending = [hook for hook in rig.transport.hooks if hook.operation == "send"]
    verb = next(hook.name for hook in sending if hook.scope in ("call", "batch"))
    return f"{verb} {rig.destination}"


def _process(rig: Rig) -> str:
    """The name of the span in which a message is processed."""
    return f"{rig.transport.processing} {rig.destination}"


def _operation(span: Span) -> tuple[object, object, object]:
    return (
        span.attributes[semconv.MESSAGING_SYSTEM],
        span.attributes[semconv.MESSAGING_OPERATION_TYPE],
        span.attributes[semconv.MESSAGING_DESTINATION_NAME],
    )


def _values(rig: Rig, record: object, name: str) -> list[str]:
    return [value.decode() for key, value in rig.headers(record) if key == name]


def _ids(traceparent: str) -> tuple[str, str]:
    _, trace_id, span_id, _ = traceparent.split("-")
    return trace_id, span_id


def _functions(transport: Transport) -> dict[str, object]:
    """The functions that a transport hooks, as they are now; None where a class inherits its own."""
    found: dict[str, object] = {}
    for hook in transport.hooks:
        module, _, path = hook.target.partition(":")
        owner: object = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        found[hook.target] = vars(owner).get(name)
    return found
