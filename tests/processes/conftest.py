"""Scenes for tests of attacks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attack_stage
import pytest

from quicbaton.cli.certificate import CertificateFiles

_Test = Callable[[Any], Awaitable[None]]


@pytest.fixture
def among_workers(tmp_path: Path, certificate: CertificateFiles) -> Callable[[_Test], None]:
    """Runs a coroutine function in a scene of two workers."""

    async def run(test: _Test) -> None:
        async with attack_stage.workers(tmp_path, certificate) as scene:
            await test(scene)

    return lambda test: asyncio.run(run(test))


@pytest.fixture
def among_nodes(tmp_path: Path, certificate: CertificateFiles) -> Callable[[_Test], None]:
    """Runs a coroutine function in a scene of two nodes."""

    async def run(test: _Test) -> None:
        async with attack_stage.nodes(tmp_path, certificate) as scene:
            await test(scene)

    return lambda test: asyncio.run(run(test))
