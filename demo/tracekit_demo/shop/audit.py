"""Audit: keeps a record of what was promised to customers. A worker without HTTP: one plain loop."""

from __future__ import annotations

import time
from typing import Final

import structlog
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

import tracekit
from tracekit_demo.shop import consuming, database, logs, topics

tracekit.configure("audit")
logs.configure()
log = structlog.get_logger()

ARCHIVE_S: Final = 0.005

tables = MetaData()
records = Table(
    "audit_records",
    tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String, nullable=False),
    Column("event", String, nullable=False),
)


def main() -> None:
    """Consume until told to stop."""
    engine = database.connect(tables)
    with consuming.program("audit", topics.ORDER_CONFIRMED, topics.NOTIFICATION_SENT) as consumer:
        for message in consumer:
            order_id = message.value["order_id"]
            time.sleep(ARCHIVE_S)
            with engine.begin() as connection:
                connection.execute(insert(records).values(order_id=order_id, event=message.topic))
            log.info("recorded", order_id=order_id, event_name=message.topic)


if __name__ == "__main__":
    main()
