"""ECN marks of the packets that aioquic receives (RFC 9000 §13.4.1).

aioquic reports none. A client that marks its packets from the first one on would conclude that the
path loses marks, and never mark again (§13.4.2.1). Here the marks are counted in each packet number
space and reported in its ACK frames. Promotion takes over the counts of the last space.
"""

from __future__ import annotations

from aioquic.buffer import UINT_VAR_MAX_SIZE, size_uint_var
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicFrameType, push_ack_frame
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace

#: By the ECN bits of an IP header (RFC 3168 §5): the place of their count in an ACK frame.
_PLACES = {1: 1, 2: 0, 3: 2}
_SPACES = 3
#: The type, and the four fields of the newest range: the room that aioquic reserves for an ACK
#: frame.
_ACK_BYTES = 1 + 4 * UINT_VAR_MAX_SIZE


class EcnCounts:
    """Counts marks for a `quic` that has not received anything yet, and makes it report them."""

    def __init__(self, quic: QuicConnection) -> None:
        self._quic = quic
        self._counts = [[0, 0, 0] for _ in range(_SPACES)]
        self._write_plain = quic._write_ack_frame
        # An attribute of the object shadows the method of its class: aioquic calls this instead.
        quic._write_ack_frame = self._write  # type: ignore[method-assign]

    @property
    def one_rtt(self) -> list[int]:
        """ECT(0), ECT(1) and CE in the space of 0-RTT and 1-RTT packets."""
        return self._counts[-1]

    def receive(self, data: bytes, address: tuple[str, int], ecn: int, now: float) -> None:
        """As `quic.receive_datagram`, for a datagram whose IP header had these ECN bits."""
        if not ecn:
            self._quic.receive_datagram(data, address, now)
            return
        before = self._received()
        self._quic.receive_datagram(data, address, now)
        place = _PLACES[ecn]
        for counts, earlier, now_known in zip(self._counts, before, self._received(), strict=True):
            # Coalesced packets have one IP header.
            counts[place] += len(now_known - earlier)

    def _received(self) -> list[set[int]]:
        spaces = self._quic._loss.spaces
        if not spaces:  # before the first datagram
            return [set() for _ in range(_SPACES)]
        return [set(space.received_packets._received) for space in spaces]

    def _write(self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float) -> None:
        quic = self._quic
        counts = self._counts[quic._loss.spaces.index(space)]
        counts_bytes = sum(size_uint_var(count) for count in counts)
        # aioquic arms its timer for an ACK that has room without counts. If the counts left no
        # room, the timer would fire for ever.
        has_room = builder.remaining_buffer_space >= _ACK_BYTES + counts_bytes
        if not any(counts) or not has_room or space.largest_received_time is None:
            self._write_plain(builder, space, now)
            return
        buf = builder.start_frame(
            QuicFrameType.ACK_ECN,
            capacity=_ACK_BYTES + counts_bytes,
            handler=quic._on_ack_delivery,
            handler_args=(space, space.largest_received_packet),
        )
        delay = int((now - space.largest_received_time) * 1_000_000)
        room = builder.remaining_buffer_space - counts_bytes
        push_ack_frame(buf, space.ack_queue, delay >> quic._local_ack_delay_exponent, room)
        for count in counts:
            buf.push_uint_var(count)
        space.ack_at = None
