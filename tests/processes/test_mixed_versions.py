"""Two neighbouring releases hand over in both directions. `format_before` is the older one's
format."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from quicbaton.baton import FORMAT_VERSION as PRESENT
from quicbaton.service.peers import commands as c
from tests.processes.exchanging_client import client_of
from tests.processes.format_before import VERSION as BEFORE
from tests.processes.harness import SLOWLY, RunningWorld, Server, World, until
from tests.processes.moving_server import content
from tests.processes.wire import Relay

pytestmark = pytest.mark.process


@pytest.fixture
def world_type() -> type[World]:
    return RunningWorld


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


async def test_a_download_passes_between_two_formats_both_ways(world: World) -> None:
    async with world:
        first = await world.start(formats=(BEFORE,))

        async def join() -> list[Server]:
            return [
                await world.start("join", first),
                await world.start("join", first, formats=(BEFORE, PRESENT)),
            ]

        await pass_around(first, world, join)


async def test_a_takeover_by_the_other_format_moves_a_download(world: World) -> None:
    async with world:
        old = await world.start(formats=(BEFORE,))
        async with world.curl(await old.port(), 1_500_000, rate=SLOWLY) as curl:
            await curl.received(100_000)
            new = await world.fork("takeover", old)
            assert await new.settled() == "settled ok 1 connection moved"
            rolled_back = await world.fork("takeover", new, formats=(BEFORE,))
            assert await rolled_back.settled() == "settled ok 1 connection moved"
            await curl.finish()
            assert curl.whole


async def test_what_the_format_before_cannot_say_stays_until_it_can(world: World) -> None:
    size = 40_000
    async with world:
        new = await world.start()
        async with client_of(world, await new.port()) as client:
            old = await world.start("join", new, formats=(BEFORE,))
            running = client.ask(f"/slow/{size}/3000")
            await until(lambda: running.body, "the body to begin")
            connection = await new.the_connection()
            refusal = await new.hand_over(connection, old)
            assert (refusal.ok, refusal.code) == (False, "needs_newer_format")
            assert int(await client.get("/pid")) == new.pid
            await running.ended.wait()
            assert running.body == content(0, size)
            assert (await new.hand_over(connection, old)).ok
            assert int(await client.get("/pid")) == old.pid
        for server in (new, old):
            server.assert_no_mistake()


async def test_a_file_of_the_format_before_is_resumed(world: World, tmp_path: Path) -> None:
    file = tmp_path / "conn.baton"
    async with world:
        old = await world.start(formats=(BEFORE,))
        async with world.curl(await old.port(), 1_500_000, rate=SLOWLY) as curl:
            await curl.received(100_000)
            saved = await old.command(c.Save(await old.the_connection(), str(file)))
            assert saved.ok, saved
            assert version_of(file) == BEFORE
            new = await world.start("join", old)
            resumed = await new.command(c.Resume(str(file)))
            assert resumed.ok, resumed
            await curl.finish()
            assert curl.whole


def version_of(baton: Path) -> int:
    """Which format its header names; this process need not read that."""
    return int.from_bytes(baton.read_bytes()[4:6], "big")


async def test_processes_that_share_no_format_refuse_and_nothing_is_lost(world: World) -> None:
    async with world:
        first = await world.start(formats=(PRESENT,))
        async with world.curl(await first.port(), 1_500_000, rate=SLOWLY) as curl:
            await curl.received(100_000)
            stranger = await world.start("join", first, formats=(BEFORE,))
            refusal = await first.hand_over(await first.the_connection(), stranger)
            assert (refusal.ok, refusal.code) == (False, "format_mismatch")
            await curl.finish()
            assert curl.whole
