"""What became of a packet's contents: each record goes to the part that made it."""

from __future__ import annotations

from collections.abc import Callable

from quicbaton import limits
from quicbaton.transport import frames as f
from quicbaton.transport.acks import ReceivedNumbers
from quicbaton.transport.crypto import CryptoStream
from quicbaton.transport.ids import ConnectionIds
from quicbaton.transport.mtu import MtuSearch
from quicbaton.transport.state import ConnectionState, PingAckedEvent, SentFrame
from quicbaton.transport.streams import Streams

_Fate = Callable[[SentFrame], None]


class Dispatcher:
    """The `recovery.Delivery` of a connection: a table from frame type to its owner."""

    def __init__(
        self,
        state: ConnectionState,
        received: ReceivedNumbers,
        streams: Streams,
        ids: ConnectionIds,
        crypto: CryptoStream,
        now_us: Callable[[], int],
    ) -> None:
        self._state = state
        self._received = received
        self._now_us = now_us
        self.on_run_acked = streams.on_run_acked
        self.on_run_lost = streams.on_run_lost
        stream_frames = (
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
        self._acked: dict[int, _Fate] = {
            **dict.fromkeys(stream_frames, streams.on_frame_acked),
            f.CRYPTO: crypto.on_acked,
            f.NEW_CONNECTION_ID: ids.on_frame_acked,
            f.RETIRE_CONNECTION_ID: ids.on_frame_acked,
            f.ACK: lambda frame: received.on_ack_acked(frame[1]),
            f.PING: self._on_ping_acked,
            f.HANDSHAKE_DONE: self._on_handshake_done_acked,
            f.NEW_TOKEN: self._ignore,
            f.MTU_PROBE: self._on_mtu_probe_acked,
        }
        self._lost: dict[int, _Fate] = {
            **dict.fromkeys(stream_frames, streams.on_frame_lost),
            f.CRYPTO: crypto.on_lost,
            f.NEW_CONNECTION_ID: ids.on_frame_lost,
            f.RETIRE_CONNECTION_ID: ids.on_frame_lost,
            f.ACK: self._ignore,  # the next ACK says it all again (RFC 9000 §13.3)
            f.PING: self._on_ping_lost,
            f.HANDSHAKE_DONE: self._on_handshake_done_lost,
            f.NEW_TOKEN: self._on_token_lost,
            f.MTU_PROBE: self._on_mtu_probe_lost,
        }

    def on_frame_acked(self, frame: SentFrame) -> None:
        self._acked[frame[0]](frame)

    def on_frame_lost(self, frame: SentFrame) -> None:
        self._lost[frame[0]](frame)

    def _ignore(self, frame: SentFrame) -> None:
        pass

    def _on_ping_acked(self, frame: SentFrame) -> None:
        # A uid of none is a probe or keep-alive: the application did not ask.
        if frame[1] and len(self._state.events) < limits.MAX_QUEUED_EVENTS:
            self._state.events.append(PingAckedEvent(frame[1] - 1))

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

    def _on_token_lost(self, frame: SentFrame) -> None:
        if frame[1] not in self._state.tokens_due:
            self._state.tokens_due.append(frame[1])

    def _on_mtu_probe_acked(self, frame: SentFrame) -> None:
        for path in self._state.paths:
            if path.serial == frame[2]:
                MtuSearch(path).on_probe_acked(frame[1], frame[3])

    def _on_mtu_probe_lost(self, frame: SentFrame) -> None:
        for path in self._state.paths:
            if path.serial == frame[2]:
                MtuSearch(path).on_probe_lost(frame[1], self._now_us(), frame[3])
