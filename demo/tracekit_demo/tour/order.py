"""An order on its tour: what it is, where it is sent, and how a station says that it can take one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Order: TypeAlias = dict[str, Any]
"""What JSON gives."""
HandOn: TypeAlias = Callable[[Order], None]
"""Gives an order to the next station; raises what its client raises."""


def destination(station: str) -> str:
    """The topic, queue or stream that a station takes its orders from."""
    return f"tour-{station}"


def port(station: str) -> int:
    """Where a station that is called listens, on loopback."""
    return int(os.environ[f"TOUR_{station.upper()}_PORT"])


def ready() -> None:
    """Say that orders may come."""
    Path(os.environ["READY_FILE"]).touch()
