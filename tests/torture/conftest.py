"""Figures of the torture tests, printed after the tests: most of them have goals, few of them are asserted."""

from __future__ import annotations

import pytest
from torture import figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if figures.measured:
        terminalreporter.section("torture")
        for subject, values in figures.measured:
            terminalreporter.write_line(f"{subject}: {values}")
