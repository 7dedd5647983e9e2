"""Fixtures of the tests with hosts: a certificate for their addresses, and the seed of their links.

QUICBATON_SEED in the environment repeats a run's chances. Hosts take root, and a Linux with
namespaces and TUN devices; where these are missing the tests are skipped, but in CI they fail.
"""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path

import pytest

from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from tests.hosts.sites import ADDRESSES

_PROGRAMS = ("cc", "mount", "nsenter", "unshare")


@pytest.fixture(scope="session", autouse=True)
def _hosts_can_be_made() -> None:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if os.getuid() != 0:
        missing.append("root's rights")
    if not Path("/dev/net/tun").exists():
        missing.append("/dev/net/tun")
    if missing:
        text = f"hosts cannot be made here without {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)


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
