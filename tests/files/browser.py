"""The client of tests that move servers through bytes."""

from __future__ import annotations

from typing import Any

from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamReset

from quicbaton.http3 import H3Connection


class Browser:
    """An HTTP/3 client that keeps what it gets."""

    def __init__(self, quic: Any) -> None:
        self._quic = quic
        self._http = H3Connection(quic)
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}

    def request(
        self,
        method: str,
        path: str,
        *fields: tuple[bytes, bytes],
        body: bytes = b"",
        ends: bool = True,
    ) -> int:
        """`ends`: whether all of the request is sent."""
        stream_id: int = self._quic.get_next_available_stream_id()
        pseudo = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        self._http.send_headers(stream_id, [*headers, *fields], ends and not body)
        if body:
            self._http.send_data(stream_id, body, ends)
        return stream_id

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.headers[http_event.stream_id] = dict(http_event.headers)
            elif isinstance(http_event, DataReceived):
                self.bodies.setdefault(http_event.stream_id, bytearray()).extend(http_event.data)
            if getattr(http_event, "stream_ended", False):
                self.ended.add(http_event.stream_id)

    def export_state(self) -> bytes:
        return b""

    def import_state(self, data: bytes) -> None:
        pass
