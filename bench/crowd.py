"""Many HTTP/3 connections from one process: most are idle, and all must still live afterwards.

Arguments: the port, and `quicbaton` for clients of our own instead of aioquic's. Ours take a third
of the CPU, for measurements that share the machine's cores with their clients.

Lines on stdin: `open COUNT` makes connections with one small request each, `shake COUNT` makes
connections and no request, `ask` has every one of them make a request. `hum COUNT` has that many of
them make one request after the other until `hush`. `hold BYTES` makes a connection of our own whose
client asks for that many bytes and reads none of them until `release`. The answers say how many
succeeded.
"""

import asyncio
import resource
import ssl
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec
from aioquic.asyncio import QuicConnectionProtocol as AioquicProtocol
from aioquic.asyncio import connect as aioquic_connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from quicbaton.asyncio import QuicConnectionProtocol, connect
from quicbaton.service.host import tune_collector

BODY_BYTES = 1024
IDLE_TIMEOUT_S = 600.0

_AT_ONCE = 16
_HUM_PAUSE_S = 0.05
_ANSWER_TIMEOUT_S = 20.0
#: The windows of a client that reads nothing.
_HELD_WINDOW_BYTES = 256


class Tally(msgspec.Struct):
    """The answer to a line."""

    succeeded: int
    failed: int
    first_failure: str = ""


class _Requests:
    """One connection, one request at a time; beside a protocol class."""

    _quic: Any
    _http: Any
    transmit: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._received = 0
        self._answer: asyncio.Future[int] | None = None

    async def get(self, size: int = BODY_BYTES) -> None:
        """Ask for `size` bytes; raises when they do not come."""
        self.ask(b"/%d" % size)
        await self.answer(size)

    def ask(self, path: bytes) -> int:
        """Send a request; return its stream."""
        stream_id: int = self._quic.get_next_available_stream_id()
        self._http.send_headers(
            stream_id,
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", path),
            ],
            end_stream=True,
        )
        self._received = 0
        self._answer = asyncio.get_running_loop().create_future()
        self.transmit()
        return stream_id

    async def answer(self, size: int) -> None:
        """Return when the latest request is answered with `size` bytes; raises otherwise."""
        assert self._answer is not None
        received = await asyncio.wait_for(self._answer, _ANSWER_TIMEOUT_S)
        if received != size:
            raise RuntimeError(f"{received} bytes instead of {size}")

    def quic_event_received(self, event: QuicEvent) -> None:
        for http_event in self._http.handle_event(event):
            self._on_http(http_event)

    def _on_http(self, event: H3Event) -> None:
        if isinstance(event, DataReceived):
            self._received += len(event.data)
            if event.stream_ended and self._answer is not None and not self._answer.done():
                self._answer.set_result(self._received)


class Http3Client(_Requests, AioquicProtocol):
    """A client of aioquic's."""


class OwnHttp3Client(_Requests, QuicConnectionProtocol):
    """A client of ours."""


def configuration(**more: Any) -> QuicConfiguration:
    """A client's; certificates are not what is measured here."""
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name="localhost",
        verify_mode=ssl.CERT_NONE,
        idle_timeout=IDLE_TIMEOUT_S,
        **more,
    )


class _Crowd:
    def __init__(self, port: int, *, own: bool) -> None:
        self._port = port
        self._own = own
        self._clients: list[_Requests] = []
        self._stack = AsyncExitStack()
        self._hums: list[asyncio.Task[Tally]] = []
        self._hushed = asyncio.Event()
        self._held: tuple[OwnHttp3Client, int, int]

    async def perform(self, line: str) -> Tally:
        operation, *arguments = line.split()
        if operation in ("open", "shake"):
            work = self._open if operation == "open" else self._connect
            return await _tally([work] * int(arguments[0]))
        if operation == "hum":
            humming = self._clients[: int(arguments[0])]
            self._hums = [asyncio.create_task(self._hum(client)) for client in humming]
            return Tally(len(humming), 0)
        if operation == "hold":
            return await _tally([partial(self._hold, int(arguments[0]))])
        if operation == "release":
            return await _tally([self._release])
        if operation == "hush":
            self._hushed.set()
            return _sum(await asyncio.gather(*self._hums))
        return await _tally([client.get for client in self._clients])

    async def _hum(self, client: _Requests) -> Tally:
        tally = Tally(0, 0)
        while not self._hushed.is_set():
            await _count(client.get, tally)
            await asyncio.sleep(_HUM_PAUSE_S)
        return tally

    async def _hold(self, size: int) -> None:
        holder = await self._stack.enter_async_context(
            connect(
                "127.0.0.1",
                self._port,
                configuration=configuration(max_stream_data=_HELD_WINDOW_BYTES),
                create_protocol=OwnHttp3Client,
            )
        )
        assert isinstance(holder, OwnHttp3Client)
        stream_id = holder.ask(b"/held/%d" % size)
        holder._quic.pause_reading(stream_id)
        self._held = (holder, stream_id, size)

    async def _release(self) -> None:
        holder, stream_id, size = self._held
        holder._quic.resume_reading(stream_id)
        holder.transmit()
        await holder.answer(size)

    async def _open(self) -> None:
        client = await self._connect()
        await client.get()

    async def _connect(self) -> _Requests:
        connecting: Any = connect if self._own else aioquic_connect
        client = await self._stack.enter_async_context(
            connecting(
                "127.0.0.1",
                self._port,
                configuration=configuration(),
                create_protocol=OwnHttp3Client if self._own else Http3Client,
            )
        )
        assert isinstance(client, _Requests)
        self._clients.append(client)
        return client


async def _tally(works: list[Any]) -> Tally:
    tally = Tally(0, 0)
    waiting = iter(works)

    async def run() -> None:
        for work in waiting:
            await _count(work, tally)

    await asyncio.gather(*(run() for _ in range(_AT_ONCE)))
    return tally


async def _count(work: Any, tally: Tally) -> None:
    try:
        await work()
        tally.succeeded += 1
    except (TimeoutError, ConnectionError, RuntimeError, AssertionError) as failure:
        tally.failed += 1
        tally.first_failure = tally.first_failure or repr(failure)


def _sum(tallies: list[Tally]) -> Tally:
    return Tally(
        sum(one.succeeded for one in tallies),
        sum(one.failed for one in tallies),
        next((one.first_failure for one in tallies if one.first_failure), ""),
    )


async def _main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))
    tune_collector()
    crowd = _Crowd(int(sys.argv[1]), own=sys.argv[2:] == ["quicbaton"])
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        tally = await crowd.perform(line)
        print(msgspec.json.encode(tally).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
