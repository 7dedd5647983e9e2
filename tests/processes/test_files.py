"""Files that change in the middle of a download of libcurl's, before, in and after a handoff; and
that no process keeps a file open for longer than it serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quicbaton.handoff import Waits
from quicbaton.service.failpoints import DESTINATION_POINTS, SOURCE_POINTS
from quicbaton.service.peers import commands as c
from tests.processes.harness import GUARD_S, SHORT_WAITS, SLOWLY, Curl, Server, World, until
from tests.processes.moving_server import content

pytestmark = pytest.mark.process

#: More than client and server have buffered between them when the client holds.
_SIZE = 6_000_000
_PATIENT = Waits(frozen_s=GUARD_S, ready_s=2 * GUARD_S)


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
    class FolderWorld(World):
        program = "tests.processes.folder_server"
        environment = {**os.environ, "FOLDER": str(file.parent)}  # noqa: RUF012

    return FolderWorld


def change(file: Path, how: str) -> None:
    match how:
        case "replaced":
            other = file.with_name("other")
            other.write_bytes(content(1, _SIZE + 1))
            other.replace(file)
        case "deleted":
            file.unlink()
        case "appended":
            with file.open("ab") as log:
                log.write(b"more")
        case "overwritten":
            with file.open("r+b") as same:
                same.write(content(1, _SIZE + 1))
        case "written_anew":
            file.write_bytes(content(1, _SIZE + 100))
        case "touched":
            os.utime(file)


_CHANGES = [
    *(("replaced", True), ("deleted", True), ("appended", True)),
    *(("overwritten", False), ("written_anew", False), ("touched", False)),
]


@asynccontextmanager
async def client(world: World, server: Server) -> AsyncIterator[Curl]:
    """One whose download is under way, and stays so until it may finish."""
    async with world.curl(await server.port(), _SIZE, rate=SLOWLY) as curl:
        await curl.received(50_000)
        yield curl


async def check(curl: Curl, goes_on: bool) -> None:
    """It is whole, or was reset after nothing but right bytes."""
    outcome = await curl.finish()
    if goes_on:
        assert curl.whole, outcome.error
    else:
        # Which error that is depends on the HTTP/3 library that curl was built with.
        assert outcome.error
        assert 0 < outcome.received_bytes < _SIZE
        assert curl.sha256_of(outcome.received_bytes) == outcome.sha256


def opened(server: Server, file: Path) -> int:
    """How often a process has the file open, under whatever name; a dead one has nothing open."""
    count = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in list(Path(f"/proc/{server.pid}/fd").iterdir()):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(entry).removesuffix(" (deleted)")
                count += Path(target).parent == file.parent
    return count


async def nobody_has_it_open(servers: list[Server], file: Path) -> None:
    for server in servers:
        if server.alive:
            await server.until(lambda server=server: not opened(server, file), "the file's end")


# --- changes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["alone", "before", "in", "after"])
@pytest.mark.parametrize(("how", "goes_on"), _CHANGES)
async def test_a_file_that_changes_around_a_handoff(
    world: World, file: Path, how: str, goes_on: bool, moment: str
) -> None:
    async with world:
        stop = "after_baton:STOP" if moment == "in" else ""
        first = await world.start(failpoint=stop, waits=_PATIENT)
        async with client(world, first) as curl:
            second = await world.start("join", first, waits=_PATIENT)
            if moment in ("alone", "before"):
                change(file, how)
            if moment != "alone":
                handoff = asyncio.create_task(first.hand_over(await first.the_connection(), second))
                if moment == "in":
                    await first.comes_to_a_stop()
                    change(file, how)
                    first.signal(signal.SIGCONT)
                assert (await handoff).ok
            if moment == "after":
                change(file, how)
            await check(curl, goes_on)
        await nobody_has_it_open([first, second], file)


async def test_a_replaced_file_goes_on_through_a_takeover(world: World, file: Path) -> None:
    async with world:
        first = await world.start()
        async with client(world, first) as curl:
            change(file, "replaced")
            second = await world.fork("takeover", first)
            assert (await second.settled()).startswith("settled ok")
            await first.gone()
            assert opened(second, file) == 1
            await check(curl, True)
            await nobody_has_it_open([second], file)


@pytest.mark.parametrize(("how", "goes_on"), [("", True), ("replaced", False)])
async def test_a_saved_download_goes_on_with_the_same_file_only(
    world: World, file: Path, how: str, goes_on: bool
) -> None:
    """No open file goes into a baton's file."""
    async with world:
        first = await world.start()
        async with client(world, first) as curl:
            second = await world.start("join", first)
            baton = world.folder / "x.baton"
            assert (await first.command(c.Save(await first.the_connection(), str(baton)))).ok
            change(file, how)
            assert (await second.command(c.Resume(str(baton)))).ok
            await check(curl, goes_on)
        await nobody_has_it_open([first, second], file)


# --- descriptors ------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [*SOURCE_POINTS, *DESTINATION_POINTS])
@pytest.mark.parametrize("action", ["CUT", "KILL"])
async def test_no_file_stays_open_wherever_a_handoff_is_broken_off(
    world: World, file: Path, point: str, action: str
) -> None:
    """The file is replaced first: the next owner needs the descriptor that it had, or got."""
    at_source = point in SOURCE_POINTS
    async with world:
        failpoint = f"{point}:{action}"
        first = await world.start(failpoint=failpoint if at_source else "", waits=SHORT_WAITS)
        async with client(world, first) as curl:
            second = await world.start(
                "join", first, failpoint="" if at_source else failpoint, waits=SHORT_WAITS
            )
            change(file, "replaced")
            await first.hand_over(await first.the_connection(), second)
            servers = [first, second]
            await until(lambda: _one_has_it(servers, file), "one owner, or none")
            outcome = await curl.finish()
            if action == "CUT":
                assert curl.whole, outcome.error
        await nobody_has_it_open(servers, file)


def _one_has_it(servers: list[Server], file: Path) -> bool:
    return sum(opened(server, file) for server in servers if server.alive) <= 1


async def test_many_downloads_of_one_file_share_one_descriptor(world: World, file: Path) -> None:
    async with world:
        first = await world.start()
        async with client(world, first) as one, client(world, first) as two:
            assert opened(first, file) == 1
            second = await world.start("join", first)
            names = [info.connection for info in (await first.list()).connections]
            await first.hand_over_after_cutover(names[0], second)
            assert (opened(first, file), opened(second, file)) == (1, 1)
            await first.hand_over_after_cutover(names[1], second)
            assert (opened(first, file), opened(second, file)) == (0, 1)
            await check(one, True)
            await check(two, True)
        await nobody_has_it_open([first, second], file)


# --- early answers ----------------------------------------------------------------------------

_UPLOAD = """
import io, pycurl, sys
curl, body = pycurl.Curl(), io.BytesIO()
size, sent = 100_000_000, 0

def read(most):
    global sent
    piece = b"x" * min(most, size - sent)
    sent += len(piece)
    return piece

curl.setopt(pycurl.URL, sys.argv[1])
curl.setopt(pycurl.CAINFO, sys.argv[2])
curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
curl.setopt(pycurl.PROXY, "")
curl.setopt(pycurl.UPLOAD, 1)
curl.setopt(pycurl.CUSTOMREQUEST, sys.argv[3])
curl.setopt(pycurl.INFILESIZE_LARGE, size)
curl.setopt(pycurl.READFUNCTION, read)
curl.setopt(pycurl.WRITEFUNCTION, body.write)
curl.setopt(pycurl.TIMEOUT, 60)
curl.perform()
print(curl.getinfo(pycurl.RESPONSE_CODE), sent < size, body.getvalue())
"""


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_refused_upload_gets_its_answer_and_ends_early(
    world: World, file: Path, method: str
) -> None:
    async with world:
        server = await world.start()
        url = f"https://127.0.0.1:{await server.port()}/{file.name}"
        curl = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _UPLOAD, url, str(world.certificate.certificate), method),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await curl.communicate()
        assert output.decode() == f"405 True {b'Only GET and HEAD' + bytes([10])!r}\n"
        assert curl.returncode == 0
