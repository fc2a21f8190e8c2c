"""Redis Streams: what is in an entry, what a handler is given, and what pipelines and groups leave."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import OrderedDict
from contextlib import AsyncExitStack, ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
import redis.asyncio
from opentelemetry import baggage, trace
from opentelemetry import context as otel

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
from tests.contract.rigs.redis_streams import GROUP, RedisRig, only
from tracekit.model import Link, Status
from tracekit.testing import capture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.integration.servers.redis import Redis
    from tracekit.testing import Captured

pytestmark = pytest.mark.server
tracer = trace.get_tracer("tests")

OTHER: Final = f"00-{'2' * 32}-{'2' * 16}-01"
OURS: Final = {"traceparent", "tracekit-flow", "tracekit-fields"}
SHAPES: Final[list[dict[str, Any]]] = [
    {},
    {"protocol": 2},
    {"protocol": 3},
    {"protocol": 2, "decode_responses": True},
    {"protocol": 3, "decode_responses": True},
]


class Stream:
    """A stream with one group, a client that was made before tracekit was configured, and what is in it."""

    def __init__(self, server: Redis) -> None:
        self._rig = RedisRig(server.url)
        self.server = server
        self.name = self._rig.destination
        self.client = self._rig.client
        self.closing = ExitStack()

    def other(self, **settings: Any) -> Any:
        """Another client."""
        client = redis.Redis.from_url(self.server.url, **settings)
        self.closing.callback(client.close)
        return client

    def put(self, fields: Mapping[Any, Any] | None = None, **more: Any) -> Any:
        """Have an entry come from a service that is not traced; its id."""
        pairs = [part for pair in {**(fields or {"order": "1"}), **more}.items() for part in pair]
        return self.client.execute_command("XADD", self.name, "*", *pairs)

    def read(self, number: int = 1, client: Any = None) -> Any:
        """What the group's next entries come in."""
        client = self.client if client is None else client
        return client.xreadgroup(GROUP, "me", {self.name: ">"}, count=number, block=5000)

    def entry(self, client: Any = None) -> Any:
        return only(self.read(1, client))

    def entries(self, number: int) -> list[Any]:
        return [self.entry() for _ in range(number)]

    def stored(self, number: int = 1) -> list[dict[str, str]]:
        """The fields of the entries as the server has them; the last ones of that many."""
        found = self.client.execute_command("XRANGE", self.name, "-", "+")[-number:]
        return [{key.decode(): value.decode() for key, value in fields.items()} for _, fields in found]

    def labels(self, operation: str, verb: str) -> dict[str, object]:
        return {
            "messaging.system": "redis",
            "messaging.operation.name": verb,
            "messaging.operation.type": operation,
            "messaging.destination.name": self.name,
            "server.address": "127.0.0.1",
            "server.port": self.server.port,
        }

    def processed(self, record: Any, flow: str, **more: object) -> dict[str, object]:
        id_ = record[0].decode()
        return {
            **self.labels("process", "process"),
            "messaging.consumer.group.name": GROUP,
            "messaging.message.id": id_,
            "tracekit.flow.id": flow,
            "tracekit.messaging.delivery.attempt": 1,
            "tracekit.messaging.published_at": int(id_.partition("-")[0]) * 1_000_000,
            "tracekit.messaging.published_at.source": "broker",
            "tracekit.pathway.hash": HASH,
            **{name.replace("__", "."): value for name, value in more.items()},
        }

    def close(self) -> None:
        self.closing.close()
        self._rig.close()


@pytest.fixture
def stream(redis_server: Redis) -> Iterator[Stream]:
    with closing(Stream(redis_server)) as stream:
        yield stream


def context_on(fields: Mapping[str, str]) -> tuple[str, str]:
    _, trace_id, span_id, _ = fields["traceparent"].split("-")
    return trace_id, span_id


# -- what is sent -------------------------------------------------------------------------------------


def test_a_send_is_named_as_the_conventions_have_it(stream: Stream, flows: Captured) -> None:
    id_ = stream.client.xadd(stream.name, {"order": "1"})

    span = the(flows, f"send {stream.name}")
    assert (span.kind, span.status) == (PRODUCER, Status.UNSET)
    assert span.attributes == {
        **stream.labels("send", "send"),
        "messaging.message.id": id_.decode(),
        "tracekit.flow.id": span.trace_id,
    }


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_case_7_the_callers_fields_are_unchanged(stream: Stream, kind: Any, flows: Captured) -> None:
    given = kind({"order": 1, b"raw": b"\xff", "price": 1.5})
    before = copy.deepcopy(given)

    stream.client.xadd(stream.name, given)

    assert given == before
    assert [*given] == [*before]


def test_case_8_fields_used_twice_carry_a_context_of_their_own_each(stream: Stream, flows: Captured) -> None:
    given = {"order": "1"}

    stream.client.xadd(stream.name, given)
    stream.client.xadd(stream.name, given)

    assert [context_on(fields) for fields in stream.stored(2)] == [
        where(span) for span in named(flows, f"send {stream.name}")
    ]


@pytest.mark.parametrize("form", ["by position", "by name", "with more"])
def test_case_9_context_goes_in_whatever_way_the_fields_are_given(
    stream: Stream, form: str, flows: Captured
) -> None:
    if form == "by position":
        stream.client.xadd(stream.name, {"order": "1"}, "*", 100)
    elif form == "by name":
        stream.client.xadd(fields={"order": "1"}, name=stream.name)
    else:
        stream.client.xadd(stream.name, {"order": "1"}, maxlen=100, approximate=False)

    (fields,) = stream.stored()
    assert fields.keys() == {"order", *OURS}
    assert fields["tracekit-fields"] == "traceparent tracekit-flow"
    assert context_on(fields) == where(the(flows, f"send {stream.name}"))


def test_case_10_a_relayed_entry_keeps_its_context(stream: Stream, flows: Captured) -> None:
    with tracer.start_as_current_span("relay job"), tracekit.relay():
        stream.client.xadd(stream.name, {"order": "1", "traceparent": TRACEPARENT})

    assert stream.stored() == [{"order": "1", "traceparent": TRACEPARENT}]
    span = the(flows, f"send {stream.name}")
    assert (span.kind, links_of(span)) == (CLIENT, [(TRACE, SPAN)])
    assert named(flows, f"create {stream.name}") == []


def test_case_11_an_entry_handed_on_has_one_context_that_of_its_send(stream: Stream, flows: Captured) -> None:
    stream.client.xadd(stream.name, {"order": "1"})
    record = stream.entry()
    (raw,) = stream.client.execute_command("XRANGE", stream.name, "-", "+")

    with tracekit.process(record):
        stream.client.xadd(stream.name, record[1])
        stream.client.xadd(stream.name, raw[1])  # with all that is in the entry, as nobody traced would

    (_, *sent) = named(flows, f"send {stream.name}")
    assert [context_on(fields) for fields in stream.stored(2)] == [where(span) for span in sent]
    assert [fields.keys() for fields in stream.stored(2)] == [{"order", *OURS}] * 2
    assert [stream.entry()[1], stream.entry()[1]] == [{b"order": b"1"}] * 2


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", "tracekit-flow", "tracekit-fields"])
def test_case_40_a_field_of_the_payload_is_never_overwritten(
    stream: Stream, name: str, flows: Captured
) -> None:
    token = otel.attach(baggage.set_baggage("tenant", "north"))
    try:
        stream.client.xadd(stream.name, {"order": "1", name: "two bags"})
    finally:
        otel.detach(token)

    assert stream.stored()[0][name] == "two bags"
    fields = stream.entry()[1]
    assert fields[name.encode()] == b"two bags"
    if name != "tracekit-fields":  # else who reads cannot tell which are ours
        assert fields == {b"order": b"1", name.encode(): b"two bags"}


def test_a_payload_with_a_traceparent_of_its_own_kind_goes_without_context(
    stream: Stream, flows: Captured
) -> None:
    stream.client.xadd(stream.name, {"traceparent": "a word of the payload"})

    assert stream.stored() == [{"traceparent": "a word of the payload"}]
    span = the(flows, f"send {stream.name}")
    assert span.attributes["tracekit.messaging.context"] == "skipped"
    assert flows.dropped == {"too_many_attributes": 2}


@pytest.mark.parametrize("fields", [{}, None, [("order", "1")], {"order": None}, {"order": True}])
def test_what_the_client_refuses_it_refuses_as_before(stream: Stream, fields: Any, flows: Captured) -> None:
    said: list[str] = []
    for xadd in (stream.client.xadd, stream.client.xadd.__wrapped__.__get__(stream.client)):
        with pytest.raises(redis.DataError) as raised:
            xadd(stream.name, fields)
        said.append(str(raised.value))

    assert said[0] == said[1]
    assert stream.stored(0) == []


def test_a_send_that_fails_is_an_error_of_its_span(stream: Stream, flows: Captured) -> None:
    stream.client.set(f"{stream.name}-text", "no stream")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        stream.client.xadd(f"{stream.name}-text", {"order": "1"})

    span = the(flows, f"send {stream.name}-text")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ResponseError")
    ((labels, value, _),) = points(flows, "messaging.client.sent.messages")
    assert (labels["error.type"], value) == ("ResponseError", 1)


def test_case_33_clients_made_before_configure_are_traced(stream: Stream) -> None:
    pipe = stream.client.pipeline()

    stream.client.ping()
    with capture() as seen:
        stream.client.xadd(stream.name, {"order": "1"})
        pipe.xadd(stream.name, {"order": "2"}).execute()
        assert [context_on(fields) for fields in stream.stored(2)] == [where(span) for span in seen.spans]
        with tracekit.process(stream.entry()):
            pass
        assert the(seen, f"process {stream.name}").attributes["server.port"] == stream.server.port
    stream.client.xadd(stream.name, {"order": "4"})
    assert stream.stored() == [{"order": "4"}]


# -- what is processed --------------------------------------------------------------------------------


def test_case_12_an_entry_without_ambient_is_the_child_of_its_send(stream: Stream, flows: Captured) -> None:
    stream.client.xadd(stream.name, {"order": "1"})
    record = stream.entry()

    with tracekit.process(record):
        pass

    sent, span = the(flows, f"send {stream.name}"), the(flows, f"process {stream.name}")
    assert (span.kind, span.status) == (CONSUMER, Status.UNSET)
    assert (parent_of(span), links_of(span)) == (where(sent), [where(sent)])
    assert untimed(span) == stream.processed(record, sent.trace_id)
    flows.flow().assert_complete()


@pytest.mark.parametrize("rule", ["auto", "message", "link"])
def test_case_13_inside_an_ambient_span_the_rule_says_whose_child_it_is(
    stream: Stream, rule: Any, flows: Captured
) -> None:
    stream.put(traceparent=TRACEPARENT)
    record = stream.entry()

    with tracer.start_as_current_span("job"), tracekit.process(record, parent=rule):
        pass

    span, job, context = the(flows, f"process {stream.name}"), where(the(flows, "job")), (TRACE, SPAN)
    assert (parent_of(span), links_of(span)) == {
        "auto": (job, [context]),
        "message": (context, [context, job]),
        "link": (None, [context]),
    }[rule]


@pytest.mark.parametrize("ambient", [True, False])
def test_case_14_an_entry_without_context_is_a_root_or_the_ambient_spans(
    stream: Stream, ambient: bool, flows: Captured
) -> None:
    stream.put()
    record = stream.entry()

    with ExitStack() as around:
        if ambient:
            around.enter_context(tracer.start_as_current_span("job"))
        with tracekit.process(record):
            pass

    span = the(flows, f"process {stream.name}")
    assert parent_of(span) == (where(the(flows, "job")) if ambient else None)
    assert span.links == ()
    assert span.attributes["tracekit.messaging.context"] == "absent"


def test_case_15_the_baggage_of_an_entry_is_there_while_it_is_processed(
    stream: Stream, flows: Captured
) -> None:
    token = otel.attach(baggage.set_baggage("tenant", "north"))
    stream.client.xadd(stream.name, {"order": "1"})
    otel.detach(token)
    stream.client.xadd(stream.name, {"order": "2"})
    seen: list[dict[str, object]] = []

    for record in stream.entries(2):
        with tracekit.process(record):
            seen.append(dict(baggage.get_all()))
        seen.append(dict(baggage.get_all()))

    assert seen == [{"tenant": "north"}, {}, {}, {}]


def test_case_16_what_the_handler_raises_is_an_error_of_its_message(stream: Stream, flows: Captured) -> None:
    stream.put(traceparent=TRACEPARENT)
    record, before, error = stream.entry(), otel.get_current(), ValueError("no such order")

    with pytest.raises(ValueError, match="no such order") as raised, tracekit.process(record):
        raise error

    assert raised.value is error
    assert otel.get_current() is before
    span = the(flows, f"process {stream.name}")
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ValueError")
    ((labels, _, count),) = points(flows, "messaging.process.duration")
    assert (labels["error.type"], count) == ("ValueError", 1)


def test_case_18_tasks_that_read_side_by_side_see_their_own_message_only(
    stream: Stream, flows: Captured
) -> None:
    seen: dict[str, set[tuple[str, str]]] = {"one": set(), "two": set()}
    both = asyncio.Barrier(2)

    async def consume(client: Any, name: str) -> None:
        for _ in range(3):
            await both.wait()
            read = await client.xreadgroup(GROUP, name, {stream.name: ">"}, count=1, block=5000)
            record = only(read)
            before = trace.get_current_span()
            async with tracekit.process(record):
                await both.wait()  # the other one is in process too
                span = trace.get_current_span().get_span_context()
                seen[name].add((trace.format_span_id(span.span_id), record[0].decode()))
                await client.xack(stream.name, GROUP, record[0])
            assert trace.get_current_span() is before

    async def main() -> None:
        client = redis.asyncio.Redis.from_url(stream.server.url)
        async with AsyncExitStack() as closing_:
            closing_.push_async_callback(client.aclose)
            for number in range(6):
                await client.xadd(stream.name, {"order": number})
            await asyncio.gather(consume(client, "one"), consume(client, "two"))

    asyncio.run(main())

    spans = named(flows, f"process {stream.name}")
    assert len(spans) == 6
    ids = {(span.span_id, span.attributes["messaging.message.id"]) for span in spans}
    assert seen["one"] | seen["two"] == ids
    assert [len(each) for each in seen.values()] == [3, 3]
    acks = named(flows, f"ack {stream.name}")
    assert {(ack.parent_id, ack.attributes["messaging.message.id"]) for ack in acks} == ids
    sends = {where(span) for span in named(flows, f"send {stream.name}")}
    assert {parent_of(span) for span in spans} == sends


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["as it came", "as a list"])
def test_case_20_a_batch_is_one_span_with_a_link_for_each_context(
    stream: Stream, settings: dict[str, Any], form: str, flows: Captured
) -> None:
    for number in range(3):
        stream.client.xadd(stream.name, {"order": number})
    client = stream.other(**settings)
    given = stream.read(3, client)
    records = [*_records(given)]

    with tracekit.process_batch(given if form == "as it came" else records):
        pass

    span = the(flows, f"process {stream.name}")
    assert (span.kind, span.parent_id) == (CONSUMER, None)
    assert span.attributes == {
        **stream.labels("process", "process"),
        "messaging.consumer.group.name": GROUP,
        "messaging.batch.message_count": 3,
    }
    assert span.links == tuple(
        Link(
            *context_on(fields),
            {
                "messaging.message.id": _text(record[0]),
                "tracekit.flow.id": context_on(fields)[0],
                "tracekit.messaging.published_at": int(_text(record[0]).partition("-")[0]) * 1_000_000,
                "tracekit.messaging.published_at.source": "broker",
            },
        )
        for record, fields in zip(records, stream.stored(3), strict=True)
    )
    ((labels, value, _),) = points(flows, "messaging.client.consumed.messages")
    assert (labels["messaging.consumer.group.name"], value) == (GROUP, 3)


def test_case_22_an_entry_of_a_batch_has_its_own_span_and_error(stream: Stream, flows: Captured) -> None:
    for number in range(2):
        stream.client.xadd(stream.name, {"order": number})
    one, two = stream.entries(2)

    with tracekit.process_batch([one, two]) as batch:
        with batch.message(one):
            pass
        with pytest.raises(ValueError, match="broken"), batch.message(two):
            raise ValueError("broken")

    spans = {
        span.attributes.get("messaging.message.id"): span for span in named(flows, f"process {stream.name}")
    }
    assert {id_: span.status for id_, span in spans.items()} == {
        None: Status.UNSET,
        one[0].decode(): Status.UNSET,
        two[0].decode(): Status.ERROR,
    }


def test_case_23_nothing_to_read_is_no_span(stream: Stream, flows: Captured) -> None:
    assert not stream.client.xreadgroup(GROUP, "me", {stream.name: ">"}, count=1)
    assert not stream.client.xread({stream.name: "$"}, block=1)

    assert flows.spans == ()
    assert points(flows, "messaging.client.consumed.messages") == []


@pytest.mark.flows(receive_spans=True)
def test_case_24_reading_is_shown_where_that_is_asked_for(stream: Stream, flows: Captured) -> None:
    stream.client.xadd(stream.name, {"order": "1"})
    with tracekit.process(stream.entry()):
        pass

    sent, read = the(flows, f"send {stream.name}"), the(flows, f"read {stream.name}")
    assert read.kind is CLIENT
    assert [where(link) for link in read.links] == [where(sent)]
    assert parent_of(the(flows, f"process {stream.name}")) == where(sent)
    ((_, value, _),) = points(flows, "messaging.client.consumed.messages")
    assert value == 1


HOSTILE: Final[dict[str, dict[str, Any]]] = {
    "not UTF-8": {"traceparent": b"\xff\xfe", "baggage": b"\xff", "tracekit-fields": b"traceparent baggage"},
    "a number": {"traceparent": 42, "tracekit-flow": 0, "tracekit-fields": "traceparent tracekit-flow"},
    "empty": {"traceparent": "", "tracekit-flow": "", "tracekit-fields": "traceparent tracekit-flow"},
    "garbage": {
        "traceparent": "00-no-01",
        "tracekit-flow": ";;",
        "tracekit-fields": "traceparent tracekit-flow",
    },
    "a payload's own": {"traceparent": "two bags", "baggage": b"\xff\x00"},
    "a list of nothing": {"tracekit-fields": ""},
    "a list of what is not there": {"tracekit-fields": "traceparent order baggage"},
    "a list of the payload": {"tracekit-fields": "order"},
    "a list that is not text": {"tracekit-fields": b"\xff \xff"},
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_case_28_a_hostile_field_costs_the_context_and_nothing_else(
    stream: Stream, hostile: str, flows: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    stream.put(order="1", **HOSTILE[hostile])

    with caplog.at_level(logging.DEBUG, "tracekit"):
        record = stream.entry()
        with tracekit.process(record):
            pass

    assert record[1][b"order"] == b"1"
    assert the(flows, f"process {stream.name}").parent_id is None
    assert len([line for line in caplog.records if line.name == "tracekit"]) <= 2  # one of each kind
    assert "internal" not in flows.dropped


def test_case_28_an_entry_that_nobody_can_decode_is_the_clients_to_refuse(
    stream: Stream, flows: Captured
) -> None:
    stream.put(order="1", traceparent=b"\xff")

    with pytest.raises(UnicodeDecodeError):
        stream.entry(stream.other(decode_responses=True))


def test_case_46_of_two_contexts_on_an_entry_the_last_counts(stream: Stream, flows: Captured) -> None:
    stream.client.execute_command(
        "XADD", stream.name, "*", "traceparent", OTHER, "order", "1", "traceparent", TRACEPARENT
    )

    with tracekit.process(stream.entry()):
        pass

    assert parent_of(the(flows, f"process {stream.name}")) == (TRACE, SPAN)


# -- what a handler is given --------------------------------------------------------------------------


def _records(read: Any) -> Iterator[Any]:
    for _, found in read.items() if isinstance(read, dict) else read:
        for each in found:
            yield from each if isinstance(each, list) else [each]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_case_40_who_looks_at_entries_is_shown_the_payload_and_takes_none(
    stream: Stream, settings: dict[str, Any], flows: Captured
) -> None:
    def payload(entry: Any) -> object:
        return {_text(name): _text(value) for name, value in entry[1].items()}

    async def shown_by_asyncio() -> Any:
        client = redis.asyncio.Redis.from_url(stream.server.url, **settings)
        async with AsyncExitStack() as closing_:
            closing_.push_async_callback(client.aclose)
            return await client.xrange(stream.name)

    client = stream.other(**settings)
    client.xadd(stream.name, {"order": "1"})
    with client.pipeline() as pipeline:
        (queued,) = pipeline.xrange(stream.name).execute()

    information = client.xinfo_stream(stream.name)
    shown = [*queued, *client.xrange(stream.name), *client.xrevrange(stream.name)]
    shown += [*asyncio.run(shown_by_asyncio()), information["first-entry"], information["last-entry"]]

    assert [payload(entry) for entry in shown] == [{"order": "1"}] * 6
    assert [span.name for span in flows.spans] == [f"send {stream.name}"]
    assert points(flows, "messaging.client.consumed.messages") == []
    with tracekit.process(shown[1]):
        pass
    assert parent_of(the(flows, f"process {stream.name}")) == where(the(flows, f"send {stream.name}"))


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("command", ["xreadgroup", "xread", "xclaim", "xautoclaim"])
def test_case_40_a_handler_is_given_the_payload_in_the_clients_own_shape(
    stream: Stream, settings: dict[str, Any], command: str, flows: Captured
) -> None:
    id_ = stream.put()
    client = stream.other(**settings)

    def asked() -> Any:
        if command == "xread":
            return client.xread({stream.name: "0"})
        if command == "xreadgroup":
            return client.xreadgroup(GROUP, "me", {stream.name: "0"})
        if command == "xclaim":
            return client.xclaim(stream.name, GROUP, "me", 0, [id_])
        return client.xautoclaim(stream.name, GROUP, "me", 0)

    stream.read()  # it is pending from now on
    bare = asked()
    stream.client.xtrim(stream.name, maxlen=0)
    stream.client.xack(stream.name, GROUP, id_)
    id_ = stream.client.xadd(stream.name, {"order": "1"}).decode()
    stream.read()
    with_ours = asked()

    def shape(value: Any) -> Any:
        """All of it but ids, which differ."""
        if isinstance(value, (list, tuple)):
            return type(value), [shape(part) for part in value]
        if isinstance(value, dict):
            return dict, [(shape(key), shape(part)) for key, part in value.items()]
        return type(value), value if _text(value).count("-") != 1 or stream.name == _text(value) else "id"

    assert shape(with_ours) == shape(bare)
    assert stream.stored()[0].keys() == {"order", *OURS}


@pytest.mark.parametrize("decode", [True, False])
def test_case_40_the_parts_of_an_entry_are_the_message_too(
    stream: Stream, decode: bool, flows: Captured
) -> None:
    stream.client.xadd(stream.name, {"order": "1"})

    for id_, fields in _records(stream.read(1, stream.other(decode_responses=decode))):
        with tracekit.process((id_, fields)):
            assert {_text(name): _text(value) for name, value in fields.items()} == {"order": "1"}

    assert parent_of(the(flows, f"process {stream.name}")) == where(the(flows, f"send {stream.name}"))


def test_case_40_entries_of_two_streams_that_share_an_id_are_told_apart(
    stream: Stream, flows: Captured
) -> None:
    names = [f"{stream.name}-{which}" for which in ("a", "b")]
    for name in names:
        stream.client.xadd(name, {"order": "1"}, id="7-7")

    records = [*_records(stream.client.xread(dict.fromkeys(names, "0")))]
    for record in reversed(records):
        with tracekit.process(record):
            pass

    assert [span.name for span in flows.spans if span.kind is CONSUMER] == [
        f"process {name}" for name in reversed(names)
    ]
    for span in flows.spans:  # an id that its sender made up says nothing of the time
        assert span.attributes.get("tracekit.messaging.published_at.source") != "broker"


def test_a_reading_of_more_than_are_remembered_is_remembered_whole(stream: Stream, flows: Captured) -> None:
    with stream.client.pipeline(transaction=False) as pipe:
        for number in range(5_100):
            pipe.execute_command("XADD", stream.name, "*", "order", number, "traceparent", TRACEPARENT)
        pipe.execute()

    first, *_ = _records(stream.read(5_100))
    with tracekit.process(first):
        pass

    assert parent_of(the(flows, f"process {stream.name}")) == (TRACE, SPAN)


# -- delivery -----------------------------------------------------------------------------------------


def test_an_acknowledgement_is_a_settle_of_its_message(stream: Stream, flows: Captured) -> None:
    stream.put(traceparent=TRACEPARENT)
    record = stream.entry()
    with tracekit.process(record):
        assert stream.client.xack(stream.name, GROUP, record[0]) == 1
    assert stream.client.xack(stream.name, GROUP, "1-1", "1-2") == 0

    one, two = named(flows, f"ack {stream.name}")
    assert (one.kind, parent_of(one)) == (CLIENT, where(the(flows, f"process {stream.name}")))
    labels = {**stream.labels("settle", "ack"), "messaging.consumer.group.name": GROUP}
    assert one.attributes == {**labels, "messaging.message.id": record[0].decode(), "tracekit.flow.id": TRACE}
    assert two.attributes == {
        **labels,
        "messaging.batch.message_count": 2,
        "tracekit.flow.id": two.trace_id,
    }


@pytest.mark.parametrize("command", ["xnack", "xackdel"])
def test_a_settle_that_the_server_does_not_know_is_an_error_of_its_span(
    stream: Stream, command: str, flows: Captured
) -> None:
    if stream.client.info("server")["redis_version"].split(".") >= ["8"]:
        pytest.skip("the server has it")
    arguments = (stream.name, GROUP, *(("FAIL",) if command == "xnack" else ()), "1-1")

    with pytest.raises(redis.ResponseError, match="unknown command"):
        getattr(stream.client, command)(*arguments)

    (span,) = flows.spans
    assert span.name == f"{'nack' if command == 'xnack' else 'ack'} {stream.name}"
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "ResponseError")


@pytest.mark.parametrize("kept", [True, False])
def test_case_44_what_is_tried_again_and_given_up_stays_in_one_flow(
    stream: Stream, kept: bool, flows: Captured
) -> None:
    dead = f"{stream.name}-dead"
    with tracer.start_as_current_span("checkout"):
        stream.client.xadd(stream.name, {"order": "1"})
    (stored,) = stream.stored()

    def fail(record: Any) -> None:
        with pytest.raises(ValueError, match="no"), tracekit.process(record):
            raise ValueError("no")

    def claimed(number: int) -> Any:
        id_ = stream.client.execute_command("XRANGE", stream.name, "-", "+")[0][0]
        (record,) = stream.client.xclaim(stream.name, GROUP, "other", 0, [id_], retrycount=number)
        assert record[1] == {b"order": b"1"}
        (pending,) = stream.client.xpending_range(stream.name, GROUP, "-", "+", 1)
        assert pending["times_delivered"] == number
        return record

    fail(stream.entry())
    fail(claimed(2))
    record = claimed(3)
    with tracekit.process(record):
        if kept:
            (_, raw) = stream.client.execute_command("XRANGE", stream.name, "-", "+")[0]
            with tracekit.relay():
                stream.client.xadd(dead, raw)
        else:
            stream.client.xadd(dead, record[1])
        stream.client.xack(stream.name, GROUP, record[0])
    ((record,),) = [_records(stream.client.xread({dead: "0"}))]
    with tracekit.process(record):
        assert record[1] == {b"order": b"1"}

    assert stream.stored() == [stored]  # one context, whatever became of it
    tries = named(flows, f"process {stream.name}")
    assert [
        (
            each.attributes.get("tracekit.messaging.delivery.attempt"),
            each.attributes.get("tracekit.messaging.redelivered"),
        )
        for each in tries
    ] == [(1, None), (2, True), (3, True)]
    original = where(the(flows, f"send {stream.name}"))
    assert [links_of(each) for each in tries] == [[original]] * 3
    last, buried = the(flows, f"send {dead}"), the(flows, f"process {dead}")
    if kept:
        assert (last.kind, links_of(last), links_of(buried)) == (CLIENT, [original], [original])
    else:
        assert (parent_of(last), links_of(buried)) == (where(tries[2]), [where(last)])
    flow = flows.flow()
    flow.assert_complete()
    assert {span.name for span in flow.spans} >= {"checkout", f"process {dead}"}


def test_an_entry_that_was_pending_is_delivered_again(stream: Stream, flows: Captured) -> None:
    stream.put(traceparent=TRACEPARENT)
    stream.entry()
    with tracekit.process(only(stream.client.xreadgroup(GROUP, "me", {stream.name: "0"}))):
        pass
    with tracekit.process(stream.client.xautoclaim(stream.name, GROUP, "other", 0)[1][0]):
        pass

    for span in named(flows, f"process {stream.name}"):
        assert span.attributes["tracekit.messaging.redelivered"] is True
        assert "tracekit.messaging.delivery.attempt" not in span.attributes  # only XPENDING says it


def test_what_was_trimmed_while_it_was_pending_is_counted_as_lost(stream: Stream, flows: Captured) -> None:
    ids = [stream.put(), stream.put()]
    stream.read(2)
    stream.client.xtrim(stream.name, maxlen=0)

    assert stream.client.xautoclaim(stream.name, GROUP, "other", 0) == [b"0-0", [], ids]

    assert points(flows, "tracekit.messaging.lost.messages") == [
        ({**stream.labels("receive", "claim"), "messaging.consumer.group.name": GROUP}, 2, 0)
    ]


def test_ids_alone_are_no_messages(stream: Stream, flows: Captured) -> None:
    id_ = stream.put()
    stream.read()

    assert stream.client.xautoclaim(stream.name, GROUP, "other", 0, justid=True) == [id_]
    assert stream.client.xclaim(stream.name, GROUP, "other", 0, [id_], justid=True) == [id_]

    ((_, value, _),) = points(flows, "messaging.client.consumed.messages")
    assert value == 1
    assert points(flows, "tracekit.messaging.lost.messages") == []


# -- pipelines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_is_seen_command_by_command(stream: Stream, transaction: bool, flows: Captured) -> None:
    stream.put(traceparent=TRACEPARENT)
    record = stream.entry()
    with tracekit.process(record), stream.client.pipeline(transaction=transaction) as pipe:
        assert pipe.xadd(stream.name, {"order": "2"}) is pipe
        pipe.set("key", "value").xack(stream.name, GROUP, record[0])
        pipe.xreadgroup(GROUP, "me", {stream.name: ">"})
        assert [span.name for span in flows.spans] == []
        id_, was_set, acknowledged, read = pipe.execute()
    with tracekit.process(only(read)):
        pass

    assert (was_set, acknowledged, only(read)) == (True, 1, (id_, {b"order": b"2"}))
    first, second = named(flows, f"process {stream.name}")
    sent, ack = the(flows, f"send {stream.name}"), the(flows, f"ack {stream.name}")
    assert (sent.kind, parent_of(sent), parent_of(ack)) == (PRODUCER, where(first), where(first))
    assert sent.attributes["messaging.message.id"] == id_.decode()
    assert context_on(stream.stored()[0]) == where(sent) == parent_of(second)
    assert stream.client.info("clients")["connected_clients"] >= 1


def test_a_pipeline_of_asyncio_is_seen_command_by_command(stream: Stream, flows: Captured) -> None:
    async def main() -> Any:
        client = redis.asyncio.Redis.from_url(stream.server.url)
        async with AsyncExitStack() as closing_:
            closing_.push_async_callback(client.aclose)
            async with client.pipeline() as pipe:
                pipe.xadd(stream.name, {"order": "1"})
                pipe.xadd(stream.name, {"order": "2"})
                pipe.xreadgroup(GROUP, "me", {stream.name: ">"})
                return await pipe.execute()

    one, two, read = asyncio.run(main())

    assert [*_records(read)] == [(one, {b"order": b"1"}), (two, {b"order": b"2"})]
    assert [span.attributes["messaging.message.id"] for span in named(flows, f"send {stream.name}")] == [
        one.decode(),
        two.decode(),
    ]
    ((_, value, _),) = points(flows, "messaging.client.consumed.messages")
    assert value == 2


def test_a_command_of_a_pipeline_that_failed_is_an_error_of_its_own(stream: Stream, flows: Captured) -> None:
    stream.client.set(f"{stream.name}-text", "no stream")
    with stream.client.pipeline(transaction=False) as pipe:
        pipe.xadd(stream.name, {"order": "1"})
        pipe.xadd(f"{stream.name}-text", {"order": "2"})
        id_, error = pipe.execute(raise_on_error=False)

    assert isinstance(error, redis.ResponseError)
    good, bad = the(flows, f"send {stream.name}"), the(flows, f"send {stream.name}-text")
    assert (good.status, good.attributes["messaging.message.id"]) == (Status.UNSET, id_.decode())
    assert (bad.status, bad.attributes["error.type"]) == (Status.ERROR, "ResponseError")


def test_a_pipeline_that_failed_raises_what_it_raised(stream: Stream, flows: Captured) -> None:
    stream.client.set(f"{stream.name}-text", "no stream")
    with stream.client.pipeline(transaction=False) as pipe:
        pipe.xadd(f"{stream.name}-text", {"order": "2"})
        with pytest.raises(redis.ResponseError, match="Command # 1"):
            pipe.execute()

    assert the(flows, f"send {stream.name}-text").attributes["error.type"] == "ResponseError"


def test_what_a_pipeline_takes_back_was_never_sent(stream: Stream, flows: Captured) -> None:
    with stream.client.pipeline() as pipe:
        pipe.xadd(stream.name, {"order": "1"})
        pipe.reset()
        pipe.xadd(stream.name, {"order": "2"})
        (id_,) = pipe.execute()

    span = the(flows, f"send {stream.name}")
    assert span.attributes["messaging.message.id"] == id_.decode()
    assert context_on(stream.stored()[0]) == where(span)


def test_a_pipeline_that_watches_sends_at_once(stream: Stream, flows: Captured) -> None:
    with stream.client.pipeline() as pipe:
        pipe.watch("key")
        id_ = pipe.xadd(stream.name, {"order": "1"})
        assert the(flows, f"send {stream.name}").attributes["messaging.message.id"] == id_.decode()
        pipe.multi()
        pipe.xadd(stream.name, {"order": "2"})
        (other,) = pipe.execute()

    assert [span.attributes["messaging.message.id"] for span in named(flows, f"send {stream.name}")] == [
        id_.decode(),
        other.decode(),
    ]


def test_a_pipeline_that_is_given_up_is_freed(stream: Stream, flows: Captured) -> None:
    import gc
    import weakref

    pipe = stream.client.pipeline()
    pipe.xadd(stream.name, {"order": "1"})
    pipe.xreadgroup(GROUP, "me", {stream.name: ">"})
    gone = weakref.ref(pipe)
    del pipe
    gc.collect()

    assert gone() is None
    assert flows.spans == ()


def test_the_wait_is_by_the_servers_clock(stream: Stream, flows: Captured) -> None:
    before = time.time()
    stream.client.xadd(stream.name, {"order": "1"})
    with tracekit.process(stream.entry()):
        pass
    took = time.time() - before

    ((labels, value, count),) = points(flows, "tracekit.messaging.queue.duration")
    assert (labels["tracekit.messaging.wait.source"], count) == ("broker", 1)
    assert value is not None
    assert 0 <= value <= took + 0.001
