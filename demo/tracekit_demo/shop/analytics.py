"""Analytics: adds up what was sold. A worker without HTTP: one consumer, one plain loop."""

from __future__ import annotations

import time
from typing import Final

import structlog
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

import tracekit
from tracekit_demo.shop import consuming, database, logs, topics

tracekit.configure("analytics")
logs.configure()
log = structlog.get_logger()

AGGREGATION_S: Final = 0.008

tables = MetaData()
sales = Table(
    "sales",
    tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String, nullable=False),
    Column("sku", String, nullable=False),
    Column("amount_cents", Integer, nullable=False),
)


def main() -> None:
    """Consume until told to stop."""
    engine = database.connect(tables)
    with consuming.program("analytics", topics.ORDER_CONFIRMED) as consumer:
        for message in consumer:
            event = message.value
            time.sleep(AGGREGATION_S)
            with engine.begin() as connection:
                connection.execute(
                    insert(sales).values(
                        order_id=event["order_id"], sku=event["sku"], amount_cents=event["amount_cents"]
                    )
                )
            log.info("sale counted", order_id=event["order_id"], amount_cents=event["amount_cents"])


if __name__ == "__main__":
    main()
