"""A pytest plugin for twice.py: writes what became of each test, one JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ci-reports", metavar="FILE", help="write what became of each test there")


def pytest_configure(config: pytest.Config) -> None:
    # Under xdist the controller hears of everything; its workers would say it twice.
    path = config.getoption("--ci-reports")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(Path(path)))
        _leave_no_trace(path)


def _leave_no_trace(path: str) -> None:
    """Take out of the environment what twice.py put there. Programs that tests start are to find
    what they find without it; pytest, where a test runs that, is to report nothing here."""
    options = os.environ.get("PYTEST_ADDOPTS", "")
    os.environ["PYTEST_ADDOPTS"] = options.replace(f"-p ci_reports --ci-reports={path}", "")
    here = str(Path(__file__).parent)
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = os.pathsep.join(folder for folder in folders if folder != here)
    if others:
        os.environ["PYTHONPATH"] = others
    else:
        os.environ.pop("PYTHONPATH", None)


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        sections = [f"--- {title} ---\n{text}" for title, text in report.sections]
        self._write(
            id=report.nodeid,
            executed=report.when == "call" and not report.skipped,
            failed=report.failed,
            output="\n".join([report.longreprtext, *sections]) if report.failed else "",
        )

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(status=int(exitstatus))

    def _write(self, **fields: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")
