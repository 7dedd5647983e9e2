"""A WebSocket over HTTP/3 (RFC 9220): aioquic's HTTP/3 and wsproto's frames."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamReset
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, TextMessage


class WebSocketClient(QuicConnectionProtocol):
    """One WebSocket, as tests drive it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._frames = Connection(ConnectionType.CLIENT)
        self._stream_id = -1
        self.head: dict[bytes, bytes] = {}
        self.opened = asyncio.Event()
        self.frames: asyncio.Queue[Event] = asyncio.Queue()
        self.body = b""
        self.ended = asyncio.Event()
        self.reset = asyncio.Event()

    async def open(self, path: str, *fields: tuple[bytes, bytes]) -> bytes:
        """Returns the status."""
        self._stream_id = self._quic.get_next_available_stream_id()
        head = [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
            (b"sec-websocket-version", b"13"),
        ]
        self._http.send_headers(self._stream_id, [*head, *fields])
        self.transmit()
        await self.opened.wait()
        return self.head[b":status"]

    def say(self, *frames: Event, ended: bool = False) -> None:
        for frame in frames:
            self.send_raw(self._frames.send(frame))
        if ended:
            self.send_raw(b"", ended=True)

    def send_raw(self, data: bytes, *, ended: bool = False) -> None:
        self._http.send_data(self._stream_id, data, ended)
        self.transmit()

    async def message(self) -> str | bytes:
        """The next one, of however many frames."""
        parts: list[Any] = []
        while True:
            frame = await self.frames.get()
            assert isinstance(frame, (TextMessage, BytesMessage)), frame
            parts.append(frame.data)
            if frame.message_finished:
                return parts[0][:0].join(parts)  # type: ignore[no-any-return]

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            self.reset.set()
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.head = dict(http_event.headers)
                self.opened.set()
            if isinstance(http_event, DataReceived):
                self.body += http_event.data
                if self.head[b":status"] == b"200" and http_event.data:
                    self._frames.receive_data(http_event.data)
                    for frame in self._frames.events():
                        self.frames.put_nowait(frame)
            if isinstance(http_event, (HeadersReceived, DataReceived)) and http_event.stream_ended:
                self.ended.set()


@asynccontextmanager
async def websocket_client(port: int) -> AsyncIterator[WebSocketClient]:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.verify_mode = ssl.CERT_NONE
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=WebSocketClient
    ) as client:
        assert isinstance(client, WebSocketClient)
        yield client
