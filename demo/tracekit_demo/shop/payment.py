"""Payment: charges a card, asked over HTTP or by the event order.created."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

import tracekit
from tracekit_demo.shop import database, faults, logs, topics
from tracekit_demo.shop.consuming import Worker
from tracekit_demo.shop.events import Event, Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

tracekit.configure("payment")
logs.configure()
log = structlog.get_logger()

DECLINED_CARD: Final = "4000000000000002"
CRASHING_CARD: Final = "4000000000000119"
CARD_NETWORK_S: Final = 0.03
SLOW_CARD_NETWORK_S: Final = 1.8

tables = MetaData()
payments = Table(
    "payments",
    tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String, nullable=False),
    Column("amount_cents", Integer, nullable=False),
    Column("card_end", String, nullable=False),
    Column("status", String, nullable=False),
)


class Charge(BaseModel):
    """What payment must know of an order."""

    order_id: str
    amount_cents: int = Field(gt=0)
    card: str = Field(pattern=r"^\d{16}$")


class Declined(Exception):  # noqa: N818 (a business answer, not an error)
    """The bank says no."""


engine = database.connect(tables)
publisher = Publisher()


def charge(order: Charge) -> None:
    """Charge the card and keep the receipt. Raises Declined."""
    time.sleep(SLOW_CARD_NETWORK_S if faults.is_on(faults.SLOW_PAYMENT) else CARD_NETWORK_S)
    if faults.is_on(faults.FAILING_PAYMENT):
        raise ConnectionError("the card network hung up")
    if order.card == CRASHING_CARD:
        raise RuntimeError("the card network's answer makes no sense")
    status = "declined" if order.card == DECLINED_CARD else "charged"
    with engine.begin() as connection:
        connection.execute(
            insert(payments).values(
                order_id=order.order_id,
                amount_cents=order.amount_cents,
                card_end=order.card[-4:],
                status=status,
            )
        )
    log.info("card " + status, order_id=order.order_id, amount_cents=order.amount_cents)
    if status == "declined":
        raise Declined


def on_order_created(event: Event) -> None:
    """Charge, and say how it went: authorized, declined, or an order that is none."""
    try:
        order = Charge.model_validate(event)
    except ValidationError as error:
        reason = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        log.warning("event refused", order_id=event["order_id"], reason=reason)
        publisher.publish(topics.ORDER_REJECTED, {"order_id": event["order_id"], "reason": reason})
        return
    try:
        charge(order)
    except Declined:
        publisher.publish(topics.PAYMENT_DECLINED, {"order_id": order.order_id})
        return
    del event["card"]
    publisher.publish(topics.PAYMENT_AUTHORIZED, event)


worker = Worker("payment", {topics.ORDER_CREATED: on_order_created})


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Consume while the service runs."""
    worker.start()
    yield
    worker.stop()
    publisher.close()
    engine.dispose()


app = FastAPI(title="payment", lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, str]:
    """Ready: consuming."""
    if not worker.is_ready:
        raise HTTPException(503, "not consuming yet")
    return {"status": "ok"}


@app.post("/charge")
def charge_now(order: Charge) -> dict[str, str]:
    """Charge while the caller waits; 402 if the card is declined."""
    try:
        charge(order)
    except Declined:
        raise HTTPException(402, "card declined") from None
    return {"status": "charged"}
