"""REST: FastAPI takes orders, httpx gives them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from fastapi import FastAPI

from tracekit_demo.tour.order import port, ready

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order


def serve(app: FastAPI, name: str) -> None:
    """Serve the app where the station listens. Who calls before it does so waits in the socket's queue."""
    with socket.create_server(("127.0.0.1", port(name))) as bound:
        ready()
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run([bound])


def receive(name: str, hand_on: HandOn) -> None:
    app = FastAPI(title=name)

    @app.post("/orders", status_code=201)
    def place(order: dict[str, Any]) -> dict[str, str]:
        hand_on(order)
        return {"status": "placed"}

    serve(app, name)


def sender(name: str) -> HandOn:
    client = httpx.Client(base_url=f"http://127.0.0.1:{port(name)}", timeout=20, trust_env=False)

    def send(order: Order) -> None:
        client.post("/orders", json=order).raise_for_status()

    return send
