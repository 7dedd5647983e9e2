"""aioquic's own client, which remembers how its connection ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.buffer import Buffer
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from tests.cli.command_line import GUARD_S
from tests.supervisor.service_home import ServiceHome

_GOAWAY = 0x7
_SERVERS_CONTROL_STREAM = 3


class Client(QuicConnectionProtocol):
    """aioquic's own: HTTP/3, and what came on the server's control stream as it came."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self.control = b""
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.terminated: events.ConnectionTerminated | None = None

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            if event.stream_id == _SERVERS_CONTROL_STREAM:
                self.control += event.data
        elif isinstance(event, events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, events.ConnectionTerminated):
            self.terminated = event
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, DataReceived):
                stream_id = http_event.stream_id
                self.bodies.setdefault(stream_id, bytearray()).extend(http_event.data)
                if http_event.stream_ended:
                    self.ended.add(stream_id)

    def request(self, path: str) -> int:
        stream_id = self._quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._http.send_headers(stream_id, headers, end_stream=True)
        self.transmit()
        return stream_id

    def goaways(self) -> list[int]:
        """The IDs in the GOAWAY frames so far (RFC 9114 §7.2.6)."""
        found = []
        buffer = Buffer(data=self.control)
        assert buffer.pull_uint_var() == 0  # a control stream
        while not buffer.eof():
            kind, size = buffer.pull_uint_var(), buffer.pull_uint_var()
            body = Buffer(data=buffer.pull_bytes(size))
            if kind == _GOAWAY:
                found.append(body.pull_uint_var())
        return found


async def come(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(GUARD_S):
        while not condition():
            await asyncio.sleep(0.01)


def client_of(home: ServiceHome, port: int) -> Any:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(str(home.ca))
    return connect("127.0.0.1", port, configuration=configuration, create_protocol=Client)
