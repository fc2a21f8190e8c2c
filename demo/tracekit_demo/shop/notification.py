"""Notification: tells the customer, asked over HTTP or by the events stock.reserved and order.confirmed."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

import tracekit
from tracekit_demo.shop import database, faults, logs, topics
from tracekit_demo.shop.consuming import Worker
from tracekit_demo.shop.events import Event, Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

tracekit.configure("notification")
logs.configure()
log = structlog.get_logger()

MAIL_SERVER_S: Final = 0.02
THROTTLED_S: Final = 4.0

tables = MetaData()
notifications = Table(
    "notifications",
    tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String, nullable=False),
    Column("text", String, nullable=False),
)


class Notice(BaseModel):
    """What notification must know of an order."""

    order_id: str
    sku: str


engine = database.connect(tables)
publisher = Publisher()


def notify(notice: Notice) -> None:
    """Write to the customer."""
    text = f"Your {notice.sku} is on its way."
    time.sleep(MAIL_SERVER_S)  # the mail server
    with engine.begin() as connection:
        connection.execute(insert(notifications).values(order_id=notice.order_id, text=text))
    log.info("mail sent", order_id=notice.order_id)


def on_ready_to_ship(event: Event) -> None:
    """Notify, and say so."""
    notify(Notice.model_validate(event))
    publisher.publish(topics.NOTIFICATION_SENT, {"order_id": event["order_id"]})


def rest_s() -> float:
    """How long to rest after each event: the mail server may be one that takes a mail every few seconds."""
    return THROTTLED_S if faults.is_on(faults.SLOW_CONSUMER) else 0


worker = Worker(
    "notification",
    {topics.STOCK_RESERVED: on_ready_to_ship, topics.ORDER_CONFIRMED: on_ready_to_ship},
    rest_s=rest_s,
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Consume while the service runs."""
    worker.start()
    yield
    worker.stop()
    publisher.close()
    engine.dispose()


app = FastAPI(title="notification", lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, str]:
    """Ready: consuming."""
    if not worker.is_ready:
        raise HTTPException(503, "not consuming yet")
    return {"status": "ok"}


@app.post("/notify")
def notify_now(notice: Notice) -> dict[str, str]:
    """Notify while the caller waits."""
    notify(notice)
    return {"status": "sent"}
