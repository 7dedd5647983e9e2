"""Events as the application sees them: aioquic's classes, and one of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aioquic.quic import events as aioquic_events

from quicbaton.transport import state as s


@dataclass
class StreamWritable(aioquic_events.QuicEvent):
    """A stream whose send buffer was full has room again: go on writing."""

    stream_id: int


#: The application's view of a queued event, by its type.
TO_AIOQUIC: Final[dict[type, Callable[[Any], aioquic_events.QuicEvent]]] = {
    s.StreamResetEvent: lambda e: aioquic_events.StreamReset(
        error_code=e.error_code, stream_id=e.stream_id
    ),
    s.StopSendingEvent: lambda e: aioquic_events.StopSendingReceived(
        error_code=e.error_code, stream_id=e.stream_id
    ),
    s.DatagramEvent: lambda e: aioquic_events.DatagramFrameReceived(data=e.data),
    s.PingAckedEvent: lambda e: aioquic_events.PingAcknowledged(uid=e.uid),
    s.TerminatedEvent: lambda e: aioquic_events.ConnectionTerminated(
        error_code=e.error_code,
        frame_type=None if e.frame_type == s.NONE else e.frame_type,
        reason_phrase=e.reason,
    ),
    s.IdIssuedEvent: lambda e: aioquic_events.ConnectionIdIssued(connection_id=e.cid),
    s.IdRetiredEvent: lambda e: aioquic_events.ConnectionIdRetired(connection_id=e.cid),
    s.NegotiatedEvent: lambda e: aioquic_events.ProtocolNegotiated(alpn_protocol=e.alpn or None),
    s.HandshakeCompletedEvent: lambda e: aioquic_events.HandshakeCompleted(
        alpn_protocol=e.alpn or None,
        early_data_accepted=e.early_data_accepted,
        session_resumed=e.session_resumed,
    ),
    s.WritableEvent: lambda e: StreamWritable(stream_id=e.stream_id),
}
