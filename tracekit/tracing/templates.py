"""The path template that a declarative HTTP client was given: the name of the CLIENT span below it.

It stands in the context while the declared call lasts. A span takes it where its own URL is one of the
template's: what a redirect or a hook of the application's asks for besides keeps its own name.
"""

from __future__ import annotations

import functools
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

from opentelemetry import context as otel

from tracekit import semconv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span
    from opentelemetry.util.types import Attributes

_KEY: Final = otel.create_key("tracekit-template")
_EXPRESSION: Final = re.compile(r"\{([^{}]*)\}")
_QUERY: Final = re.compile(r"[?#]|\{[?&#]")  # the last as RFC 6570 writes it
_SAFE: Final = "/:@!$&'()*+,;=~%-._"
_MANY: Final = "+/"  # RFC 6570: what stands for more than one segment


class _Template(NamedTuple):
    path: str
    pattern: re.Pattern[str]


@contextmanager
def declared(template: str) -> Iterator[None]:
    """A block in which a request is one to this template."""
    token = otel.attach(otel.set_value(_KEY, template))
    try:
        yield
    finally:
        otel.detach(token)


def declared_of(name: str, attributes: Attributes, context: Context | None) -> tuple[str, str] | None:
    """What an HTTP request's span is called by its template, and the template; None for any other span."""
    template = (otel.get_current() if context is None else context).get(_KEY)
    if not isinstance(template, str) or not attributes:
        return None
    method, url = attributes.get(semconv.HTTP_REQUEST_METHOD), attributes.get(semconv.URL_FULL)
    if not isinstance(method, str) or not isinstance(url, str):
        return None
    path, pattern = _template(template)
    if not path or pattern.search(urlsplit(url).path) is None:
        return None
    return f"{name.partition(' ')[0] or method} {path}", path


def name_by_template(span: Span, context: Context | None) -> None:
    """Name a CLIENT span that starts in this context by what was declared of it, if anything was."""
    if _KEY not in (otel.get_current() if context is None else context):
        return
    found = declared_of(span.name, span.attributes, context)
    if found is not None:
        span.update_name(found[0])
        span.set_attribute(semconv.URL_TEMPLATE, found[1])


@functools.lru_cache(maxsize=1_000)
def _template(declared_as: str) -> _Template:
    """The path of a template, without host and query, and what its URLs' paths end in."""
    path = _QUERY.split(declared_as, maxsplit=1)[0]
    scheme, separator, rest = path.partition("://")
    if separator and "/" not in scheme:
        path = f"/{rest.partition('/')[2]}"
    elif path.startswith("//"):
        path = f"/{path[2:].partition('/')[2]}"
    elif path and not path.startswith(("/", "{/")):
        path = f"/{path}"
    parts = _EXPRESSION.split(path)  # every second one is an expression
    found = [
        (".+" if part[:1] in _MANY else "[^/]+") if place % 2 else re.escape(quote(part, _SAFE))
        for place, part in enumerate(parts)
    ]
    if path.startswith("{/"):
        found[1] = "/.+"
    return _Template(path, re.compile("".join(found) + r"\Z"))
