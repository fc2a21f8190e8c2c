"""The shop of the plain programs: for each name a front, its topic and its workers, and one stock for all."""

from __future__ import annotations

import http.client
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from tracekit_demo.broker import embedded_broker

from tests.e2e.programs import TRACEKIT_RUN, Program, listening, running, uvicorn
from tracekit.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracekit.model import Span
    from tracekit.testing import CheckedFlow, FlowSink

PATIENCE_S: Final = 60


class Shop(NamedTuple):
    """The programs, running (of several workers the last); the fronts' URLs by name; what they export to."""

    sink: FlowSink
    fronts: dict[str, str]
    programs: dict[str, Program]


@contextmanager
def shop(
    sink: FlowSink,
    names: Sequence[str],
    workers: int = 1,
    /,
    *,
    under: Sequence[str] = TRACEKIT_RUN,
    **variables: str,
) -> Iterator[Shop]:
    """The programs, started `under` a command with these variables, until the end of the block.

    Several `workers` are one consumer group, and one service: the embedded broker can do it for one name.
    """
    topics = [f"orders.{name}" for name in names]
    with ExitStack() as ends:
        broker = ends.enter_context(embedded_broker(topics, shared_group=workers > 1))

        def start(service: str, command: Sequence[str], **own: str) -> None:
            named = {**sink.env, "OTEL_SERVICE_NAME": service}
            settings = {**named, **broker.environment, **variables, **own}
            traced = [*under, *(["--"] if under is TRACEKIT_RUN else []), *command]
            bound = sockets.get(service)
            programs[service] = ends.enter_context(running(traced, settings, listening=bound))

        programs: dict[str, Program] = {}
        sockets, urls = {}, {}
        for service in ("stock", *(f"front.{name}" for name in names)):
            sockets[service], urls[service] = ends.enter_context(listening())
        for name, topic in zip(names, topics, strict=True):
            front, worker = f"front.{name}", f"worker.{name}"
            for _ in range(workers):  # first: their group forms while the others start
                start(worker, ["python", "worker.py"], TOPIC=topic, GROUP=worker, STOCK_URL=urls["stock"])
            start(front, uvicorn("app:app", sockets[front]), TOPIC=topic)
        start("stock", uvicorn("stock:app", sockets["stock"]))
        yield Shop(sink, {name: urls[f"front.{name}"] for name in names}, programs)


def place(front: str, number: str) -> int:
    """Order it, from outside of every instrumentation; the answer's status."""
    parts = urlsplit(front)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", f"/orders/{number}")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def orders(sink: FlowSink, prefix: str) -> dict[str, CheckedFlow]:
    """The flows of these orders, by number. Each number has one."""
    found: dict[str, CheckedFlow] = {}
    for flow in sink.flows:
        numbers = {str(path).rpartition("/")[2] for path in map(path_of, flow.spans) if path}
        for number in numbers:
            if number.startswith(prefix):
                assert number not in found, f"{number} has two flows\n{flow}\n{found[number]}"
                found[number] = flow
    return found


def path_of(span: Span) -> object:
    return span.attributes.get("url.path", "")


def reserved(sink: FlowSink, prefix: str) -> int:
    """How many of these orders the stock has reserved."""
    return sum(
        span.kind is Kind.SERVER and str(path_of(span)).startswith(f"/reserve/{prefix}")
        for span in sink.spans
    )


def wait_for_orders(sink: FlowSink, prefix: str, number: int) -> dict[str, CheckedFlow]:
    sink.wait_for(
        lambda: reserved(sink, prefix) >= number,
        timeout_s=PATIENCE_S,
        says=f"{number} orders {prefix}…, reserved",
    )
    return orders(sink, prefix)


def spans_of(name: str) -> Counter[tuple[str, str, str]]:
    """What an order that came in by this front is made of."""
    return Counter(
        [
            (f"front.{name}", "SERVER", "POST /orders/{number}"),
            (f"front.{name}", "PRODUCER", f"send orders.{name}"),
            (f"worker.{name}", "CONSUMER", f"process orders.{name}"),
            (f"worker.{name}", "CLIENT", "POST"),
            ("stock", "SERVER", "POST /reserve/{number}"),
        ]
    )


def edges_of(name: str) -> list[tuple[str, str, str, str, str]]:
    """And how these hang together."""
    front, worker = f"front.{name}", f"worker.{name}"
    return sorted(
        [
            (front, "POST /orders/{number}", "call", front, f"send orders.{name}"),
            (front, f"send orders.{name}", "message", worker, f"process orders.{name}"),
            (worker, f"process orders.{name}", "call", worker, "POST"),
            (worker, "POST", "call", "stock", "POST /reserve/{number}"),
        ]
    )


def seen(flow: CheckedFlow) -> Counter[tuple[str, str, str]]:
    return Counter((span.service.name, span.kind.name, span.name) for span in flow.spans)
