"""A download that is under way while a test does things to its servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.processes.harness import SLOWLY, Curl, Server, World
from tests.processes.wire import Relay


@asynccontextmanager
async def download(
    world: World, server: Server, size: int
) -> AsyncIterator[tuple[str, Curl, Relay]]:
    """One that has begun: the name of its connection, which is the server's only one, the client,
    and the relay between them. It ends at full speed, and must be whole, whoever served it, and
    from one sender."""
    async with (
        Relay(await server.port()) as relay,
        world.curl(relay.port, size, rate=SLOWLY) as curl,
    ):
        await curl.received(50_000)
        yield await server.the_connection(), curl, relay
        await curl.finish()
        assert curl.whole, curl.outcome
    relay.check(world.keylogs).assert_one_sender()
