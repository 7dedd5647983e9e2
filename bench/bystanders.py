"""Two more innocent clients, of aioquic: a WebTransport session, and a connection that is idle.

The session sends a few bytes on a stream and waits until they have come back, again and again. The
idle connection makes a request in the beginning, and sends nothing more until it is asked whether
it lives: then the server has to answer it, on the same connection. A line on stdin is answered with
the figures of both since the line before.
"""

import asyncio
import contextlib
import ssl
import sys
import threading
import time
from typing import Any

import msgspec
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived

_PAUSE_S = 0.01
_TIMEOUT_S = 60.0


class Waits(msgspec.Struct):
    """Since the last question; `broken`: what ended, or came back altered."""

    session_ms: float
    idle_ms: float
    echoes: int
    broken: list[str]


class _Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic, enable_webtransport=True)
        #: Tasks that wait for an answer, by stream, and whether for its end.
        self._waiting: dict[int, tuple[asyncio.Future[None], bool]] = {}
        self._echo_stream = -1
        self._echo = bytearray()
        self._echoed = asyncio.Event()
        self.ended = ""

    async def ask(self, fields: list[tuple[bytes, bytes]], *, end: bool) -> int:
        """Send a request; returns its stream when the answer has come: its head, if not `end`."""
        stream_id = self._quic.get_next_available_stream_id()
        answered: asyncio.Future[None] = self._loop.create_future()
        self._waiting[stream_id] = (answered, end)
        authority = [(b":scheme", b"https"), (b":authority", b"localhost")]
        self._http.send_headers(stream_id, [*authority, *fields], end_stream=end)
        self.transmit()
        await asyncio.wait_for(answered, _TIMEOUT_S)
        return stream_id

    async def open_session(self) -> None:
        """Begin a WebTransport session with a bidirectional stream."""
        connect = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), (b":path", b"/")]
        session_id = await self.ask(connect, end=False)
        self._echo_stream = self._http.create_webtransport_stream(session_id)

    async def echo(self, data: bytes) -> None:
        """Send, and wait until it has come back. ValueError when it was altered."""
        self._echo.clear()
        self._echoed.clear()
        self._quic.send_stream_data(self._echo_stream, data)
        self.transmit()
        while len(self._echo) < len(data):
            await asyncio.wait_for(self._echoed.wait(), _TIMEOUT_S)
            self._echoed.clear()
        if self._echo != data:
            raise ValueError("an echo was not right")

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended = event.reason_phrase or f"error {event.error_code:#x}"
        if isinstance(event, StreamDataReceived) and event.stream_id == self._echo_stream:
            # aioquic's HTTP/3 looks for frames there: it knows sessions' streams of peers only.
            self._echo += event.data
            self._echoed.set()
            return
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, (HeadersReceived, DataReceived)):
                answered, whole = self._waiting[http_event.stream_id]
                if not answered.done() and (http_event.stream_ended or not whole):
                    answered.set_result(None)


class _Bystanders:
    def __init__(self, session: _Client, idle: _Client) -> None:
        self._session = session
        self._idle = idle
        self._waits_since = 0.0
        self._longest_s = 0.0
        self._echoes = 0
        self._broken: list[str] = []

    async def talk(self) -> None:
        """Until cancelled."""
        await self._session.open_session()
        number = 0
        while True:
            number += 1
            self._waits_since = time.perf_counter()
            try:
                await self._session.echo(b"echo %06d " % number * 8)
            except (TimeoutError, ValueError) as error:
                self._broken.append(f"the session: {error!r} {self._session.ended}")
                return
            self._note()
            self._waits_since = 0.0
            self._echoes += 1
            await asyncio.sleep(_PAUSE_S)

    async def take(self) -> Waits:
        self._note()
        begun_s = time.perf_counter()
        try:
            await asyncio.wait_for(self._idle.ping(), _TIMEOUT_S)
        except (TimeoutError, ConnectionError) as error:
            self._broken.append(f"the idle connection: {error!r} {self._idle.ended}")
        idle_s = time.perf_counter() - begun_s
        waits = Waits(
            round(self._longest_s * 1000, 2), round(idle_s * 1000, 2), self._echoes, self._broken
        )
        self._longest_s, self._echoes, self._broken = 0.0, 0, []
        return waits

    def _note(self) -> None:
        if self._waits_since:
            self._longest_s = max(self._longest_s, time.perf_counter() - self._waits_since)


async def _run(port: int) -> None:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        idle_timeout=600.0,
        max_datagram_frame_size=65_536,
        verify_mode=ssl.CERT_NONE,
    )
    questions: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(questions.put_nowait, line)
        loop.call_soon_threadsafe(questions.put_nowait, "")

    async with contextlib.AsyncExitStack() as stack:
        session, idle = [
            await stack.enter_async_context(
                connect("127.0.0.1", port, configuration=configuration, create_protocol=_Client)
            )
            for _ in range(2)
        ]
        assert isinstance(session, _Client)
        assert isinstance(idle, _Client)
        await idle.ask([(b":method", b"GET"), (b":path", b"/small")], end=True)
        bystanders = _Bystanders(session, idle)
        talk = asyncio.create_task(bystanders.talk())
        await asyncio.sleep(0.1)
        threading.Thread(target=read, daemon=True).start()
        print("ready", flush=True)
        while await questions.get():
            print(msgspec.json.encode(await bystanders.take()).decode(), flush=True)
        talk.cancel()


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1])))
