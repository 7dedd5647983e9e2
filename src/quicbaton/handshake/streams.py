"""aioquic's streams, half read and half sent, as ours, with the flow control that they share."""

from __future__ import annotations

from aioquic.quic import events
from aioquic.quic.connection import Limit, QuicConnection
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender
from aioquic.tls import Epoch

from quicbaton.transport import rangeset
from quicbaton.transport.state import (
    NONE,
    CryptoState,
    FlowState,
    Parameters,
    ReceiveHalf,
    SendHalf,
    Stream,
)
from quicbaton.transport.streams import receive_half, send_half

Ranges = list[int]


class ImportedStreams:
    """All streams of `quic`. Of a finished one only the number is kept.

    Events that aioquic has queued and the program has not taken move along. Their bytes count as
    delivered but not as consumed: credit for them is given when the application takes them.
    """

    def __init__(
        self, quic: QuicConnection, local: Parameters, remote: Parameters, now_us: int
    ) -> None:
        self._quic = quic
        self._local = local
        self._remote = remote
        self._now_us = now_us
        self._queued = _queued_bytes(quic)
        self._reset_codes = {
            event.stream_id: event.error_code
            for event in quic._events
            if isinstance(event, events.StreamReset)
        }
        self.streams: dict[int, Stream] = {}
        self._finished_now = [0, 0]  # the peer's, bidirectional and unidirectional
        for stream_id, stream in sorted(quic._streams.items()):
            self._import(stream_id, stream)

    def finished(self) -> list[Ranges]:
        """Ranges of ordinals of finished streams by type (id & 3)."""
        return [self._finished_of(kind) for kind in range(4)]

    def order(self) -> list[int]:
        """Streams with data to send, in aioquic's round-robin order."""
        queue = [stream.stream_id for stream in self._quic._streams_queue]
        return [
            stream_id for stream_id in queue if stream_id is not None and self._wants(stream_id)
        ]

    def _wants(self, stream_id: int) -> bool:
        ours = self.streams.get(stream_id)
        if ours is None or ours.send is None or self._quic._streams[stream_id].is_blocked:
            return False
        return send_half.wants_to_send(ours.send)

    def flow(self, window_bytes: int, initial_streams: tuple[int, int]) -> FlowState:
        """Connection flow control; the arguments are what our parameters promised."""
        quic = self._quic
        data = quic._local_max_data
        outstanding = sum(
            half.highest - half.consumed
            for stream in self.streams.values()
            if (half := stream.receive) is not None
        )
        peer_limits = (quic._local_max_streams_bidi, quic._local_max_streams_uni)
        closed = [
            limit.value - initial + now_finished
            for limit, initial, now_finished in zip(
                peer_limits, initial_streams, self._finished_now, strict=True
            )
        ]
        advertised = [_advertised(limit) for limit in peer_limits]
        own_limits = [quic._remote_max_streams_bidi, quic._remote_max_streams_uni]
        blocked = [bool(quic._streams_blocked_bidi), bool(quic._streams_blocked_uni)]
        return FlowState(
            send_limit=quic._remote_max_data,
            send_used=quic._remote_max_data_used,
            blocked_due=False,
            blocked_at=NONE,
            # The larger value may not be on the wire yet; then it is due.
            receive_limit=data.value,
            receive_used=data.used,
            receive_consumed=data.used - outstanding,
            receive_withheld=0,
            receive_limit_due=data.sent != data.value,
            window_bytes=window_bytes,
            window_since_us=self._now_us,
            peer_streams_limit=advertised,
            peer_streams_seen=[limit.used for limit in peer_limits],
            peer_streams_closed=closed,
            peer_streams_window=list(initial_streams),
            # A MAX_STREAMS frame is due again if it was lost, a new one once half of the window is
            # used.
            peer_streams_due=[
                limit.sent == 0 or 2 * (limits - done) <= window
                for limit, limits, done, window in zip(
                    peer_limits, advertised, closed, initial_streams, strict=True
                )
            ],
            peer_streams_withheld=[0, 0],
            aborts_paid_at_us=0,
            own_streams_limit=own_limits,
            own_streams_opened=[
                quic._local_next_stream_id_bidi // 4,
                quic._local_next_stream_id_uni // 4,
            ],
            own_streams_blocked_due=[
                waiting and quic._streams_blocked_pending for waiting in blocked
            ],
            own_streams_blocked_at=[
                limit if waiting else NONE
                for limit, waiting in zip(own_limits, blocked, strict=True)
            ],
        )

    # --- helpers, in reading order --------------------------------------------------------------

    def _import(self, stream_id: int, stream: QuicStream) -> None:
        is_own = (stream_id & 1 == 0) == self._quic.configuration.is_client
        is_uni = bool(stream_id & 2)
        send = None if is_uni and not is_own else self._send(stream_id, stream, is_own)
        receive = None if is_uni and is_own else self._receive(stream_id, stream, is_own)
        if (send is None or send_half.is_done(send)) and (
            receive is None or receive_half.is_done(receive)
        ):
            if not is_own:
                self._finished_now[is_uni] += 1
            return
        self.streams[stream_id] = Stream(send=send, receive=receive)

    def _send(self, stream_id: int, stream: QuicStream, is_own: bool) -> SendHalf:
        remote = self._remote
        if stream_id & 2:
            initial = remote.stream_data_uni
        elif is_own:
            initial = remote.stream_data_bidi_remote
        else:
            initial = remote.stream_data_bidi_local
        # aioquic does not raise the limit of a stream that 0-RTT opened under remembered
        # parameters, nor of one that waits for MAX_STREAMS (RFC 9000 §7.4.1: it never falls).
        return _import_sender(stream.sender, max(initial, stream.max_stream_data_remote))

    def _receive(self, stream_id: int, stream: QuicStream, is_own: bool) -> ReceiveHalf:
        local = self._local
        if stream_id & 2:
            window = local.stream_data_uni
        elif is_own:
            window = local.stream_data_bidi_local
        else:
            window = local.stream_data_bidi_remote
        half = receive_half.new_receive_half(window, self._now_us)
        _import_receiver(half, stream.receiver, self._reset_codes.get(stream_id, 0))
        half.limit = stream.max_stream_data_local
        half.limit_due = (
            stream.max_stream_data_local_sent != stream.max_stream_data_local
            and receive_half.wants_limit(half)
        )
        half.taken = half.consumed = half.delivered - self._queued.get(stream_id, 0)
        if half.reset_code != NONE or half.stop_code != NONE:
            receive_half.discard(half)
            half.taken = half.consumed = half.delivered
        return half

    def _finished_of(self, kind: int) -> Ranges:
        quic = self._quic
        is_uni = bool(kind & 2)
        if (kind & 1 == 0) == quic.configuration.is_client:
            following = (
                quic._local_next_stream_id_uni if is_uni else quic._local_next_stream_id_bidi
            )
            opened = following // 4
        else:
            limit = quic._local_max_streams_uni if is_uni else quic._local_max_streams_bidi
            opened = limit.used
        ranges: Ranges = []
        rangeset.add(ranges, 0, opened)
        for stream_id in self.streams:
            if stream_id & 3 == kind:
                rangeset.subtract(ranges, stream_id >> 2, (stream_id >> 2) + 1)
        return ranges


def import_crypto(quic: QuicConnection) -> CryptoState:
    """The 1-RTT CRYPTO stream: tickets that a server sends, or that a client is receiving."""
    stream = quic._crypto_streams[Epoch.ONE_RTT]
    sender = stream.sender
    half = receive_half.new_receive_half(0, 0)
    _import_receiver(half, stream.receiver, 0)
    return CryptoState(
        data=bytes(sender._buffer),
        base=sender._buffer_start,
        due=_flat(sender._pending),
        acked=_flat(sender._acked),
        delivered=half.delivered,
        segments=half.segments,
    )


def _queued_bytes(quic: QuicConnection) -> dict[int, int]:
    queued: dict[int, int] = {}
    for event in quic._events:
        if isinstance(event, events.StreamDataReceived):
            queued[event.stream_id] = queued.get(event.stream_id, 0) + len(event.data)
    return queued


def _advertised(limit: Limit) -> int:
    # `sent` is 0 after a loss. `value` is then the lost limit, or a newer one.
    return limit.sent or limit.value


def _flat(ranges: RangeSet) -> Ranges:
    return [bound for item in ranges for bound in (item.start, item.stop)]


def _import_sender(sender: QuicStreamSender, limit: int) -> SendHalf:
    half = send_half.new_send_half(limit)
    half.base = sender._buffer_start
    half.end = sender._buffer_stop
    half.next = sender.highest_offset
    half.fin_written = sender._buffer_fin is not None
    half.fin_acked = sender._acked_fin
    if sender._reset_error_code is not None:
        send_half.reset(half, sender._reset_error_code)
        half.reset_due = sender.reset_pending
        half.reset_acked = sender.is_finished
        return half
    if sender._buffer:
        half.chunks = [bytes(sender._buffer)]
        half.starts = [sender._buffer_start]
    half.acked = _flat(sender._acked)
    # aioquic has one set for bytes that were never sent and bytes that are to be sent again.
    half.lost = _flat(sender._pending)
    rangeset.subtract(half.lost, half.next, half.end)
    half.fin_due = sender._pending_eof
    return half


def _import_receiver(half: ReceiveHalf, receiver: QuicStreamReceiver, reset_code: int) -> None:
    start = receiver._buffer_start
    half.delivered = start
    half.highest = receiver.highest_offset
    half.final = NONE if receiver._final_size is None else receiver._final_size
    half.segments = [
        (item.start, bytes(receiver._buffer[item.start - start : item.stop - start]))
        for item in receiver._ranges
    ]
    if receiver.is_finished:
        # aioquic does not tell a reset from an end; a reset leaves bytes undelivered. (For one that
        # came behind the last byte only the event differs, and that is queued.)
        if start == half.final:
            half.fin_delivered = True
        else:
            half.reset_code = reset_code
    if receiver._stop_error_code is not None:
        half.stop_code = receiver._stop_error_code
        half.stop_due = receiver.stop_pending
