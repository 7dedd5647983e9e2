"""Fixtures of the tests with hosts: a certificate for their addresses, and the seed of their links.

QUICBATON_SEED in the environment repeats a run's chances.
"""

from __future__ import annotations

import datetime
import os

import pytest
from sites import ADDRESSES

from quicbaton.cli.certificate import CertificateFiles, write_self_signed


@pytest.fixture(scope="session")
def hosts_certificate(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """A self-signed certificate for every address of these hosts."""
    folder = tmp_path_factory.mktemp("certificate")
    names = ("localhost", *ADDRESSES)
    # The clocks of some hosts are wrong.
    day = datetime.timedelta(days=1)
    return write_self_signed(folder, datetime.datetime.now(datetime.UTC) - day, names)


@pytest.fixture
def seed() -> str:
    """Printed by pytest when the test fails."""
    given = os.environ.get("QUICBATON_SEED") or os.urandom(4).hex()
    print(f"QUICBATON_SEED={given}")
    return given
