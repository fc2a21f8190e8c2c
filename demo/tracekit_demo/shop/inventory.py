"""Inventory: reserves stock, asked over HTTP or by the event payment.authorized."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

import tracekit
from tracekit_demo.shop import database, faults, logs, topics
from tracekit_demo.shop.consuming import Worker
from tracekit_demo.shop.events import Event, Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

tracekit.configure("inventory")
logs.configure()
log = structlog.get_logger()

WAREHOUSE_S: Final = 0.01

tables = MetaData()
reservations = Table(
    "reservations",
    tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String, nullable=False),
    Column("sku", String, nullable=False),
    Column("quantity", Integer, nullable=False),
)


class Reservation(BaseModel):
    """What inventory must know of an order."""

    order_id: str
    sku: str
    quantity: int = Field(gt=0)


engine = database.connect(tables)
publisher = Publisher()


def reserve(wanted: Reservation) -> None:
    """Put the goods aside."""
    time.sleep(WAREHOUSE_S)  # the warehouse
    with engine.begin() as connection:
        connection.execute(insert(reservations).values(**wanted.model_dump()))
    log.info("stock reserved", order_id=wanted.order_id, sku=wanted.sku, quantity=wanted.quantity)


def on_payment_authorized(event: Event) -> None:
    """Reserve, and say so."""
    reserve(Reservation.model_validate(event))
    if faults.is_on(faults.DROPPED_HEADERS):
        from tracekit_demo.shop import legacy  # it loads a client that is not needed otherwise

        legacy.publish(topics.STOCK_RESERVED, event)
    else:
        publisher.publish(topics.STOCK_RESERVED, event)


worker = Worker("inventory", {topics.PAYMENT_AUTHORIZED: on_payment_authorized})


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Consume while the service runs."""
    worker.start()
    yield
    worker.stop()
    publisher.close()
    engine.dispose()


app = FastAPI(title="inventory", lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, str]:
    """Ready: consuming."""
    if not worker.is_ready:
        raise HTTPException(503, "not consuming yet")
    return {"status": "ok"}


@app.post("/reserve")
def reserve_now(wanted: Reservation) -> dict[str, str]:
    """Reserve while the caller waits."""
    reserve(wanted)
    return {"status": "reserved"}
