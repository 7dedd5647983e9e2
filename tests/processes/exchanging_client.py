"""A client of many requests at once over one connection, with bodies both ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events

from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable, connect
from quicbaton.http3 import H3Connection
from tests.processes.crowd import client_configuration, request_headers
from tests.processes.harness import World

_REQUEST_CANCELLED = 0x10C


class Exchange:
    """One request, and what has come of its response."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.heads: list[dict[bytes, bytes]] = []
        self.body = bytearray()
        self.ended = asyncio.Event()
        self.reset: int | None = None
        self.stopped: int | None = None
        self.writable = asyncio.Event()


class Client(QuicConnectionProtocol):
    """Requests with bodies both ways, and every way to break them off."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._exchanges: dict[int, Exchange] = {}
        self.terminated = False

    def quic_event_received(self, event: events.QuicEvent) -> None:
        assert self._http is not None
        exchange = self._exchanges.get(getattr(event, "stream_id", -1))
        if isinstance(event, events.ConnectionTerminated):
            self.terminated = True
            for open_one in self._exchanges.values():
                open_one.ended.set()
                open_one.writable.set()
        if exchange is not None:
            if isinstance(event, events.StreamReset):
                exchange.reset = event.error_code
                exchange.ended.set()
            elif isinstance(event, events.StopSendingReceived):
                exchange.stopped = event.error_code
                exchange.writable.set()
            elif isinstance(event, StreamWritable):
                exchange.writable.set()
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, DataReceived):
                self._exchanges[http_event.stream_id].body += http_event.data
            elif isinstance(http_event, HeadersReceived):
                self._exchanges[http_event.stream_id].heads.append(dict(http_event.headers))
            if isinstance(http_event, (DataReceived, HeadersReceived)) and http_event.stream_ended:
                self._exchanges[http_event.stream_id].ended.set()

    def ask(self, path: str, *fields: tuple[bytes, bytes], method: bytes = b"GET") -> Exchange:
        assert self._http is not None
        exchange = Exchange(self._quic.get_next_available_stream_id())
        self._exchanges[exchange.stream_id] = exchange
        headers = [(b":method", method), *request_headers(path)[1:], *fields]
        self._http.send_headers(exchange.stream_id, headers, end_stream=method == b"GET")
        self.transmit()
        return exchange

    async def get(self, path: str) -> bytes:
        exchange = self.ask(path)
        await exchange.ended.wait()
        assert exchange.reset is None
        assert not self.terminated
        return bytes(exchange.body)

    async def upload(self, exchange: Exchange, body: bytes, *, end: bool = True) -> None:
        assert self._http is not None
        for start in range(0, len(body), 30_000):
            while self._quic.is_congested(exchange.stream_id):
                exchange.writable.clear()
                await exchange.writable.wait()
            piece = body[start : start + 30_000]
            ended = end and start + len(piece) == len(body)
            self._http.send_data(exchange.stream_id, piece, ended)
            self.transmit()

    def pause(self, exchange: Exchange) -> None:
        self._quic.pause_reading(exchange.stream_id)

    def resume(self, exchange: Exchange) -> None:
        self._quic.resume_reading(exchange.stream_id)
        self.transmit()

    def reset(self, exchange: Exchange) -> None:
        self._quic.reset_stream(exchange.stream_id, _REQUEST_CANCELLED)
        self.transmit()

    def stop(self, exchange: Exchange) -> None:
        self._quic.stop_stream(exchange.stream_id, _REQUEST_CANCELLED)
        self.transmit()

    def unsent(self, exchange: Exchange) -> int:
        return self._quic.send_buffer_bytes(exchange.stream_id)

    async def counters(self) -> dict[str, int]:
        return json.loads(await self.get("/counters"))


@asynccontextmanager
async def client_of(world: World, port: int) -> AsyncGenerator[Client, None]:
    configuration = client_configuration(world.certificate)
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=Client
    ) as protocol:
        assert isinstance(protocol, Client)
        yield protocol
