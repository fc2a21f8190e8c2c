"""The engine: the only code that starts messaging spans and records their metrics.

A hooked call has three phases: ours (shielded), theirs (once, unshielded), ours again. Where a client
has another shape than that, the transport describes it and the engine learns it for all.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import weakref
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.trace import SpanKind

from tracekit import context as ours
from tracekit import semconv
from tracekit.carried import carry
from tracekit.guard import count_drop, shielded, swallow
from tracekit.messaging import creation
from tracekit.messaging.contrib import ContribTurn, keep, stand_down
from tracekit.messaging.loop import ConsumerLoop
from tracekit.messaging.processing import Process, record_error, sound
from tracekit.model import Kind
from tracekit.patching import Names
from tracekit.pathway import NO_FLOW, Pathway
from tracekit.tracing.prefilled import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

    from tracekit.messaging.creation import Arrived
    from tracekit.messaging.metrics import Count, Counts, Distribution, Distributions, Instruments
    from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Source, Transport
    from tracekit.patching import Function, Patches, Wrapper

ParentRule: TypeAlias = Literal["auto", "message", "link"]
"""Whose child a process span is: the ambient span's, else the message's (`auto`); always the
message's (`message`); nobody's, with a link (`link`)."""

Attributes: TypeAlias = dict[str, str | int | bool]
Turn: TypeAlias = Process | ContribTurn

KINDS: Final[dict[Kind, SpanKind]] = {
    kind: SpanKind[kind.name] for kind in Kind if kind is not Kind.UNSPECIFIED
}

_NS: Final = 1_000_000_000
_MAX_SHAPES: Final = 2_000
_inside: ContextVar[object] = ContextVar("tracekit-inside", default=None)


class Shape:
    """What all spans of one operation of one client on one destination share, and their metrics."""

    __slots__ = ("_client", "_counts", "_distributions", "attributes", "kind", "labels", "name", "step")

    def __init__(
        self, name: str, kind: SpanKind, attributes: Attributes, labels: Attributes, client: object
    ) -> None:
        self._client = None if client is None else weakref.ref(client)
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.labels = labels
        """The attributes of its metrics."""
        group = labels.get(semconv.MESSAGING_CONSUMER_GROUP_NAME, "")
        self.step = f"{name} {labels.get(semconv.MESSAGING_SYSTEM)} {group}".rstrip()
        """Its name in a flow's route."""
        self._distributions: dict[tuple[Distributions, str], Distribution] = {}
        self._counts: dict[tuple[Counts, str], Count] = {}

    def is_of(self, client: object) -> bool:
        """Whether it was made for this client, and not for one that had the same id before."""
        return client is None if self._client is None else self._client() is client

    def record(
        self, what: Distributions, seconds: float, span: SpanContext, label: str = "", value: str = ""
    ) -> None:
        """Record a duration, with one more attribute where it has a value."""
        bound = self._distributions.get((what, value))
        if bound is None:
            labels = {**self.labels, label: value} if value else self.labels
            bound = self._distributions[what, value] = what.bind(labels)
        bound.record(seconds, span)

    def count(self, what: Counts, number: int, error: str = "") -> None:
        """Count messages, by the error where there was one."""
        bound = self._counts.get((what, error))
        if bound is None:
            labels = {**self.labels, semconv.ERROR_TYPE: error} if error else self.labels
            bound = self._counts[what, error] = what.bind(labels)
        bound.add(number)


class _Sending:
    """One send or settle under way: from the call to the broker's answer."""

    __slots__ = ("call", "shape", "span", "stamped", "start_ns", "transport")

    def __init__(self, transport: Transport, call: Call, shape: Shape, span: Span, start_ns: int) -> None:
        self.transport = transport
        self.call = call
        self.shape = shape
        self.span = span
        self.start_ns = start_ns
        self.stamped = False
        """Whether the call carries our headers."""


class Engine:
    """Sends, receives, settles and processes for all transports, by one set of rules.

    `service` names this side in a flow's route. `receive_spans`: also show the calls that fetch.
    `prefills`: whether attributes may be put on a span once it has started.
    `by_contrib`: the client packages whose spans OpenTelemetry's own instrumentation makes.
    """

    def __init__(
        self,
        transports: Sequence[Transport],
        *,
        tracer: Tracer,
        instruments: Instruments,
        service: str,
        prefills: Callable[[], bool] = lambda: False,
        parent: ParentRule = "auto",
        receive_spans: bool = False,
        by_contrib: frozenset[str] = frozenset(),
    ) -> None:
        self.tracer = tracer
        self.instruments = instruments
        self.service = service
        self._prefills = prefills
        self.parent = parent
        self._receive_spans = receive_spans
        self._by_contrib = by_contrib
        self._transports = {transport.package: transport for transport in transports}
        self._receives = {
            transport.package: hook.name
            for transport in transports
            for hook in transport.hooks
            if hook.operation == "receive"
        }
        self._shapes: dict[tuple[str, str, str, int], Shape] = {}
        self._facts: weakref.WeakKeyDictionary[object, Facts] = weakref.WeakKeyDictionary()
        self._readers_lock = threading.RLock()
        self._readers: dict[tuple[str, str], weakref.WeakSet[object]] = {}
        self._flow_ends: dict[tuple[str, str], Distribution] = {}
        self._turns: weakref.WeakKeyDictionary[object, weakref.ref[ConsumerLoop]] = (
            weakref.WeakKeyDictionary()
        )

    # -- what belongs to what ------------------------------------------------------------------------

    def transport_of(self, given: object) -> Transport | None:
        """The transport whose client gave this: a client, a record, or several records."""
        for _ in range(2):  # poll() gives lists in a dict
            if isinstance(given, dict):
                given = next((some for some in given.values() if some), None)
            elif isinstance(given, list):
                given = given[0] if given else None
        return self._transports.get(type(given).__module__.partition(".")[0])

    def reader_of(self, transport: Source, destination: str) -> object | None:
        """The one client of this process that reads the destination; None where several do."""
        with self._readers_lock:
            readers = [*self._readers.get((transport.system, destination), ())]
        return readers[0] if len(readers) == 1 else None

    def shape(
        self,
        transport: Source,
        client: object,
        operation: semconv.Operation,
        name: str,
        destination: str,
        *,
        own_context: bool = True,
    ) -> Shape:
        """The shape of an operation, made once for each client and destination."""
        key = (name if own_context else f"{name}*", operation, destination, id(client))
        shape = self._shapes.get(key)
        if shape is None or not shape.is_of(client):  # an id is only good as long as its client lives
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            facts = self._client(transport, client)
            labels: Attributes = {
                semconv.MESSAGING_SYSTEM: transport.system,
                semconv.MESSAGING_OPERATION_NAME: name,
                semconv.MESSAGING_OPERATION_TYPE: operation,
                **{name: value for name, value in facts.items() if name != semconv.MESSAGING_CLIENT_ID},
            }
            if destination:
                labels[semconv.MESSAGING_DESTINATION_NAME] = destination
            shape = self._shapes[key] = Shape(
                semconv.messaging_span_name(name, destination),
                KINDS[semconv.messaging_kind(operation, own_context=own_context)],
                {**labels, **facts},
                labels,
                client,
            )
        return shape

    def _client(self, transport: Source, client: object) -> Facts:
        if client is None:
            return {}
        facts = self._facts.get(client)
        if facts is None:
            facts = {}
            with shielded("what a client's configuration says"):
                facts = transport.client(client)
            self._facts[client] = facts
        return facts

    # -- hooks ---------------------------------------------------------------------------------------

    def wrapper(self, transport: Transport, hook: Hook) -> Wrapper:
        """What replaces the function of a hook."""
        if hook.scope == "carry":
            return functools.partial(_carrying, hook.callback)
        if hook.scope == "iterate":
            return functools.partial(self._iterating, transport)
        if hook.operation == "receive":
            return functools.partial(self._receiving, transport, hook)
        return functools.partial(self._calling, transport, hook)

    def install(self, transport: Transport, patches: Patches) -> None:
        """Hook a client that was imported, and have OpenTelemetry's own instrumentation of it agree."""
        kept = transport.package in self._by_contrib
        if transport.contrib:
            targets = [hook.target for hook in transport.hooks]
            (keep if kept else stand_down)(transport.contrib, targets, patches)
        for hook in transport.hooks:
            if not kept or hook.scope == "iterate":
                patches.wrap(hook.target, self.wrapper(transport, hook))

    def turn(self, transport: Transport, message: Message, record: object, client: object) -> Turn:
        """The processing of one message in a loop."""
        if transport.package in self._by_contrib:
            return ContribTurn(message, record)
        return Process(self, transport, message, record, client)

    def _calling(self, transport: Transport, hook: Hook, function: Function) -> Function:
        """A send or a settle: span, context, the client once, and its broker's answer."""
        names = Names(function)
        start = self._start_send if hook.operation == "send" else self._start_settle

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            client = args[0] if args else kwargs.get("self")
            if _inside.get() is client or is_suppressed():
                return function(*args, **kwargs)
            sending: _Sending | None = None
            given = args, kwargs
            try:
                bound = names.bind(args, kwargs)
                sending = start(transport, hook, bound) if bound is not None else None
                if sending is not None and sending.stamped:
                    args, kwargs = names.unbind(sending.call, len(args))
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow(hook.name, error)
            if sending is None:
                return function(*args, **kwargs)
            token = _inside.set(client)
            try:
                try:
                    result = function(*args, **kwargs)
                except Exception as error:
                    if not self._is_ours(sending, error):
                        raise
                    result = function(*given[0], **given[1])
            except BaseException as error:
                with shielded(hook.name):
                    self._answered(sending, None, error)
                raise
            finally:
                _inside.reset(token)
            try:
                if not transport.listen(result, functools.partial(self._heard, sending)):
                    self._answered(sending, result, None)
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow(hook.name, error)
            return result

        return call

    def _receiving(self, transport: Transport, hook: Hook, function: Function) -> Function:
        """A call that fetches messages: counted, and shown where that is asked for."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            client = args[0] if args else kwargs.get("self")
            if _inside.get() is client or is_suppressed():
                return function(*args, **kwargs)
            with shielded(hook.name):
                self._end_leaked(client)
            start_ns = time.time_ns()
            token = _inside.set(client)
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                with shielded(hook.name):
                    self._receive_failed(transport, hook.name, client, start_ns, error)
                raise
            finally:
                _inside.reset(token)
            with shielded(hook.name):
                self._received(transport, hook.name, client, transport.incoming(result), start_ns)
            return result

        return call

    def _iterating(self, transport: Transport, function: Function) -> Function:
        """`iter(client)`: each turn of the loop is the processing of one message."""

        @functools.wraps(function)
        def iterate(client: Any) -> Any:
            source: Iterator[Any] = function(client)
            if is_suppressed():
                return source
            with shielded("iteration"):
                return self.loop(transport, client, source)
            return source

        return iterate

    def loop(self, transport: Transport, client: object, source: Iterator[Any]) -> ConsumerLoop:
        """A loop over a client, whose open turn is ended by whatever is received from it next."""
        self._end_leaked(client)
        loop = ConsumerLoop(self, transport, client, source)
        self._turns[client] = weakref.ref(loop)
        return loop

    def adopt(self, loop: ConsumerLoop, client: object, transport: Transport) -> Transport | None:
        """Take over a loop that another engine began; the transport as it is known here."""
        known = self._transports.get(transport.package)
        if known is not None:
            self._turns[client] = weakref.ref(loop)
        return known

    def fetched(
        self, transport: Transport, client: object, source: Iterator[Any]
    ) -> tuple[Any, Sequence[Message]]:
        """The next record of a loop, counted as received, and the message (or none) that it is."""
        if transport.package in self._by_contrib:
            record = next(source)
            return record, transport.incoming(record)
        start_ns = time.time_ns()
        token = _inside.set(client)
        try:
            record = next(source)
        except Exception as error:
            with shielded("receive"):
                self._receive_failed(transport, self._receives[transport.package], client, start_ns, error)
            raise
        finally:
            _inside.reset(token)
        messages: Sequence[Message] = ()
        try:
            messages = transport.incoming(record)
            self._received(transport, self._receives[transport.package], client, messages, start_ns)
        except Exception as error:  # noqa: BLE001 - the shield of a hot path
            swallow("receive", error)
        return record, messages

    def _end_leaked(self, client: object) -> None:
        reference = self._turns.get(client)
        loop = reference() if reference is not None else None
        if loop is not None:
            loop.leak()

    def start(
        self,
        shape: Shape,
        context: Context,
        attributes: Attributes,
        links: Sequence[Link] | None,
        start_ns: int,
        pathway: Pathway | None,
    ) -> Span:
        """A span of this shape, told its place in its flow; None: a flow begins with it."""
        if not self._prefills():
            return self.tracer.start_span(shape.name, context, shape.kind, attributes, links, start_ns)
        told = ours.Told(context)
        span = self.tracer.start_span(shape.name, told, shape.kind, None, links, start_ns)
        if pathway is None or not pathway.flow_id or not pathway.origin_ns:
            pathway = self._beginning(span, pathway, start_ns)
        if not pathway.is_hub:
            attributes[semconv.FLOW_ID] = pathway.flow_id
        fill(span, attributes)
        ours.remember(span, pathway)
        return span

    def _beginning(self, span: Span, pathway: Pathway | None, start_ns: int) -> Pathway:
        """The place of an entry; or of a span behind a service that knows only `traceparent`."""
        if pathway is not None and pathway.flow_id:
            return Pathway(pathway.flow_id, pathway.hash, start_ns)
        flow_id = trace.format_trace_id(span.get_span_context().trace_id)
        origin_ns = pathway.origin_ns if pathway is not None else start_ns
        return Pathway(flow_id, 0, origin_ns, origin=self.service)

    # -- what processing measures --------------------------------------------------------------------

    def waited(self, shape: Shape, arrived: Arrived, start_ns: int, span: SpanContext) -> None:
        """The time in the queue. Never negative: the span keeps both clocks, so that skew shows."""
        if arrived.published_ns is not None:
            seconds = max(0, start_ns - arrived.published_ns) / _NS
            label = semconv.WAIT_SOURCE
            shape.record(self.instruments.queue_duration, seconds, span, label, arrived.source)

    def processed(self, shape: Shape, took_ns: int, span: SpanContext, failure: str) -> None:
        """How long the processing took."""
        seconds = max(0, took_ns) / _NS
        shape.record(self.instruments.process_duration, seconds, span, semconv.ERROR_TYPE, failure)

    def flow_ended(self, pathway: Pathway, end_ns: int, span: SpanContext, failure: str) -> None:
        """The flow's duration until here, where it may end: nothing was sent on."""
        if not pathway.origin_ns or pathway.is_hub:
            return
        key = pathway.origin or self.service, failure
        bound = self._flow_ends.get(key)
        if bound is None:
            labels: Attributes = {semconv.FLOW_END: "process", semconv.FLOW_ORIGIN: key[0]}
            if failure:
                labels[semconv.ERROR_TYPE] = failure
            bound = self.instruments.flow_duration.bind(labels)
            if len(self._flow_ends) < _MAX_SHAPES:  # origins come from headers
                self._flow_ends[key] = bound
        bound.record(max(0, end_ns - pathway.origin_ns) / _NS, span)

    # -- send and settle -----------------------------------------------------------------------------

    def _start_send(self, transport: Transport, hook: Hook, call: Call) -> _Sending | None:
        messages = transport.outgoing(call)
        if len(messages) != 1:
            return None
        (message,) = messages
        context = sound(otel.get_current())
        kept = creation.kept(message.headers, context)
        shape = self.shape(
            transport, call["self"], "send", hook.name, message.destination, own_context=kept is None
        )
        start_ns = time.time_ns()
        attributes = dict(shape.attributes)
        if message.id is not None:
            attributes[semconv.MESSAGING_MESSAGE_ID] = message.id
        links = [creation.linked(kept)] if kept is not None else None
        span = self.start(shape, context, attributes, links, start_ns, ours.pathway_of(context))
        checkpoint = ours.checkpoint_of(context)
        if checkpoint is not None:
            checkpoint.sent = True
        sending = _Sending(transport, call, shape, span, start_ns)
        if kept is None:
            stamp = self._fitting(message, span, context, shape.step)
            if stamp is not None:
                sending.call = transport.stamp(call, [stamp])
                sending.stamped = True
        return sending

    def _fitting(self, message: Message, span: Span, context: Context, step: str) -> Headers | None:
        """The message's headers with ours, as far as they fit; None where none of ours does.

        What does not fit is left out in this order: baggage, tracekit-flow, tracestate, traceparent.
        """
        headers = creation.headers_of(span, step, context)
        if message.room is not None:
            left_out = creation.trim(headers, message.room)
            if left_out:
                count_drop("size", "context that does not fit on a message", len(left_out))
                span.set_attribute(semconv.DROP_REASON, "size")
                if creation.TRACEPARENT in left_out:
                    span.set_attribute(semconv.CONTEXT_STATE, "skipped")
        if not headers:
            return None
        return [
            *((name, value) for name, value in message.headers if name not in headers),
            *headers.items(),
        ]

    def _is_ours(self, sending: _Sending, error: Exception) -> bool:
        """Whether the client refused a message for its size, and our headers may be to blame.

        Nothing was sent then. The message goes once more, as it was given.
        """
        with shielded("a message that was refused"):
            if sending.stamped and sending.transport.is_oversized(error):
                sending.stamped = False
                count_drop("oversized", "context that made a message too large")
                sending.span.set_attribute(semconv.DROP_REASON, "oversized")
                sending.span.set_attribute(semconv.CONTEXT_STATE, "skipped")
                return True
        return False

    def _start_settle(self, transport: Transport, hook: Hook, call: Call) -> _Sending | None:
        destinations = {message.destination for message in transport.outgoing(call)}
        destination = destinations.pop() if len(destinations) == 1 else ""
        shape = self.shape(transport, call["self"], "settle", hook.name, destination)
        context = sound(otel.get_current())
        start_ns = time.time_ns()
        span = self.tracer.start_span(shape.name, context, shape.kind, shape.attributes, None, start_ns)
        return _Sending(transport, call, shape, span, start_ns)

    def _heard(self, sending: _Sending, answer: object, error: BaseException | None) -> None:
        try:  # called by the client, in a thread of its own
            self._answered(sending, answer, error)
        except Exception as failure:  # noqa: BLE001 - the shield of a hot path
            swallow("the broker's answer", failure)

    def _answered(self, sending: _Sending, answer: object, error: BaseException | None) -> None:
        span, shape = sending.span, sending.shape
        end_ns = time.time_ns()
        failure = ""
        try:
            if error is not None:
                failure = type(error).__name__
                record_error(span, error)
            elif span.is_recording():
                span.set_attributes(sending.transport.answer(sending.call, answer))
        finally:
            span.end(end_ns)
        self._measure(shape, end_ns - sending.start_ns, span.get_span_context(), failure)
        if shape.attributes[semconv.MESSAGING_OPERATION_TYPE] == "send":
            shape.count(self.instruments.sent_messages, 1, failure)

    def _measure(self, shape: Shape, took_ns: int, span: SpanContext, failure: str = "") -> None:
        seconds = max(0, took_ns) / _NS
        shape.record(self.instruments.operation_duration, seconds, span, semconv.ERROR_TYPE, failure)

    # -- receive -------------------------------------------------------------------------------------

    def _received(
        self, transport: Transport, name: str, client: object, messages: Sequence[Message], start_ns: int
    ) -> None:
        if not messages:
            return
        end_ns = time.time_ns()
        first = messages[0].destination
        shape = self.shape(transport, client, "receive", name, first)
        counts = {first: 1} if len(messages) == 1 else Counter(one.destination for one in messages)
        for destination, number in counts.items():
            self._reads(client, transport.system, destination)
            shape = self.shape(transport, client, "receive", name, destination)
            shape.count(self.instruments.consumed_messages, number)
        if len(counts) > 1:
            shape = self.shape(transport, client, "receive", name, "")
        self._measure(shape, end_ns - start_ns, trace.get_current_span().get_span_context())
        if self._receive_spans:
            links = [arrived.link() for arrived in map(creation.Arrived, messages) if arrived.is_known]
            attributes = {**shape.attributes, semconv.MESSAGING_BATCH_MESSAGE_COUNT: len(messages)}
            self._receive_span(shape, attributes, links, start_ns).end(end_ns)

    def _reads(self, client: object, system: str, destination: str) -> None:
        readers = self._readers.get((system, destination))
        if readers is None or client not in readers:
            with self._readers_lock:
                self._readers.setdefault((system, destination), weakref.WeakSet()).add(client)

    def _receive_failed(
        self, transport: Transport, name: str, client: object, start_ns: int, error: Exception
    ) -> None:
        if isinstance(error, StopIteration):  # the end of the iteration is no failure
            return
        end_ns = time.time_ns()
        shape = self.shape(transport, client, "receive", name, "")
        here = trace.get_current_span().get_span_context()
        self._measure(shape, end_ns - start_ns, here, type(error).__name__)
        if self._receive_spans:
            span = self._receive_span(shape, shape.attributes, [], start_ns)
            record_error(span, error)
            span.end(end_ns)

    def _receive_span(
        self, shape: Shape, attributes: Mapping[str, str | int | bool], links: Sequence[Link], start_ns: int
    ) -> Span:
        """A span that has several flows to serve, or none: a hub, started after the fact."""
        context = ours.with_pathway(Pathway(NO_FLOW), sound(otel.get_current()))
        return self.tracer.start_span(shape.name, context, shape.kind, attributes, links, start_ns)


def is_suppressed() -> bool:
    """Whether the application asked for no instrumentation here."""
    return bool(otel.get_current().get(_SUPPRESS_INSTRUMENTATION_KEY))


def _carrying(parameter: str, function: Function) -> Function:
    """A registration of a callback, whose callback runs in the context of whoever registered it."""
    named = [*inspect.signature(function).parameters]

    @functools.wraps(function)
    def register(*args: Any, **kwargs: Any) -> Any:
        with shielded("a callback's context"):
            position = named.index(parameter)
            if len(args) > position:
                args = (*args[:position], carry(args[position]), *args[position + 1 :])
            elif parameter in kwargs:
                kwargs[parameter] = carry(kwargs[parameter])
        return function(*args, **kwargs)

    return register
