"""WebSockets: context in the handshake, and the extension that carries it with each message.

`websockets` as client and as server, and uvicorn, whose WebSockets it serves. The spans of messages are the
messaging engine's (`tracekit/transports/websockets.py`, `starlette.py`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tracekit import context as ours
from tracekit.guard import shielded
from tracekit.messaging.websocket import IN_SCOPE, Factory, frames_of
from tracekit.patching import when_imported
from tracekit.tracing.trust import giving_little

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracekit.patching import Function, Patches, Wrapper
    from tracekit.tracing.trust import Trust

_UVICORN: Final = "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol"


def install(patches: Patches, trust: Trust) -> None:
    """Let connections that are made from now on carry context, in whatever parts of the library are used."""
    is_on = functools.partial(getattr, patches, "active")
    table: tuple[tuple[str, Wrapper], ...] = (
        ("websockets.client:ClientProtocol.__init__", functools.partial(_offering, trust, is_on)),
        ("websockets.client:ClientProtocol.send_request", functools.partial(_greeting, trust)),
        ("websockets.server:ServerProtocol.__init__", functools.partial(_accepting, is_on)),
        ("websockets.server:ServerProtocol.accept", functools.partial(_trusting, trust)),
        ("websockets.asyncio.connection:Connection.recv", _taking_later),
        ("websockets.asyncio.connection:Connection.recv_streaming", _losing),
        ("websockets.sync.connection:Connection.recv", _taking),
        ("websockets.sync.connection:Connection.recv_streaming", _losing),
        (f"{_UVICORN}.run_asgi", _telling),
        (f"{_UVICORN}.receive", _received),
    )
    for target, wrapper in table:
        module = target.partition(":")[0]
        patches.on_undo(when_imported(module, functools.partial(_wrap, patches, target, wrapper)))


def _wrap(patches: Patches, target: str, wrapper: Wrapper) -> None:
    with shielded(f"a hook on {target}"):
        if patches.active:
            patches.wrap(target, wrapper)


def _offering(trust: Trust, is_on: Callable[[], bool], original: Function) -> Function:
    @functools.wraps(original)
    def __init__(protocol: Any, uri: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is called by this name
        given = kwargs
        with shielded("an offer to a WebSocket's server"):
            if trust.gives(uri.host):
                given = {
                    **kwargs,
                    "extensions": [Factory(protocol, is_on), *(kwargs.get("extensions") or ())],
                }
        original(protocol, uri, *args, **given)

    return __init__


def _accepting(is_on: Callable[[], bool], original: Function) -> Function:
    @functools.wraps(original)
    def __init__(protocol: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - the same
        own = kwargs.get("extensions") or ()
        original(protocol, *args, **{**kwargs, "extensions": [Factory(protocol, is_on), *own]})

    return __init__


def _trusting(trust: Trust, original: Function) -> Function:
    @functools.wraps(original)
    def accept(protocol: Any, request: Any) -> Any:
        with shielded("the trust in a WebSocket's route"):
            if not trust.takes(urlsplit(request.path).path):
                own = protocol.available_extensions or ()
                protocol.available_extensions = [one for one in own if not isinstance(one, Factory)]
        return original(protocol, request)

    return accept


def _greeting(trust: Trust, original: Function) -> Function:
    @functools.wraps(original)
    def send_request(protocol: Any, request: Any) -> None:
        with shielded("the context of a handshake"):
            context = None if trust.gives(protocol.uri.host) else giving_little()
            for name, value in ours.headers_of(context).items():
                if name not in request.headers:  # it may have several of one name
                    request.headers[name] = value
        original(protocol, request)

    return send_request


def _take(connection: Any) -> None:
    with shielded("the context of a WebSocket's message"):
        if (frames := frames_of(connection.protocol.extensions)) is not None:
            frames.take()


def _taking_later(original: Function) -> Function:
    @functools.wraps(original)
    async def recv(connection: Any, *args: Any, **kwargs: Any) -> Any:
        data = await original(connection, *args, **kwargs)
        _take(connection)
        return data

    return recv


def _taking(original: Function) -> Function:
    @functools.wraps(original)
    def recv(connection: Any, *args: Any, **kwargs: Any) -> Any:
        data = original(connection, *args, **kwargs)
        _take(connection)
        return data

    return recv


def _losing(original: Function) -> Function:
    @functools.wraps(original)
    def recv_streaming(connection: Any, *args: Any, **kwargs: Any) -> Any:
        with shielded("a WebSocket's messages in parts"):
            if (frames := frames_of(connection.protocol.extensions)) is not None:
                frames.lose()
        return original(connection, *args, **kwargs)

    return recv_streaming


def _telling(original: Function) -> Function:
    @functools.wraps(original)
    async def run_asgi(server: Any) -> Any:
        with shielded("a WebSocket's scope"):
            if (frames := frames_of(server.conn.extensions)) is not None:
                server.scope[IN_SCOPE] = frames
        return await original(server)

    return run_asgi


def _received(original: Function) -> Function:
    @functools.wraps(original)
    async def receive(server: Any) -> Any:
        message = await original(server)
        with shielded("the context of a WebSocket's message"):
            frames = frames_of(server.conn.extensions)
            if frames is not None and message["type"] == "websocket.receive":
                frames.take()
        return message

    return receive
