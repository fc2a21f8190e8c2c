"""contrib's ASGI middleware made safe: what a request brings can no longer fail it, nor shows its secrets.

As it comes, a `user-agent` or `host` of bytes that are not UTF-8 and end in a backslash, or such a
query, is an error inside of it, and the caller gets a 500 instead of the application's answer.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from tracekit import semconv
from tracekit.guard import shielded
from tracekit.http.names import keeps_old_names
from tracekit.http.urls import hide_secrets, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracekit.patching import Patches

    Scope = Mapping[str, Any]
    Address = tuple[str, Any, str]

_MODULE: Final = "opentelemetry.instrumentation.asgi"
_LONGEST: Final = 300  # a name has 253 characters at most; what is longer is none, and is not kept
_HOST: Final = re.compile(r"[A-Za-z0-9._:\-]{1,253}")
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def make_safe(patches: Patches) -> None:
    """Let contrib read any request, hide its secrets, and name the address asked for, without its port."""
    for name, wrapper in (
        ("_decode_header_item", _decoding),
        ("collect_request_attributes", _collecting),
        ("get_host_port_url_tuple", _addressing),
    ):
        with shielded("making contrib's middleware safe"):  # a later contrib may call it otherwise
            patches.wrap(f"{_MODULE}:{name}", wrapper)
    hide_secrets(patches, _MODULE)


def _decoding(original: Callable[[bytes], str]) -> Callable[[bytes], str]:
    def decode(value: bytes) -> str:
        try:
            return original(value)
        except ValueError:
            return value.decode("latin-1")

    return decode


def _collecting(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def collect(scope: Scope, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            found = original(scope, *args, **kwargs)
        except UnicodeDecodeError:
            query = quote(scope["query_string"], safe="%&=+").encode()
            found = original({**scope, "query_string": query}, *args, **kwargs)
        if semconv.URL_QUERY in found:
            found[semconv.URL_QUERY] = without_secrets(found[semconv.URL_QUERY])
        return found

    return collect


def _addressing(original: Callable[[Scope], Address]) -> Callable[[Scope], Address]:
    """contrib joins host and port of the socket, and writes `t:None` where there is no port."""
    old_names = keeps_old_names()

    def host_port_url(scope: Scope) -> Address:
        host, port, url = original(scope)
        with shielded("the address of a request"):
            if old_names:
                return host.removesuffix(":None"), port, url
            asked = _asked(scope)
            if asked is not None:
                return *asked, url
            served = scope.get("server")
            if served:
                return served[0], port, url
        return host, port, url

    return host_port_url


def _asked(scope: Scope) -> tuple[str, int | None] | None:
    """Host and port as the request names them; None where it does not, or in no way that is one."""
    for name, value in scope.get("headers") or ():
        if name == b"host":
            return _authority(value[:_LONGEST].decode("latin-1"), scope.get("scheme", "http"))
    return None


@functools.lru_cache(maxsize=256)
def _authority(text: str, scheme: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if not host or not _HOST.fullmatch(host) or parts.username is not None or parts.netloc != text:
        return None
    return host, port or _PORTS.get(scheme)
