"""qh3 as a client that makes one request and stays."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from qh3.asyncio import QuicConnectionProtocol, connect
from qh3.h3.connection import H3_ALPN, H3Connection
from qh3.h3.events import DataReceived
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.events import QuicEvent


class _Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.done = asyncio.Event()
        self._http = H3Connection(self._quic)

    def ask(self, size: int) -> None:
        stream_id = self._quic.get_next_available_stream_id()
        headers = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", b"/%d" % size),
        ]
        self._http.send_headers(stream_id, headers, end_stream=True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, DataReceived) and http_event.stream_ended:
                self.done.set()


@asynccontextmanager
async def connected(port: int, size: int) -> AsyncIterator[None]:
    """A connection that has made one request of `size` bytes."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name="localhost", idle_timeout=600.0
    )
    configuration.verify_mode = ssl.CERT_NONE
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=_Client
    ) as client:
        assert isinstance(client, _Client)
        client.ask(size)
        await asyncio.wait_for(client.done.wait(), 10)
        yield
