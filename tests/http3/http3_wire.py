"""Two ends of HTTP/3 over a perfect wire: the part of QUIC that H3Connection needs, and no more.

`Quic` is as strict as our transport: it refuses to write where writing is not allowed, drops bytes
for a half that is over, and answers STOP_SENDING with a reset.
"""

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

from quicbaton.errors import StreamStateError
from quicbaton.http3 import H3Connection, Http3State, export_state, restore


class Quic:
    """One end's QUIC connection. Its frames are in `outbox`, as events of the other end."""

    def __init__(self, is_client: bool) -> None:
        self.configuration = SimpleNamespace(is_client=is_client)
        self._quic_logger = None
        self._remote_max_datagram_frame_size: int | None = 65_535
        self._next = {False: 0 if is_client else 1, True: 2 if is_client else 3}
        self.peer_streams = 0
        self.outbox: list[QuicEvent] = []
        self.closed: tuple[int, str] | None = None
        #: Connection time; it stands still unless a test moves it.
        self.clock_us = 0
        self.max_datagram_bytes = 1200
        self.priorities: dict[int, tuple[int, bool]] = {}
        #: Our halves with their end written, those that were reset, and the peer's that are over.
        self._ended: set[int] = set()
        self._reset: set[int] = set()
        self._read: set[int] = set()
        self._stopped: set[int] = set()

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        return self._next[is_unidirectional]

    def next_peer_stream_id(self) -> int:
        return 4 * self.peer_streams + self.configuration.is_client

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        self._check_writable(stream_id)
        if stream_id in self._ended or stream_id in self._reset:
            raise StreamStateError(f"stream {stream_id} was ended or reset")
        if end_stream:
            self._ended.add(stream_id)
        self._open(stream_id)
        if data or end_stream:
            self.outbox.append(
                StreamDataReceived(data=data, end_stream=end_stream, stream_id=stream_id)
            )

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._check_writable(stream_id)
        self._open(stream_id)
        if stream_id not in self._reset:
            self._reset.add(stream_id)
            self.outbox.append(StreamReset(error_code=int(error_code), stream_id=stream_id))

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        if stream_id & 2 and self._is_own(stream_id):
            raise StreamStateError(f"stream {stream_id} can only be written")
        if stream_id not in self._read and stream_id not in self._stopped:
            self._stopped.add(stream_id)
            self.outbox.append(StopSendingReceived(error_code=int(error_code), stream_id=stream_id))

    def set_priority(self, stream_id: int, urgency: int, incremental: bool) -> None:
        self._check_writable(stream_id)
        if stream_id not in self._ended and stream_id not in self._reset:
            self.priorities[stream_id] = (urgency, incremental)

    def stream_is_finished(self, stream_id: int) -> bool:
        sent = stream_id in self._ended or stream_id in self._reset
        if not stream_id & 2:
            return sent and stream_id in self._read
        return sent if self._is_own(stream_id) else stream_id in self._read

    def send_datagram_frame(self, data: bytes) -> None:
        self.outbox.append(DatagramFrameReceived(data=data))

    def close(
        self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        self.closed = (int(error_code), reason_phrase)

    def receive(self, event: QuicEvent) -> bool:
        """Whether the event is one for HTTP/3."""
        if isinstance(event, StreamDataReceived):
            if event.stream_id in self._read or event.stream_id in self._stopped:
                return False
            if event.end_stream:
                self._read.add(event.stream_id)
        elif isinstance(event, StreamReset):
            if event.stream_id in self._read:
                return False
            self._read.add(event.stream_id)
        elif isinstance(event, StopSendingReceived):
            if event.stream_id in self._reset:
                return False
            self.reset_stream(event.stream_id, event.error_code)
        stream_id = getattr(event, "stream_id", 2)
        if not stream_id & 2 and not self._is_own(stream_id):
            self.peer_streams = max(self.peer_streams, stream_id // 4 + 1)
        return True

    def _is_own(self, stream_id: int) -> bool:
        return bool(stream_id & 1) != self.configuration.is_client

    def _open(self, stream_id: int) -> None:
        if self._is_own(stream_id):
            is_uni = bool(stream_id & 2)
            self._next[is_uni] = max(self._next[is_uni], stream_id + 4)

    def _check_writable(self, stream_id: int) -> None:
        if stream_id & 2 and not self._is_own(stream_id):
            raise StreamStateError(f"stream {stream_id} can only be read")


class End:
    """An HTTP/3 connection, its QUIC connection, and what its application has seen."""

    def __init__(self, is_client: bool, moving: bool, **options: Any) -> None:
        self.quic = Quic(is_client)
        self.h3 = H3Connection(self.quic, **options)
        self.moving = moving
        self.seen: list[H3Event] = []

    def handle(self, event: QuicEvent) -> None:
        self.move()
        if self.quic.receive(event):
            self.seen += self.h3.handle_event(event)
        self.move()

    def feed(self, stream_id: int, data: bytes, ended: bool = False, size: int = 1 << 62) -> None:
        """The peer's bytes on a stream, in pieces of `size`."""
        for piece in pieces(StreamDataReceived(data, ended, stream_id), [size]):
            self.handle(piece)

    def take_sent(self) -> list[QuicEvent]:
        """The events since the last call."""
        sent, self.quic.outbox = self.quic.outbox, []
        return sent

    def move(self) -> None:
        """Through bytes and back."""
        if not self.moving:
            return
        state = export_state(self.h3)
        encoded = msgpack.encode(state)
        decoded = msgpack.decode(encoded, type=Http3State)
        assert decoded == state
        held = self.h3._held_bytes
        self.h3 = restore(self.quic, decoded)
        assert export_state(self.h3) == state
        assert self.h3._held_bytes == held


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
