"""A process replaced by another under load, with processes that refuse, fail, stop and die."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from tests.depth import deep
from tests.processes.cells import ending
from tests.processes.crowd import Getter, Handshaker, crowd
from tests.processes.harness import GUARD_S, SHORT_WAITS, SLOWLY, Server, World, until
from tests.processes.matrix import TABLES
from tests.processes.moving_server import content
from tests.processes.wire import Relay

pytestmark = pytest.mark.process


async def test_many_connections_and_handshakes_survive_a_takeover(world: World) -> None:
    """Far more than move at a time, and handshakes that end where they began: two hundred show that
    as a thousand do, which `make test-deep` has."""
    connections, handshakes, downloads = deep((200, 20, 3), (1000, 50, 3))
    async with world:
        old = await world.start()
        port = await old.port()
        async with (
            crowd(world.certificate, port, connections) as clients,
            AsyncExitStack() as stack,
            asyncio.TaskGroup() as group,
        ):
            # A few at any moment: each asks every third second.
            talk = [group.create_task(client.keep_getting(2000, 3.0)) for client in clients]
            await until(lambda: all(client.rounds for client in clients), "traffic everywhere")
            curls = [
                await stack.enter_async_context(world.curl(port, 9_000_000, rate=SLOWLY))
                for _ in range(downloads)
            ]
            for curl in curls:
                await curl.received(100_000)
            # Last of all, and let go as soon as the move is under way: a server gives a handshake
            # HANDSHAKE_S, which a busy machine spends on a thousand connections.
            handshakers = [Handshaker(world.certificate, port) for _ in range(handshakes)]
            for handshaker in handshakers:
                stack.callback(handshaker.close)
            for handshaker in handshakers:
                await handshaker.flight_came.wait()

            began = monotonic()
            new = await world.fork("takeover", old, deadline_s=120.0)
            await until(lambda: _moved(new, 1), "the first connection to move")
            for handshaker in handshakers:
                handshaker.go_on()
            # On a busy machine a download may be over before its turn comes.
            await until(lambda: _moved(new, connections), "the connections to move", 120.0)
            moving_s = monotonic() - began
            bodies = await asyncio.gather(*(handshaker.done for handshaker in handshakers))
            assert all(body == content(0, 1000) for body in bodies)
            assert (await new.settled()).startswith("settled ok")
            await old.gone()

            rounds = [client.rounds for client in clients]
            await until(
                lambda: all(
                    client.rounds >= before + 2
                    for client, before in zip(clients, rounds, strict=True)
                ),
                "answers from the new process",
            )
            assert all(client.terminated is None for client in clients)
            for curl in curls:
                await curl.finish()
                assert curl.whole
            for task in talk:
                task.cancel()
        TABLES["takeover"] = (
            f"{connections} connections with traffic, {handshakes} handshakes, {downloads} "
            f"downloads: moved in {moving_s:.2f} s, start of the new process included, "
            f"{(connections + downloads) / moving_s:.0f} connections/s; none lost"
        )


async def _moved(server: Server, count: int) -> bool:
    with contextlib.suppress(Exception):
        return (await server.list()).resumed >= count
    return False


async def test_a_connection_that_cannot_be_exported_is_waited_for(world: World) -> None:
    async with world:
        old = await world.start()
        async with crowd(world.certificate, await old.port(), 1) as (client,):
            answer = asyncio.create_task(client.get("/busy/60000"))
            await until(lambda: _has_streams(old), "the request to arrive")
            new = await world.fork("takeover", old, deadline_s=GUARD_S)
            await new.ready()
            await client.get("/done")
            assert await answer == b"done"
            assert await new.settled() == "settled ok 1 connection moved"
            assert await client.get("/10") == content(0, 10)
            await old.gone()


async def _has_streams(server: Server) -> bool:
    return any(info.streams > 6 for info in (await server.list()).connections)


async def test_what_still_cannot_move_at_the_deadline_is_reported_and_closed(world: World) -> None:
    async with world:
        old = await world.start()
        async with crowd(world.certificate, await old.port(), 2) as (busy, idle):
            answer = asyncio.create_task(busy.get("/busy/60000"))
            await until(lambda: _has_streams(old), "the request to arrive")
            new = await world.fork("takeover", old, deadline_s=0.5)
            report = await new.settled()
            assert report.startswith("settled cut 1 connection moved, 1 cut at the deadline: ")
            assert report.endswith("a request is being worked on")
            with pytest.raises(ConnectionError, match="the server restarted"):
                await answer
            assert await idle.get("/10") == content(0, 10)
            assert idle.terminated is None
            await old.gone()


async def test_the_deadline_is_for_what_waits_and_not_for_the_number(world: World) -> None:
    async with world:
        count = 60
        old = await world.start()
        async with crowd(world.certificate, await old.port(), count) as clients:
            new = await world.fork("takeover", old, deadline_s=0.0)
            assert await new.settled() == f"settled ok {count} connections moved"
            bodies = await asyncio.gather(*(client.get("/10") for client in clients))
            assert all(body == content(0, 10) for body in bodies)


async def test_a_successor_that_cannot_read_the_state_gets_nothing(world: World) -> None:
    async with world:
        old = await world.start()
        async with crowd(world.certificate, await old.port(), 3) as clients:
            new = await world.fork("takeover", old, deadline_s=0.5, forgetful=True)
            assert "import_state raised KeyError" in await new.settled()
            await new.gone()
            await _all_live_at(old, clients)


async def test_a_successor_that_has_stopped_at_the_deadline_gets_nothing(world: World) -> None:
    async with world:
        old = await world.start(waits=SHORT_WAITS)
        async with crowd(world.certificate, await old.port(), 3) as clients:
            new = await world.fork(
                "takeover", old, deadline_s=0.5, waits=SHORT_WAITS, failpoint="rebuilt:STOP"
            )
            await until(lambda: new.stopped, "the successor to stop")
            await _all_live_at(old, clients)
            new.signal(signal.SIGCONT)
            assert (await new.settled()).startswith("gave up successor_failed")
            await new.gone()
            await _all_live_at(old, clients)


async def test_a_client_that_has_said_all_before_its_server_died_is_told(world: World) -> None:
    async with world:
        victims = world.folder / "victims"
        old = await world.start()
        victims.write_text(str(old.pid))
        async with (
            Relay(await old.port()) as relay,
            world.curl(relay.port, 50_000_000, rate=2_000_000) as curl,
        ):
            await curl.received(100_000)
            await world.fork("takeover", old, failpoint=f"takeover_reading:STOP:{victims}")
            await until(lambda: old.stopped, "the predecessor to stop")
            # What the client says now is passed to a process that does not read it.
            before = relay.client_datagrams
            await until(lambda: relay.client_datagrams > before, "the client to say something")
            relay.mutes_client = True
            old.signal(signal.SIGKILL)
            await curl.finish()
            assert ending(curl, relay.check(world.keylogs)) == "reset"


async def test_a_second_takeover_at_a_time_is_refused(world: World) -> None:
    async with world:
        old = await world.start()
        async with crowd(world.certificate, await old.port(), 1) as (client,):
            answer = asyncio.create_task(client.get("/busy/60000"))
            await until(lambda: _has_streams(old), "the request to arrive")
            first = await world.fork("takeover", old, deadline_s=GUARD_S)
            await first.ready()
            second = await world.fork("takeover", old)
            await second.gone()
            assert "a takeover is under way" in second.log()
            await client.get("/done")
            assert await answer == b"done"
            assert (await first.settled()).startswith("settled ok")


async def test_ten_takeovers_in_a_row_keep_one_download_whole(world: World) -> None:
    async with world:
        server = await world.start()
        async with world.curl(await server.port(), 2_000_000, rate=SLOWLY) as curl:
            for _ in range(10):
                await curl.received(curl.received_bytes + 20_000)
                successor = await world.fork("takeover", server)
                assert (await successor.settled()).startswith("settled ok 1 ")
                await server.gone()
                server = successor
            await curl.finish()
            assert curl.whole


async def _all_live_at(server: Server, clients: list[Getter]) -> None:
    for client in clients:
        assert await asyncio.wait_for(client.get("/3000"), GUARD_S) == content(0, 3000)
        assert client.terminated is None
    assert len((await server.list()).connections) == len(clients)
