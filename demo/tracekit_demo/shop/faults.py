"""The shop's faults: what goes wrong while somebody wants it to.

A fault is on while a file of its name is in the folder that `FAULTS_FOLDER` names. Services look there
each time it matters, so it begins and ends while they run. Without the variable there are none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

SLOW_PAYMENT: Final = "slow-payment"
FAILING_PAYMENT: Final = "failing-payment"
SLOW_CONSUMER: Final = "slow-consumer"
DROPPED_HEADERS: Final = "dropped-headers"


def is_on(name: str) -> bool:
    """Whether this fault is on now."""
    folder = os.environ.get("FAULTS_FOLDER")
    return folder is not None and Path(folder, name).exists()
