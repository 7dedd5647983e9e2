"""Two releases hand over both ways. No release has another baton format yet, so the process of
these tests has a format 2 of its own, which says the same (`moving_server`). The code of a time
before format 3, as long as the clone's history has it, is refused."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness import GUARD_S, SLOWLY, Server, World
from wire import Relay

from quicbaton.cli.certificate import CertificateFiles

pytestmark = pytest.mark.process

_ROOT = Path(__file__).parents[2]
#: A commit with baton format 1.
_PREVIOUS_RELEASE = "afaa432"
#: The only connection IDs that it can read: a process that shares its port must issue the same.
_ITS_IDS = "plaintext:config=0"

Run = Callable[[Callable[[World, World], Coroutine[Any, Any, None]]], None]


class PreviousRelease(World):
    """Its servers run what was checked out into `code`."""

    def use(self, code: Path, ring: World) -> None:
        self.program = code / "tests" / "processes" / "moving_server.py"
        path = [str(code / "src"), str(self.program.parent)]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        self.ring = ring.ring


@pytest.fixture(scope="module")
def previous_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous release's code."""
    archive = subprocess.run(
        ["git", "-C", str(_ROOT), "archive", "--format=tar", _PREVIOUS_RELEASE],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        pytest.skip(f"this clone's history does not reach back to {_PREVIOUS_RELEASE}")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def in_worlds(tmp_path: Path, certificate: CertificateFiles, previous_code: Path) -> Run:
    """Runs a coroutine function with a world of the present and one of the previous release."""

    async def guarded(test: Callable[[World, World], Coroutine[Any, Any, None]]) -> None:
        folders = tmp_path / "present", tmp_path / "previous"
        for folder in folders:
            folder.mkdir()
        previous = PreviousRelease(folders[1], certificate)
        async with asyncio.timeout(5 * GUARD_S), World(folders[0], certificate) as present:
            previous.use(previous_code, present)
            async with previous:
                await test(present, previous)

    return lambda test: asyncio.run(guarded(test))


async def pass_around(
    first: Server, world: World, join: Callable[[], Coroutine[Any, Any, list[Server]]]
) -> None:
    """A live download changes hands among `first` and those that join when it has begun, twice
    round; nothing is missing or sent twice."""
    async with (
        Relay(await first.port()) as relay,
        world.curl(relay.port, 1_500_000, rate=SLOWLY) as curl,
    ):
        await curl.received(50_000)
        connection = await first.the_connection()
        ring = [first, *await join()]
        for number in range(2 * len(ring)):
            await curl.received(curl.received_bytes + 20_000)
            source, destination = (ring[(number + step) % len(ring)] for step in (0, 1))
            await source.hand_over_after_cutover(connection, destination)
        await curl.finish()
        assert curl.whole
    keylogs = [Path(server.options.keylog) for server in ring]
    relay.check(keylogs).assert_one_sender()


def test_a_download_passes_between_two_formats_both_ways(in_world: Any) -> None:
    async def test(world: World) -> None:
        first = await world.start(formats=(2,))

        async def join() -> list[Server]:
            return [
                await world.start("join", first),
                await world.start("join", first, formats=(2, 3)),
            ]

        await pass_around(first, world, join)

    in_world(test)


def test_a_takeover_by_the_other_format_moves_a_download(in_world: Any) -> None:
    async def test(world: World) -> None:
        old = await world.start(formats=(2,))
        async with world.curl(await old.port(), 1_500_000, rate=SLOWLY) as curl:
            await curl.received(100_000)
            new = await world.fork("takeover", old)
            assert await new.settled() == "settled ok 1 connection moved"
            older = await world.fork("takeover", new, formats=(2,))
            assert await older.settled() == "settled ok 1 connection moved"
            await curl.finish()
            assert curl.whole

    in_world(test)


def test_a_release_that_shares_no_format_is_refused_and_nothing_is_lost(in_worlds: Run) -> None:
    async def test(present: World, previous: World) -> None:
        first = await present.start(ids=_ITS_IDS)
        async with present.curl(await first.port(), 1_500_000, rate=SLOWLY) as curl:
            await curl.received(100_000)
            connection = await first.the_connection()
            stranger = await previous.start("join", first)
            answer = await first.hand_over(connection, stranger)
            assert not answer.ok
            await curl.finish()
            assert curl.whole

    in_worlds(test)
