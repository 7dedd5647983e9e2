"""Worlds of processes, which tests enter."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.processes.harness import World


@pytest.fixture
def world_type() -> type[World]:
    """What kind of world `world` is: a module may have a fixture of its own."""
    return World


@pytest.fixture
def world(tmp_path: Path, certificate: CertificateFiles, world_type: type[World]) -> World:
    """A world of the test's own."""
    return world_type(tmp_path, certificate)


@pytest.fixture(scope="module")
def world_of_cells(
    tmp_path_factory: pytest.TempPathFactory, certificate: CertificateFiles
) -> World:
    """The world in which all cells of a matrix run."""
    return World(tmp_path_factory.mktemp("cells"), certificate)
