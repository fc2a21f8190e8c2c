"""Orders: takes an order, and carries it through by calls, by events, or by both."""

from __future__ import annotations

import os
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx
import structlog
from fastapi import FastAPI, HTTPException, Response
from opentelemetry import trace
from pydantic import BaseModel, Field
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, update

import tracekit
from tracekit_demo.shop import database, logs, topics
from tracekit_demo.shop.consuming import Worker
from tracekit_demo.shop.events import Event, Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

tracekit.configure("orders")
logs.configure()
log = structlog.get_logger()

PRICE_CENTS: Final = 1950

tables = MetaData()
orders = Table(
    "orders",
    tables,
    Column("id", String, primary_key=True),
    Column("mode", String, nullable=False),
    Column("sku", String, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("status", String, nullable=False),
)


class Order(BaseModel):
    """What a customer sends."""

    mode: Literal["sync", "async", "hybrid"] = "sync"
    sku: str = Field(min_length=1)
    quantity: int = Field(gt=0)
    card: str


engine = database.connect(tables)
http = httpx.Client(timeout=10)
publisher = Publisher()


def note(status: str) -> Any:
    """A handler that notes in the order how it went on."""

    def handle(event: Event) -> None:
        set_status(event["order_id"], status)

    return handle


worker = Worker(
    "orders",
    {
        topics.NOTIFICATION_SENT: note("done"),
        topics.PAYMENT_DECLINED: note("declined"),
        topics.ORDER_REJECTED: note("rejected"),
    },
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Consume while the service runs."""
    worker.start()
    yield
    worker.stop()
    publisher.close()
    engine.dispose()


app = FastAPI(title="orders", lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, str]:
    """Ready: consuming."""
    if not worker.is_ready:
        raise HTTPException(503, "not consuming yet")
    return {"status": "ok"}


@app.post("/orders", status_code=201)
def place(order: Order, response: Response) -> dict[str, str]:
    """Place an order: 201 when all is done, 202 when the rest follows by events."""
    order_id = uuid.uuid4().hex
    trace.get_current_span().set_attribute("order.id", order_id)
    with engine.begin() as connection:
        connection.execute(
            insert(orders).values(
                id=order_id, mode=order.mode, sku=order.sku, quantity=order.quantity, status="placed"
            )
        )
    log.info("order placed", order_id=order_id, mode=order.mode, sku=order.sku)
    event: Event = {
        "order_id": order_id,
        "sku": order.sku,
        "quantity": order.quantity,
        "amount_cents": order.quantity * PRICE_CENTS,
        "card": order.card,
    }
    if order.mode == "async":
        publisher.publish(topics.ORDER_CREATED, event)
        response.status_code = 202
        return {"order_id": order_id, "status": "placed"}

    call("payment", "/charge", event)
    call("inventory", "/reserve", event)
    if order.mode == "hybrid":
        set_status(order_id, "confirmed")
        del event["card"]
        publisher.publish(topics.ORDER_CONFIRMED, event)
        response.status_code = 202
        return {"order_id": order_id, "status": "confirmed"}

    call("notification", "/notify", event)
    set_status(order_id, "done")
    return {"order_id": order_id, "status": "done"}


def call(service: str, path: str, event: Event) -> None:
    """Ask another service; what it refuses is refused to our caller, what it breaks is our error."""
    answer = http.post(os.environ[f"{service.upper()}_URL"] + path, json=event)
    if answer.status_code in (402, 422):
        set_status(event["order_id"], "declined" if answer.status_code == 402 else "rejected")
        log.warning("order refused", order_id=event["order_id"], by=service, status_code=answer.status_code)
        raise HTTPException(answer.status_code, answer.json()["detail"])
    answer.raise_for_status()


def set_status(order_id: str, status: str) -> None:
    """Note in the order how far it is."""
    with engine.begin() as connection:
        connection.execute(update(orders).where(orders.c.id == order_id).values(status=status))
    log.info("order is now", order_id=order_id, status=status)
