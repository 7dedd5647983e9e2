"""Shows the tables that the tests of this folder filled at the end of a run."""

from __future__ import annotations

import pytest
from matrix import TABLES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, text in TABLES.items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
