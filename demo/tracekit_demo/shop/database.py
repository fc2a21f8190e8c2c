"""The database of one service: its engine, by `DATABASE_URL`.

SQLite in a file of its own unless told otherwise; a PostgreSQL by its URL
(`postgresql+psycopg://...`; pip install '.[postgres]' in tracekit's clone) holds the tables of all services.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sqlalchemy import create_engine

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData


def connect(tables: MetaData) -> Engine:
    """The engine, with the service's tables made where they are missing."""
    engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///shop.db"))
    tables.create_all(engine)
    return engine
