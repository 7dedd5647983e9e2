"""A WebTransport session whose worker is replaced: it goes on, with streams of before and after."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.asgi.webtransport_client import WebTransportClient, webtransport_client
from tests.supervisor.service_home import Service, ServiceHome, service_home

pytestmark = pytest.mark.process

_LARGE = Random(1).randbytes(1_000_000)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        source = Path(__file__).with_name("session_program.py").read_text()
        (tmp_path / "session_program.py").write_text(source)
        yield made


def start(home: ServiceHome) -> Service:
    options = ("--host", "127.0.0.1", "--port", "0", "--json", "--workers", "1")
    return Service(home, home.start("quicbaton", "serve", "session_program:application", *options))


async def reload(home: ServiceHome, service: Service, *options: str) -> None:
    done = await asyncio.to_thread(home.run, "reload", service.control, *options, "--json")
    assert done.returncode == 0, done.stderr


async def pid_of(client: WebTransportClient) -> int:
    """The process that answers a request on the session's connection."""
    return int(await client.answer(client.ask("/pid")))


class Traffic:
    """Streams of all kinds and datagrams, as long as it runs; all of it is checked."""

    def __init__(self, client: WebTransportClient, pid: int) -> None:
        self._client = client
        self._pid = pid
        self._over = False
        self._next_uni = 15  # of the server's, after those of HTTP/3
        self.streams = self.sent = 0

    async def run(self) -> None:
        random = Random(2)
        while not self._over:
            body = random.randbytes(random.choice((1, 1000, 100_000)))
            await self._echo(body)
            await self._echo_on_another(body)
            self._client.send_datagram(b"%d" % self.sent)
            self.sent += 1

    def stop(self) -> None:
        self._over = True

    async def _echo(self, body: bytes) -> None:
        stream = self._client.open_stream()
        self._client.write(stream, body[:10])
        await asyncio.sleep(0)
        self._client.write(stream, body[10:], ended=True)
        assert await self._client.answer(stream) == b"%d " % self._pid + body
        self.streams += 1

    async def _echo_on_another(self, body: bytes) -> None:
        stream = self._client.open_stream(unidirectional=True)
        self._client.write(stream, body, ended=True)
        assert await self._client.answer(self._next_uni) == b"%d " % self._pid + body
        self._next_uni += 4
        self.streams += 1


async def test_a_session_goes_on_through_a_reload(home: ServiceHome) -> None:
    service = start(home)
    (old,) = service.pids()
    async with webtransport_client(service.port) as client:
        assert await client.open("/") == 200
        half = client.open_stream()
        client.write(half, _LARGE[:500_000])
        traffic = Traffic(client, old)
        running = asyncio.create_task(traffic.run())
        await reload(home, service)
        before = traffic.streams
        # Nothing of the session is the new worker's, everything else is.
        assert await pid_of(client) != old
        while traffic.streams < before + 50 and not running.done():
            await asyncio.sleep(0.01)
        traffic.stop()
        await running
        client.write(half, _LARGE[500_000:], ended=True)
        assert await client.answer(half) == b"%d " % old + _LARGE
        assert client.resets == {}
        await client.until(lambda: len(client.datagrams) == traffic.sent)
        client.close_session(0, "")
        while Path(f"/proc/{old}").exists():
            await asyncio.sleep(0.01)
        # The connection has outlived it, and its next session is the new worker's.
        assert await client.open("/") == 200
        stream = client.open_stream()
        client.write(stream, b"hello", ended=True)
        assert await client.answer(stream) == b"%d hello" % await pid_of(client)


async def test_a_session_goes_on_through_one_reload_after_the_other(home: ServiceHome) -> None:
    """Each old worker passes on what is for the first."""
    service = start(home)
    (first,) = service.pids()
    async with webtransport_client(service.port) as client:
        assert await client.open("/") == 200
        half = client.open_stream()
        traffic = Traffic(client, first)
        running = asyncio.create_task(traffic.run())
        pids = [first]
        for number in range(4):
            client.write(half, _LARGE[number * 200_000 :][:200_000])
            await reload(home, service)
            pids.append(await pid_of(client))
            before = traffic.streams
            while traffic.streams < before + 20 and not running.done():
                await asyncio.sleep(0.01)
        assert len(set(pids)) == 5
        traffic.stop()
        await running
        client.write(half, _LARGE[800_000:], ended=True)
        assert await client.answer(half) == b"%d " % first + _LARGE
        assert client.resets == {}
        client.close_session(0, "")
        # With the session all of them end but the last.
        while any(Path(f"/proc/{pid}").exists() for pid in pids[:-1]):
            await asyncio.sleep(0.01)
        assert await pid_of(client) == pids[-1]


async def test_a_client_that_does_not_end_its_side_keeps_no_process(home: ServiceHome) -> None:
    service = start(home)
    (old,) = service.pids()
    async with webtransport_client(service.port) as client:
        assert await client.open("/") == 200
        await reload(home, service)
        client.send_datagram(b"close")
        await client.until(lambda: client.closed == (3, ""))
        while Path(f"/proc/{old}").exists():
            await asyncio.sleep(0.01)
        assert await pid_of(client) != old


async def test_a_session_ends_with_the_process_that_passes_it_on(home: ServiceHome) -> None:
    service = start(home)
    (first,) = service.pids()
    async with webtransport_client(service.port) as client:
        assert await client.open("/") == 200
        await reload(home, service)
        second = await pid_of(client)
        await reload(home, service)
        third = await pid_of(client)
        assert len({first, second, third}) == 3
        os.kill(second, signal.SIGKILL)
        await client.until(lambda: client.session in client.resets)
        # Its program is told, and the connection lives on.
        while Path(f"/proc/{first}").exists():
            await asyncio.sleep(0.01)
        assert await pid_of(client) == third


async def test_grace_ends_a_session_and_not_its_connection(home: ServiceHome) -> None:
    service = start(home)
    async with webtransport_client(service.port) as client:
        assert await client.open("/") == 200
        (old,) = await asyncio.to_thread(service.pids)
        await reload(home, service, "--grace", "0.5")
        await client.until(lambda: client.session in client.resets)
        assert await pid_of(client) != old
