"""A WebTransport session of aioquic's HTTP/3, as tests drive it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamReset

from quicbaton.http3.capsules import CLOSE_SESSION, CapsuleReader, encode_capsule
from quicbaton.http3.webtransport import decode_close, encode_close, from_http_error, to_http_error
from tests.asyncio.loopback import GUARD_S

_BIDIRECTIONAL = 0x41


class WebTransportClient(QuicConnectionProtocol):
    """One connection; `session` is the last that was opened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic, enable_webtransport=True)
        self._capsules = CapsuleReader(frozenset({CLOSE_SESSION}))
        self._changed = asyncio.Condition()
        self.session = -1
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.datagrams: list[bytes] = []
        #: The program's codes, by stream.
        self.resets: dict[int, int | None] = {}
        self.stops: dict[int, int | None] = {}
        #: (code, reason) of the session, once the server has closed it.
        self.closed: tuple[int, str] | None = None

    def ask(self, path: str, *, method: str = "GET", ended: bool = True, protocol: str = "") -> int:
        """An ordinary request, or CONNECT with another protocol; its stream, whose body is to be
        found in `received`."""
        stream_id = self._quic.get_next_available_stream_id()
        pseudo = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
        if protocol:
            pseudo[":protocol"] = protocol
        head = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        self._http.send_headers(stream_id, head, ended)
        self.transmit()
        return stream_id

    def write_body(self, stream_id: int, data: bytes, *, ended: bool = False) -> None:
        self._http.send_data(stream_id, data, ended)
        self.transmit()

    async def open(self, path: str, *fields: tuple[bytes, bytes]) -> int:
        """Ask for a session; returns the status."""
        self.session = self._quic.get_next_available_stream_id()
        head = [
            (b":method", b"CONNECT"),
            (b":protocol", b"webtransport"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
        ]
        self._http.send_headers(self.session, [*head, *fields])
        self.transmit()
        await self.until(lambda: self.session in self.heads)
        return int(self.heads[self.session][b":status"])

    def open_stream(self, *, unidirectional: bool = False) -> int:
        stream_id = self._http.create_webtransport_stream(self.session, unidirectional)
        if not unidirectional:
            # aioquic does not note for itself that what comes back has no header.
            with self._http._get_or_create_stream(stream_id) as state:
                state.frame_type = _BIDIRECTIONAL
                state.session_id = self.session
        self.transmit()
        return stream_id

    def write(self, stream_id: int, data: bytes, *, ended: bool = False) -> None:
        self._quic.send_stream_data(stream_id, data, ended)
        self.transmit()

    def reset(self, stream_id: int, code: int) -> None:
        self._quic.reset_stream(stream_id, to_http_error(code))
        self.transmit()

    def stop(self, stream_id: int, code: int) -> None:
        self._quic.stop_stream(stream_id, to_http_error(code))
        self.transmit()

    def send_datagram(self, data: bytes) -> None:
        self._http.send_datagram(self.session, data)
        self.transmit()

    def close_session(self, code: int, reason: str) -> None:
        capsule = encode_capsule(CLOSE_SESSION, encode_close(code, reason))
        self._http.send_data(self.session, capsule, True)
        self.transmit()

    async def answer(self, stream_id: int) -> bytes:
        """All that the server sends on a stream."""
        await self.until(lambda: stream_id in self.ended)
        return bytes(self.received[stream_id])

    async def until(self, happened: Callable[[], bool]) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(happened), GUARD_S)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            self.resets[event.stream_id] = from_http_error(event.error_code)
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = from_http_error(event.error_code)
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.heads[http_event.stream_id] = dict(http_event.headers)
            elif isinstance(http_event, DatagramReceived):
                self.datagrams.append(http_event.data)
            elif isinstance(http_event, WebTransportStreamDataReceived):
                self._on_stream(http_event.stream_id, http_event.data, http_event.stream_ended)
            elif isinstance(http_event, DataReceived):
                if http_event.stream_id == self.session:
                    for capsule in self._capsules.read(http_event.data):
                        self.closed = decode_close(capsule.value)
                self._on_stream(http_event.stream_id, http_event.data, http_event.stream_ended)
        self._loop.create_task(self._tell())

    def _on_stream(self, stream_id: int, data: bytes, ended: bool) -> None:
        self.received.setdefault(stream_id, bytearray()).extend(data)
        if ended:
            self.ended.add(stream_id)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def webtransport_client(port: int) -> AsyncIterator[WebTransportClient]:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, max_datagram_frame_size=65_535
    )
    configuration.verify_mode = ssl.CERT_NONE
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=WebTransportClient
    ) as client:
        assert isinstance(client, WebTransportClient)
        yield client
