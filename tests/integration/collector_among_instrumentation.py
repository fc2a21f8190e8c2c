"""A process where everything is traced, and a collector in it. Prints which spans there were.

What is put in the place of Starlette and of gRPC's server is what the contrib instrumentors put there
(opentelemetry-instrumentation-starlette and -grpc 0.66b1), before the collector is imported.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import starlette.applications
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Message

BODY = b'{"resourceSpans": []}'
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Traced(starlette.applications.Starlette):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_middleware(OpenTelemetryMiddleware)


class TracedCalls(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    def intercept_service(self, continuation: Any, details: Any) -> Any:
        with trace.get_tracer("grpc").start_as_current_span(details.method.rpartition("/")[2]):
            return continuation(details)


def instrument() -> InMemorySpanExporter:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    FastAPIInstrumentor().instrument()
    starlette.applications.Starlette = Traced  # type: ignore[misc]  # as the instrumentor does
    untraced = grpc.server
    grpc.server = lambda *args, **kwargs: untraced(*args, **kwargs, interceptors=[TracedCalls()])
    return spans


def call(port: int, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, BODY, {"content-type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()


def call_grpc(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        channel.unary_unary(EXPORT)(b"")


def run_collector() -> None:
    from tracekit.collector.server import CollectorServer

    with CollectorServer() as collector:
        call(collector.http_port, "POST", "/v1/traces")
        call_grpc(collector.grpc_port)


async def call_starlette() -> None:
    async def root(_request: Request) -> Response:
        return Response()

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(_message: Message) -> None:
        return

    app = starlette.applications.Starlette(routes=[Route("/", root)])
    await app(
        {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}, receive, send
    )


def run_others() -> None:
    """The same calls to servers made as anybody makes them: they must show, or the test proves nothing."""
    asyncio.run(call_starlette())
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda body, context: body)
    service = EXPORT.split("/")[1]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    call_grpc(port)
    server.stop(None).wait()


def main() -> None:
    spans = instrument()
    run_collector()
    of_collector = [span.name for span in spans.get_finished_spans()]
    spans.clear()
    run_others()
    others = [span.name for span in spans.get_finished_spans()]
    print(json.dumps({"collector": of_collector, "others": others}))


main()
