"""aioquic clients that fetch files all the time, and say what they lose.

    python -m tests.soak.clients PORT FOLDER CONNECTIONS

Each connection fetches a file of FOLDER a few times a second, and compares it. One that ends is
opened anew. A line on standard input is answered with a report of what has happened since the last
one; at the end of the input all connections are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

_ANSWER_S: Final = 20.0
_PAUSE_S: Final = 0.5
_IDLE_S: Final = 120.0


class Loss(msgspec.Struct):
    """A connection that ended, or that could not be opened (`port` 0)."""

    port: int  # the client's
    began: float  # as time.time() has it
    ended: float
    why: str


class Report(msgspec.Struct):
    """What has happened since the last report."""

    requests: int
    wrong: int  # bodies that were not the file
    connections: int  # open at this moment
    losses: list[Loss]


class _Client(QuicConnectionProtocol):
    """One connection, one request at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._body = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._end = ""

    @property
    def port(self) -> int:
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    async def get(self, name: str) -> bytes:
        """The body. ConnectionError when the connection ends before it does."""
        if self._end:
            raise ConnectionError(self._end)
        stream_id = self._quic.get_next_available_stream_id()
        self._body.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._http.send_headers(
            stream_id,
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", f"/{name}".encode()),
            ],
            end_stream=True,
        )
        self.transmit()
        return await asyncio.wait_for(self._answer, _ANSWER_S)

    def quic_event_received(self, event: QuicEvent) -> None:
        waiting = self._answer if self._answer is not None and not self._answer.done() else None
        if isinstance(event, ConnectionTerminated):
            self._end = event.reason_phrase or f"error {event.error_code}"
            if waiting is not None:
                waiting.set_exception(ConnectionError(self._end))
            return
        for http_event in self._http.handle_event(event):
            if not isinstance(http_event, DataReceived | HeadersReceived):
                continue
            if isinstance(http_event, DataReceived):
                self._body += http_event.data
            if http_event.stream_ended and waiting is not None:
                waiting.set_result(bytes(self._body))


class _Crowd:
    def __init__(self, port: int, folder: Path, connections: int) -> None:
        self._port = port
        self._files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
        self._tasks = [
            asyncio.get_running_loop().create_task(self._go_on(number))
            for number in range(connections)
        ]
        self._requests = self._wrong = self._open = 0
        self._losses: list[Loss] = []

    def report(self) -> Report:
        report = Report(self._requests, self._wrong, self._open, self._losses)
        self._requests = self._wrong = 0
        self._losses = []
        return report

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _go_on(self, number: int) -> None:
        chance = Random(number)
        while True:
            port, began = 0, time.time()
            try:
                async with connect(
                    "127.0.0.1",
                    self._port,
                    configuration=_configuration(),
                    create_protocol=_Client,
                ) as client:
                    assert isinstance(client, _Client)
                    port = client.port
                    self._open += 1
                    await self._use(client, chance)
            except (ConnectionError, TimeoutError) as error:
                why = f"{type(error).__name__}: {error}"
                self._losses.append(Loss(port, began, time.time(), why))
                self._open -= bool(port)
                await asyncio.sleep(_PAUSE_S)

    async def _use(self, client: _Client, chance: Random) -> None:
        while True:
            name, content = chance.choice(self._files)
            body = await client.get(name)
            self._requests += 1
            self._wrong += body != content
            await asyncio.sleep(chance.uniform(0, 2 * _PAUSE_S))


def _configuration() -> QuicConfiguration:
    """Certificates change meanwhile, and are checked by others."""
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name="localhost",
        verify_mode=ssl.CERT_NONE,
        idle_timeout=_IDLE_S,
    )


async def _main() -> None:
    crowd = _Crowd(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    with contextlib.suppress(BrokenPipeError):
        while await asyncio.to_thread(sys.stdin.readline):
            print(msgspec.json.encode(crowd.report()).decode(), flush=True)
    await crowd.close()


if __name__ == "__main__":
    asyncio.run(_main())
