"""A small HTTP/3 server: GET /N sends N bytes, a POST to /echo comes back.

    python examples/http3_server.py --certificate cert.pem --key key.pem

A coroutine answers each request, as in programs for aioquic. Such a connection stays with its
process while coroutines run; see `export_state` of `QuicConnectionProtocol` for those that move.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent

from quicbaton.asyncio import QuicConnectionProtocol, QuicServer, StreamWritable, serve
from quicbaton.http3 import H3Connection

_PIECE_BYTES = 65_536


class Server(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bodies: dict[int, asyncio.Queue[DataReceived]] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._room = asyncio.Condition()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        elif isinstance(event, StreamWritable):
            self._start(self._tell_of_room())
        elif isinstance(event, ConnectionTerminated):
            for task in self._answers:
                task.cancel()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(http_event)

    def _http_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived) and event.stream_id not in self._bodies:
            body = self._bodies[event.stream_id] = asyncio.Queue()
            if event.stream_ended:
                body.put_nowait(DataReceived(b"", event.stream_id, True))
            self._start(self._answer(event.stream_id, dict(event.headers)))
        elif isinstance(event, DataReceived):
            self._bodies[event.stream_id].put_nowait(event)

    async def _answer(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
        path = headers[b":path"].decode()
        if headers[b":method"] == b"POST" and path == "/echo":
            self._send_status(stream_id, b"200")
            while True:
                event = await self._bodies[stream_id].get()
                await self._send(stream_id, event.data, event.stream_ended)
                if event.stream_ended:
                    break
        elif path[1:].isdigit():
            self._send_status(stream_id, b"200")
            left = int(path[1:])
            while left > _PIECE_BYTES:
                await self._send(stream_id, bytes(_PIECE_BYTES), False)
                left -= _PIECE_BYTES
            await self._send(stream_id, bytes(left), True)
        else:
            self._send_status(stream_id, b"404")
            await self._send(stream_id, b"Try /1000000.\n", True)
        del self._bodies[stream_id]

    def _send_status(self, stream_id: int, status: bytes) -> None:
        assert self._http is not None
        self._http.send_headers(stream_id, [(b":status", status), (b"server", b"quicbaton")])

    async def _send(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        async with self._room:
            await self._room.wait_for(lambda: not self._quic.is_congested(stream_id))
        assert self._http is not None
        self._http.send_data(stream_id, data, end_stream)
        self.transmit()

    async def _tell_of_room(self) -> None:
        async with self._room:
            self._room.notify_all()

    def _start(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)


async def start(host: str, port: int, certificate: Path, key: Path, retry: bool) -> QuicServer:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(certificate, key)
    return await serve(host, port, configuration=configuration, create_protocol=Server, retry=retry)


async def main() -> None:
    parser = argparse.ArgumentParser(description="A small HTTP/3 server.")
    parser.add_argument("--host", default="::")
    parser.add_argument("--port", type=int, default=4433)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--retry", action="store_true", help="validate addresses first")
    options = parser.parse_args()
    server = await start(
        options.host, options.port, options.certificate, options.key, options.retry
    )
    sys.stdout.write(f"listening on UDP port {server.port}\n")
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
