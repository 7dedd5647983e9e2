"""Files that an ASGI program sends (Starlette's FileResponse), downloaded by libcurl while the
connection moves: they are data, and need neither a relay nor the process that began them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from tests.cli.command_line import check_whole, wait_for
from tests.processes.harness import GUARD_S, SLOWLY, World
from tests.processes.moving_server import content
from tests.supervisor.service_home import is_alive, service_home

pytestmark = pytest.mark.process

_SIZE = 6_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file that is downloaded; it is named as `Curl` asks for it."""
    folder = tmp_path / "www"
    folder.mkdir()
    file = folder / str(_SIZE)
    file.write_bytes(content(0, _SIZE))
    return file


@pytest.fixture
def world_type(file: Path) -> type[World]:
    class StarletteWorld(World):
        program = "tests.processes.asgi_file_server"
        environment = {**os.environ, "FOLDER": str(file.parent)}  # noqa: RUF012

    return StarletteWorld


async def relayed(control: Path) -> int:
    """Streams that were relayed to a process, or from it."""
    figures = await ask(control, c.ReadFigures(), c.Figures, GUARD_S)
    return figures.counters["streams_relayed"] + figures.gauges["relayed_streams"]


async def test_a_download_goes_back_and_forth_without_a_relay(world: World) -> None:
    async with world:
        one = await world.start()
        async with world.curl(await one.port(), _SIZE, rate=SLOWLY) as curl:
            await curl.received(50_000)
            two = await world.start("join", one)
            connection = await one.the_connection()
            for source, destination in ((one, two), (two, one)) * 3:
                await source.hand_over_after_cutover(connection, destination)
                assert await destination.the_connection() == connection
                assert not (await source.list()).connections
                assert curl.outcome is None
            await curl.finish()
            assert curl.whole
        one.assert_no_mistake()
        two.assert_no_mistake()


@pytest.mark.parametrize("remains", [True, False])
async def test_a_download_outlives_the_process_that_began_it(
    world: World, file: Path, remains: bool
) -> None:
    """Killed once its client has cut over; the file goes before, or stays."""
    async with world:
        one = await world.start()
        async with world.curl(await one.port(), _SIZE, rate=SLOWLY) as curl:
            await curl.received(50_000)
            two = await world.start("join", one)
            assert (await one.hand_over(await one.the_connection(), two)).ok
            await two.cut_over()
            if not remains:
                file.unlink()
            one.signal(signal.SIGKILL)
            await one.gone()
            assert curl.outcome is None
            await curl.finish()
            assert curl.whole
        two.assert_no_mistake()


_SITE = """
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

def file(request):
    return FileResponse(request.query_params["path"])

app = Starlette(routes=[Route("/file", file)])
"""


async def test_downloads_go_on_through_a_reload_without_a_relay(tmp_path: Path) -> None:
    """Nobody waits for them: the old workers are gone while they are under way."""
    with service_home(tmp_path) as home:
        data = home.write("file.bin", 20_000_000)
        (tmp_path / "site_of_files.py").write_text(_SITE)
        service = home.service(2, "--app", "site_of_files:app")
        path = f"file?path={home.files / 'file.bin'}"
        downloads = [home.download(service, path, 300_000) for _ in range(4)]
        for download in downloads:
            download.wait_for_bytes(1)
        for _ in range(2):
            before = service.pids()
            done = home.run("reload", str(service.port), "--json")
            assert done.returncode == 0, done.stderr
            assert not set(before) & set(service.pids())
            for pid in before:
                wait_for(lambda pid=pid: is_alive(pid), lambda alive: not alive)
            for worker in service.status():
                assert await relayed(Path(worker["control"])) == 0
        assert sum(worker["connections"] for worker in service.status()) == len(downloads)
        for download in downloads:
            check_whole(download, data)
