"""The fate of a packet's contents: each record goes to the part that made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quicbaton.transport import frames as f
from quicbaton.transport.event_queue import EventSink
from quicbaton.transport.packets.acks import ReceivedNumbers
from quicbaton.transport.paths.ids import ConnectionIds
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.state import ConnectionState, PingAckedEvent, SentFrame
from quicbaton.transport.streams.crypto import CryptoStream
from quicbaton.transport.streams.streams import Streams


class Dispatcher:
    """The `recovery.Delivery` of a connection: a table from frame type to its owner."""

    def __init__(
        self,
        state: ConnectionState,
        events: EventSink,
        received: ReceivedNumbers,
        streams: Streams,
        ids: ConnectionIds,
        crypto: CryptoStream,
        now_us: Callable[[], int],
    ) -> None:
        self._state = state
        self._events = events
        self._received = received
        self._streams = streams
        self._ids = ids
        self._crypto = crypto
        self._now_us = now_us
        self.on_run_acked = streams.on_run_acked
        self.on_run_lost = streams.on_run_lost

    def on_frame_acked(self, frame: SentFrame) -> None:
        _ACKED[frame[0]](self, frame)

    def on_frame_lost(self, frame: SentFrame) -> None:
        _LOST[frame[0]](self, frame)

    def _ignore(self, frame: SentFrame) -> None:
        pass

    def _on_stream_frame_acked(self, frame: SentFrame) -> None:
        self._streams.on_frame_acked(frame)

    def _on_stream_frame_lost(self, frame: SentFrame) -> None:
        self._streams.on_frame_lost(frame)

    def _on_id_frame_acked(self, frame: SentFrame) -> None:
        self._ids.on_frame_acked(frame)

    def _on_id_frame_lost(self, frame: SentFrame) -> None:
        self._ids.on_frame_lost(frame)

    def _on_crypto_acked(self, frame: SentFrame) -> None:
        self._crypto.on_acked(frame)

    def _on_crypto_lost(self, frame: SentFrame) -> None:
        self._crypto.on_lost(frame)

    def _on_ack_acked(self, frame: SentFrame) -> None:
        self._received.on_ack_acked(frame[1])

    def _on_ping_acked(self, frame: SentFrame) -> None:
        # No uid: it is a probe or keep-alive, for which the application did not ask.
        if frame[1]:
            self._events.append(PingAckedEvent(frame[1] - 1))

    def _on_ping_lost(self, frame: SentFrame) -> None:
        if frame[1] and frame[1] - 1 not in self._state.pings_due:
            self._state.pings_due.append(frame[1] - 1)

    def _on_handshake_done_acked(self, _frame: SentFrame) -> None:
        self._state.handshake_done_acked = True
        self._state.handshake_done_due = False

    def _on_handshake_done_lost(self, _frame: SentFrame) -> None:
        # RFC 9000 §13.3: repeated until it is acknowledged.
        if not self._state.handshake_done_acked:
            self._state.handshake_done_due = True

    def _on_token_acked(self, frame: SentFrame) -> None:
        state = self._state
        index = frame[1] - state.tokens_first
        if index < 0:
            return
        state.tokens[index] = b""
        if frame[1] in state.tokens_due:  # the copy that counted as lost arrived after all
            state.tokens_due.remove(frame[1])
        if not any(state.tokens):  # nothing left that a handoff would have to carry
            state.tokens_first += len(state.tokens)
            state.tokens.clear()

    def _on_token_lost(self, frame: SentFrame) -> None:
        state = self._state
        index = frame[1] - state.tokens_first
        if index >= 0 and state.tokens[index] and frame[1] not in state.tokens_due:
            state.tokens_due.append(frame[1])

    def _on_mtu_probe_acked(self, frame: SentFrame) -> None:
        for path in self._state.paths:
            if path.serial == frame[2]:
                MtuSearch(path).on_probe_acked(frame[1], frame[3])

    def _on_mtu_probe_lost(self, frame: SentFrame) -> None:
        for path in self._state.paths:
            if path.serial == frame[2]:
                MtuSearch(path).on_probe_lost(frame[1], self._now_us(), frame[3])


_Fate = Callable[[Dispatcher, SentFrame], None]

_STREAM_FRAMES: Final = (
    f.STREAM,
    f.RESET_STREAM,
    f.STOP_SENDING,
    f.MAX_DATA,
    f.MAX_STREAM_DATA,
    f.MAX_STREAMS_BIDI,
    f.MAX_STREAMS_UNI,
    f.DATA_BLOCKED,
    f.STREAM_DATA_BLOCKED,
    f.STREAMS_BLOCKED_BIDI,
    f.STREAMS_BLOCKED_UNI,
)
# One table for all connections: to build one for each cost a tenth of what resuming costs.
_ACKED: Final[dict[int, _Fate]] = {
    **dict.fromkeys(_STREAM_FRAMES, Dispatcher._on_stream_frame_acked),
    f.CRYPTO: Dispatcher._on_crypto_acked,
    f.NEW_CONNECTION_ID: Dispatcher._on_id_frame_acked,
    f.RETIRE_CONNECTION_ID: Dispatcher._on_id_frame_acked,
    f.ACK: Dispatcher._on_ack_acked,
    f.PING: Dispatcher._on_ping_acked,
    f.HANDSHAKE_DONE: Dispatcher._on_handshake_done_acked,
    f.NEW_TOKEN: Dispatcher._on_token_acked,
    f.MTU_PROBE: Dispatcher._on_mtu_probe_acked,
}
_LOST: Final[dict[int, _Fate]] = {
    **dict.fromkeys(_STREAM_FRAMES, Dispatcher._on_stream_frame_lost),
    f.CRYPTO: Dispatcher._on_crypto_lost,
    f.NEW_CONNECTION_ID: Dispatcher._on_id_frame_lost,
    f.RETIRE_CONNECTION_ID: Dispatcher._on_id_frame_lost,
    f.ACK: Dispatcher._ignore,  # the next ACK says it all again (RFC 9000 §13.3)
    f.PING: Dispatcher._on_ping_lost,
    f.HANDSHAKE_DONE: Dispatcher._on_handshake_done_lost,
    f.NEW_TOKEN: Dispatcher._on_token_lost,
    f.MTU_PROBE: Dispatcher._on_mtu_probe_lost,
}
