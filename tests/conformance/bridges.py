"""Carries a WebSocket client's bytes to the server: within TLS, or within a stream of HTTP/3."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

from tests.conformance.service import Server

_PIECE_BYTES = 65_536
#: RFC 6455 §1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Fields of the HTTP/1.1 handshake that a CONNECT has not (RFC 9220 §3, RFC 8441 §5).
_NOT_CARRIED = {b"host", b"connection", b"upgrade", b"sec-websocket-key"}


async def within_tls(
    server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Bytes both ways; the end of either side is passed on."""
    context = ssl.create_default_context(cafile=str(server.certificate))
    their_reader, their_writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=context, server_hostname="localhost"
    )
    try:
        await _first(_carry(reader, their_writer), _carry(their_reader, writer))
    finally:
        writer.close()
        their_writer.close()


async def within_http3(
    server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """The client's handshake becomes an extended CONNECT; what follows is the stream's content."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(cafile=str(server.certificate))
    configuration.server_name = "localhost"
    async with connect(
        "127.0.0.1", server.port, configuration=configuration, create_protocol=_Tunnel
    ) as tunnel:
        assert isinstance(tunnel, _Tunnel)
        try:
            await tunnel.carry(reader, writer)
        finally:
            writer.close()


class _Tunnel(QuicConnectionProtocol):
    """One WebSocket over a connection of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._http = H3Connection(self._quic)
        self._status: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._content: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._stream_id = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fields = await _handshake(reader)
        self._stream_id = self._quic.get_next_available_stream_id()
        self._http.send_headers(
            self._stream_id,
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", b"/"),
                *((name, value) for name, value in fields.items() if name not in _NOT_CARRIED),
            ],
        )
        self.transmit()
        status = await self._status
        if status != b"200":
            raise ConnectionError(f"status {status.decode()}")
        accept = base64.b64encode(
            hashlib.sha1(fields[b"sec-websocket-key"] + _GUID, usedforsecurity=False).digest()
        )
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: " + accept + b"\r\n\r\n"
        )
        await _first(self._up(reader), self._down(writer))

    async def _up(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_PIECE_BYTES):
            self._http.send_data(self._stream_id, data, end_stream=False)
            self.transmit()
        self._http.send_data(self._stream_id, b"", end_stream=True)
        self.transmit()

    async def _down(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while (data := await self._content.get()) is not None:
                writer.write(data)
                await writer.drain()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated | StreamReset):
            self._content.put_nowait(None)
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self._status.set_result(dict(http_event.headers)[b":status"])
            elif isinstance(http_event, DataReceived):
                self._content.put_nowait(http_event.data)
                if http_event.stream_ended:
                    self._content.put_nowait(None)


async def _handshake(reader: asyncio.StreamReader) -> dict[bytes, bytes]:
    """The header fields of the request with which a client begins."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
    return {name.strip().lower(): value.strip() for name, _, value in lines}


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()


async def _first(*ways: Any) -> None:
    """Until one of the ways has ended: then there is nobody at one end."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
