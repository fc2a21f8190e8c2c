"""The label of a span: its name, and where an HTTP name says too little, whom it calls and for what.

Instrumentation names a call `POST`, because a client does not know the route. The flow does know: from
the template, from the service that answered, else from the address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tracekit import semconv
from tracekit.flow import facts
from tracekit.model import Kind

if TYPE_CHECKING:
    from tracekit.flow.tree import Tree
    from tracekit.model import Span


def label(span: Span, answered_by: Span | None = None) -> str:
    """What to call a span; `answered_by` is the SERVER span of a call, where it is known."""
    method = facts.text(span.attributes, semconv.HTTP_REQUEST_METHOD, semconv.OLD_HTTP_METHOD)
    if method is None or span.name not in {method, f"HTTP {method}", "HTTP"}:
        return span.name or span.kind.name.lower()
    if span.kind is Kind.CLIENT:
        where = answered_by.service.name if answered_by is not None else _address(span)
        return " ".join(filter(None, (method, where, _path(span, answered_by))))
    return " ".join(filter(None, (method, _path(span, None))))


def labels(tree: Tree) -> tuple[str, ...]:
    """The labels of a flow's spans, in their order."""
    return tuple(
        label(span, next((tree.spans[c] for c in awaited if tree.spans[c].kind is Kind.SERVER), None))
        for span, awaited in zip(tree.spans, tree.awaited, strict=True)
    )


def _path(span: Span, answered_by: Span | None) -> str:
    """The route rather than the path: the path of one call may hold an id."""
    for known in (span, answered_by):
        if known is not None and (route := facts.text(known.attributes, *_ROUTES)):
            return route
    path = facts.text(span.attributes, semconv.URL_PATH)
    return path or _url(span)[1]


_ROUTES = (semconv.URL_TEMPLATE, semconv.HTTP_ROUTE)


def _address(span: Span) -> str:
    host = facts.text(span.attributes, semconv.SERVER_ADDRESS)
    if host is None:
        return _url(span)[0]
    port = facts.number(span.attributes, semconv.SERVER_PORT)
    return host if port in {None, 80, 443} else f"{host}:{port}"


def _url(span: Span) -> tuple[str, str]:
    """Host and path of the full URL; without its query and without what may be a password."""
    try:
        parts = urlsplit(facts.text(span.attributes, semconv.URL_FULL, semconv.OLD_HTTP_URL) or "")
    except ValueError:
        return "", ""
    return parts.netloc.rpartition("@")[2], parts.path
