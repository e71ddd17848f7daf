"""What all tests have in common."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape half characters in what tests wrote: processes of tests send reports as UTF-8."""
    report = yield
    sections: list[tuple[str, Any]] = report.sections
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in sections
    ]
    return report
