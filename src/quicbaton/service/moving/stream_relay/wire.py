"""One connection's relayed streams on a link: the messages of either side."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from quicbaton.handoff.messages import (
    OpenStream,
    RelayedDatagram,
    RelayMessage,
    StreamBytes,
    StreamCredit,
    StreamOpened,
    StreamReset,
    StreamsCut,
    StreamStop,
)
from quicbaton.handoff.stream_relay import Piece
from quicbaton.http3.codes import H3_ALPN, ErrorCode
from quicbaton.reasons import Reason
from quicbaton.service.peers.link import Link
from quicbaton.transport.connection import Connection


def stop(connection: Connection, stream_id: int, error_code: int) -> None:
    """Do what `StreamStop` asks for. RFC 9114 §4.1: H3_NO_ERROR comes after a complete answer; then
    the client may send on for a while."""
    if error_code == ErrorCode.H3_NO_ERROR and connection.alpn in H3_ALPN:
        connection.drain_stream(stream_id, error_code)
    else:
        connection.stop_stream(stream_id, error_code)


class Wire:
    """Sends their messages. A link that is lost loses them, and both sides then learn of it."""

    def __init__(self, link: Link, connection_id: bytes, handoff_id: bytes) -> None:
        self.link = link
        self.connection_id = connection_id
        self.handoff_id = handoff_id

    def send_pieces(self, stream_id: int, pieces: Iterable[Piece]) -> None:
        for data, end in pieces:
            message = StreamBytes(self.connection_id, self.handoff_id, stream_id, data, end)
            self.link.send(message)

    def send_credit(self, stream_id: int, size_bytes: int) -> None:
        """Give credit; nothing is sent for 0 bytes."""
        if size_bytes:
            message = StreamCredit(self.connection_id, self.handoff_id, stream_id, size_bytes)
            self.link.send(message)

    def send_reset(self, stream_id: int, error_code: int) -> None:
        self.link.send(StreamReset(self.connection_id, self.handoff_id, stream_id, error_code))

    def send_stop(self, stream_id: int, error_code: int) -> None:
        self.link.send(StreamStop(self.connection_id, self.handoff_id, stream_id, error_code))

    def send_open(self, request: int, *, unidirectional: bool) -> None:
        self.link.send(OpenStream(self.connection_id, self.handoff_id, request, unidirectional))

    def send_opened(self, stream_id: int, request: int) -> None:
        self.link.send(StreamOpened(self.connection_id, self.handoff_id, stream_id, request))

    def send_datagram(self, data: bytes) -> None:
        """Send a datagram. It is lost while the link is full, as on any path (RFC 9221 §5)."""
        if not self.link.is_full:
            self.link.send(RelayedDatagram(self.connection_id, self.handoff_id, data))

    def pass_on(self, message: RelayMessage) -> None:
        """Send a message that came over another wire."""
        if isinstance(message, RelayedDatagram):
            self.send_datagram(message.data)
        else:
            self.link.send(msgspec.structs.replace(message, handoff_id=self.handoff_id))

    def send_cut(self, code: Reason) -> None:
        self.link.send(StreamsCut(self.connection_id, self.handoff_id, code))
