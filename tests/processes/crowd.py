"""Many clients in this process: ours in numbers, aioquic's stopped in the middle of a handshake."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

from aioquic.h3.connection import H3_ALPN
from aioquic.h3.connection import H3Connection as AioquicH3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from quicbaton.asyncio import QuicConnectionProtocol, connect
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.http3 import H3Connection
from tests.processes.moving_server import IDLE_TIMEOUT_S, content


def client_configuration(certificate: CertificateFiles) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, idle_timeout=IDLE_TIMEOUT_S
    )
    configuration.load_verify_locations(str(certificate.certificate))
    return configuration


class Getter(QuicConnectionProtocol):
    """Fetches bodies, one after the other, and remembers how the connection ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._bodies: dict[int, bytearray] = {}
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self.terminated: events.ConnectionTerminated | None = None
        self.rounds = 0

    def quic_event_received(self, event: events.QuicEvent) -> None:
        assert self._http is not None
        if isinstance(event, events.ConnectionTerminated):
            self.terminated = event
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionError(event.reason_phrase))
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, DataReceived):
                self._bodies[http_event.stream_id] += http_event.data
            if isinstance(http_event, (DataReceived, HeadersReceived)) and http_event.stream_ended:
                answer = self._answers.pop(http_event.stream_id)
                if not answer.done():
                    answer.set_result(bytes(self._bodies.pop(http_event.stream_id)))

    async def get(self, path: str) -> bytes:
        assert self._http is not None
        stream_id = self._quic.get_next_available_stream_id()
        self._bodies[stream_id] = bytearray()
        answer = self._answers[stream_id] = self._loop.create_future()
        self._http.send_headers(stream_id, request_headers(path), end_stream=True)
        self.transmit()
        return await answer

    async def keep_getting(self, size: int, interval_s: float) -> None:
        """Fetch again and again; raises ConnectionError at the connection's end."""
        expected = content(0, size)
        while True:
            assert await self.get(f"/{size}") == expected
            self.rounds += 1
            await asyncio.sleep(interval_s)


def request_headers(path: str) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path.encode()),
    ]


@asynccontextmanager
async def crowd(
    certificate: CertificateFiles, port: int, count: int
) -> AsyncGenerator[list[Getter], None]:
    """So many connections; they are opened a few at a time, and closed all at once."""
    turns = asyncio.Semaphore(16)
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    clients: list[asyncio.Future[Getter]] = [loop.create_future() for _ in range(count)]

    async def one(client: asyncio.Future[Getter]) -> None:
        configuration = client_configuration(certificate)
        async with AsyncExitStack() as stack:
            async with turns:
                protocol = await stack.enter_async_context(
                    connect("127.0.0.1", port, configuration=configuration, create_protocol=Getter)
                )
            assert isinstance(protocol, Getter)
            client.set_result(protocol)
            await leave.wait()

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(one(client))
        try:
            yield list(await asyncio.gather(*clients))
        finally:
            leave.set()


class Handshaker:
    """An aioquic client that stops when the server's first flight is there, until told to go on."""

    def __init__(self, certificate: CertificateFiles, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._loop = asyncio.get_running_loop()
        configuration = client_configuration(certificate)
        configuration.server_name = "127.0.0.1"
        self._quic = QuicConnection(configuration=configuration)
        self._http: AioquicH3Connection | None = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        self._timer: asyncio.TimerHandle | None = None
        self._held = True
        self._body = b""
        self.flight_came = asyncio.Event()
        self.done: asyncio.Future[bytes] = self._loop.create_future()
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._quic.connect(self._address, now=monotonic())
        self._transmit()

    def go_on(self) -> None:
        """Finish the handshake, then fetch 1000 bytes: `done` has them."""
        self._held = False
        self._transmit()

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()

    def _on_readable(self) -> None:
        try:
            data, address = self._socket.recvfrom(65_535)
        except BlockingIOError:
            return
        self.flight_came.set()
        self._quic.receive_datagram(data, address, now=monotonic())
        if not self._held:
            self._transmit()

    def _transmit(self) -> None:
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self._http = AioquicH3Connection(self._quic)
                stream_id = self._quic.get_next_available_stream_id()
                self._http.send_headers(stream_id, request_headers("/1000"), end_stream=True)
            elif isinstance(event, events.ConnectionTerminated) and not self.done.done():
                self.done.set_exception(ConnectionError(event.reason_phrase))
            if self._http is not None:
                for http_event in self._http.handle_event(event):
                    if isinstance(http_event, DataReceived):
                        self._body += http_event.data
                        if http_event.stream_ended and not self.done.done():
                            self.done.set_result(self._body)
        for data, address in self._quic.datagrams_to_send(now=monotonic()):
            self._socket.sendto(data, address)
        if self._timer is not None:
            self._timer.cancel()
        at = self._quic.get_timer()
        if at is not None:
            self._timer = self._loop.call_later(max(0.0, at - monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        # What was lost on its way is sent again, until the answer is there.
        if not (self._held and self.flight_came.is_set()):
            self._quic.handle_timer(now=monotonic())
            self._transmit()
