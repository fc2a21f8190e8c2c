"""The shop's log lines: JSON on standard output."""

from __future__ import annotations

import structlog


def configure() -> None:
    """One JSON object a line, with level and time."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
