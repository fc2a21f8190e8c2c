"""What somebody gives the demo: a Kafka, a database. Each is tried once, before anything depends on it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_REACH_S: Final = 3.0


class DemoError(RuntimeError):
    """The demo cannot start, or not go on; the text says why, and what to do."""


def kafka_settings(addresses: str) -> Mapping[str, str]:
    """The settings for a Kafka that is there; all others are the user's own, from the environment."""
    for address in addresses.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdigit():
            raise DemoError(f"--kafka {address!r} is no address; it looks like localhost:9092")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DemoError(
                f"no Kafka at {address}: {reason}. Start it, or leave --kafka away: a Kafka is on board"
            ) from error
    own = {name: value for name, value in os.environ.items() if name.startswith("KAFKA_")}
    settings = {**own, "KAFKA_BOOTSTRAP_SERVERS": addresses}
    _check_kafka(settings)
    return settings


def _check_kafka(settings: Mapping[str, str]) -> None:
    """Ask once as the services will, for each of them would say at length what is wrong, after 30 s."""
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    from tracekit_demo.shop.events import kafka_settings as of_client

    address = settings["KAFKA_BOOTSTRAP_SERVERS"]
    try:
        KafkaConsumer(bootstrap_timeout_ms=1000 * _REACH_S, **of_client(settings)).close()
    except KafkaError as error:
        raise DemoError(
            f"what listens at {address} does not answer as a Kafka ({error}). "
            "Look at --kafka, or leave it away: a Kafka is on board"
        ) from error
    except ValueError as error:
        version = settings.get("KAFKA_API_VERSION")
        raise DemoError(f"KAFKA_API_VERSION={version!r}: {error}. It looks like 2.3; or unset it") from error


def check_database(url: str) -> None:
    """Connect once, for six services would each say at length what is wrong."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import SQLAlchemyError

    shown = repr(url)
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
            raise DemoError(f"--database {shown} is in memory, where services cannot share it. Name a file")
        is_postgres = parsed.get_backend_name() == "postgresql"
        engine = create_engine(parsed, connect_args={"connect_timeout": int(_REACH_S)} if is_postgres else {})
        engine.connect().close()
        engine.dispose()
    except ImportError as error:
        raise DemoError(
            f"--database {shown}: {error}. For PostgreSQL: pip install '.[postgres]' in tracekit's clone, "
            "and an address that begins with postgresql+psycopg://"
        ) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0].rstrip(".")
        raise DemoError(
            f"--database {shown}: {reason}. It looks like postgresql+psycopg://user:password@localhost/shop "
            "or sqlite:////tmp/shop.db; without --database, SQLite files are made"
        ) from error
