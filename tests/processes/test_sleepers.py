"""Sleeping connections of real processes: listed, handed over, saved, taken over, closed."""

from __future__ import annotations

import asyncio

import pytest

from quicbaton.service.peers import commands as c
from tests.processes.crowd import crowd
from tests.processes.harness import Server, World, until
from tests.processes.moving_server import content
from tests.processes.wire import Relay

pytestmark = pytest.mark.process


async def sleepers(server: Server, count: int = 1) -> list[c.ConnectionInfo]:
    """Its connections, once so many are there and all of them sleep."""

    async def found() -> list[c.ConnectionInfo]:
        infos = (await server.list()).connections
        asleep = [info for info in infos if info.state == "asleep"]
        return asleep if len(asleep) == len(infos) == count else []

    return await until(found, f"{count} connections to fall asleep")


async def test_a_sleeper_is_listed_and_handed_over_by_name_again_and_again(world: World) -> None:
    async with world:
        first = await world.start(program="sleepy")
        async with (
            Relay(await first.port()) as relay,
            crowd(world.certificate, relay.port, 1) as (client,),
        ):
            assert await client.get("/70000") == content(0, 70_000)
            (info,) = await sleepers(first)
            assert (info.alpn, info.term, info.streams >= 3) == ("h3", 1, True)
            assert info.peer.startswith("127.0.0.1:")
            assert info.age_s > 0
            assert info.rtt_ms > 0
            ring = [first, await world.start("join", first, program="sleepy")]
            for number in range(4):
                source, destination = ring[number % 2], ring[(number + 1) % 2]
                answer = await source.hand_over(info.connection, destination)
                assert answer.ok, answer
                (info,) = await sleepers(destination)
                assert info.term == number + 2
                # After a sleep at its new owner as well as right after the handoff.
                if number % 2:
                    assert await client.get("/30000") == content(0, 30_000)
                    await sleepers(destination)
            assert client.terminated is None
        relay.check(world.keylogs).assert_one_sender()


async def test_a_sleeper_is_saved_and_resumed(world: World) -> None:
    async with world:
        first = await world.start(program="sleepy")
        second = await world.start("join", first, program="sleepy")
        async with crowd(world.certificate, await first.port(), 1) as (client,):
            await client.get("/1000")
            owner = first if (await first.list()).connections else second
            (info,) = await sleepers(owner)
            other = second if owner is first else first
            path = world.folder / "baton"
            assert (await owner.command(c.Save(info.connection, str(path)))).ok
            assert (await other.command(c.Resume(str(path)))).ok
            assert await client.get("/1000") == content(0, 1000)
            await sleepers(other)
            assert await client.get("/1000") == content(0, 1000)


async def test_a_takeover_takes_the_sleepers_too(world: World) -> None:
    async with world:
        count = 30
        old = await world.start(program="sleepy")
        port = await old.port()
        async with crowd(world.certificate, port, count) as clients:
            await asyncio.gather(*(client.get("/1000") for client in clients))
            await sleepers(old, count)
            new = await world.fork("takeover", old, program="sleepy")
            await old.gone()
            await sleepers(new, count)
            assert (await new.list()).resumed == count
            bodies = await asyncio.gather(*(client.get("/1000") for client in clients))
            assert all(body == content(0, 1000) for body in bodies)
            assert all(client.terminated is None for client in clients)


async def test_what_cannot_move_in_a_takeover_is_closed_though_it_slept(world: World) -> None:
    async with world:
        count = 5
        old = await world.start(program="sleepy")
        async with crowd(world.certificate, await old.port(), count) as clients:
            await asyncio.gather(*(client.get("/1000") for client in clients))
            await sleepers(old, count)
            # It would not find them by the IDs that their clients have.
            await world.fork(
                "takeover", old, program="sleepy", ids="plaintext:nonce=10", deadline_s=0.5
            )
            await old.gone()
            await until(
                lambda: all(client.terminated is not None for client in clients), "their ends"
            )
            assert {client.terminated.reason_phrase for client in clients} == {
                "the server restarted"
            }
