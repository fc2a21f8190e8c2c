"""Redis Streams through redis-py: an entry is its fields and nothing else, so context is among them.

Beside the payload stand `traceparent`, `tracestate`, `tracekit-flow` and `baggage`, as far as the payload
has no field of that name, and `tracekit-fields`, which names those that we added. Who reads with tracekit
gets the payload alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracekit import semconv
from tracekit.context import context_fields
from tracekit.messaging.transport import Call, Facts, Headers, Hook, Message, Plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

_ADDED: Final = "tracekit-fields"
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ID: Final = re.compile(r"([0-9]{1,20})-[0-9]{1,20}")
_MS: Final = 1_000_000
# 2010 to 2100: an id that its sender made up may be any number.
_SINCE_MS: Final = 1_262_304_000_000
_UNTIL_MS: Final = 4_102_444_800_000
_DEPTH: Final = 4
_COMMANDS: Final = "redis.commands.core:StreamCommands"


class RedisStreams(Plain):
    """redis-py 8, its clients for threads and for asyncio, and their pipelines.

    An entry says nothing of its stream: it is known by the very fields that a command gave, whole or taken
    apart. A copy of them is no message. In a cluster's pipeline a send lasts until it is queued, and what is
    read is given as it is in the stream.
    """

    system: ClassVar = "redis"
    package: ClassVar = "redis"
    is_plain: ClassVar = True
    hooks: ClassVar[Sequence[Hook]] = (
        Hook(f"{_COMMANDS}.xadd", "send", "send"),
        Hook(f"{_COMMANDS}.xreadgroup", "receive", "read"),
        Hook(f"{_COMMANDS}.xread", "receive", "read"),
        Hook(f"{_COMMANDS}.xautoclaim", "receive", "claim"),
        Hook(f"{_COMMANDS}.xclaim", "receive", "claim"),
        *(
            Hook(f"{_COMMANDS}.{command}", "receive", command, "look")
            for command in ("xrange", "xrevrange", "xinfo_stream")
        ),
        Hook(f"{_COMMANDS}.xack", "settle", "ack"),
        Hook(f"{_COMMANDS}.xackdel", "settle", "ack"),
        Hook(f"{_COMMANDS}.xnack", "settle", "nack"),
        Hook("redis.client:Pipeline.execute", "send", "send", "flush"),
        Hook("redis.asyncio.client:Pipeline.execute", "send", "send", "flush"),
    )

    def client(self, client: Any) -> Facts:
        pool: Any = getattr(client, "connection_pool", None)  # of a cluster, nobody knows which node answers
        settings: Mapping[str, Any] = {} if pool is None else pool.connection_kwargs
        facts: dict[str, str | int | bool] = {}
        if settings.get("client_name"):
            facts[semconv.MESSAGING_CLIENT_ID] = str(settings["client_name"])
        if settings.get("path"):
            facts[semconv.SERVER_ADDRESS] = str(settings["path"])
        elif settings.get("host"):
            facts[semconv.SERVER_ADDRESS] = str(settings["host"])
            facts[semconv.SERVER_PORT] = int(settings.get("port") or 6379)
        return facts

    def outgoing(self, call: Call) -> Sequence[Message]:
        stream, group = _text(call["name"]), _text(call.get("groupname"))
        if "fields" not in call:
            ids: Any = call.get("ids") or ()
            facts: Facts = {semconv.MESSAGING_BATCH_MESSAGE_COUNT: len(ids)}
            if len(ids) == 1:
                facts = {semconv.MESSAGING_MESSAGE_ID: _text(ids[0])}
            return [Message(stream, attributes=facts, group=group)]
        fields = call["fields"]
        if not isinstance(fields, dict) or not fields:
            return ()  # the client will say what is wrong with it
        context = _context(fields)
        # A payload with a word of ours for something else keeps it, and nobody could read the rest.
        is_taken = not context and any(_text(name) == "traceparent" for name in fields)
        return [Message(stream, context, slots=0 if is_taken else None)]

    def stamp(self, call: Call, headers: Sequence[Headers | None]) -> Call:
        fields: Any = call["fields"]
        own = {_text(name): name for name in fields}
        replaced = {name for name, _ in _context(fields)} - {"baggage"}
        stamped, added = dict(fields), []
        for name, value in headers[0] or ():
            if name not in own:
                stamped[name] = value
                added.append(name)
            elif name in replaced:
                stamped[own[name]] = value
        before = [name for name in map(_text, _added(fields)) if name != _ADDED]
        if added and (before or _ADDED not in own):
            stamped[own.get(_ADDED, _ADDED)] = " ".join([*before, *added])
        return {**call, "fields": stamped}

    def queued(self, client: Any) -> Sequence[object]:
        return tuple(getattr(client, "command_stack", ()))

    def answer(self, call: Call, result: object) -> Facts:
        is_entry = "fields" in call and isinstance(result, (str, bytes))
        return {semconv.MESSAGING_MESSAGE_ID: _text(result)} if is_entry else {}

    def incoming(self, result: object, call: Call | None = None) -> Sequence[Message]:
        if call is None:
            return ()  # an entry does not say what stream it is of
        group, stream = _text(call.get("groupname")), _text(call.get("name"))
        return [_message(stream or name, group, record, call) for name, record in _entries(result)]

    def records(self, result: object) -> Sequence[object]:
        return [record for _, record in _entries(result)]

    def key(self, record: Any) -> Hashable:
        # Its fields' own place: applications take an entry apart, and entries of two streams share an id.
        return record[0], id(record[1])

    def unasked(self, call: Call, result: object) -> None:
        for _, record in _entries(result):
            for name in _added(record[1]):
                del record[1][name]

    def lost(self, call: Call, result: Any) -> Sequence[Message]:
        if "start_id" in call or "min_idle_time" in call:
            trimmed = result[2] if isinstance(result, list) and len(result) == 3 else ()
            if isinstance(trimmed, list) and not call.get("justid"):
                return [Message(_text(call["name"]), group=_text(call.get("groupname"))) for _ in trimmed]
        return ()


def _message(stream: str, group: str, record: Any, call: Call) -> Message:
    id_, fields = _text(record[0]), record[1]
    match = _ID.fullmatch(id_)
    made_ms = int(match[1]) if match else 0
    is_again = bool(group) and not _is_new(stream, record, call)
    return Message(
        stream,
        _context(fields),
        id=id_,
        published_at_ns=made_ms * _MS if _SINCE_MS <= made_ms <= _UNTIL_MS else None,
        delivery_attempt=_attempt(call, is_again=is_again) if group else None,
        attributes={semconv.REDELIVERED: True} if is_again else {},
        group=group,
    )


def _attempt(call: Call, *, is_again: bool) -> int | None:
    """Which delivery to the group it is: said by who claims, or by XPENDING, for which nobody is asked."""
    claimed_as = call.get("retrycount")
    if isinstance(claimed_as, int) and claimed_as > 0:
        return claimed_as
    return None if is_again else 1


def _is_new(stream: str, record: Any, call: Call) -> bool:
    """Whether the group is given an entry for the first time."""
    if len(record) > 3:  # where it claims while it reads, it says how often
        return not record[3]
    streams: Any = call.get("streams") or {}
    return any(_text(name) == stream and _text(after) == ">" for name, after in streams.items())


def _entries(result: Any, stream: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """The entries in whatever shape a command gave them, each with its stream where the shape has that."""
    if isinstance(result, tuple) and len(result) >= 2 and isinstance(result[1], dict):
        if result[1] and _ID.fullmatch(_text(result[0])):
            yield stream, result
    elif depth and isinstance(result, dict):
        for name, part in result.items():
            yield from _entries(part, _text(name), depth - 1)
    elif depth and isinstance(result, (list, tuple)):
        if result and isinstance(result[0], (str, bytes)):
            stream = _text(result[0])
        for part in result:
            if isinstance(part, (list, tuple, dict)):
                yield from _entries(part, stream, depth - 1)


def _context(fields: Mapping[Any, Any]) -> list[tuple[str, str | bytes]]:
    """The context among the fields: what we added, and what anybody put there beside a `traceparent`."""
    added = {*map(_text, _added(fields))}
    names = context_fields()
    found = [(_text(name), value) for name, value in fields.items() if _text(name) in names]
    has_theirs = any(
        name == "traceparent" and _TRACEPARENT.match(_text(value))
        for name, value in found
        if name not in added
    )
    return [(name, value) for name, value in found if name in added or has_theirs]


def _added(fields: Mapping[Any, Any]) -> list[Any]:
    """The fields that we added, and the one that says so; none where the payload has one of its name."""
    own = {_text(name): name for name in fields if isinstance(name, (str, bytes))}
    names = _text(fields[own[_ADDED]]).split(" ") if _ADDED in own else []
    if not names or not {*names} <= context_fields() & own.keys():
        return []
    return [own[name] for name in (*names, _ADDED)]


def _text(value: object) -> str:
    """A name, an id or a value as text; "" for what is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
