"""Fixtures that many tests share, and the tables that some fill, at the end of a run."""

import datetime

import pytest
from matrix import TABLES

from quicbaton.cli.certificate import CertificateFiles, write_self_signed


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """A self-signed EC P-256 certificate for localhost, 127.0.0.1 and ::1: its own CA file."""
    folder = tmp_path_factory.mktemp("certificate")
    return write_self_signed(folder, datetime.datetime.now(datetime.UTC))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, text in TABLES.items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
