"""Units, as Grafana calls them."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import units

SECONDS: Final[str] = units.Seconds
SHARE: Final[str] = units.PercentUnit
PER_SECOND: Final[str] = units.CountsPerSecond
MESSAGES: Final[str] = units.MessagesPerSecond
REQUESTS: Final[str] = units.RequestsPerSecond
NUMBER: Final[str] = units.Short
BYTES: Final[str] = units.BytesIEC
