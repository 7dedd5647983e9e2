"""Scenes in which tests of processes run: each is a coroutine function's one argument."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.processes import attack_stage
from tests.processes.harness import GUARD_S, World

#: Runs a coroutine function in a scene.
_Run = Callable[[Callable[[Any], Awaitable[None]]], None]


def _in(scene: AbstractAsyncContextManager[Any]) -> _Run:
    async def guarded(test: Callable[[Any], Awaitable[None]]) -> None:
        async with asyncio.timeout(5 * GUARD_S), scene as entered:
            await test(entered)

    return lambda test: asyncio.run(guarded(test))


@pytest.fixture
def world_type() -> type[World]:
    """What kind of world `in_world` makes: a module may have a fixture of its own."""
    return World


@pytest.fixture
def in_world(tmp_path: Path, certificate: CertificateFiles, world_type: type[World]) -> _Run:
    """In a world of processes of its own."""
    return _in(world_type(tmp_path, certificate))


@pytest.fixture
def among_workers(tmp_path: Path, certificate: CertificateFiles) -> _Run:
    """In a scene of two workers."""
    return _in(attack_stage.workers(tmp_path, certificate))


@pytest.fixture
def among_nodes(tmp_path: Path, certificate: CertificateFiles) -> _Run:
    """In a scene of two nodes."""
    return _in(attack_stage.nodes(tmp_path, certificate))


@pytest.fixture(scope="module")
def world_of_cells(
    tmp_path_factory: pytest.TempPathFactory, certificate: CertificateFiles
) -> World:
    """The world in which all cells of a matrix run."""
    return World(tmp_path_factory.mktemp("cells"), certificate)
