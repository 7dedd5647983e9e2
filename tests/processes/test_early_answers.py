"""An answer that does not wait for the request: curl uploads 100 MB to a server that refuses them
at once, and gets the refusal whole (RFC 9114 §4.1), at any owner of the connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pycurl
import pytest

from tests.processes.harness import RunningWorld, Server, World, until
from tests.processes.moving_server import content

pytestmark = pytest.mark.process

_UPLOAD_BYTES = 100_000_000
_ANSWER_BYTES = 200_000


@pytest.fixture
def world_type() -> type[World]:
    return RunningWorld


class Uploader:
    """libcurl with one connection, and what became of its newest request."""

    def __init__(self, world: World, port: int) -> None:
        self._base = f"https://127.0.0.1:{port}"
        self._ca = str(world.certificate.certificate)
        self._curl = pycurl.Curl()
        self.sent_bytes = 0
        self.body = b""
        self.status = 0

    async def get(self, path: str) -> bytes:
        await asyncio.to_thread(self._perform, path)
        return self.body

    async def upload(self, path: str, *, wait_for: Path = Path("/")) -> None:
        """Raises pycurl.error unless curl itself is content."""
        await asyncio.to_thread(self._perform, path, wait_for)

    def _perform(self, path: str, wait_for: Path | None = None) -> None:
        curl = self._curl
        curl.reset()
        pieces: list[bytes] = []
        self.sent_bytes = 0
        curl.setopt(curl.URL, self._base + path)
        curl.setopt(curl.CAINFO, self._ca)
        curl.setopt(curl.HTTP_VERSION, 31)  # CURL_HTTP_VERSION_3ONLY
        curl.setopt(curl.WRITEFUNCTION, pieces.append)
        curl.setopt(curl.TIMEOUT, 120)
        if wait_for is not None:
            curl.setopt(curl.HTTPHEADER, [f"x-wait-for: {wait_for}"])
            curl.setopt(curl.UPLOAD, True)
            curl.setopt(curl.CUSTOMREQUEST, "POST")
            curl.setopt(curl.INFILESIZE_LARGE, _UPLOAD_BYTES)
            curl.setopt(curl.READFUNCTION, self._read)
        curl.perform()
        self.status = curl.getinfo(curl.RESPONSE_CODE)
        self.body = b"".join(pieces)

    def _read(self, size: int) -> bytes:
        piece = bytes(min(size, _UPLOAD_BYTES - self.sent_bytes))
        self.sent_bytes += len(piece)
        return piece

    def assert_refused(self) -> None:
        assert self.status == 413
        assert self.body == content(0, _ANSWER_BYTES)


async def hand_over(source: Server, destination: Server) -> None:
    answer = await source.hand_over(await source.the_connection(), destination)
    assert answer.ok, answer


async def test_a_refusal_arrives_whole_before_and_after_a_handoff(world: World) -> None:
    async with world:
        first = await world.start()
        second = await world.start("join", first)
        curl = Uploader(world, await first.port())
        owner = int(await curl.get("/pid"))
        source, destination = (first, second) if owner == first.pid else (second, first)
        await curl.upload(f"/refuse/{_ANSWER_BYTES}")
        curl.assert_refused()
        # On the same connection, or a new one, if curl ends one whose upload it broke off.
        owner = int(await curl.get("/pid"))
        source, destination = (first, second) if owner == first.pid else (second, first)
        await hand_over(source, destination)
        assert int(await curl.get("/pid")) == destination.pid
        await curl.upload(f"/refuse/{_ANSWER_BYTES}")
        curl.assert_refused()


async def test_a_refusal_arrives_whole_through_a_relay(world: World) -> None:
    async with world:
        first = await world.start()
        second = await world.start("join", first)
        curl = Uploader(world, await first.port())
        owner = int(await curl.get("/pid"))
        source, destination = (first, second) if owner == first.pid else (second, first)
        release = world.folder / "release"
        upload = asyncio.create_task(curl.upload(f"/refuse/{_ANSWER_BYTES}", wait_for=release))
        await until(lambda: curl.sent_bytes > 50_000, "the upload to begin")
        await hand_over(source, destination)
        release.touch()
        await upload
        curl.assert_refused()
