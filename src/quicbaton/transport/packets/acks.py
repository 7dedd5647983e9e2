"""Acknowledging: received packet numbers, when an ACK is due, the ACK frame (RFC 9000 §13.2)."""

from __future__ import annotations

from quicbaton import limits
from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport import rangeset
from quicbaton.transport.paths.ecn import Counts
from quicbaton.transport.state import NEVER, NONE, NumberSpace, Parameters


class ReceivedNumbers:
    """The received side of the packet number space."""

    def __init__(self, numbers: NumberSpace, local: Parameters) -> None:
        self._state = numbers
        self._local = local

    def is_duplicate(self, number: int) -> bool:
        """True when `number` came before, or is so old that we cannot tell (§12.3)."""
        state = self._state
        received = state.received
        if not received or number >= received[-1]:
            return False
        return number < state.received_floor or rangeset.contains(received, number)

    def on_packet(
        self, number: int, eliciting: bool, now_us: int, *, probing: bool = False
    ) -> bool:
        """Record a packet that was authentic and new, after its frames were processed. True when
        it has the highest number of all but probing ones (RFC 9000 §9.3)."""
        state = self._state
        received = state.received
        largest = state.largest_received
        in_order = number == largest + 1
        newest = number > largest
        if probing or state.largest_non_probing != NONE:
            newest = self._is_newest_choice(number, probing)
        if in_order and received:
            received[-1] = number + 1
        else:
            rangeset.add(received, number, number + 1)
        if number > largest:
            state.largest_received = number
            state.largest_received_at_us = now_us
        if len(received) > 2 * limits.MAX_RECEIVED_RANGES:
            state.received_floor = received[1]
            del received[:2]
        if eliciting:
            state.unacked_eliciting += 1
            if not in_order or state.unacked_eliciting >= limits.ACK_EVERY_PACKETS:
                # §13.2.1: at once for reordered packets, and for every second one. "At once"
                # means after the batch that is being read.
                state.ack_at_us = now_us
            elif state.ack_at_us == NEVER:
                state.ack_at_us = now_us + self._local.max_ack_delay_ms * 1000
        return newest

    def on_run(self, first: int, stop: int, eliciting_count: int, now_us: int) -> None:
        """Record packets [first, stop), which may be none, that were authentic, new and the newest,
        not of probing frames only; `eliciting_count` of them ask for an ACK."""
        if first == stop:
            return
        state = self._state
        received = state.received
        if received and received[-1] == first:
            received[-1] = stop
        else:
            rangeset.add(received, first, stop)
        state.largest_received = stop - 1
        state.largest_received_at_us = now_us
        if eliciting_count:
            state.unacked_eliciting += eliciting_count
            if state.unacked_eliciting >= limits.ACK_EVERY_PACKETS:
                state.ack_at_us = now_us
            elif state.ack_at_us == NEVER:
                state.ack_at_us = now_us + self._local.max_ack_delay_ms * 1000

    def _is_newest_choice(self, number: int, probing: bool) -> bool:
        """`on_packet`, where probing packets are among the newest."""
        state = self._state
        known = state.largest_non_probing
        if probing:
            if known == NONE and number > state.largest_received:
                state.largest_non_probing = state.largest_received
            return False
        if number <= known:
            return False
        state.largest_non_probing = NONE if number > state.largest_received else number
        return True

    def on_ack_acked(self, largest: int) -> None:
        """The peer has our ACK up to `largest`: it need not be told again (§13.2.4)."""
        state = self._state
        # Keep the newest range whole, so that an ACK is never empty.
        received = state.received
        while len(received) > 2 and received[1] <= largest:
            state.received_floor = received[1]
            del received[:2]

    def encode(self, now_us: int, max_ranges: int = limits.MAX_ACK_RANGES_SENT) -> bytes:
        """An ACK frame of everything received (§19.3), its newest ranges if there are too many;
        empty when nothing was."""
        state = self._state
        received = state.received
        if not received:
            return b""
        delay = max(0, now_us - state.largest_received_at_us) >> self._local.ack_delay_exponent
        stop = received[-1]
        start = received[-2]
        ecn = state.ecn_received
        with_ecn = any(ecn)
        count = min(len(received) // 2, max_ranges)
        varint = f.encode_varint
        parts = [
            b"\x03" if with_ecn else b"\x02",
            varint(stop - 1),
            varint(delay),
            varint(count - 1),
            varint(stop - start - 1),
        ]
        index = len(received) - 4
        for _ in range(count - 1):
            parts.append(varint(start - received[index + 1] - 1))
            start = received[index]
            parts.append(varint(received[index + 1] - start - 1))
            index -= 2
        if with_ecn:
            parts += map(varint, ecn)
        return b"".join(parts)

    def on_ack_sent(self) -> None:
        self._state.unacked_eliciting = 0
        self._state.ack_at_us = NEVER


#: An ACK frame as read: ranges [start, stop) from the highest down, the raw delay, and its counts
#: of ECN marks, if it has them.
Ack = tuple[list[tuple[int, int]], int, Counts | None]


class AckReader:
    """Reads a peer's ACK frames (§19.3), in batches.

    A peer that has missed packets reports the gaps in every ACK: dozens of ranges, which differ
    from those of its last ACK in the first one only. The bytes of the others are compared instead
    of read, and what was processed with an earlier batch is left out: an ACK with 30 ranges costs
    4 µs instead of 70.
    """

    __slots__ = ("_count", "_is_processed", "_start", "_tail", "_tail_ranges")

    def __init__(self) -> None:
        # The first range of the last frame with several began there. So many followed it, encoded
        # as _tail.
        self._start = NONE
        self._count = 0
        self._tail = b""
        self._tail_ranges: list[tuple[int, int]] = []
        self._is_processed = False

    def begin(self) -> None:
        """A batch begins. All frames of the one before have been processed."""
        self._is_processed = True

    def read(self, data: bytes, at: int, with_ecn: bool) -> tuple[Ack, int]:
        """Read a frame's body at `at`; the frame and the position behind it.

        Raises TransportError for one that is malformed.
        """
        varint = f.decode_varint
        largest, at = varint(data, at)
        delay, at = varint(data, at)
        count, at = varint(data, at)
        length, at = varint(data, at)
        start = largest - length
        if start < 0 or count > len(data):
            raise TransportError(f.FRAME_ENCODING_ERROR, "ACK range below zero", f.ACK)
        ranges = [(start, largest + 1)]
        if count:
            tail = self._tail
            if start == self._start and count == self._count and data.startswith(tail, at):
                at += len(tail)
                if not self._is_processed:
                    ranges += self._tail_ranges
            else:
                tail_at = at
                at = _read_ranges(data, at, count, ranges)
                if count <= limits.MAX_REPEATED_RANGES:
                    self._start, self._count, self._tail = start, count, data[tail_at:at]
                    self._tail_ranges = ranges[1:]
                    self._is_processed = False
        if not with_ecn:
            return (ranges, delay, None), at
        ect_0, at = varint(data, at)
        ect_1, at = varint(data, at)
        ce, at = varint(data, at)
        return (ranges, delay, (ect_0, ect_1, ce)), at


def _read_ranges(data: bytes, at: int, count: int, ranges: list[tuple[int, int]]) -> int:
    """Append `count` ranges, each given by the gap above it and its length; the position behind."""
    varint = f.decode_varint
    start = ranges[-1][0]
    for _ in range(count):
        gap, at = varint(data, at)
        length, at = varint(data, at)
        stop = start - gap - 1
        start = stop - length - 1
        if start < 0:
            raise TransportError(f.FRAME_ENCODING_ERROR, "ACK range below zero", f.ACK)
        ranges.append((start, stop))
    return at
