"""Web: bounded questions over HTTP, and failures in words that say what to do."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    BaseHandler,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from tracekit.collector.exchange import Answer, Deadline, bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
READ_S: Final = 10.0
_ANSWER_S: Final = 30.0
_CHUNK: Final = 256 * 1024
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""Names of this machine."""
_IS_JAEGER: Final = b"Jaeger"
_JAEGER: Final = ", but a Jaeger, it seems: `flow`, `flows` and `tail` read one with --source jaeger"
BROKEN: Final = (OSError, http.client.HTTPException)
GARBAGE: Final = (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError)

Json: TypeAlias = "Mapping[str, object]"


class SourceError(RuntimeError):
    """What was asked for cannot be had; the text says why, and what to do."""


class NotReachedError(SourceError):
    """Nobody answers there, or not to the end."""


class NotFoundError(SourceError):
    """There is no such flow."""


class LostError(NotFoundError):
    """There was one, and nothing of it is left to show: where it was kept is damaged."""


class Web:
    """Whom to ask, at a URL. The proxies of the environment count, but not for this machine.

    Bounds: `MAX_ANSWER_BYTES` of an answer, which may take 30 s in all, its redirects included, and of its
    headers what `exchange` has.
    """

    def __init__(
        self, url: str, *, default: str, what: str, start: str, option: str, silence_s: float = READ_S
    ) -> None:
        """`what` should answer there, `start` starts it, and `option` says where it is.

        `silence_s` is how long an answer may be silent. Raises SourceError for what is no URL.
        """
        host = _host(url)
        if not host:
            raise SourceError(f"{url!r} is no address of a server; it looks like {default}")
        if urlsplit(url).netloc.endswith(":"):  # as of `:$PORT` without one; it would mean port 80
            raise SourceError(f"the port is missing in {url!r}, behind its colon; it looks like {default}")
        self.url = url.rstrip("/")
        self._default = default
        self._what = what
        self._start = start
        self._option = option
        self._silence_s = silence_s
        self._opener = opener(*([ProxyHandler({})] if host in LOOPBACK else []))

    def json(self, path: str) -> Json:
        """The answer to a path, which must be a JSON object."""
        found = list(self.objects(path))
        if len(found) != 1:
            raise self.strange()
        return found[0]

    def objects(self, path: str) -> Iterator[Json]:
        """The JSON objects of an answer, one after another."""
        body = self.read(path)
        try:
            text, at = body.decode(), 0
            while (at := _SPACE(text, at).end()) < len(text):
                found, at = _DECODER.raw_decode(text, at)
                if not isinstance(found, dict):
                    raise self.strange()
                yield found
        except (ValueError, RecursionError) as error:
            raise self.strange(
                _JAEGER if _IS_JAEGER in body and _IS_JAEGER not in self._what.encode() else ""
            ) from error

    def read(self, path: str) -> bytes:
        """The body of an answer."""
        body = bytearray()
        with closing(self.open(path)) as answer:
            try:
                while piece := answer.read1(_CHUNK):
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise SourceError(
                            f"{self.url}{path} answers more than {MAX_ANSWER_BYTES >> 20} MiB; ask for less"
                        )
                if answer.length:  # http.client says it only where all is read at once
                    raise http.client.IncompleteRead(bytes(body), answer.length)
            except BROKEN as error:
                raise NotReachedError(
                    f"{self.url} broke off in the middle of an answer: {_said(error)}. Try it again; "
                    f"or say what else to ask: {self._option} URL"
                ) from error
        return bytes(body)

    def open(self, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
        """An answer under way; who reads a stream says anew how long it may take."""
        try:
            return opened(self._opener, self.url + path, _ANSWER_S, self._silence_s, headers)
        except HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except OSError as error:  # http.client's, where it hangs up, too
            raise self._unreached(error) from error
        except http.client.HTTPException as error:
            raise self.strange(" (no HTTP, or none that can be read)") from error

    def _unreached(self, error: OSError) -> NotReachedError:
        reason = error.reason if isinstance(error, URLError) else error
        where = f"{self._option} URL"
        if isinstance(error, TimeoutError):  # it took the question; who takes no connection is a URLError
            within_s = min(self._silence_s, _ANSWER_S)
            return NotReachedError(
                f"{self.url} did not answer within {within_s:g} s: it is busy, or hangs. Try it again, or "
                f"look at its log; or say what else to ask: {where}"
            )
        if isinstance(error, ConnectionResetError):
            return NotReachedError(
                f"what listens at {self.url} hangs up on HTTP ({_said(error)}): it may be a port for gRPC. "
                f"Say where {self._what} is, such as {self._default}: {where}"
            )
        return NotReachedError(
            f"nobody answers at {self.url} ({_said(reason)}). Start it: {self._start}; "
            f"or say where it is: {where}"
        )

    def _refusal(self, error: HTTPError) -> SourceError:
        """The server's own words, where it is one of ours."""
        try:
            said = json.loads(error.read(_CHUNK))["error"]
            said = said["message"] if isinstance(said, dict) else said  # as Jaeger has it
        except (*BROKEN, *GARBAGE):
            return self.strange(f" ({error.code} {error.reason})")
        if error.code == http.HTTPStatus.NOT_FOUND:
            return NotFoundError(str(said))
        if error.code == http.HTTPStatus.GONE:
            return LostError(str(said))
        return (NotReachedError if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR else SourceError)(
            str(said)
        )

    def strange(self, what: str = "") -> SourceError:
        """That what answers is somebody else."""
        return SourceError(
            f"what answers at {self.url} is no {self._what}{what}; say where that is: {self._option} URL"
        )

    def read_by(self, reader: Callable[[Any], Any], found: object) -> Any:
        """What the reader makes of what was answered."""
        try:
            return reader(found)
        except GARBAGE as error:
            raise self.strange() from error


def opener(*handlers: BaseHandler) -> OpenerDirector:
    """What opens answers that have an end."""
    return build_opener(_Http, _Https, _Redirects, *handlers)


def opened(
    opener: OpenerDirector,
    url: str,
    within_s: float,
    silence_s: float,
    headers: Mapping[str, str] = MappingProxyType({}),
    body: bytes | None = None,
) -> Answer:
    """An answer under way, which may take so long in all, and be silent so long. Raises as urllib does.

    With a body it is a POST.
    """
    request = _Request(url, body, headers={**headers})
    request.deadline = Deadline.within(within_s)
    return cast("Answer", opener.open(request, timeout=silence_s))


class _Request(Request):
    """A request that is over by a deadline, wherever it is sent on to."""

    deadline: Deadline


class _Http(HTTPHandler):
    def do_open(self, http_class: Any, req: Request, **given: Any) -> http.client.HTTPResponse:
        return super().do_open(partial(_bounded, http_class, cast("_Request", req).deadline), req, **given)


class _Https(HTTPSHandler):
    def do_open(self, http_class: Any, req: Request, **given: Any) -> http.client.HTTPResponse:
        return super().do_open(partial(_bounded, http_class, cast("_Request", req).deadline), req, **given)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects by HTTP: what else urllib follows has no deadline."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is None or not _host(newurl):
            return None
        further = _Request(found.full_url, None, found.headers, found.origin_req_host, unverifiable=True)
        further.deadline = cast("_Request", req).deadline
        return further


def _bounded(
    http_class: type[http.client.HTTPConnection], deadline: Deadline, host: str, **given: Any
) -> http.client.HTTPConnection:
    connection = http_class(host, **given)
    bound(connection, deadline, 2 * MAX_ANSWER_BYTES)  # framing included
    return connection


def _host(url: str) -> str | None:
    """The host of a URL of HTTP; None where it is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        return None


def _said(reason: object) -> str:
    """What the system says of a failure, without its number."""
    return str(reason.strerror or reason) if isinstance(reason, OSError) else str(reason)


_SPACE: Final = cast("Callable[[str, int], re.Match[str]]", re.compile(r"\s*").match)
_DECODER: Final = json.JSONDecoder()
