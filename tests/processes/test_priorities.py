"""RFC 9218 end to end with libcurl: an urgent response overtakes, also after the connection has
moved."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pycurl

from tests.processes.harness import Server, World, until

_LARGE_BYTES = 40_000_000
_SMALL_BYTES = 300_000


class Page:
    """Downloads of one connection of libcurl's, in a thread of their own."""

    def __init__(self, world: World, port: int) -> None:
        self._base = f"https://127.0.0.1:{port}"
        self._ca = str(world.certificate.certificate)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, 2)  # CURLPIPE_MULTIPLEX
        self._new: list[tuple[str, pycurl.Curl]] = []
        self._names: dict[pycurl.Curl, str] = {}
        self._stops = False
        self.received: dict[str, int] = {}
        #: The bytes of each download when one ended.
        self.at_end: dict[str, dict[str, int]] = {}
        self.errors: list[str] = []

    def ask(self, name: str, size: int, priority: str) -> None:
        """Begin a download."""
        curl = pycurl.Curl()
        self.received[name] = 0
        curl.setopt(curl.URL, f"{self._base}/{size}")
        curl.setopt(curl.CAINFO, self._ca)
        curl.setopt(curl.HTTP_VERSION, 31)  # CURL_HTTP_VERSION_3ONLY
        curl.setopt(curl.PIPEWAIT, 1)
        curl.setopt(curl.HTTPHEADER, [f"priority: {priority}"])
        curl.setopt(curl.WRITEFUNCTION, lambda data: self._take(name, data))
        self._new.append((name, curl))

    def _take(self, name: str, data: bytes) -> None:
        self.received[name] += len(data)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stops = True
            thread.join()

    def _run(self) -> None:
        while not self._stops:
            while self._new:
                name, curl = self._new.pop()
                self._names[curl] = name
                self._multi.add_handle(curl)
            self._multi.perform()
            _, done, failed = self._multi.info_read()
            for curl in done:
                self.at_end[self._names[curl]] = dict(self.received)
            self.errors += [f"{error[1]} {error[2]}" for error in failed]
            self._multi.select(0.01)


async def _both_arrive(page: Page, slow: str, urgent: str) -> None:
    await until(lambda: len(page.at_end) == 2 or page.errors, "two downloads")
    assert page.errors == []
    # The urgent one asked later and ended first, with much of the other to come.
    assert page.at_end[urgent][slow] < _LARGE_BYTES
    assert page.at_end[slow] == {slow: _LARGE_BYTES, urgent: _SMALL_BYTES}


async def test_an_urgent_response_overtakes(world: World) -> None:
    async with world:
        server = await world.start()
        page = Page(world, await server.port())
        with page.running():
            page.ask("slow", _LARGE_BYTES, "u=6")
            await until(lambda: page.received["slow"] > 100_000, "the download to begin")
            page.ask("urgent", _SMALL_BYTES, "u=1")
            await _both_arrive(page, "slow", "urgent")


async def test_priorities_move_along(world: World) -> None:
    async with world:
        first = await world.start()
        second = await world.start("join", first)
        page = Page(world, await first.port())
        with page.running():
            page.ask("slow", _LARGE_BYTES, "u=6")
            await until(lambda: page.received["slow"] > 100_000, "the download to begin")
            source, destination = await _by_owner(first, second)
            answer = await source.hand_over(await source.the_connection(), destination)
            assert answer.ok, answer
            page.ask("urgent", _SMALL_BYTES, "u=1")
            await _both_arrive(page, "slow", "urgent")


async def _by_owner(first: Server, second: Server) -> tuple[Server, Server]:
    return (first, second) if await first.open_name() else (second, first)


async def test_responses_that_are_not_incremental_follow_one_another(world: World) -> None:
    async with world:
        server = await world.start()
        page = Page(world, await server.port())
        with page.running():
            page.ask("first", _LARGE_BYTES, "u=3")
            await until(lambda: page.received["first"] > 100_000, "the download to begin")
            page.ask("second", _LARGE_BYTES, "u=3")
            await until(lambda: len(page.at_end) == 2 or page.errors, "two downloads")
        assert page.errors == []
        assert page.at_end["first"]["second"] < _LARGE_BYTES // 2
