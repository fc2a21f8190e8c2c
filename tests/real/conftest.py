"""What holds for the tests with the real servers: none is left out unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.brokers import is_required

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that is skipped as a whole has no test that could say so."""
    report = yield
    if report.skipped and is_required():
        report.outcome = "failed"
        report.longrepr = f"it is to run, and was skipped: {report.longrepr}"
    return report
