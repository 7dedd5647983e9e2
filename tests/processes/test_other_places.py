"""Handoffs to processes with another address or on another host."""

from __future__ import annotations

import signal

import pytest

from quicbaton.service.peers import commands as c
from tests.processes.download import download
from tests.processes.harness import SLOWLY, Server, World, until

pytestmark = pytest.mark.process

_OTHER_HOST = b"another!"


async def proxy_to(connection: str, source: Server, destination: Server) -> c.Answer:
    return await source.command(c.HandOffProxied(connection, str(destination.control)))


async def states(server: Server) -> list[str]:
    return [info.state for info in (await server.list()).connections]


# --- another host -----------------------------------------------------------------------------


async def test_a_download_goes_to_another_host_and_back(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_500_000) as (connection, curl, _):
            second = await world.start("join", first, host=_OTHER_HOST)
            for number in range(6):
                await curl.received(curl.received_bytes + 20_000)
                source, destination = (first, second)[:: 1 if number % 2 == 0 else -1]
                answer = await source.hand_over(connection, destination)
                assert answer.ok, answer


async def test_a_baton_from_a_file_is_resumed_on_another_host(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_600_000) as (connection, *_):
            second = await world.start("join", first, host=_OTHER_HOST)
            baton = world.folder / "baton"
            assert (await first.command(c.Save(connection, str(baton)))).ok
            answer = await second.command(c.Resume(str(baton)))
            assert answer.ok, answer


# --- another address --------------------------------------------------------------------------


async def test_a_process_that_cannot_send_from_the_clients_address_is_refused(world: World) -> None:
    async with world:
        first, second = await world.start(), await world.start()
        async with download(world, first, 1_600_000) as (connection, *_):
            answer = await first.hand_over(connection, second)
            assert (answer.ok, answer.code) == (False, "cannot_send_from")


async def test_a_download_is_proxied_and_then_goes_no_further(world: World) -> None:
    async with world:
        first, second = await world.start(), await world.start(host=_OTHER_HOST)
        async with download(world, first, 3_000_000) as (connection, curl, _):
            answer = await proxy_to(connection, first, second)
            assert (answer.ok, answer.code) == (True, "proxied")
            assert await states(second) == ["proxied"]
            answer = await second.hand_over(connection, first)
            assert (answer.ok, answer.code) == (False, "already_proxied")
            await curl.finish()
            assert (await first.list()).datagrams_forwarded
            assert not (await second.list()).datagrams_received


async def test_a_proxied_connection_waits_for_a_link_that_broke(world: World) -> None:
    async with world:
        first, second = await world.start(), await world.start(failpoint="after_resume:CUT")
        async with download(world, first, 1_000_000) as (connection, *_):
            assert (await proxy_to(connection, first, second)).ok


async def test_a_proxied_connection_whose_proxy_dies_is_closed(world: World) -> None:
    async with world:
        first, second = await world.start(), await world.start()
        async with world.curl(await first.port(), 3_000_000, rate=SLOWLY) as curl:
            await curl.received(50_000)
            connection = await first.the_connection()
            assert (await proxy_to(connection, first, second)).ok
            first.signal(signal.SIGKILL)
            await until(lambda: _is_empty(second), "the end of the connection")


async def _is_empty(server: Server) -> bool:
    return not (await server.list()).connections


# --- in the middle of a cutover ---------------------------------------------------------------


async def test_a_forwarder_that_dies_is_waited_for_no_more(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_000_000) as (connection, _, relay):
            second, third = [await world.start("join", first) for _ in range(2)]
            # The kernel renumbers the port's sockets when one closes: they must know each other.
            assert (await second.command(c.Introduce(2, str(third.control)))).ok
            relay.mutes_client = True
            assert (await first.hand_over(connection, second)).ok
            first.signal(signal.SIGKILL)
            await first.gone()

            async def handed_on() -> bool:
                # Until the second has learned of the first one's death.
                return (await second.hand_over(connection, third)).ok

            await until(handed_on, "a handoff")
            relay.mutes_client = False


async def test_a_datagram_that_its_retirement_overtook_draws_no_reset(world: World) -> None:
    """Datagrams that come straight to the owner and forwarded ones do not keep their order."""
    async with world:
        first = await world.start()
        async with download(world, first, 1_500_000) as (connection, _, relay):
            second = await world.start("join", first)
            relay.holds_next = True
            await until(lambda: relay.held, "a datagram to hold back")
            relay.mutes_client = True
            assert (await first.hand_over(connection, second)).ok
            assert (await second.hand_over(connection, first)).ok
            relay.mutes_client = False
            await first.cut_over()
            relay.release()
