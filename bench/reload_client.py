"""Downloads, WebSockets and server-sent events that go on while a server reloads: which stay whole?

    python -m bench.reload_client PORT SECONDS COUNT

opens COUNT connections of each kind to a server of `bench.servers.reload_program`, prints a line
when bytes have come on every one of them, and a `Report` when all have ended. HTTP/3 is aioquic's,
WebSocket frames are wsproto's: neither is ours. A server that knows no WebSockets over HTTP/3 (RFC
9220) is asked over TLS and HTTP/1.1 instead, and the report says so.
"""

import asyncio
import hashlib
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset
from wsproto import WSConnection
from wsproto.connection import Connection, ConnectionType
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

from bench.servers.reload_program import count, piece

#: Nothing for so long, and the stream has stalled.
_STALL_S = 10.0
#: How often a WebSocket is used.
_ECHO_EVERY_S = 1.0
_OPENING_S = 3.0
_OPENING_AT_ONCE = 4


class Report(msgspec.Struct):
    """How many of each kind were whole, and why others were not."""

    downloads: int
    websockets: int
    events: int
    websockets_over: str
    failures: list[str]


class _NotWholeError(Exception):
    """The received bytes are not the expected ones."""


class _Asking(QuicConnectionProtocol):
    """One connection with one request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._stream_id = -1
        #: Bytes that came; None: the end; a string: why there is none.
        self._came: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        self.status: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def ask(self, method: bytes, path: str, *more: tuple[bytes, bytes], ended: bool) -> None:
        self._stream_id = self._quic.get_next_available_stream_id()
        head = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
        ]
        self._http.send_headers(self._stream_id, [*head, *more], ended)
        self.transmit()

    def send(self, data: bytes) -> None:
        self._http.send_data(self._stream_id, data, False)
        self.transmit()

    async def take(self) -> bytes | None:
        """The next bytes, or None at the end."""
        async with asyncio.timeout(_STALL_S):
            came = await self._came.get()
        if isinstance(came, str):
            raise _NotWholeError(came)
        return came

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset) and event.stream_id == self._stream_id:
            self._came.put_nowait(f"reset with code {event.error_code:#x}")
        if isinstance(event, ConnectionTerminated):
            why = event.reason_phrase or f"code {event.error_code:#x}"
            self._came.put_nowait(f"the connection ended: {why}")
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived) and not self.status.done():
                self.status.set_result(dict(http_event.headers)[b":status"])
            if isinstance(http_event, DataReceived) and http_event.data:
                self._came.put_nowait(http_event.data)
            if isinstance(http_event, (HeadersReceived, DataReceived)) and http_event.stream_ended:
                self._came.put_nowait(None)


@asynccontextmanager
async def _connection(port: int) -> AsyncIterator[_Asking]:
    # Certificates are not what is looked at here.
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, server_name="localhost", verify_mode=ssl.CERT_NONE
    )
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=_Asking
    ) as asking:
        assert isinstance(asking, _Asking)
        yield asking


class _Visit:
    """Everything that is open at one server."""

    def __init__(self, port: int, seconds: float, number: int) -> None:
        self._port = port
        self._seconds = seconds
        self._number = number
        self._ends_at = monotonic() + seconds
        self._begun = 0
        self._opening = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._all_began = asyncio.Event()
        self._over = "h3"
        self._failures: list[str] = []

    async def run(self) -> Report:
        """Open everything, say so, and wait for the end."""
        kinds = (self._download, self._websocket, self._events)
        self._over = "h3" if await self._has_websockets() else "http/1.1"
        tasks = [
            [asyncio.create_task(self._guard(kind)) for _ in range(self._number)] for kind in kinds
        ]
        announcing = asyncio.create_task(self._announce())
        downloads, websockets, events = [sum(await asyncio.gather(*of_kind)) for of_kind in tasks]
        await announcing
        failures = sorted(set(self._failures))
        return Report(downloads, websockets, events, self._over, failures)

    async def _announce(self) -> None:
        await self._all_began.wait()
        print("begun", flush=True)

    async def _guard(self, kind: Callable[[Callable[[], None]], Awaitable[None]]) -> bool:
        """Whether it was whole. One that fails at once counts as begun: nobody waits for it."""
        has_begun = False

        def begin() -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                self._opening.release()
                self._begun += 1
                if self._begun == 3 * self._number:
                    self._all_began.set()

        await self._opening.acquire()
        try:
            await kind(begin)
        except (_NotWholeError, OSError, EOFError) as failure:
            reason = str(failure) or "nothing came any more"
            self._failures.append(f"{kind.__name__.strip('_')}: {reason}")
            begin()
            return False
        return True

    async def _download(self, begin: Callable[[], None]) -> None:
        digest, expected = hashlib.sha256(), hashlib.sha256()
        for number in range(count(self._seconds)):
            expected.update(piece(number))
        async with _connection(self._port) as asking:
            asking.ask(b"GET", f"/slow/{self._seconds}", ended=True)
            while (data := await asking.take()) is not None:
                digest.update(data)
                begin()
        if digest.digest() != expected.digest():
            raise _NotWholeError("the body is not whole")

    async def _events(self, begin: Callable[[], None]) -> None:
        text = b""
        async with _connection(self._port) as asking:
            asking.ask(b"GET", f"/events/{self._seconds}", ended=True)
            while (data := await asking.take()) is not None:
                text += data
                begin()
        numbers = b"".join(b"data: %d\n\n" % number for number in range(count(self._seconds)))
        if text != numbers + b"data: end\n\n":
            raise _NotWholeError("the numbers have a gap, or no end")

    async def _websocket(self, begin: Callable[[], None]) -> None:
        if self._over == "h3":
            async with _connection(self._port) as asking:
                await _open_websocket(asking)
                frames = Connection(ConnectionType.CLIENT)
                await self._echo(frames, asking.send, asking.take, begin)
        else:
            reader, writer = await _open_tcp(self._port)
            whole = WSConnection(ConnectionType.CLIENT)
            writer.write(whole.send(Request(host="localhost", target="/echo")))
            await self._echo(whole, writer.write, lambda: _read(reader), begin)
            writer.close()

    async def _echo(
        self,
        frames: Any,
        send: Callable[[bytes], None],
        take: Callable[[], Awaitable[bytes | None]],
        begin: Callable[[], None],
    ) -> None:
        """Say something once in a while, and have it said back, until the downloads have ended."""
        number = 0
        if isinstance(frames, WSConnection):
            await _expect(AcceptConnection, frames, send, take)
        while monotonic() < self._ends_at:
            send(frames.send(TextMessage(f"{number}")))
            message = await _expect(TextMessage, frames, send, take)
            if message.data != f"{number}":
                raise _NotWholeError(f"the echo of {number} is {message.data!r}")
            begin()
            number += 1
            await asyncio.sleep(_ECHO_EVERY_S)

    async def _has_websockets(self) -> bool:
        """Whether it opens one over HTTP/3, and sends something back."""
        async with _connection(self._port) as asking:
            try:
                await _open_websocket(asking)
                frames = Connection(ConnectionType.CLIENT)
                asking.send(frames.send(TextMessage("?")))
                async with asyncio.timeout(_OPENING_S):
                    await _expect(TextMessage, frames, asking.send, asking.take)
            except (_NotWholeError, TimeoutError):
                return False
        return True


async def _open_websocket(asking: _Asking) -> None:
    fields = ((b":protocol", b"websocket"), (b"sec-websocket-version", b"13"))
    asking.ask(b"CONNECT", "/echo", *fields, ended=False)
    async with asyncio.timeout(_OPENING_S):
        status = await asking.status
    if status != b"200":
        raise _NotWholeError(f"status {status.decode()} for a WebSocket")


async def _expect(
    kind: type[Any],
    frames: Any,
    send: Callable[[bytes], None],
    take: Callable[[], Awaitable[bytes | None]],
) -> Any:
    """The next event of that kind."""
    while True:
        for event in frames.events():
            if isinstance(event, kind):
                return event
            if isinstance(event, Ping):
                send(frames.send(event.response()))
            if isinstance(event, CloseConnection):
                raise _NotWholeError(f"closed with {event.code}")
        data = await take()
        if not data:
            raise _NotWholeError("the WebSocket ended")
        frames.receive_data(data)


async def _open_tcp(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    async with asyncio.timeout(_STALL_S):
        return await reader.read(65_536)


async def _main() -> None:
    visit = _Visit(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
    print(msgspec.json.encode(await visit.run()).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
