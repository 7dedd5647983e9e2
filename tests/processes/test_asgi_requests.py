"""An ASGI program's requests of all kinds on one connection that moves: each is answered whole, and
the program runs once for each."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from tests.processes.exchanging_client import Client, client_of
from tests.processes.harness import Server, World, until
from tests.processes.moving_server import content

pytestmark = pytest.mark.process

_SIZE = 3_000_000


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """In which the program says what it begins with."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / str(_SIZE)).write_bytes(content(0, _SIZE))
    notes = folder / "notes"
    notes.touch()
    return notes


@pytest.fixture
def world_type(notes: Path) -> type[World]:
    class AsgiWorld(World):
        program = "tests.processes.asgi_server"
        environment = {**os.environ, "NOTES": str(notes)}  # noqa: RUF012

    return AsgiWorld


async def test_no_request_is_lost_or_run_twice_while_the_connection_goes_back_and_forth(
    world: World, notes: Path
) -> None:
    async with world:
        one = await world.start()
        async with client_of(world, await one.port()) as client:
            two = await world.start("join", one)
            connection = await one.the_connection()
            asking = asyncio.create_task(_ask(client))
            moves, source, destination = 0, one, two
            while not asking.done() or moves < 4:
                answer = await source.hand_over(connection, destination)
                assert answer.ok or answer.code in ("cutover_pending", "streams_relayed"), answer
                if answer.ok:
                    moves, source, destination = moves + 1, destination, source
            names = await asking
            assert sorted(notes.read_text().split()) == sorted(names)
        one.assert_no_mistake()
        two.assert_no_mistake()


async def _ask(client: Client) -> list[str]:
    """Requests in bunches, without and with bodies; returns their names."""
    names = [f"{number}" for number in range(300)]
    for start in range(0, len(names), 10):
        bunch = [(name, client.ask(f"/note/{name}")) for name in names[start : start + 5]]
        bodies = [
            (name, client.ask(f"/note/{name}", method=b"POST"))
            for name in names[start + 5 : start + 10]
        ]
        for name, exchange in bodies:
            await client.upload(exchange, bytes(int(name) + 1))
        for name, exchange in (*bunch, *bodies):
            await exchange.ended.wait()
            assert exchange.reset is None
            size = 0 if (name, exchange) in bunch else int(name) + 1
            assert int(exchange.body.split()[1]) == size
    return names


async def test_a_handoff_that_fails_costs_neither_files_nor_tasks(world: World) -> None:
    """The same protocol object goes on with both, since the task cannot go into another."""
    async with world:
        one = await world.start()
        async with client_of(world, await one.port()) as client:
            forgetful = await world.start("join", one, forgetful=True, program="forgetful")
            two = await world.start("join", one)
            slow = client.ask("/slow/400000/6000")
            file = client.ask(f"/file/{_SIZE}")
            client.pause(file)
            await until(lambda: slow.body, "the body to begin")
            connection = await one.the_connection()
            assert (await one.hand_over(connection, forgetful)).code == "import_failed"
            assert (await one.hand_over(connection, two)).ok
            client.resume(file)
            await file.ended.wait()
            assert file.body == content(0, _SIZE)
            await slow.ended.wait()
            assert slow.body == content(0, 400_000)
        one.assert_no_mistake()
        two.assert_no_mistake()


async def test_files_are_closed_once_they_have_moved_whatever_still_runs(
    world: World, notes: Path
) -> None:
    file = notes.with_name(str(_SIZE))
    async with world:
        one = await world.start()
        async with client_of(world, await one.port()) as client:
            two = await world.start("join", one)
            slow = client.ask("/slow/400000/60000")
            download = client.ask(f"/file/{_SIZE}")
            client.pause(download)
            await until(lambda: slow.body and download.body, "the bodies to begin")
            assert (await one.hand_over(await one.the_connection(), two)).ok
            await one.until(lambda: not has_open(one, file), "the file's end")
            assert has_open(two, file)
            client.resume(download)
            await download.ended.wait()
            assert download.body == content(0, _SIZE)
            assert not slow.ended.is_set()


async def test_a_file_that_a_task_names_after_the_move_is_relayed(world: World) -> None:
    async with world:
        one = await world.start()
        async with client_of(world, await one.port()) as client:
            two = await world.start("join", one)
            late = client.ask(f"/file/{_SIZE}/enough")
            await client.get("/note/first")
            assert (await one.hand_over(await one.the_connection(), two)).ok
            assert int((await client.get("/note/enough")).split()[0]) == two.pid
            await late.ended.wait()
            assert late.body == content(0, _SIZE)
        one.assert_no_mistake()
        two.assert_no_mistake()


def has_open(server: Server, file: Path) -> bool:
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if os.path.samefile(link, file):
                return True
    return False
