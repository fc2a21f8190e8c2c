"""GraphQL: an operation is a span named by its type and name, and an error inside of a 200 is its error.

strawberry as server (beside the SERVER span of the request that brought it), gql as client (around the
request that takes it). Documents, variables and results are not recorded.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from tracekit import semconv
from tracekit.guard import shielded
from tracekit.messaging.calls import is_suppressed
from tracekit.patching import Names
from tracekit.tracing.errors import outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span, Tracer

    from tracekit.patching import Function, Patches


def install_strawberry(patches: Patches) -> None:
    """Let every schema of this process make a span an operation, those that exist already too."""
    from strawberry.extensions import SchemaExtension

    tracer = trace.get_tracer("tracekit", schema_url=semconv.SCHEMA_URL)

    class Operation(SchemaExtension):
        """One operation. strawberry runs both halves of `on_operation` in the operation's own context."""

        def on_operation(self) -> Iterator[None]:
            if is_suppressed():
                yield
                return
            span = tracer.start_span("GraphQL", kind=SpanKind.SERVER)
            token = otel.attach(trace.set_span_in_context(span))
            try:
                yield
            finally:
                otel.detach(token)
                with shielded("the end of an operation"):
                    _ended(span, self.execution_context)
                span.end()

    def with_ours(function: Function) -> Function:
        @functools.wraps(function)
        def get_extensions(*args: Any, **kwargs: Any) -> Any:
            return [Operation(), *function(*args, **kwargs)]

        return get_extensions

    patches.wrap("strawberry.schema.schema:Schema.get_extensions", with_ours)


def install_gql(patches: Patches) -> None:
    """Let every client of this process make a span an operation."""
    tracer = trace.get_tracer("tracekit", schema_url=semconv.SCHEMA_URL)
    for session in ("SyncClientSession", "AsyncClientSession"):
        patches.wrap(f"gql.client:{session}.execute", functools.partial(_executing, tracer))


def _ended(span: Span, context: Any) -> None:
    """What the operation turned out to be, and its first error."""
    kind: Any = None
    name: Any = None
    with shielded("an operation's name"):  # a document that cannot be read has none
        kind, name = _parsed(context)
    if kind is not None:
        span.set_attribute(semconv.GRAPHQL_OPERATION_TYPE, kind.lower())
        if name:
            span.set_attribute(semconv.GRAPHQL_OPERATION_NAME, name)
        span.update_name(_name(kind, name))
    result: Any = context.result
    errors: Any = (getattr(result, "errors", None) or getattr(context, "pre_execution_errors", None)) or ()
    for error in errors:
        outcome(span, getattr(error, "original_error", None) or error)
        break


def _parsed(context: Any) -> tuple[str | None, str | None]:
    if context.graphql_document is None:
        return None, None
    return context.operation_type.value, context.operation_name


def _name(kind: str, name: str | None) -> str:
    """Source: conventions 1.44, GraphQL: `{operation.type} {operation.name}`, as far as they are known."""
    return f"{kind.lower()} {name}" if name else kind.lower()


def _executing(tracer: Tracer, function: Function) -> Function:
    names = Names(function)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def execute_async(*args: Any, **kwargs: Any) -> Any:
            with _operation(tracer, names.bind(args, kwargs) or {}):
                return await function(*args, **kwargs)

        return execute_async

    @functools.wraps(function)
    def execute(*args: Any, **kwargs: Any) -> Any:
        with _operation(tracer, names.bind(args, kwargs) or {}):
            return function(*args, **kwargs)

    return execute


@contextmanager
def _operation(tracer: Tracer, call: Any) -> Iterator[None]:
    if is_suppressed():
        yield
        return
    # Internal, and without the attributes, which are the server's: the conventions know no client.
    span = tracer.start_span("GraphQL", kind=SpanKind.INTERNAL)
    with shielded("an operation's name"):
        definition = _definition(call)
        if definition is not None:
            named: Any = definition.name
            span.update_name(_name(definition.operation.value, None if named is None else named.value))
    token = otel.attach(trace.set_span_in_context(span))
    try:
        yield
    except BaseException as error:
        outcome(span, error)
        raise
    finally:
        otel.detach(token)
        span.end()


def _definition(call: Any) -> Any:
    """The operation of a document that the call is about; None where it does not say which."""
    request: Any = call.get("request") or call.get("document")
    document: Any = getattr(request, "document", request)
    wanted: Any = call.get("operation_name") or getattr(request, "operation_name", None)
    found = [each for each in document.definitions if hasattr(each, "operation")]
    if wanted is not None:
        found = [each for each in found if each.name is not None and each.name.value == wanted]
    return found[0] if len(found) == 1 else None
