"""Requests that coroutines work on survive the handoff of their connection: they go on where they
run, and their streams are relayed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from quicbaton.asyncio import connect
from quicbaton.service.peers import commands as c
from tests.processes.crowd import client_configuration
from tests.processes.exchanging_client import client_of
from tests.processes.harness import RunningWorld, Server, World, until
from tests.processes.moving_server import content
from tests.processes.wire import Relay

pytestmark = pytest.mark.process

_REQUEST_CANCELLED = 0x10C
_INTERNAL_ERROR = 0x102


@pytest.fixture
def world_type() -> type[World]:
    return RunningWorld


async def hand_over(source: Server, destination: Server) -> None:
    connection = await source.the_connection()
    answer = await source.hand_over(connection, destination)
    assert answer.ok, answer


async def test_a_running_request_survives_a_takeover(world: World) -> None:
    size = 400_000
    async with world:
        old = await world.start()
        async with (
            Relay(await old.port()) as relay,
            client_of(world, relay.port) as client,
        ):
            exported = client.ask("/3000000")
            running = client.ask(f"/slow/{size}/10000")
            await until(lambda: running.body, "the body to begin")
            assert int(await client.get("/pid")) == old.pid
            new = await world.fork("takeover", old)
            await new.ready()
            await until(lambda: _has_resumed(new), "the connection to move")
            # The same connection, the next request: another process answers.
            assert int(await client.get("/pid")) == new.pid
            assert old.alive
            assert not running.ended.is_set()
            assert await client.counters() == {"relayed": 1, "cut": 0, "left": 0}
            await running.ended.wait()
            await exported.ended.wait()
            assert running.reset is None
            assert running.body == content(0, size)
            assert exported.body == content(0, 3_000_000)
            assert await new.settled() == "settled ok 1 connection moved"
            await old.gone()
            assert int(await client.get("/pid")) == new.pid
        old.assert_no_mistake()
        new.assert_no_mistake()
        relay.check(world.keylogs).assert_one_sender()


async def _has_resumed(server: Server) -> bool:
    return (await server.list()).resumed == 1


async def test_bodies_of_megabytes_pass_both_ways_and_memory_stays_bounded(world: World) -> None:
    body = content(0, 16_000_000)
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            second = await world.start("join", first)
            echo = client.ask("/echo", method=b"POST")
            upload = asyncio.create_task(client.upload(echo, body))
            await until(lambda: len(echo.body) > 100_000, "an echo")
            await hand_over(first, second)
            await until(lambda: len(echo.body) > 1_000_000, "an echo through the relay")
            client.pause(echo)
            # Nobody reads any more, and all wait for each other: what is between the two ends of
            # the loop is windows and buffers of a stream, here and there.
            await _comes_to_rest(lambda: len(echo.body) + client.unsent(echo))
            rest = len(body) - len(echo.body)
            assert not upload.done()
            assert rest > 5_000_000
            client.resume(echo)
            await upload
            await echo.ended.wait()
            assert echo.body == body
            assert int(await client.get("/pid")) == second.pid
            assert (await client.counters())["cut"] == 0


async def _comes_to_rest(figure: Callable[[], int]) -> None:
    """Return when a figure has not changed for a while of many round trips."""
    last, since = -1, 0
    async with asyncio.timeout(60):
        while since < 40:
            await asyncio.sleep(0.01)
            now = figure()
            since = since + 1 if now == last else 0
            last = now


async def test_a_paused_upload_moves_and_goes_on(world: World) -> None:
    body = content(0, 5_000_000)
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            second = await world.start("join", first)
            exchange = client.ask("/swallow/8000", method=b"POST")
            upload = asyncio.create_task(client.upload(exchange, body))
            await _comes_to_rest(lambda: client.unsent(exchange))
            await hand_over(first, second)
            await upload
            await exchange.ended.wait()
            assert exchange.body == b"%d" % len(body)
            assert await client.counters() == {"relayed": 1, "cut": 0, "left": 0}


async def test_what_a_client_breaks_off_ends_at_the_old_process(world: World) -> None:
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            second = await world.start("join", first)
            slow = client.ask("/slow/100000/60000")
            echo = client.ask("/echo", method=b"POST")
            await client.upload(echo, content(0, 10_000), end=False)
            stays = client.ask("/slow/300000/3000")
            await until(lambda: slow.body and stays.body, "the bodies to begin")
            await hand_over(first, second)
            client.stop(slow)
            client.stop(echo)
            client.reset(echo)
            await until(lambda: first.log().count("cancelled") == 2, "two requests to end")
            await stays.ended.wait()
            assert stays.body == content(0, 300_000)
            assert slow.reset is not None
            assert await client.counters() == {"relayed": 3, "cut": 0, "left": 0}
            first.assert_no_mistake()
            second.assert_no_mistake()


async def test_a_client_that_leaves_ends_what_runs_for_it(world: World) -> None:
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            second = await world.start("join", first)
            slow = client.ask("/slow/100000/60000")
            await until(lambda: slow.body, "the body to begin")
            await hand_over(first, second)
        await until(lambda: "cancelled" in first.log(), "the request to end")
        first.assert_no_mistake()
        second.assert_no_mistake()


async def test_streams_of_a_process_that_dies_are_reset_and_nothing_else(world: World) -> None:
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            second = await world.start("join", first)
            slow = client.ask("/slow/1000000/60000")
            echo = client.ask("/echo", method=b"POST")
            download = client.ask("/20000000")
            await until(lambda: slow.body, "the body to begin")
            await hand_over(first, second)
            first.signal(signal.SIGKILL)
            await slow.ended.wait()
            assert slow.reset == _INTERNAL_ERROR
            await until(lambda: echo.stopped is not None, "the upload to be stopped")
            assert echo.reset == _INTERNAL_ERROR
            await download.ended.wait()
            assert download.body == content(0, 20_000_000)
            assert await client.counters() == {"relayed": 2, "cut": 2, "left": 0}
            assert int(await client.get("/pid")) == second.pid


async def test_what_still_runs_after_the_grace_is_listed_reset_and_counted(world: World) -> None:
    async with world:
        old = await world.start()
        async with client_of(world, await old.port()) as client:
            slow = client.ask("/slow/1000000/60000")
            await until(lambda: slow.body, "the body to begin")
            name = await old.the_connection()
            new = await world.fork("takeover", old, deadline_s=5.0)
            assert await new.settled() == (
                "settled cut 1 connection moved, 1 cut at the deadline: "
                f"{name}: requests still run on streams {slow.stream_id}"
            )
            await slow.ended.wait()
            assert slow.reset == _REQUEST_CANCELLED
            await old.gone()
            assert "cancelled" in old.log()
            assert await client.counters() == {"relayed": 1, "cut": 1, "left": 0}


async def test_a_connection_moves_on_while_its_requests_run(world: World) -> None:
    """Back and forth: each move puts one process more, or the same once more, between the request
    and the client. A request that begins on the way is relayed from there."""
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            second = await world.start("join", first)
            echoes = [client.ask("/echo", method=b"POST")]
            connection = await first.the_connection()
            source, destination = first, second
            for number in range(5):
                part = content(50_000 * number, 50_000 * (number + 1))
                for echo in echoes:
                    await client.upload(echo, part, end=False)
                await until(lambda: echoes[-1].body, "the body to begin")
                await _hand_over_once_more(source, destination, connection)
                source, destination = destination, source
                assert await client.get("/1000") == content(0, 1000)
                assert int(await client.get("/pid")) == source.pid
                echoes.append(client.ask("/echo", method=b"POST"))
            for number, echo in enumerate(echoes):
                await client.upload(echo, content(250_000, 260_000))
                await echo.ended.wait()
                assert echo.body == content(50_000 * number, 260_000)
            assert (await client.counters())["left"] == 0


async def test_a_relay_goes_on_when_its_connection_cannot_move_on(world: World) -> None:
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            second = await world.start("join", first)
            forgetful = await world.start("join", first, forgetful=True)
            echo = client.ask("/echo", method=b"POST")
            await client.upload(echo, content(0, 50_000), end=False)
            await until(lambda: echo.body, "the body to begin")
            connection = await first.the_connection()
            await _hand_over_once_more(first, second, connection)
            await second.cut_over()
            for number in range(1, 4):
                part = content(50_000 * number, 50_000 * (number + 1))
                uploading = asyncio.create_task(client.upload(echo, part, end=number == 3))
                answer = await second.hand_over(connection, forgetful)
                assert answer.code in ("import_failed", "streams_relayed")
                await uploading
            await echo.ended.wait()
            assert echo.body == content(0, 200_000)
            assert int(await client.get("/pid")) == second.pid


async def _hand_over_once_more(source: Server, destination: Server, connection: str) -> None:
    """As soon as the client has cut over, and the relay from the last time has begun."""

    async def given() -> bool:
        answer = await source.hand_over(connection, destination)
        assert answer.ok or answer.code in ("cutover_pending", "streams_relayed"), answer
        return answer.ok

    await until(given, "a handoff")


async def test_a_running_request_survives_a_handoff_that_fails(world: World) -> None:
    size = 500_000
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            forgetful = await world.start("join", first, forgetful=True)
            stops = await world.start("join", first, failpoint="rebuilt:STOP")
            slow = client.ask(f"/slow/{size}/5000")
            echo = client.ask("/echo", method=b"POST")
            await until(lambda: slow.body, "the body to begin")
            connection = await first.the_connection()
            answer = await first.hand_over(connection, forgetful)
            assert answer.code == "import_failed"
            # Frozen for as long as the destination may take, while the coroutine writes on.
            answer = await first.hand_over(connection, stops)
            assert answer.code == "deadline"
            await client.upload(echo, content(0, 200_000))
            await slow.ended.wait()
            await echo.ended.wait()
            assert slow.body == content(0, size)
            assert echo.body == content(0, 200_000)
            assert int(await client.get("/pid")) == first.pid
            stops.signal(signal.SIGKILL)
            first.assert_no_mistake()


async def test_a_saved_connection_has_no_running_requests(world: World) -> None:
    async with world:
        first = await world.start()
        async with client_of(world, await first.port()) as client:
            echo = client.ask("/echo", method=b"POST")
            await client.upload(echo, content(0, 50_000), end=False)
            await until(lambda: echo.body, "the body to begin")
            connection = await first.the_connection()
            answer = await first.command(c.Save(connection, str(world.folder / "baton")))
            assert (answer.ok, answer.code) == (False, "not_exportable")
            await client.upload(echo, content(50_000, 100_000))
            await echo.ended.wait()
            assert echo.body == content(0, 100_000)


async def test_a_program_of_asyncio_streams_moves(world: World) -> None:
    body = content(0, 100_000)
    async with world:
        first = await world.start(program="streams")
        configuration = client_configuration(world.certificate)
        async with connect("127.0.0.1", await first.port(), configuration=configuration) as client:
            second = await world.start("join", first, program="streams")
            reader, writer = await client.create_stream()
            writer.write(body)
            writer.write_eof()
            assert int(await reader.readline()) == first.pid
            await hand_over(first, second)
            late_reader, late_writer = await client.create_stream()
            late_writer.write(b"late")
            late_writer.write_eof()
            assert int(await late_reader.readline()) == second.pid
            assert await late_reader.read() == b"late"
            assert await reader.read() == body
        first.assert_no_mistake()
        second.assert_no_mistake()
