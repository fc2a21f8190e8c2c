"""Clients that are asked for messages one by one, as iterators: confluent-kafka's have no loop."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterator
from typing import Any, Final, Protocol

from tracekit.patching import is_coroutine_function

_POLL_S: Final = 1.0  # how long Ctrl-C, or the end of a task, may have to wait


class Polling(Protocol):
    """A consumer that gives the next message, or None where none came in time."""

    def poll(self, timeout: float, /) -> object: ...


class AsyncPolling(Protocol):
    """The same, awaited."""

    def poll(self, timeout: float, /) -> Coroutine[Any, Any, object]: ...


class Polled(Iterator[Any]):
    """The messages of a consumer, without an end."""

    def __init__(self, client: Polling) -> None:
        self._client = client

    def __next__(self) -> Any:
        while (record := self._client.poll(_POLL_S)) is None:
            pass
        return record


class AsyncPolled(AsyncIterator[Any]):
    """The same by `async for`."""

    def __init__(self, client: AsyncPolling) -> None:
        self._client = client

    async def __anext__(self) -> Any:
        while (record := await self._client.poll(_POLL_S)) is None:
            pass
        return record


def messages_of(client: Any) -> Iterator[Any] | AsyncIterator[Any]:
    """What iterates over a client, by its own iterator where it has one. TypeError where nothing can."""
    kind: type = client.__class__  # of what a proxy stands for
    found: Iterator[Any] | AsyncIterator[Any]
    if issubclass(kind, AsyncIterable):
        found = aiter(client)
    elif not hasattr(kind, "poll") or hasattr(kind, "__iter__"):
        found = iter(client)
    else:
        found = AsyncPolled(client) if is_coroutine_function(client.poll) else Polled(client)
    return found
