"""aioquic's HTTP/3 connection, without what cannot move and without what should not stay."""

from __future__ import annotations

from typing import Any, Final

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, encode_frame
from aioquic.h3.connection import H3Connection as AioquicH3Connection
from aioquic.h3.events import H3Event
from aioquic.quic.events import (
    DatagramFrameReceived,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from quicbaton.http3.qpack import StaticDecoder, StaticEncoder

#: Streams kept before the first look for finished ones; the threshold then follows the count.
_FIRST_SWEEP: Final = 64
#: RFC 9114 §5.2: a first GOAWAY names the highest ID that a request can have.
_MAX_REQUEST_ID: Final = (1 << 62) - 4
#: What concerns HTTP/3; aioquic's connection asks for one after the other.
_EVENTS: Final = (StreamDataReceived, DatagramFrameReceived, StopSendingReceived, StreamReset)


class H3Connection(AioquicH3Connection):
    """Offers no QPACK dynamic table and uses none, so that its whole state is plain data.

    The price is header compression: every request of a client is as long as its first one.

    `quic` is a promoted `Connection`, or whatever else has `configuration.is_client`,
    `_quic_logger`, `_remote_max_datagram_frame_size`, `get_next_available_stream_id`,
    `send_stream_data`, `reset_stream`, `close` and `send_datagram_frame`.

    aioquic forgets a stream when both of its ends were seen here. It does not see the end of
    sending when the program talks to the QUIC connection directly, as it does to reset a response
    and for all WebTransport data; such streams are forgotten here as well.
    """

    #: Requests from this stream on are rejected: a final GOAWAY was sent.
    _goaway_id: int | None = None
    _rejected: frozenset[int] = frozenset()

    def __init__(self, quic: Any, enable_webtransport: bool = False) -> None:
        self._sweep_at = _FIRST_SWEEP
        super().__init__(quic, enable_webtransport)

    def send_goaway(self, *, final: bool) -> None:
        """Tell a client that this server stops (RFC 9114 §5.2).

        Not `final`: send no more requests, those on the way are still taken. `final`, a round trip
        later: requests that have not come by now are rejected, and may be sent elsewhere. Nothing
        is said twice, nor after the connection's end.
        """
        if self._is_done or self._goaway_id is not None or self._local_control_stream_id is None:
            return
        stream_id = _MAX_REQUEST_ID
        if final:
            quic: Any = self._quic
            self._goaway_id = stream_id = quic.next_peer_stream_id()
        self._quic.send_stream_data(
            self._local_control_stream_id,
            encode_frame(FrameType.GOAWAY, encode_uint_var(stream_id)),
        )

    def handle_event(self, event: QuicEvent) -> list[H3Event]:
        """As aioquic's; forgets streams that are over, and rejects what a GOAWAY has refused."""
        if not isinstance(event, _EVENTS):
            return []
        if self._goaway_id is not None and self._reject(event):
            return []
        http_events = super().handle_event(event)
        stream = self._stream.get(getattr(event, "stream_id", -1))
        if stream is not None and stream.session_id is not None and stream.receiving_ended:
            # WebTransport streams are parsed on their way in only: nothing is left to do.
            self._stream.pop(stream.stream_id)
        if len(self._stream) >= self._sweep_at:
            self.forget_finished_streams()
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._stream))
        return http_events

    def forget_finished_streams(self) -> None:
        """Drop streams that the QUIC connection has finished with, if it can tell.

        Only those whose end was seen here: events of others may still wait to be handled.
        """
        is_finished = getattr(self._quic, "stream_is_finished", None) or getattr(
            self._quic, "_stream_is_discarded", None
        )
        if is_finished is None:
            return
        for stream_id, stream in list(self._stream.items()):
            if stream.receiving_ended and is_finished(stream_id):
                self._stream.pop(stream_id)

    def _reject(self, event: QuicEvent) -> bool:
        """True for an event of a request that came after the final GOAWAY."""
        stream_id = getattr(event, "stream_id", -1)
        if stream_id < 0 or stream_id & 3 or stream_id < (self._goaway_id or 0):
            return False
        if stream_id not in self._rejected and isinstance(event, StreamDataReceived):
            self._rejected |= {stream_id}
            # §5.2: it was not processed in any way, and says so.
            self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            if not event.end_stream:
                self._quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
        return True

    def _init_connection(self) -> None:
        self._max_table_capacity = 0
        self._blocked_streams = 0
        # Not subclasses of lsqpack's native classes, but with the same methods.
        self._decoder = StaticDecoder()  # type: ignore[assignment]
        self._encoder = StaticEncoder()  # type: ignore[assignment]
        super()._init_connection()
