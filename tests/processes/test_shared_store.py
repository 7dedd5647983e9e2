"""Real processes that hand over by a shared SQLite store, under downloads of libcurl."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from time import time

import msgspec
import pytest

from quicbaton.ownership.store import EntryState, Found
from quicbaton.service.stores import SqliteStore
from tests.processes.download import download
from tests.processes.harness import SHORT_WAITS, SLOWLY, World
from tests.processes.wire import Relay

pytestmark = pytest.mark.process


async def test_a_download_changes_hands_by_the_store_again_and_again(world: World) -> None:
    async with world:
        path = world.folder / "owners"
        options = {"store": f"sqlite:{path}"}
        first = await world.start(**options)
        async with download(world, first, 1_200_000) as (connection, curl, _):
            ring = [first, *[await world.start("join", first, **options) for _ in range(2)]]
            store = SqliteStore(path)
            for hop in range(6):
                await curl.received(curl.received_bytes + 20_000)
                answer = await ring[hop % 3].hand_over(connection, ring[(hop + 1) % 3])
                assert answer.ok, answer
                found = await store.read(bytes.fromhex(connection))
                assert isinstance(found, Found)
                assert found.entry is not None
                assert found.entry.state is EntryState.HELD
                assert found.entry.term == hop + 2
                assert found.entry.holder.name == ring[(hop + 1) % 3].options.control
            store.close()


async def test_locked_store_keeps_the_connection_where_it_is(world: World) -> None:
    async with world:
        path = world.folder / "owners"
        first = await world.start(store=f"sqlite:{path}")
        async with download(world, first, 1_600_000) as (connection, *_):
            second = await world.start("join", first, store=f"sqlite:{path}")
            store = SqliteStore(path)
            # Somebody holds the file, for longer than anybody waits.
            store._db.execute("BEGIN IMMEDIATE")
            answer = await first.hand_over(connection, second)
            assert not answer.ok
            assert answer.code in ("store_locked", "deadline")
            store._db.execute("ROLLBACK")
            assert (await first.hand_over(connection, second)).ok
            store.close()


async def test_store_that_is_locked_with_the_baton_out_leaves_both_silent_until_it_answers(
    world: World,
) -> None:
    async with world:
        path = world.folder / "owners"
        # Time enough to lock the store before the source takes its connection back.
        waits = msgspec.structs.replace(SHORT_WAITS, frozen_s=4.0, ready_s=6.0)
        options = {"store": f"sqlite:{path}", "waits": waits}
        first = await world.start(**options)
        async with download(world, first, 1_600_000) as (connection, _, relay):
            second = await world.start("join", first, failpoint="before_take:STOP", **options)
            handing = asyncio.create_task(first.hand_over(connection, second))
            await second.comes_to_a_stop()
            store = SqliteStore(path)
            store._db.execute("BEGIN IMMEDIATE")
            second.signal(signal.SIGCONT)
            # The destination cannot take it, nor the source take it back.
            sent = await _count_when_silent(relay)
            # Past the source's deadline, and more.
            await asyncio.sleep(waits.frozen_s + 0.5)
            assert len(relay.sent) == sent
            assert not handing.done()
            store._db.execute("ROLLBACK")
            await handing
            store.close()


async def _count_when_silent(relay: Relay) -> int:
    """How much the servers had sent when they fell silent."""
    count = -1
    while len(relay.sent) != count:
        count = len(relay.sent)
        await asyncio.sleep(0.1)
    return count


async def test_a_process_is_replaced_by_the_store_under_downloads(world: World) -> None:
    async with world:
        options = {"store": f"sqlite:{world.folder / 'owners'}"}
        old = await world.start(**options)
        port = await old.port()
        async with contextlib.AsyncExitStack() as stack:
            curls = [
                await stack.enter_async_context(world.curl(port, 1_600_000, rate=SLOWLY))
                for _ in range(3)
            ]
            for curl in curls:
                await curl.received(20_000)
            new = await world.fork("takeover", old, **options)
            await old.gone()
            for curl in curls:
                await curl.finish()
                assert curl.whole
            assert (await new.list()).resumed == 3


async def test_process_without_the_store_takes_over_by_the_source(world: World) -> None:
    async with world:
        path = world.folder / "owners"
        first = await world.start(store=f"sqlite:{path}")
        async with download(world, first, 1_600_000) as (connection, curl, _):
            second = await world.start("join", first)
            assert (await first.hand_over(connection, second)).ok
            await curl.finish()
            store = SqliteStore(path)
            assert await store.read(bytes.fromhex(connection)) == Found(None)
            assert await store.sweep(time()) == 0
            store.close()
