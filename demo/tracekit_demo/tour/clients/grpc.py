"""gRPC, with orders as JSON: there are no stubs to generate."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import grpc

from tracekit_demo.tour.order import port, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order

_SERVICE: Final = "tour.Orders"


def receive(name: str, hand_on: HandOn) -> None:
    def place(request: bytes, _: Any) -> bytes:
        hand_on(json.loads(request))
        return b"placed"

    methods = {"Place": grpc.unary_unary_rpc_method_handler(place)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    server.add_insecure_port(f"127.0.0.1:{port(name)}")
    server.start()
    ready()
    server.wait_for_termination()


def sender(name: str) -> HandOn:
    call = grpc.insecure_channel(f"127.0.0.1:{port(name)}").unary_unary(f"/{_SERVICE}/Place")

    def send(order: Order) -> None:
        call(json.dumps(order).encode(), timeout=20)

    return send
