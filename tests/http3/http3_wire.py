"""Two ends of HTTP/3 over a perfect wire: what H3Connection needs of QUIC, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aioquic.h3.events import H3Event
from aioquic.quic.events import (
    DatagramFrameReceived,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from msgspec import msgpack

from quicbaton.http3 import H3Connection, Http3State, export_state, restore


class Quic:
    """One end's QUIC connection. What it sends lies in `outbox` as events of the other end."""

    def __init__(self, is_client: bool) -> None:
        self.configuration = SimpleNamespace(is_client=is_client)
        self._quic_logger = None
        self._remote_max_datagram_frame_size = 65_535
        self._next = {False: 0 if is_client else 1, True: 2 if is_client else 3}
        self.peer_streams = 0
        self.outbox: list[QuicEvent] = []
        self.closed: tuple[int, str] | None = None

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        return self._next[is_unidirectional]

    def next_peer_stream_id(self) -> int:
        return 4 * self.peer_streams + self.configuration.is_client

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        is_uni = bool(stream_id & 2)
        if stream_id & 1 != self.configuration.is_client:
            self._next[is_uni] = max(self._next[is_uni], stream_id + 4)
        if data or end_stream:
            self.outbox.append(
                StreamDataReceived(data=data, end_stream=end_stream, stream_id=stream_id)
            )

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self.outbox.append(StreamReset(error_code=error_code, stream_id=stream_id))

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self.outbox.append(StopSendingReceived(error_code=error_code, stream_id=stream_id))

    def send_datagram_frame(self, data: bytes) -> None:
        self.outbox.append(DatagramFrameReceived(data=data))

    def close(
        self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        self.closed = (int(error_code), reason_phrase)


class End:
    """An HTTP/3 connection, its QUIC connection, and what its application has seen."""

    def __init__(self, is_client: bool, moving: bool, **options: Any) -> None:
        self.quic = Quic(is_client)
        self.h3 = H3Connection(self.quic, **options)
        self.moving = moving
        self.seen: list[H3Event] = []

    def handle(self, event: QuicEvent) -> None:
        self.move()
        stream_id = getattr(event, "stream_id", 2)
        if not stream_id & 2 and stream_id & 1 == self.quic.configuration.is_client:
            self.quic.peer_streams = max(self.quic.peer_streams, stream_id // 4 + 1)
        self.seen += self.h3.handle_event(event)
        self.move()

    def move(self) -> None:
        """Through bytes and back."""
        if not self.moving:
            return
        state = export_state(self.h3)
        encoded = msgpack.encode(state)
        decoded = msgpack.decode(encoded, type=Http3State)
        assert decoded == state
        self.h3 = restore(self.quic, decoded)
        assert export_state(self.h3) == state


def pieces(event: QuicEvent, sizes: list[int]) -> list[QuicEvent]:
    """The event as QUIC might deliver it: stream data in several pieces."""
    if not isinstance(event, StreamDataReceived):
        return [event]
    cut: list[QuicEvent] = []
    data = event.data
    while sizes and len(data) > sizes[0]:
        cut.append(StreamDataReceived(data[: sizes[0]], False, event.stream_id))
        data = data[sizes[0] :]
        sizes = [*sizes[1:], sizes[0]]
    return [*cut, StreamDataReceived(data, event.end_stream, event.stream_id)]


def exchange(client: End, server: End, sizes: list[int] | None = None) -> None:
    """Deliver until both are silent."""
    while client.quic.outbox or server.quic.outbox:
        for source, target in ((client, server), (server, client)):
            events, source.quic.outbox = source.quic.outbox, []
            for event in events:
                for piece in pieces(event, sizes or []):
                    target.handle(piece)
