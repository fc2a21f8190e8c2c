"""Environment: the `OTEL_*` and `TRACEKIT_*` variables of this process, replaced for a while."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OURS = ("OTEL_", "TRACEKIT_")


@contextmanager
def only(variables: Mapping[str, str]) -> Iterator[None]:
    """Of these variables, only those given are set within the block."""
    before = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    for name in before:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)
