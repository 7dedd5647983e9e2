"""Three hundred requests of all kinds in flight through a rolling reload on a lossy path: each is
answered rightly, and run once."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage

from tests.asgi.webtransport_client import WebTransportClient, webtransport_client
from tests.cli.command_line import wait_for
from tests.processes.wire import Relay
from tests.supervisor.service_home import Service, ServiceHome, is_alive, service_home

pytestmark = pytest.mark.process

_CONNECTIONS = 20
_LOSS = 0.01
_BODY = Random(1).randbytes(20_000)
_FILE = Random(2).randbytes(100_000)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        source = Path(__file__).with_name("mixed_program.py").read_text()
        (tmp_path / "mixed_program.py").write_text(source)
        (tmp_path / "large.bin").write_bytes(_FILE)
        yield made


class LossyRelay(Relay):
    """Loses some of what passes, either way."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(port)
        self._random = Random(seed)

    def _from_client(self, data: bytes, address: Any) -> None:
        if self._random.random() >= _LOSS:
            super()._from_client(data, address)

    def _from_server(self, data: bytes, address: Any) -> None:
        if self._random.random() >= _LOSS:
            super()._from_server(data, address)


class Crowd:
    """One connection's requests; `number` makes their names."""

    def __init__(self, client: WebTransportClient, number: int, enough: asyncio.Event) -> None:
        self._client = client
        self._number = number
        self._enough = enough
        self._next = 0

    @property
    def works(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *([self.stream] * 4 + [self.events] * 2 + [self.upload] * 4),
            *([self.file] * 2 + [self.socket] * 2 + [self.session]),
        ]

    async def stream(self) -> None:
        stream_id, name = self._ask("stream")
        body = await self._client.answer(stream_id)
        count = int(body.rpartition(b"\n")[2].removesuffix(b" in all"))
        pieces = [b"%d %d\n" % (name, number) for number in range(count)]
        whole = b"".join(piece * (200 // len(piece)) for piece in pieces)
        assert body == whole + b"%d in all" % count

    async def events(self) -> None:
        stream_id, name = self._ask("events")
        body = await self._client.answer(stream_id)
        count = int(re.search(rb"data: (\d+) in all\n\n$", body)[1])  # type: ignore[index]
        expected = b"".join(b"id: %d\ndata: %d\n\n" % (number, name) for number in range(count))
        assert body == expected + b"data: %d in all\n\n" % count

    async def upload(self) -> None:
        stream_id, _ = self._ask("upload", method="POST", ended=False)
        self._client.write_body(stream_id, _BODY[:10_000])
        await self._enough.wait()
        self._client.write_body(stream_id, _BODY[10_000:], ended=True)
        assert await self._client.answer(stream_id) == hashlib.sha256(_BODY).hexdigest().encode()

    async def file(self) -> None:
        stream_id, _ = self._ask("file")
        assert await self._client.answer(stream_id) == _FILE

    async def socket(self) -> None:
        stream_id, _ = self._ask("socket", method="CONNECT", protocol="websocket", ended=False)
        frames = Connection(ConnectionType.CLIENT)
        said = 0
        while not self._enough.is_set() or said < 5:
            message = _BODY[said : said + 500]
            self._client.write_body(stream_id, frames.send(BytesMessage(message)))
            assert await self._echo(stream_id, frames) == message
            said += 1
            await asyncio.sleep(0.1)

    async def _echo(self, stream_id: int, frames: Connection) -> bytes:
        parts: list[bytes] = []
        received = self._client.received.setdefault(stream_id, bytearray())
        while True:
            await self._client.until(lambda: bool(received))
            frames.receive_data(bytes(received))
            received.clear()
            for event in frames.events():
                assert isinstance(event, BytesMessage), event
                parts.append(bytes(event.data))
                if event.message_finished:
                    return b"".join(parts)

    async def session(self) -> None:
        assert await self._client.open(f"/session/{self._name()}") == 200
        count = 0
        while not self._enough.is_set() or count < 5:
            stream_id = self._client.open_stream()
            self._client.write(stream_id, _BODY[count : count + 5000], ended=True)
            assert await self._client.answer(stream_id) == _BODY[count : count + 5000]
            count += 1
            await asyncio.sleep(0.1)
        self._client.close_session(0, "")

    def _ask(self, kind: str, *, method: str = "GET", ended: bool = True, **more: str) -> Any:
        name = self._name()
        stream_id = self._client.ask(f"/{kind}/{name}", method=method, ended=ended, **more)
        return stream_id, name

    def _name(self) -> int:
        self._next += 1
        return 1000 * self._number + self._next


async def test_all_kinds_of_requests_go_on_through_a_rolling_reload(home: ServiceHome) -> None:
    arguments = ("--host", "127.0.0.1", "--port", "0", "--json", "--workers", "2")
    service = Service(
        home, home.start("quicbaton", "serve", "mixed_program:application", *arguments)
    )
    before = service.pids()

    (home.path / "begun").touch()
    enough = asyncio.Event()
    async with AsyncExitStack() as stack:
        crowds = []
        for number in range(_CONNECTIONS):
            relay = await stack.enter_async_context(LossyRelay(service.port, number))
            client = await stack.enter_async_context(webtransport_client(relay.port))
            crowds.append(Crowd(client, number, enough))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for crowd in crowds for work in crowd.works]
            assert len(tasks) == 300
            while (home.path / "begun").read_text().count("\n") < 300:
                await asyncio.sleep(0.1)
            done = await asyncio.to_thread(home.run, "reload", service.control, "--json")
            assert done.returncode == 0, done.stderr
            assert " cut" not in done.stdout
            (home.path / "enough").touch()
            enough.set()
        assert all(crowd._client.resets == {} for crowd in crowds)
    assert not set(service.pids()) & set(before)
    begun = Counter((home.path / "begun").read_text().split())
    assert len(begun) == 300
    assert set(begun.values()) == {1}
    # With the last of their requests the old workers end.
    wait_for(lambda: [pid for pid in before if is_alive(pid)], lambda alive: not alive)
